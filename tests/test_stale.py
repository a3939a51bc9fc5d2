"""Lesson 11: pushes against formulas by hand, the resting place, and that what the lesson says of its runs is so."""

import math
from pathlib import Path

import pytest
import torch

from apo_edu import alpha_divergence
from apo_edu.statistics import median_quartiles
from toys import stale
from toys.experiments.table import Table
from toys.stale.pictures import _reward

RATIO = torch.tensor([0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0], dtype=torch.float64)
ROOT = Path(__file__).parents[1]


def test_a_clip_stops_what_has_gone_far_enough_and_nothing_else():
    best, worst = (stale.push(stale.STYLES["GRPO"], RATIO, which=which) for which in (0, 2))
    assert torch.allclose(best, torch.where(RATIO > 1.2, 0.0, RATIO), atol=1e-12)
    assert torch.allclose(worst, torch.where(RATIO < 0.8, 0.0, RATIO), atol=1e-12)
    assert torch.allclose(stale.push(stale.STYLES["GRPO without its clip"], RATIO), RATIO, atol=1e-12)
    with pytest.raises(ValueError, match="expected pi/pi_old > 0"):
        stale.push(stale.STYLES["APO"], torch.tensor([0.0]))


@pytest.mark.parametrize("alpha", [0.35, 0.9])
def test_apo_pushes_by_the_formula(alpha):
    def by_hand(ratio):
        q = [math.exp(r / 0.3) for r in (1.0, 0.5, 0.0)]
        p = [math.exp(math.log(ratio) / 0.5), 1.0, 1.0]
        q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
        terms = [a**alpha * b ** (1 - alpha) for a, b in zip(q, p, strict=True)]
        return terms[0] - p[0] * sum(terms)

    expected = [by_hand(ratio) / by_hand(1.0) for ratio in RATIO.tolist()]
    assert stale.push(stale.STYLES["APO"], RATIO, alpha=alpha).tolist() == pytest.approx(expected, rel=1e-9)


def test_surrogate_is_the_minimum_of_two_lines():
    for which, sign in ((0, 1.0), (2, -1.0)):
        expected = [min(r * sign, min(max(r, 0.8), 1.2) * sign) - sign for r in RATIO.tolist()]
        assert stale.surrogate(RATIO, which=which).tolist() == pytest.approx(expected, abs=1e-12)


def test_at_rest_the_anchored_policy_is_the_target():
    rewards = torch.tensor([[0.9, 0.1, 0.4], [0.0, 0.0, 1.0]], dtype=torch.float64)
    moved = stale.rest_log_ratio(rewards, 0.5, 0.3)
    assert torch.allclose(moved.mean(-1), torch.zeros(2, dtype=torch.float64), atol=1e-12)
    log_p, log_q = (moved / 0.5).log_softmax(-1), (rewards / 0.3).log_softmax(-1)
    assert alpha_divergence(log_q, log_p, 0.6).abs().max() < 1e-12


def test_what_the_lesson_says_of_many_updates():
    runs = stale.inner_loops((1, 8, 256), seeds=12)
    kl = {name: {count: float(h.kl_anchor.median()) for count, h in by.items()} for name, by in runs.items()}
    first = [by[1] for by in kl.values()]
    assert max(first) / min(first) < 1.3  # the first updates are equally long
    assert max(by[8] for by in kl.values()) / min(by[8] for by in kl.values()) < 1.5
    assert kl["GRPO without its clip"][256] > 20 * kl["APO"][256] > 20 * kl["GRPO"][256]
    assert kl["APO, clip"][256] < 1.5 * kl["GRPO"][256]
    assert kl["APO, ratio"][256] == pytest.approx(kl["APO"][256], rel=0.35)
    noisy = stale.inner_loops((256,), seeds=40, noise=1.0)
    low, median, _ = median_quartiles(_reward(noisy["GRPO without its clip"][256]))
    exact = float(_reward(runs["GRPO without its clip"][256]).median())
    assert float(low) < 0.5 < float(median) < exact - 0.2
    clipped = median_quartiles(_reward(noisy["GRPO"][256]))
    assert float(clipped.high - clipped.low) < 0.05


def test_lengths_in_the_question_are_the_table_s():
    table = Table.read(ROOT / "notebooks" / "results" / "anchor.csv")
    ratio = {row.part: row.mean for row in table.where(metric="KL at tau 0.125 over KL at tau 2", alpha=0.6)}
    assert ratio["sgd, 1 updates"] == pytest.approx(286, abs=1)
    below = {part for part, value in ratio.items() if value < 0.9}
    assert below == {"sgd, 64 updates", "adam, 16 updates", "adam, 64 updates"}
