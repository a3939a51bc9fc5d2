"""kappa as a risk attitude: theory by hand and by Monte Carlo, and lesson 10 held against its runs and tables."""

import math
import re
from pathlib import Path

import pytest
import torch

from toys import risk
from toys.bandits import Bandit
from toys.experiments.table import Table
from toys.questions.lesson_10 import QUESTIONS

RESULTS = Path(__file__).parents[1] / "notebooks" / "results"
RISK, GRADED = (Table.read(RESULTS / f"{name}.csv") for name in ("risk_attitude", "graded"))
MIXED = Bandit(
    values=torch.tensor([[0.5, 0.4, -0.3, 0.6]], dtype=torch.float64),
    chance=torch.tensor([[1.0, 0.4, 0.5, 1.0]], dtype=torch.float64),
    noise=torch.tensor([[0.0, 0.0, 0.0, 0.5]], dtype=torch.float64),
)


def test_certainty_equivalents_by_hand():
    # kappa = ln 4: E exp(kappa R) = 0.6 + 0.4 * 4 = 2.2 for the gamble. It pays 1 with 0.4, the third arm -0.6 with 0.5.
    kappa = math.log(4)
    got = risk.certainty_equivalents(MIXED, [0.0, kappa])[:, 0]
    assert got[0].tolist() == pytest.approx([0.5, 0.4, -0.3, 0.6], abs=1e-14)
    third = math.log(0.5 + 0.5 * 4**-0.6) / kappa
    assert got[1].tolist() == pytest.approx([0.5, math.log(2.2) / kappa, third, 0.6 + kappa / 8], abs=1e-14)


@pytest.mark.parametrize("kappa", [-2.0, 0.7, 2.5])
def test_certainty_equivalents_are_those_of_the_rewards_drawn(kappa):
    uniform = torch.rand(1, 1, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for arm, want in enumerate(risk.certainty_equivalents(MIXED, [kappa])[0, 0].tolist()):
        rewards = MIXED.draw(torch.full((1, 1, 400_000), arm), uniform)
        got = (torch.logsumexp(kappa * rewards, -1) - math.log(400_000)) / kappa
        assert got.item() == pytest.approx(want, abs=0.01)


def test_certainty_equivalents_keep_their_digits_at_both_ends():
    tiny, huge = risk.certainty_equivalents(MIXED, [1e-10, 2000.0])[:, 0, 1].tolist()
    # mean + kappa var/2 = 0.4 + 1e-10 * 0.12; and 1 + log(0.4)/kappa.
    assert tiny - 0.4 == pytest.approx(1.2e-11, rel=1e-4)
    assert huge == pytest.approx(1 + math.log(0.4) / 2000, rel=1e-12)


def test_where_the_arms_change_places():
    assert risk.switching_kappa(risk.PAIR) == pytest.approx(2 * math.log(1.5), abs=1e-8)
    gaussian = Bandit(values=torch.tensor([[1.0, 0.7]]), noise=torch.tensor([[0.1, 0.8]]))
    assert risk.switching_kappa(gaussian) == pytest.approx(2 * 0.3 / 0.63, rel=1e-6)
    assert math.isnan(risk.switching_kappa(Bandit(values=torch.tensor([[1.0, 0.7]]))))  # no risk, no switch
    question = QUESTIONS["switch"]
    assert abs(question.answer - risk.switching_kappa(risk.PAIR)) < 0.02 and "0.81" in question.explain["right"]


def test_one_knob_as_the_lesson_prints_it():
    pushes = [risk.group_push([1.0, 0.5, 0.5, 0.0], alpha=a, beta_r=b) for a, b in ((0.9, 0.3), (0.3, 0.1), (0.3, 0.3))]
    first, same, other = (push / push.norm() for push in pushes)
    torch.testing.assert_close(first, same, rtol=0, atol=1e-14)
    # By hand: e^(3 A) at A = 0.5, 0, -0.5 minus its mean.
    powers = torch.tensor([math.exp(1.5), 1.0, 1.0, math.exp(-1.5)], dtype=torch.float64)
    want = powers - powers.mean()
    torch.testing.assert_close(first, want / want.norm(), rtol=0, atol=1e-14)
    assert first[1] < -0.2 and -0.1 < other[1] < 0
    lengths = QUESTIONS["one_knob"].choices["the same direction and the same length"]
    assert [f"{pushes[i].norm():.2f}" for i in (1, 0)] == re.findall(r"\d\.\d\d", lengths)


def test_the_dial_says_where_its_runs_go():
    strip = risk.dial()
    at = dict(zip(strip.knobs[0].values, strip.data["sentences"], strict=True))
    counts = {kappa: int(re.search(r"(\d+) of 20 runs end on it", said)[1]) for kappa, said in at.items()}
    assert all(count == (20 if kappa > 0.81 else 0) for kappa, count in counts.items() if abs(kappa - 0.81) > 0.1)
    assert all(("more than 0.5" in said) == (kappa > 0.81) for kappa, said in at.items())


@pytest.mark.parametrize(
    ("question", "part", "rule", "alpha", "x"),
    [
        ("group_size", "switch, gamble", "measured", math.nan, 4),
        ("group_size", "switch, gamble", "measured", math.nan, 8),
        ("group_size", "switch, gamble", "measured", math.nan, 64),
        ("lucky", "lucky arms, matched", "apo", 0.9, 8),
        ("lucky", "lucky arms, matched", "apo", 0.9, 32),
        ("lucky", "lucky arms, matched", "apo", 0.9, 2),
    ],
)
def test_numbers_in_the_answers_are_those_of_the_table(question, part, rule, alpha, x):
    asked = QUESTIONS[question]
    assert f"{RISK.one(part=part, rule=rule, alpha=alpha, x=x).mean:.2f}" in asked.choices[asked.answer]


def test_what_the_lesson_says_about_reward_kinds_and_remedies():
    angles = {row.rule: row.median for row in GRADED.where(part="angle")}
    assert [round(angles[name]) for name in ("graded, no noise", "graded, noise sd 0.5")] == [12, 28]
    assert angles["gamble, two-valued"] < 1e-6
    costs = {row.rule: row for row in GRADED.where(part="own best lr", metric="alpha 0.9 minus alpha 0")}
    assert [name for name, row in costs.items() if row.high < -0.02] == ["gamble (0, 0.6, 1)"]
    assert f"{costs['gamble, two-valued'].mean:.3f}" == "-0.004"
    ends = {row.rule: row.mean for row in RISK.where(part="what helps, lucky arms")}
    assert sorted(ends.values())[0] == ends["the paper's: alpha 0.9, beta_r 0.3"] < 0.83
    assert sorted(ends.values())[1] > 0.97
    assert risk.curriculum_ratio([0.0, 0.35, 0.9]) == pytest.approx([1.0, 1.83, 4.74], abs=0.005)


def test_every_predicted_switch_is_within_what_the_lesson_says():
    for row in RISK.where(part="switch, gamble", rule="measured"):
        assert abs(row.mean - RISK.one(part="switch, gamble", rule="predicted", x=row.x).mean) < 0.013
    same = {row.mean for row in RISK.where(part="gamble, matched", x=2, metric="expected reward")}
    assert len(same) == 1  # groups of two
