"""Statistics of repeated runs: intervals, paired differences, medians, an honest own-best setting, rank correlation.

Runs (seeds) are the last dimension of every argument, and leading dimensions are separate questions, so that a curve of
intervals is one call. Everything is float64 and seeded: the same numbers give the same interval.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .validation import require_finite


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval, each [...]; n is the number of runs behind it.

    >>> print(Interval(torch.tensor(0.02), torch.tensor(-0.01), torch.tensor(0.05), n=20))
    +0.020 [-0.010, +0.050] (n = 20)
    """

    estimate: Tensor
    low: Tensor
    high: Tensor
    n: int

    @property
    def excludes_zero(self) -> Tensor:
        """[...] True where the whole interval lies on one side of 0."""
        return (self.low > 0) | (self.high < 0)

    def __str__(self) -> str:
        if self.estimate.dim() > 0:
            return f"{self.estimate.numel()} intervals of shape {tuple(self.estimate.shape)} (n = {self.n})"
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}] (n = {self.n})"


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile, each [...].

    >>> Quartiles(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(4.0)).median
    tensor(2.)
    """

    low: Tensor
    median: Tensor
    high: Tensor


@dataclass(frozen=True)
class OwnBest:
    """A setting chosen on one half of the runs, and how it does on the other.

    index: [...] of the setting chosen.
    scores: [..., runs / 2] its scores on the runs that had no part in the choice.
    at_edge: [...] True where the first or the last setting was chosen, so that a wider grid might do better.

    >>> own_best(torch.tensor([[0.0, 0.1, 0.0, 0.2], [1.0, 0.9, 1.0, 0.8]])).at_edge
    tensor(True)
    """

    index: Tensor
    scores: Tensor
    at_edge: Tensor


def mean_interval(values: Tensor, *, level: float = 0.95, resamples: int = 4000, seed: int = 0) -> Interval:
    """Mean over runs with its percentile bootstrap interval.

    The interval is where the means of resampled runs lie. It is a little narrow for few runs: of 95 % intervals of normal
    values, 90 % cover the truth at 10 runs, 84 % at 5 (tests/test_statistics.py).

    Args:
        values: [..., runs] finite, at least 2 runs.
        level: how much of the bootstrap distribution the interval holds, in (0, 1).
        resamples: how many resampled means; with 4000 an end moves by about 1 % of the interval's width between seeds.
        seed: of the resampling. The same runs are drawn for all leading dimensions.

    Returns:
        Interval with tensors [...].

    Raises:
        ValueError: fewer than 2 runs, a non-finite value, a level out of (0, 1), no resamples.

    >>> print(mean_interval(torch.tensor([0.2, 0.4, 0.3, 0.5, 0.1])))
    +0.300 [+0.180, +0.420] (n = 5)
    """
    values = _runs("values", values)
    means = values @ _resampled_counts(values.shape[-1], resamples, seed).T / values.shape[-1]
    low, high = _ends(means, level)
    return Interval(values.mean(-1), low, high, n=values.shape[-1])


def student_interval(values: Tensor) -> Interval:
    """Mean over a few independent runs with its 95 % interval by Student's t: for less than 20, since a bootstrap is narrow.

    Args:
        values: [..., runs] finite, at least 2 runs.

    Raises:
        ValueError: fewer than 2 runs, or a non-finite value.

    >>> print(student_interval(torch.tensor([0.2, 0.4, 0.3, 0.5, 0.1])))
    +0.300 [+0.104, +0.496] (n = 5)
    """
    values = _runs("values", values)
    n, mean = values.shape[-1], values.mean(-1)
    half = t_quantile(n - 1) * values.std(-1) / n**0.5
    return Interval(mean, mean - half, mean + half, n=n)


@cache
def t_quantile(freedom: int) -> float:
    """The t with 95 % of Student's distribution between -t and t.

    With x = sqrt(f) tan(angle), the density becomes cos(angle)^(f - 1): a smooth integral over a finite range.

    >>> round(t_quantile(1), 2), round(t_quantile(4), 3)
    (12.71, 2.776)
    """
    edges = torch.linspace(0.0, math.pi / 2, 200_001, dtype=torch.float64)
    mass = torch.cumsum(((edges[1:] + edges[:-1]) / 2).cos() ** (freedom - 1), 0)
    place = int(torch.searchsorted(mass, 0.95 * mass[-1]))
    before = float(mass[place - 1]) if place else 0.0
    inside = (0.95 * float(mass[-1]) - before) / (float(mass[place]) - before)
    angle = float(edges[place]) + inside * float(edges[1])
    return math.sqrt(freedom) * math.tan(angle)


def paired_difference(
    values: Tensor, baseline: Tensor, *, level: float = 0.95, resamples: int = 4000, seed: int = 0
) -> Interval:
    """Mean difference of runs that share their seeds, with its bootstrap interval: values minus baseline.

    Pairing takes away what a seed does to both; without shared seeds it takes away nothing and means nothing.

    Args:
        values, baseline: [..., runs], run i of both with the same random numbers; leading dimensions broadcast.
        level, resamples, seed: as for `mean_interval`.

    Raises:
        ValueError: as for `mean_interval`, or unequal numbers of runs.

    >>> difference = paired_difference(torch.tensor([0.5, 0.7, 0.6]), torch.tensor([0.4, 0.5, 0.5]))
    >>> print(difference)
    +0.133 [+0.100, +0.200] (n = 3)
    """
    values, baseline = _runs("values", values), _runs("baseline", baseline)
    if values.shape[-1] != baseline.shape[-1]:
        raise ValueError(
            f"values has {values.shape[-1]} runs and baseline {baseline.shape[-1]}; expected as many, run i of both with "
            "the same seed. Compare unpaired runs by their own intervals (mean_interval)."
        )
    return mean_interval(values - baseline, level=level, resamples=resamples, seed=seed)


def median_quartiles(values: Tensor) -> Quartiles:
    """Median over runs with the quartiles, linearly interpolated between order statistics.

    Args:
        values: [..., runs] finite, at least 2 runs.

    Returns:
        Quartiles (low, median, high), each [...].

    >>> median_quartiles(torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]))
    Quartiles(low=tensor(2., dtype=torch.float64), median=tensor(3., dtype=torch.float64),
              high=tensor(4., dtype=torch.float64))
    """
    return Quartiles(*_quantiles(_runs("values", values), (0.25, 0.5, 0.75)))


def own_best(scores: Tensor) -> OwnBest:
    """The setting with the best mean on every other run, and its scores on the rest: a learning rate of one's own.

    To compare rules each with its own best learning rate, the runs that choose must not be the runs that count: the best of
    several means is biased upwards. Runs 0, 2, 4, ... choose and runs 1, 3, 5, ... count, for every rule alike, so that
    the scores of two rules are paired.

    Args:
        scores: [..., settings, runs] finite, higher is better; at least 4 runs. A diverged run must be given the score it
            deserves, not NaN.

    Returns:
        OwnBest with tensors [...] and scores [..., runs / 2]. Of equal means the first setting is chosen.

    Raises:
        ValueError: fewer than 4 runs, no dimension of settings, a non-finite score.

    >>> best = own_best(torch.tensor([[0.1, 0.2, 0.3, 0.2], [0.4, 0.3, 0.5, 0.6], [0.2, 0.9, 0.1, 0.9]]))
    >>> best.index, best.scores
    (tensor(1), tensor([0.3000, 0.6000], dtype=torch.float64))
    """
    scores = _runs("scores", scores, at_least=4)
    if scores.dim() < 2:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}; expected [..., settings, runs]. One setting is scores[None]."
        )
    # In float64 equal means may differ by rounding: the first within rounding of the best counts as chosen.
    choosing = scores[..., 0::2].mean(-1)
    best = choosing.amax(-1, keepdim=True)
    index = (choosing >= best - 1e-12 * best.abs()).to(torch.int8).argmax(-1)
    at = index[..., None, None].expand(*index.shape, 1, scores.shape[-1] // 2)
    held_out = scores[..., 1::2].gather(-2, at).squeeze(-2)
    return OwnBest(index, held_out, (index == 0) | (index == scores.shape[-2] - 1))


def rank_correlation(x: Tensor, y: Tensor, *, level: float = 0.95, resamples: int = 4000, seed: int = 0) -> Interval:
    """Spearman's rank correlation with its percentile bootstrap interval; ties share their mean rank.

    Args:
        x, y: [n] finite, at least 3 pairs, neither constant.
        level, resamples, seed: as for `mean_interval`; pairs are resampled, and a resample in which one of the two is
            constant does not count.

    Returns:
        Interval of scalars in [-1, 1].

    Raises:
        ValueError: other shapes, fewer than 3 pairs, a non-finite or constant argument.

    >>> print(rank_correlation(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0])))
    +0.800 [+0.111, +1.000] (n = 5)
    """
    x, y = _runs("x", x, at_least=3), _runs("y", y, at_least=3)
    if x.dim() != 1 or x.shape != y.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}, y has shape {tuple(y.shape)}; expected [n] for both.")
    for name, value in (("x", x), ("y", y)):
        if bool((value == value[0]).all()):
            raise ValueError(f"{name} is constant; expected values that differ: a constant has no rank correlation.")
    drawn = _resampled_indices(len(x), resamples, seed)
    low, high = _ends(_pearson(_ranks(x[drawn]), _ranks(y[drawn])), level)
    return Interval(_pearson(_ranks(x), _ranks(y)), low, high, n=len(x))


def _runs(name: str, values: Tensor, *, at_least: int = 2) -> Tensor:
    values = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if values.dim() == 0 or values.shape[-1] < at_least:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; expected [..., runs] with at least {at_least} runs. Run more seeds."
        )
    require_finite(name, values, kind="numbers")
    return values


def _resampled_indices(n: int, resamples: int, seed: int) -> Tensor:
    """[resamples, n] runs drawn with replacement."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; expected at least 1, e.g. 4000.")
    return torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))


def _resampled_counts(n: int, resamples: int, seed: int) -> Tensor:
    """[resamples, n] how often each run was drawn: the means of all resamples are one matrix product."""
    drawn = _resampled_indices(n, resamples, seed)
    return torch.zeros(resamples, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(resamples, n).double())


def _ends(values: Tensor, level: float) -> tuple[Tensor, Tensor]:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected in (0, 1), e.g. 0.95.")
    low, high = _quantiles(values, ((1 - level) / 2, (1 + level) / 2))
    return low, high


def _quantiles(values: Tensor, levels: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Quantiles over the last dimension without NaN, linearly interpolated; torch.quantile refuses 16 million numbers."""
    ordered = values.sort(-1).values  # NaN last
    last = (~values.isnan()).sum(-1, keepdim=True) - 1
    found = []
    for level in levels:
        position = level * last.double()
        below = position.floor().long()
        above = torch.minimum(below + 1, last)
        left, right = ordered.gather(-1, below), ordered.gather(-1, above)
        found.append((left + (right - left) * (position - below)).squeeze(-1))
    return tuple(found)


def _ranks(values: Tensor) -> Tensor:
    """Ranks 1 to n over the last dimension; ties share their mean rank."""
    ordered = values.sort(-1).values.contiguous()
    values = values.contiguous()
    left = torch.searchsorted(ordered, values)
    right = torch.searchsorted(ordered, values, right=True)
    return (left + right + 1).double() / 2


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation over the last dimension; NaN where one of the two is constant."""
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    return (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()
