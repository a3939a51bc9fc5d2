"""Statistics against brute force, closed forms and simulation."""

import itertools
import math
import random
import statistics as stdlib

import pytest
import torch

from apo_edu.statistics import (
    mean_interval,
    median_quartiles,
    own_best,
    paired_difference,
    rank_correlation,
    student_interval,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_bootstrap_is_that_of_all_resamples():
    # Four runs have 4^4 = 256 equally likely resamples; quantiles of their means by hand.
    values = [0.1, 0.4, 0.5, 1.1]
    means = sorted(stdlib.fmean(drawn) for drawn in itertools.product(values, repeat=4))
    got = mean_interval(torch.tensor(values, dtype=torch.float64), level=0.8, resamples=40_000)
    assert got.estimate.item() == pytest.approx(stdlib.fmean(values), rel=1e-12)
    assert (got.low.item(), got.high.item()) == pytest.approx((means[25], means[230]), abs=0.02)
    assert got.n == 4


def test_many_runs_give_the_interval_of_the_normal_distribution():
    values = normal(2000)
    got = mean_interval(values)
    error = values.std().item() / math.sqrt(2000)
    assert (got.high - got.low).item() == pytest.approx(2 * 1.96 * error, rel=0.05)
    half = mean_interval(values, level=0.5)
    assert (half.high - half.low).item() == pytest.approx(2 * 0.6745 * error, rel=0.07)


def test_students_interval_covers_where_the_bootstrap_does_not():
    # Four degrees of freedom: 2.776 in the printed tables; the runs 1 to 5 have mean 3 and standard error sqrt(2.5 / 5).
    got = student_interval(torch.arange(1.0, 6.0))
    assert (got.low.item(), got.high.item()) == pytest.approx((3 - 2.776 * 0.5**0.5, 3 + 2.776 * 0.5**0.5), abs=1e-3)
    many = student_interval(normal(4000, 5))
    assert ((many.low < 0) & (many.high > 0)).double().mean().item() == pytest.approx(0.95, abs=0.015)
    with pytest.raises(ValueError, match="at least 2"):
        student_interval(torch.tensor([1.0]))


@pytest.mark.parametrize(("runs", "covered"), [(5, 0.84), (10, 0.90), (40, 0.94)])
def test_coverage_is_what_the_docstring_says(runs, covered):
    got = mean_interval(normal(4000, runs), resamples=1000)
    inside = ((got.low < 0) & (got.high > 0)).double().mean().item()
    assert inside == pytest.approx(covered, abs=0.012)


def test_the_resampling_moves_an_end_by_a_hundredth_of_the_interval():
    values = normal(30)
    found = [mean_interval(values, seed=seed) for seed in range(30)]
    spread = torch.stack([interval.low for interval in found]).std()
    assert (spread / (found[0].high - found[0].low)).item() == pytest.approx(0.011, rel=0.5)


def test_leading_dimensions_are_separate_questions():
    values = normal(3, 2, 20)
    together = mean_interval(values)
    for i, j in itertools.product(range(3), range(2)):
        alone = mean_interval(values[i, j])
        for name in ("estimate", "low", "high"):
            torch.testing.assert_close(getattr(together, name)[i, j], getattr(alone, name), rtol=1e-12, atol=0)
    assert mean_interval(values).low.equal(together.low)  # the same seed, the same interval
    assert not mean_interval(values, seed=1).low.equal(together.low)


def test_pairing_takes_the_seeds_effect_away():
    seeds, noise = 5 * normal(50), 0.1 * normal(2, 50, seed=1)
    better, worse = seeds + 0.2 + noise[0], seeds + noise[1]
    paired = paired_difference(better, worse)
    assert paired.excludes_zero and abs(paired.estimate - 0.2) < 0.05
    assert (paired.high - paired.low).item() == pytest.approx(4 * 0.141 / math.sqrt(50), rel=0.3)
    alone = mean_interval(better)
    assert alone.high - alone.low > 20 * (paired.high - paired.low)
    assert not paired_difference(worse, worse + 0.001 * normal(50, seed=2)).excludes_zero


@pytest.mark.parametrize("runs", [2, 5, 8, 51])
def test_quartiles_are_the_standard_librarys(runs):
    values = normal(runs, seed=runs)
    want = stdlib.quantiles(values.tolist(), n=4, method="inclusive")
    assert [q.item() for q in median_quartiles(values)] == pytest.approx(want, rel=1e-12)
    rows = median_quartiles(torch.stack([values, values + 1]))
    torch.testing.assert_close(rows.median[1] - rows.median[0], torch.tensor(1.0, dtype=torch.float64))


def test_own_best_by_hand():
    # Means of runs 0 and 2: 0.2, 0.45, 0.15. Runs 1 and 3 would have chosen the third.
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.2], [0.4, 0.3, 0.5, 0.6], [0.2, 0.9, 0.1, 0.9]], dtype=torch.float64)
    best = own_best(scores)
    assert best.index == 1 and best.scores.tolist() == [0.3, 0.6] and not best.at_edge
    both = own_best(torch.stack([scores, scores[[2, 0, 1]]]))
    assert both.index.tolist() == [1, 2] and both.at_edge.tolist() == [False, True]
    assert both.scores.tolist() == [[0.3, 0.6]] * 2
    tied = own_best(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]]))
    assert tied.index == 0
    odd = own_best(scores.repeat(1, 2)[:, :5])  # the fifth run chooses
    assert odd.scores.shape == (2,)


def test_own_best_is_not_biased_where_the_best_mean_is():
    # Eight settings that are all equally good: the best mean of all runs lies above 0, the own best's does not.
    scores = normal(4000, 8, 20)
    naive = scores.mean(-1).amax(-1).mean().item()
    assert naive > 0.2
    assert abs(own_best(scores).scores.mean().item()) < 0.02


def brute_force_spearman(x, y):
    def ranks(values):
        return [stdlib.fmean([i + 1 for i, v in enumerate(sorted(values)) if v == value]) for value in values]

    return stdlib.correlation(ranks(x), ranks(y))


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_with_and_without_ties(seed):
    rng = random.Random(seed)
    order = rng.sample(range(12), 12)
    got = rank_correlation(torch.arange(12).double(), torch.tensor(order).double())
    closed_form = 1 - 6 * sum((i - r) ** 2 for i, r in enumerate(order)) / (12 * (12**2 - 1))
    assert got.estimate.item() == pytest.approx(closed_form, abs=1e-12)
    x, y = ([rng.randint(0, 3) / 3 for _ in range(15)] for _ in range(2))
    tied = rank_correlation(torch.tensor(x), torch.tensor(y))
    assert tied.estimate.item() == pytest.approx(brute_force_spearman(x, y), abs=1e-12)
    assert -1 <= tied.low <= tied.estimate <= tied.high <= 1
    monotone = rank_correlation(torch.tensor(x), torch.tensor(y).exp())
    assert torch.equal(monotone.estimate, tied.estimate)  # only the order counts


def test_rank_correlations_interval_is_fishers_for_many_pairs():
    x = normal(400)
    y = 0.6 * x + 0.8 * normal(400, seed=1)
    got = rank_correlation(x, y)
    half = 1.96 * math.sqrt((1 + got.estimate.item() ** 2 / 2) / (400 - 3))  # Bonett and Wright 2000
    want = [math.tanh(math.atanh(got.estimate.item()) + sign * half) for sign in (-1, 1)]
    assert (got.low.item(), got.high.item()) == pytest.approx(want, abs=0.015)


def test_scipy_agrees():
    stats = pytest.importorskip("scipy.stats")
    x, y = normal(60).round(decimals=1), (normal(60) + normal(60, seed=1)).round(decimals=1)
    assert rank_correlation(x, y).estimate.item() == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    theirs = stats.bootstrap((y.numpy(),), lambda v, axis: v.mean(axis), method="percentile", random_state=0)
    got = mean_interval(y, resamples=10_000)
    width = (got.high - got.low).item()
    assert got.low.item() == pytest.approx(theirs.confidence_interval.low, abs=0.04 * width)
    assert got.high.item() == pytest.approx(theirs.confidence_interval.high, abs=0.04 * width)


ONES = torch.ones(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval(torch.tensor([1.0])), r"values has shape \(1,\); expected .* at least 2 runs. Run more"),
        (lambda: mean_interval(torch.tensor([1.0, math.nan])), r"values holds nan at index \[1\]"),
        (lambda: mean_interval(ONES, level=95), r"level is 95; expected in \(0, 1\), e.g. 0.95"),
        (lambda: mean_interval(ONES, resamples=0), "resamples is 0; expected at least 1"),
        (lambda: paired_difference(ONES, ONES[:3]), "values has 4 runs and baseline 3; expected as many.*same seed"),
        (lambda: own_best(torch.ones(2, 3)), r"scores has shape \(2, 3\); expected .* at least 4 runs"),
        (lambda: own_best(ONES), r"expected \[..., settings, runs\]"),
        (lambda: rank_correlation(ONES, torch.arange(4.0)), "x is constant; expected values that differ"),
        (lambda: rank_correlation(ONES, torch.arange(5.0)), r"x has shape \(4,\), y has shape \(5,\); expected \[n\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
