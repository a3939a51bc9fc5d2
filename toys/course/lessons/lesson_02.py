"""Lesson 02, Mode covering and mode seeking: the forward fit without a search, and the number that tells the two apart."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. The forward fit.


def _moments(means, sds, weights):
    """Mean and standard deviation of a mixture of Gaussians in one dimension.

    means, sds, weights: [k]; the weights sum to 1.  Returns (mean, sd).
    """
    mean = (weights * means).sum()
    second = (weights * (means**2 + sds**2)).sum()
    return mean, (second - mean**2).sqrt()


def _moments_looped(means: Tensor, sds: Tensor, weights: Tensor) -> Any:
    parts = list(zip(means.tolist(), sds.tolist(), weights.tolist(), strict=True))
    mean = sum(w * m for m, _, w in parts)
    return mean, math.sqrt(sum(w * (s * s + (m - mean) ** 2) for m, s, w in parts))


def _moments_numpy(means: Tensor, sds: Tensor, weights: Tensor) -> Any:
    mean = np.average(means.numpy(), weights=weights.numpy())
    within = np.average(sds.numpy() ** 2, weights=weights.numpy())
    between = np.average((means.numpy() - mean) ** 2, weights=weights.numpy())
    return np.array([mean, np.sqrt(within + between)])


def mixtures_of(*sizes: int, together: bool = False) -> Any:
    """Cases (means, sds, weights), a mixture for each number of modes; with `together`, all modes have one mean."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for size in sizes:
            means = 3 * torch.randn(1 if together else size, generator=generator, dtype=torch.float64).expand(size)
            sds, weights = (0.3 + torch.rand(2, size, generator=generator, dtype=torch.float64)).unbind()
            given.append((means.clone(), sds, weights / weights.sum()))
        return given

    return cases


def _pair(answer: Any, *case: Any) -> Any:
    """Two numbers in whatever form they come."""
    given = answer(*case)
    return None if given is None else tuple(torch.as_tensor(part, dtype=torch.float64) for part in given)


def _mean(means: Tensor, weights: Tensor) -> Tensor:
    return (weights * means).sum()


def _sd_but(variance: Any, *, root: bool = True) -> Any:
    """The right mean, and another variance."""

    def compute(means: Tensor, sds: Tensor, weights: Tensor) -> Any:
        value = variance(means, sds, weights, _mean(means, weights))
        return _mean(means, weights), value.sqrt() if root else value

    return compute


moments = WriteIt(
    name="moments",
    title="The fit at alpha = 1, without a search",
    minutes=6,
    difficulty=1,
    text=r"""
The forward KL fits a Gaussian by matching moments: the best fit at $\alpha = 1$ has the mean and the standard deviation
*of the target*. Write `moments(means, sds, weights)`: mean and standard deviation of a mixture of Gaussians with these
means, standard deviations and weights (the weights sum to 1).
""",
    hint=r"""
Variance is mean square minus squared mean. Of one Gaussian the mean square is $m^2 + s^2$, and of the mixture it is the
weighted mean of those. Check: modes at $\pm2$ with $s = 0.6$ give $\sqrt{4.36} = 2.09$.
""",
    after="The spread between the modes counts as much as the spread within them: so the covering fit of the modes at +-2 has "
    "sd 2.09 and sits over the valley.",
    solution=_moments,
    also_right=(_moments_looped, _moments_numpy),
    checks=(
        check(
            "values",
            "two and three modes",
            mixtures_of(2, 3, 3),
            probe=_pair,
            rtol=1e-9,
            hint="Two modes at -2 and 2, sd 0.6, equal weights: mean 0, sd 2.09.",
        ),
        check(
            "together",
            "modes in one place",
            mixtures_of(2, 3, together=True),
            probe=_pair,
            rtol=1e-9,
            hint="Where all means agree, the variance is the weighted mean of the variances.",
        ),
    ),
    mistakes=(
        Mistake(
            "the variance",
            "the second number is the variance: take its root.",
            _sd_but(lambda m, s, w, mean: (w * (m**2 + s**2)).sum() - mean**2, root=False),
        ),
        Mistake(
            "weights ignored",
            "the weights do nothing here: a mode with more mass pulls more.",
            lambda m, s, w: _moments(m, s, torch.full_like(w, 1 / len(w))),
        ),
        Mistake(
            "within only",
            "this is the spread within the modes alone; the distance between them is missing.",
            _sd_but(lambda m, s, w, mean: (w * s**2).sum()),
        ),
        Mistake(
            "between only",
            "this is the spread between the modes' means alone; each mode has a width of its own.",
            _sd_but(lambda m, s, w, mean: (w * (m - mean) ** 2).sum()),
        ),
        Mistake(
            "mean of the sds",
            "standard deviations are averaged; variances are what one may average, and the distance between "
            "the modes belongs to them.",
            _sd_but(lambda m, s, w, mean: (w * s).sum(), root=False),
        ),
        Mistake(
            "sds for variances",
            "the sds are added where their squares belong: a mean square is m^2 + s^2.",
            _sd_but(lambda m, s, w, mean: (w * (m**2 + s)).sum() - mean**2),
        ),
        Mistake(
            "mean not subtracted",
            "this is the root of the mean square: subtract the squared mean first.",
            _sd_but(lambda m, s, w, mean: (w * (m**2 + s**2)).sum()),
        ),
        Mistake(
            "mean for squared mean",
            "the mean is subtracted where its square belongs.",
            _sd_but(lambda m, s, w, mean: ((w * (m**2 + s**2)).sum() - mean).abs()),
        ),
        Mistake(
            "a sum, not a mixture",
            "this is the sd of a weighted *sum* of independent Gaussians. A mixture draws one of them.",
            _sd_but(lambda m, s, w, mean: (w**2 * s**2).sum()),
        ),
        Mistake(
            "the largest mode",
            "this is the largest mode itself, which is what the *reverse* KL would settle on.",
            lambda m, s, w: (m[w.argmax()], s[w.argmax()]),
        ),
        Mistake(
            "order turned round",
            "the two numbers are in the wrong order: the mean first, then the sd.",
            lambda m, s, w: _moments(m, s, w)[::-1],
        ),
        Mistake(
            "variance about 0 and the mean of the middle",
            "the mean is taken half way between the outermost modes; it is the weighted mean.",
            lambda m, s, w: ((m.min() + m.max()) / 2, _moments(m, s, w)[1]),
        ),
        Mistake(
            "weights squared",
            "the weights are squared in the variance.",
            _sd_but(lambda m, s, w, mean: (w**2 * (s**2 + (m - mean) ** 2)).sum()),
        ),
        Mistake(
            "sd of the means",
            "the spread of the means is taken without the weights, and divided by k - 1.",
            _sd_but(lambda m, s, w, mean: m.var() + (w * s**2).sum()),
        ),
    ),
)

# 2. Mass missed.


def _mass_missed(x, q, mean, sd):
    """Share of the target outside the central 95 % of a Gaussian fit: farther than 1.96 sd from its mean.

    x: [n] places.  q: [n] masses of the target there, summing to 1.  mean, sd: of the fit, floats.  Returns a number.
    """
    outside = (x - mean).abs() > 1.96 * sd
    return q[outside].sum()


def _missed_looped(x: Tensor, q: Tensor, mean: float, sd: float) -> float:
    total = 0.0
    for place, mass in zip(x.tolist(), q.tolist(), strict=True):
        if place < mean - 1.96 * sd or place > mean + 1.96 * sd:
            total += mass
    return total


def _missed_numpy(x: Tensor, q: Tensor, mean: float, sd: float) -> Any:
    z = (x.numpy() - mean) / sd
    return 1 - q.numpy()[np.square(z) <= 1.96**2].sum()


def fits_to_two_modes(*places: tuple[float, float]) -> Any:
    """Cases (x, q, mean, sd): two random modes on a fine grid, and a fit near each given (mean, sd)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given: list[tuple[Any, ...]] = []
        x = torch.linspace(-9, 9, 3601, dtype=torch.float64)
        for mean, sd in places:
            modes = torch.tensor([-2.5, 2.5]) + torch.randn(2, generator=generator, dtype=torch.float64) / 3
            weight = 0.3 + 0.2 * float(torch.rand((), generator=generator, dtype=torch.float64))
            q = (
                weight * (-0.5 * ((x - modes[0]) / 0.7) ** 2).exp()
                + (1 - weight) * (-0.5 * ((x - modes[1]) / 0.9) ** 2).exp()
            )
            shift = 0.3 * float(torch.rand((), generator=generator, dtype=torch.float64))
            given.append((x, q / q.sum(), mean + shift, sd))
        return given

    return cases


def _missed_but(where: Any, of: Any = lambda x, q: q) -> Any:
    """The mass at other places."""
    return lambda x, q, mean, sd: of(x, q)[where(x, mean, sd)].sum()


def _outside(x: Tensor, mean: float, sd: float, width: float = 1.96) -> Tensor:
    return (x - mean).abs() > width * sd


def _gaussian(x: Tensor, mean: float, sd: float) -> Tensor:
    return (-0.5 * ((x - mean) / sd) ** 2).softmax(-1)


mass_missed = WriteIt(
    name="mass_missed",
    title="Mass missed",
    minutes=5,
    difficulty=1,
    text=r"""
How much of the target does a fit leave out? Write `mass_missed(x, q, mean, sd)`: the share of the target $q$ that lies
*outside* the fit's central 95 % region, farther than 1.96 standard deviations from its mean. `x` are places, `q` the
target's masses there (they sum to 1).
""",
    hint=r"""
A comparison of tensors gives booleans, and `q[those]` picks the masses there. The region has two sides.
""",
    after="A fit on one mode misses the other one and 5 % of its own: with two equal modes 52 %, not 50.",
    solution=_mass_missed,
    also_right=(_missed_looped, _missed_numpy),
    checks=(
        check(
            "seeking",
            "a fit on one mode",
            fits_to_two_modes((2.4, 0.8), (-2.6, 0.6)),
            rtol=1e-9,
            floor=1e-12,
            hint="Is the mode that is left out in your number?",
        ),
        check(
            "covering",
            "a fit over both modes",
            fits_to_two_modes((0.0, 2.3), (0.4, 1.8)),
            rtol=1e-9,
            floor=1e-12,
            hint="Both tails count.",
        ),
    ),
    mistakes=(
        Mistake(
            "inside",
            "this is the share *inside* the region: what is missed lies outside.",
            _missed_but(lambda x, mean, sd: ~_outside(x, mean, sd)),
        ),
        Mistake(
            "right side only",
            "only the right side is counted: the region ends on the left too.",
            _missed_but(lambda x, mean, sd: x > mean + 1.96 * sd),
        ),
        Mistake(
            "left side only",
            "only the left side is counted: the region ends on the right too.",
            _missed_but(lambda x, mean, sd: x < mean - 1.96 * sd),
        ),
        Mistake(
            "one sd",
            "the region is one sd to each side; 95 % of a Gaussian take 1.96.",
            _missed_but(lambda x, mean, sd: _outside(x, mean, sd, 1.0)),
        ),
        Mistake(
            "2 for 1.96",
            "the region is 2 sd to each side; 1.96 was asked for.",
            _missed_but(lambda x, mean, sd: _outside(x, mean, sd, 2.0)),
        ),
        Mistake(
            "1.645",
            "1.645 sd hold the central 90 %; 95 % take 1.96.",
            _missed_but(lambda x, mean, sd: _outside(x, mean, sd, 1.645)),
        ),
        Mistake(
            "half the width",
            "the region is 1.96 sd wide in all; it reaches 1.96 sd to *each* side.",
            _missed_but(lambda x, mean, sd: _outside(x, mean, sd, 0.98)),
        ),
        Mistake(
            "the variance",
            "the region is measured in variances: 1.96 times sd, not its square.",
            _missed_but(lambda x, mean, sd: _outside(x, mean, sd * sd)),
        ),
        Mistake(
            "around 0",
            "the region lies around 0: it lies around the fit's mean.",
            _missed_but(lambda x, mean, sd: _outside(x, 0.0, sd)),
        ),
        Mistake(
            "points for mass",
            "this is the share of the *points*; each counts with the target's mass there.",
            _missed_but(_outside, of=lambda x, q: torch.full_like(q, 1 / len(q))),
        ),
        Mistake(
            "the fit's own mass",
            "this is what the *fit* has outside, 5 % whatever the target is; the target's masses are in q.",
            lambda x, q, mean, sd: _mass_missed(x, _gaussian(x, mean, sd), mean, sd),
        ),
        Mistake(
            "masses taken for a density",
            "q holds masses already: no width of a cell belongs to it.",
            _missed_but(_outside, of=lambda x, q: q * (x[1] - x[0])),
        ),
        Mistake(
            "divided by what is inside",
            "this is the ratio of outside to inside; the masses sum to 1, so nothing is to be divided.",
            lambda x, q, mean, sd: q[_outside(x, mean, sd)].sum() / q[~_outside(x, mean, sd)].sum(),
        ),
        Mistake(
            "places for masses",
            "the places are added up, weighted; the masses alone are asked for.",
            _missed_but(_outside, of=lambda x, q: q * x),
        ),
    ),
)

exercises = (moments, mass_missed)
