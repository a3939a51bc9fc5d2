"""Lesson 01, Divergences: two members of the family under their own names, from probabilities and from our number."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import apo_edu

from ..a1 import log_probs
from ..model import Mistake, Numbers
from .write_it import WriteIt, check


def pairs(*shapes: tuple[int, ...], away: float = 0.0) -> Any:
    """Cases (log_q, log_p), a pair for each shape; with `away`, q lies within about that much of p."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given: list[tuple[Any, ...]] = []
        for shape in shapes:
            log_q, log_p = log_probs(generator, *shape), log_probs(generator, *shape)
            given.append(((log_p + away * log_q).log_softmax(-1) if away else log_q, log_p))
        return given

    return cases


# 1. The member in the middle.


def _hellinger(log_q, log_p):
    """The squared Hellinger distance over the last dimension, between 0 and 1.

    log_q, log_p: [..., n] log-probabilities.  Returns [...].
    """
    difference = (log_q / 2).exp() - (log_p / 2).exp()
    return difference.square().sum(-1) / 2


def _hellinger_looped(log_q: Tensor, log_p: Tensor) -> Any:
    if log_q.dim() > 1:
        return torch.stack([torch.as_tensor(_hellinger_looped(a, b)) for a, b in zip(log_q, log_p, strict=True)])
    pairs = zip(log_q.tolist(), log_p.tolist(), strict=True)
    return sum((math.sqrt(math.exp(a)) - math.sqrt(math.exp(b))) ** 2 for a, b in pairs) / 2


def _hellinger_numpy(log_q: Tensor, log_p: Tensor) -> Any:
    roots = np.sqrt(np.exp(log_q.numpy())) - np.sqrt(np.exp(log_p.numpy()))
    return 0.5 * np.linalg.norm(roots, axis=-1) ** 2


def _overlap(log_q: Tensor, log_p: Tensor) -> Tensor:
    return ((log_q + log_p) / 2).exp().sum(-1)


def _half_square(of: Any) -> Any:
    """Half the sum of squared differences of something else than the roots."""
    return lambda log_q, log_p: (of(log_q) - of(log_p)).square().sum(-1) / 2


def _roots(log_q: Tensor, log_p: Tensor) -> Tensor:
    return (log_q / 2).exp() - (log_p / 2).exp()


hellinger = WriteIt(
    name="hellinger",
    title="The member in the middle",
    minutes=6,
    difficulty=1,
    text=r"""
At $\alpha = 1/2$ the two arguments play the same part, and the divergence is four times an old acquaintance, the squared
Hellinger distance: half the sum of the squared differences of the *roots* of the probabilities.

$$H^2(q, p) = \tfrac12 \sum_i \left(\sqrt{q_i} - \sqrt{p_i}\right)^2$$

Write `hellinger(log_q, log_p)` from log-probabilities, over the last dimension.
""",
    hint=r"""
The root of a probability that is given by its logarithm is $\sqrt q = e^{\log q / 2}$. Square each difference before you add.
Expanding the square to $1 - \sum\sqrt{qp}$ is right on paper; the last check says why it is better left alone.
""",
    after="It never exceeds 1, so D_(1/2) never exceeds 4, however far apart q and p are; both KLs can grow without bound.",
    solution=_hellinger,
    referee=lambda log_q, log_p: apo_edu.alpha_divergence(log_q, log_p, 0.5) / 4,
    also_right=(_hellinger_looped, _hellinger_numpy),
    checks=(
        check(
            "values",
            "the values",
            pairs((3,), (5,), (2,)),
            rtol=1e-6,
            hint="Put q = (1, 0) and p = (0, 1) into the formula: it gives 1.",
        ),
        check("batch", "leading dimensions are a batch", pairs((2, 3, 4)), rtol=1e-6),
        check(
            "near",
            "its digits close to q = p",
            pairs((5,), (4,), away=1e-7),
            rtol=1e-4,
            noisy=True,
            hint="Differences of nearly equal roots keep their digits; 1 minus a number close to 1 does not.",
        ),
    ),
    mistakes=(
        Mistake(
            "the root is taken",
            "this is the distance itself; its square is asked for: no root at the end.",
            lambda log_q, log_p: (_roots(log_q, log_p).square().sum(-1) / 2).sqrt(),
        ),
        Mistake(
            "1/2 missing",
            "the half in front is missing: two coins that never agree would be 2 apart.",
            lambda log_q, log_p: _roots(log_q, log_p).square().sum(-1),
        ),
        Mistake(
            "D_(1/2)",
            "this is D_(1/2), four times the squared Hellinger distance.",
            lambda log_q, log_p: 2 * _roots(log_q, log_p).square().sum(-1),
        ),
        Mistake(
            "the overlap",
            "this is the overlap, sum sqrt(q p): it is 1 where q = p, and a distance is 0 there.",
            _overlap,
        ),
        Mistake(
            "Bhattacharyya's distance",
            "this is minus the logarithm of the overlap, Bhattacharyya's distance, which has no bound.",
            lambda log_q, log_p: -_overlap(log_q, log_p).log(),
        ),
        Mistake(
            "the square expanded",
            "right on paper, but 1 - sum sqrt(q p) cancels near q = p and loses its digits. Take the differences of the roots "
            "as they stand.",
            lambda log_q, log_p: 1 - _overlap(log_q, log_p),
        ),
        Mistake(
            "no roots",
            "the probabilities themselves are subtracted; the formula has their roots.",
            _half_square(lambda log: log.exp()),
        ),
        Mistake(
            "half for root",
            "half a probability is not its root: divide the logarithm by 2 before you take .exp().",
            _half_square(lambda log: log.exp() / 2),
        ),
        Mistake(
            "squares for roots",
            "the probabilities are squared where their roots are asked for: log_q / 2, not 2 log_q.",
            _half_square(lambda log: (2 * log).exp()),
        ),
        Mistake(
            "logarithms for probabilities",
            "log_q and log_p are logarithms: take .exp() before you compare.",
            _half_square(lambda log: log),
        ),
        Mistake(
            "roots of logarithms",
            "the root is taken of a logarithm, which is negative: take .exp() first.",
            _half_square(lambda log: log.sqrt()),
        ),
        Mistake(
            "total variation",
            "this is the total variation, half the sum of |q - p|.",
            lambda log_q, log_p: (log_q.exp() - log_p.exp()).abs().sum(-1) / 2,
        ),
        Mistake(
            "absolute for square",
            "this adds absolute differences of the roots; the formula squares them.",
            lambda log_q, log_p: _roots(log_q, log_p).abs().sum(-1) / 2,
        ),
        Mistake(
            "square of the sum",
            "the sum is squared: square each difference before you add, or differences of both signs cancel.",
            lambda log_q, log_p: _roots(log_q, log_p).sum(-1).square() / 2,
        ),
        Mistake(
            "mean for sum",
            "this averages over the last dimension where the formula sums.",
            lambda log_q, log_p: _roots(log_q, log_p).square().mean(-1) / 2,
        ),
        Mistake(
            "sums over the batch",
            "this sums over the batch too: reduce the last dimension only, .sum(-1).",
            lambda log_q, log_p: _roots(log_q, log_p).square().sum() / 2,
        ),
        Mistake(
            "nothing summed",
            "the terms are not added up: .sum(-1) is missing.",
            lambda log_q, log_p: _roots(log_q, log_p).square() / 2,
        ),
    ),
)

# 2. The same number under another name.


def _renyi(divergence, alpha):
    """Renyi's divergence of order alpha, in nats, from D_alpha of the same pair.

    divergence: D_alpha(q || p), a tensor of any shape.  alpha: a float > 0.  Returns a tensor of that shape.
    """
    if alpha == 1:
        return divergence
    return torch.log1p(-alpha * (1 - alpha) * divergence) / (alpha - 1)


def _renyi_looped(divergence: Tensor, alpha: float) -> Tensor:
    values = [
        math.log1p(alpha * (alpha - 1) * d) / (alpha - 1) if alpha != 1 else d for d in divergence.flatten().tolist()
    ]
    return torch.tensor(values, dtype=divergence.dtype).reshape(divergence.shape)


def _renyi_by_series(divergence: Tensor, alpha: float) -> Any:
    """numpy; close to alpha = 1 the series of the logarithm, where log(1 - x) would lose digits."""
    d, away = divergence.numpy(), 1 - alpha
    if abs(away) < 1e-4:
        return alpha * d + alpha**2 * away * d**2 / 2 + alpha**3 * away**2 * d**3 / 3
    return -np.log(1 - alpha * away * d) / away


def divergences(*orders: float, shape: tuple[int, ...] = ()) -> Any:
    """Cases (D_alpha of random pairs, alpha)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [
            (apo_edu.alpha_divergence(log_probs(generator, *shape, 4), log_probs(generator, *shape, 4), alpha), alpha)
            for alpha in orders
        ]

    return cases


def _renyi_but(
    inner: Any = lambda d, alpha: alpha * (1 - alpha) * d,
    log: Any = lambda missing: torch.log1p(-missing),
    divisor: Any = lambda alpha: alpha - 1,
    limit: Any = lambda d: d,
) -> Any:
    """One thing changed; the limit stays exact."""

    def compute(divergence: Tensor, alpha: float) -> Any:
        if alpha == 1:
            return limit(divergence)
        return log(inner(divergence, alpha)) / divisor(alpha)

    return compute


def _raw(divergence: Tensor, alpha: float) -> Tensor:
    return torch.log(1 - alpha * (1 - alpha) * divergence) / (alpha - 1)


renyi = WriteIt(
    name="renyi",
    title="From our number to Rényi's",
    minutes=8,
    difficulty=2,
    text=r"""
Another paper reports Rényi's divergence, $R_\alpha = \log S / (\alpha - 1)$ with $S = \sum_i q_i^\alpha p_i^{1-\alpha}$; you
have $D_\alpha = (1 - S)/(\alpha(1-\alpha))$ and no longer $q$ and $p$. Write `renyi(divergence, alpha)`, which turns one into
the other, for any $\alpha > 0$, the limit at $\alpha = 1$ included.
""",
    hint=r"""
Solve the definition of $D_\alpha$ for $S$. At $\alpha = 1$ you get $0/0$: there both are the forward KL. Close to it $S$ is
close to 1, and `torch.log1p(x)` is $\log(1 + x)$ without the rounding of $1 + x$.
""",
    after="At one alpha the two always agree on which pair is further apart. But D_alpha cannot exceed 1/(alpha (1 - alpha)) "
    "between the ends, and Renyi's has no bound.",
    solution=_renyi,
    also_right=(_renyi_looped, _renyi_by_series),
    checks=(
        check(
            "values",
            "the values, below and above alpha = 1",
            divergences(0.2, 0.5, 0.8, 1.3, shape=(3,)),
            rtol=1e-6,
            hint="Work one case out by hand: D_(1/2) = 1 means S = 3/4, and R is -2 log(3/4) = 0.575.",
        ),
        check(
            "limit",
            "the limit at alpha = 1",
            divergences(1.0, 1.0, shape=(2,)),
            rtol=1e-9,
            hint="Both are the same KL there, exactly: alpha needs no small number added to it.",
        ),
        check(
            "near",
            "its digits close to alpha = 1",
            divergences(1 - 1e-11, 1 + 1e-12, shape=(2,)),
            rtol=1e-6,
            noisy=True,
            hint="log(1 - x) with x near 1e-12 loses what 1 - x has rounded off. What does torch.log1p compute?",
        ),
    ),
    mistakes=(
        Mistake("no limit", "0/0 at alpha = 1: there the limit needs a case of its own.", _raw),
        Mistake(
            "an epsilon for the limit",
            "the limit is approached, not reached: alpha is moved away from 1 by a constant. It is exact.",
            lambda d, alpha: _raw(d, 1 - 1e-6 if abs(alpha - 1) < 1e-6 else alpha),
        ),
        Mistake(
            "digits lost",
            "right on paper, but near alpha = 1 the sum S is 1 up to rounding, and log S keeps no digits: torch.log1p.",
            lambda d, alpha: d if alpha == 1 else _raw(d, alpha),
        ),
        Mistake("the limit is 0", "at alpha = 1 this gives 0: log S is 0 there, but so is alpha - 1.",
                _renyi_but(limit=torch.zeros_like)),
        Mistake("sign", "the sign is turned round: S < 1 below alpha = 1, where log S and alpha - 1 are both negative.",
                _renyi_but(divisor=lambda alpha: 1 - alpha)),
        Mistake("divisor missing", "the division by alpha - 1 is missing: this is log S.",
                _renyi_but(divisor=lambda alpha: 1.0)),
        Mistake("divided by alpha (alpha - 1)", "this also divides by alpha, which ours does and Renyi's does not.",
                _renyi_but(divisor=lambda alpha: alpha * (alpha - 1))),
        Mistake("Tsallis", "this is (1 - S)/(1 - alpha), Tsallis' divergence: Renyi's takes the logarithm of S.",
                lambda d, alpha: alpha * d),
        Mistake("D for S", "the logarithm is taken of the divergence itself: solve its definition for S first.",
                _renyi_but(inner=lambda d, alpha: d, log=torch.log)),
        Mistake("D for 1 - S", "the divergence is taken for 1 - S: it is (1 - S)/(alpha (1 - alpha)).",
                _renyi_but(inner=lambda d, alpha: d)),
        Mistake("alpha forgotten in S", "1 - S is alpha (1 - alpha) D: the factor alpha is missing.",
                _renyi_but(inner=lambda d, alpha: (1 - alpha) * d)),
        Mistake("1 - alpha forgotten in S", "1 - S is alpha (1 - alpha) D: the factor 1 - alpha is missing.",
                _renyi_but(inner=lambda d, alpha: alpha * d)),
        Mistake("S above 1", "S is taken as 1 + alpha (1 - alpha) D: between the ends it is below 1.",
                _renyi_but(log=torch.log1p)),
        Mistake("log of 1 - S", "the logarithm is taken of 1 - S; Renyi's has log S.", _renyi_but(log=torch.log)),
        Mistake("in bits", "this is in bits: use the natural logarithm, D is in nats.",
                _renyi_but(log=lambda missing: torch.log1p(-missing) / math.log(2))),
        Mistake("Amari's order", "alpha is taken for Amari's a = 2 alpha - 1; both divergences here have the same order.",
                lambda d, alpha: d if alpha == 1 else _raw(d, (1 + alpha) / 2)),
        Mistake("not converted", "this is D_alpha as it was given.", lambda d, alpha: d.clone()),
    ),
)  # fmt: skip

exercises = (hellinger, renyi)
