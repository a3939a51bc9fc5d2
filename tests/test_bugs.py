"""Each planted bug shows the symptom that the lab tells."""

import pytest

from toys import bugs


def test_planted_bugs_show_their_symptoms():
    histories, key = bugs.lab(seeds=4)
    by_name = {name: histories[letter] for letter, name in key.items()}
    healthy = bugs.healthy(seeds=4)
    assert sorted(key.values()) == sorted(bugs.LAB)
    assert by_name["sign"].expected_reward[-1].max() < 0.1
    assert by_name["frozen_alpha"].confidence.max() < 1e-12
    assert by_name["frozen_alpha"].alpha.min() == pytest.approx(0.9)
    assert by_name["inverted_tau"].grad_norm[:5].mean() < 0.5 * healthy.grad_norm[:5].mean()
    assert by_name["stale_anchor"].kl_anchor[-1].mean() > 5 * healthy.kl_anchor[-1].mean()
    assert "tau_anc" in bugs.reveal(key)
