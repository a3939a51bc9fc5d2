"""Lesson 07: the table of objectives by hand, and which distance of an estimator's mean is noise and which is bias."""

import numpy as np
import pytest
import torch

from apo_edu import GroupBatch, objectives
from apo_edu.objectives import coefficients
from toys import estimators
from toys.worked_example import objective_pushes


def test_the_table_of_objectives_by_hand():
    # Rewards 1, 0.5, 0 of 4, 1 and 2 tokens at the first update: mean 0.5, standard deviation 0.5 (and 1e-4 beside it).
    mask = torch.tensor([[[1.0] * n + [0.0] * (4 - n) for n in (4, 1, 2)]], dtype=torch.float64)
    batch = GroupBatch(-mask, -mask, mask, torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64))
    third, scaled = 1 / 3, 0.5 / 0.5001
    q = torch.softmax(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64) / 0.3, -1)
    powers = (3 * q) ** 0.6
    want = {
        "grpo": [third * scaled, 0.0, -third * scaled],
        "dr_grpo": [0.5 / 3, 0.0, -0.5 * 2 / 4 / 3],  # four and two tokens of at most four
        "dapo": [4 / 7 * scaled, 0.0, -2 / 7 * scaled],  # of seven tokens
        "gspo": [third * scaled, 0.0, -third * scaled],
        "adpo": ((q - third) / 0.5).tolist(),
        "apo": ((powers - powers.mean()) / 0.6 / 3 / 0.5).tolist(),
    }
    options = {"alpha": 0.6, "tau_anc": 0.5, "beta_r": 0.3, "max_completion_tokens": 4, "advantage_scale": "none"}
    assert set(want) == set(objectives.OBJECTIVES)  # a new objective gets a row in the lesson's table
    table = objective_pushes((4, 1, 2), alpha=0.6, beta_r=0.3)
    for name, record in objectives.OBJECTIVES.items():
        keywords = record.bind(options) | ({"alpha": 0.6} if record.reads_alpha else {})
        push = -coefficients(record.function, batch, **keywords)[0].sum(-1)[0]
        assert push.tolist() == pytest.approx(want[name], abs=1e-9), name
        assert list(table[name][1:]) == pytest.approx(want[name], abs=1e-9), name


def test_what_is_noise_and_what_is_bias_in_the_three_estimators():
    log_q = torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0, -1.0], dtype=torch.float64).log_softmax(-1)
    log_p = torch.tensor([0.0, 0.5, 1.0, 0.0, 0.5, 0.0], dtype=torch.float64).log_softmax(-1)
    study = estimators.estimator_study(log_q, log_p, np.geomspace(0.01, 1.0, 13))
    times = {n: (study.bias[n] / (v / study.num_resamples).sqrt()).max().item() for n, v in study.variance.items()}
    assert max(times["uncentred"], times["centred"]) < 1.5 and times["clipped"] > 100
    assert study.bias["uncentred"].max() > study.bias["clipped"].max()  # and yet it is the unbiased one
    assert study.ess[0] > 15.9 and study.ess[-1] == pytest.approx(5.2, abs=0.1)


def test_against_grpo_by_hand():
    # Rewards 1, 1/2, 0 at the anchor: GRPO pushes along (1, 0, -1), APO along (1, 0, -1), (5, -1, -4), (3, -1, -2).
    batch = GroupBatch.bandit(
        torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64)
    )
    found = estimators.against_grpo(batch, [0.0, 0.5, 1.0], tau_anc=0.5, beta_r=0.5 / np.log(4))
    assert found.cosine.tolist() == pytest.approx([1, 9 / np.sqrt(2 * 42), 5 / np.sqrt(2 * 14)], abs=1e-12)
    k = 4 / (9 * np.sqrt(7))
    assert found.length.tolist() == pytest.approx(
        [2 / 3 * np.log(4) * np.sqrt(2), k * np.sqrt(42), 2 / 7 * np.sqrt(14)]
    )
