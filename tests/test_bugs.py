"""Each suspect shows its own symptom and no other one's, and what lesson 09 says of its runs is in them."""

import json
from pathlib import Path

import pytest
import torch

from toys import bugs
from toys.bandits import run
from toys.course.lessons import load
from toys.questions.lesson_09 import QUESTIONS

DATA = Path(__file__).parents[1] / "notebooks" / "data"


@pytest.fixture(scope="module")
def healthy():
    return bugs.healthy(seeds=20)


@pytest.fixture(scope="module")
def suspects():
    bandit, loop = bugs.problem()
    return {name: run(bandit, bugs.BUGS[name].plant(loop), seeds=20, snapshots=2) for name in bugs.SUSPECTS}


def test_planted_bugs_show_their_symptoms(suspects, healthy):
    key, by_name = bugs.planted(), suspects
    assert sorted(key.values()) == sorted(bugs.LAB)
    assert by_name["sign"].expected_reward[-1].max() < 0.1
    assert by_name["frozen_alpha"].confidence.max() < 1e-12
    assert by_name["frozen_alpha"].alpha.min() == pytest.approx(0.9)
    assert by_name["inverted_tau"].grad_norm[:5].mean() < 0.5 * healthy.grad_norm[:5].mean()
    assert by_name["stale_anchor"].kl_anchor[-1].mean() > 5 * healthy.kl_anchor[-1].mean()
    assert "tau_anc" in bugs.reveal(key)


def test_a_symptom_is_seen_in_its_own_run_alone(suspects, healthy):
    """So no wrong guess is told of something that is in the run's panels."""
    for fault, history in suspects.items():
        assert [name for name in bugs.SUSPECTS if bugs.BUGS[name].shows(history, healthy)] == [fault]
    assert not [name for name in bugs.SUSPECTS if bugs.BUGS[name].shows(healthy, healthy)]


def test_the_numbers_of_the_symptoms(suspects, healthy):
    def median(name, series, step):
        return getattr(suspects[name], series)[step].median()

    ratio = bugs._norm_at(suspects["swapped"], 0.75) / bugs._norm_at(healthy, 0.75)
    assert 1.5 < ratio < 2
    for history in (suspects["swapped"], healthy):
        at = int((history.expected_reward.median(-1).values >= 0.75).nonzero()[0])
        assert history.alpha[at].median() == pytest.approx(0.9) and history.ess[at].median() == pytest.approx(
            5.9, abs=0.35
        )
    assert median("inverted_tau", "grad_norm", 0) / healthy.grad_norm[0].median() == pytest.approx(0.16, abs=1e-6)
    assert (
        median("sign", "entropy", -1) > 0.85 and (suspects["sign"].expected_reward.median(-1).values[5:] < 0.25).all()
    )
    assert median("too_fast", "good_arms", 25) == 1
    assert median("deaf_average", "alpha", -1) < 0.45
    assert median("many_updates", "kl_anchor", 0) / healthy.kl_anchor[0].median() == pytest.approx(16, abs=4)


def test_a_guess_is_told_what_it_would_show_and_the_right_one_what_it_shows():
    for letter, fault in bugs.planted().items():
        question = QUESTIONS[f"run_{letter.lower()}"]
        assert len(question.choices) == 8 > len(bugs.LAB)
        for name in bugs.SUSPECTS:
            said = question.choices[bugs.BUGS[name].what]
            assert said.startswith("Yes. " if name == fault else "No. ")
            assert (bugs.BUGS[name].symptom in said) == (name == fault)


def test_the_detectors_that_the_lesson_asks_for_find_what_its_exercises_say(suspects, healthy):
    exercises = load("09")
    frozen, stale_starts = (exercises[f"09.{name}"].solution for name in ("frozen", "stale_starts"))
    blamed = {name: float(frozen(h.confidence, h.entropy).double().mean()) for name, h in suspects.items()}
    assert {name for name in bugs.LAB if blamed[name] > 0} == {"frozen_alpha"} and blamed["frozen_alpha"] == 1.0
    assert not bool(frozen(healthy.confidence, healthy.entropy).any())
    for name in ("run-08", "run-09"):
        rows, _ = read(name)
        kl, batch = (torch.tensor([row[key] for row in rows]) for key in ("kl_old", "batch"))
        assert len(batch.unique()) == 75 and stale_starts(kl, batch) == 0.0


def read(name):
    rows = [json.loads(line) for line in (DATA / name / "metrics.jsonl").read_text().splitlines()]
    return rows, json.loads((DATA / name / "summary.json").read_text())["eval_after"]


def test_run_f_is_cut_and_looks_healthy():
    (cut, after), (rows, other) = read("run-09"), read("run-08")

    def late(part, key):
        return sum(row[key] for row in part[-20:]) / 20

    for metric, said in (("pass@1", "0.752"), ("greedy", "0.942")):
        assert f"{after[metric]:.3f}" == f"{other[metric]:.3f}" == said
    assert 0.55 < late(cut, "truncated_fraction") < 0.65 and late(rows, "truncated_fraction") < 0.01
    assert max(row["completion_length"] for row in cut) == 5.0 < late(rows, "completion_length")
    assert sum(row["kl_old"] == 0.0 for row in cut) == 75
    for key, within in (("reward_mean", 0.03), ("token_entropy", 0.03), ("groups_with_signal", 0.05)):
        assert abs(late(cut, key) - late(rows, key)) < within
