"""Lesson 07, Gradients: a baseline that leaves an estimator unbiased, and GSPO's one ratio for a whole completion."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. Each weight minus the mean of the others.


def _leave_one_out(weights):
    """Each weight minus the mean of the other ones, over the last dimension.

    weights: [..., n], n >= 2.  Returns the same shape.
    """
    others = weights.sum(-1, keepdim=True) - weights
    return weights - others / (weights.shape[-1] - 1)


def _scaled(weights: Tensor) -> Any:
    """numpy: the distance from the mean of all, times n / (n - 1)."""
    values = weights.numpy()
    n = values.shape[-1]
    return (values - values.mean(-1, keepdims=True)) * n / (n - 1)


def _one_by_one(weights: Tensor) -> Tensor:
    columns = range(weights.shape[-1])
    kept = [[j for j in columns if j != i] for i in columns]
    return torch.stack([weights[..., i] - weights[..., kept[i]].mean(-1) for i in columns], -1)


def draws(*shapes: tuple[int, ...]) -> Any:
    """Cases (weights,), one for each shape; their mean is not 0."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(2 + torch.randn(*shape, generator=generator, dtype=torch.float64),) for shape in shapes]

    return cases


def _others(weights: Tensor) -> Tensor:
    return weights.sum(-1, keepdim=True) - weights


def _without_keepdim(weights: Tensor) -> Tensor:
    return weights - (weights.sum(-1) - weights) / (weights.shape[-1] - 1)


leave_one_out = WriteIt(
    name="leave_one_out",
    title="Centred, and still unbiased",
    minutes=5,
    difficulty=1,
    text=r"""
Subtracting the mean of all weights from each weight would take a part of the sample's own weight away and shrink the
estimate by $(n-1)/n$. Write `leave_one_out(weights)`: each weight minus the mean of the *other* ones, over the last dimension.
""",
    hint=r"""
The sum of the others is the sum of all, minus the weight itself. `keepdim=True` lets a sum be subtracted from what
it was taken of.
""",
    after="It is the distance from the mean of all, times n/(n - 1): the lesson's centred estimator.",
    solution=_leave_one_out,
    also_right=(_scaled, _one_by_one),
    checks=(
        check(
            "values",
            "the values",
            draws((5,), (3,), (8,)),
            rtol=1e-9,
            hint="Weights 1, 2, 6: the others of 6 have the mean 1.5, so its entry is 4.5.",
        ),
        check(
            "pair", "two weights", draws((2,), (2,)), rtol=1e-9, hint="Of two, the other one is the mean of the others."
        ),
        check("batch", "leading dimensions are a batch", draws((3, 3), (4, 4)), rtol=1e-9),
    ),
    mistakes=(
        Mistake(
            "the mean of all",
            "the own weight is among those averaged: leave it out, or the estimate shrinks by (n - 1)/n.",
            lambda weights: weights - weights.mean(-1, keepdim=True),
        ),
        Mistake(
            "shrunk twice",
            "the factor is turned round: the distance from the mean of all is multiplied by n/(n - 1), not by (n - 1)/n.",
            lambda weights: (weights - weights.mean(-1, keepdim=True)) * (weights.shape[-1] - 1) / weights.shape[-1],
        ),
        Mistake(
            "the sum of the others",
            "the sum of the others is subtracted; divide it by their number, n - 1.",
            lambda weights: weights - _others(weights),
        ),
        Mistake(
            "divided by n",
            "there are n - 1 others, and their sum is divided by n.",
            lambda weights: weights - _others(weights) / weights.shape[-1],
        ),
        Mistake(
            "the baseline alone",
            "this is the mean of the others; subtract it from the weight.",
            lambda weights: _others(weights) / (weights.shape[-1] - 1),
        ),
        Mistake(
            "sign",
            "the sign is turned: a weight above the others must stay positive.",
            lambda weights: _others(weights) / (weights.shape[-1] - 1) - weights,
        ),
        Mistake(
            "standardised",
            "this divides by the standard deviation as well; only the mean is to go.",
            lambda weights: (weights - weights.mean(-1, keepdim=True)) / weights.std(-1, keepdim=True),
        ),
        Mistake(
            "the largest",
            "the largest weight is subtracted, as in a stable softmax; here it is the mean of the others.",
            lambda weights: weights - weights.amax(-1, keepdim=True),
        ),
        Mistake(
            "a ratio",
            "this is the weight over the mean of the others, minus 1; the difference is asked for.",
            lambda weights: weights * (weights.shape[-1] - 1) / _others(weights) - 1,
        ),
        Mistake(
            "absolute",
            "the distances have lost their signs.",
            lambda weights: (weights - _others(weights) / (weights.shape[-1] - 1)).abs(),
        ),
        Mistake("unchanged", "these are the weights as they were given.", lambda weights: weights.clone()),
        Mistake(
            "keepdim",
            "right for one group, and mixed up for several: the sums are subtracted along the wrong dimension. keepdim=True.",
            _without_keepdim,
        ),
        Mistake(
            "over the batch",
            "the mean is taken over the whole batch; each group has its own.",
            lambda weights: weights - (weights.sum() - weights) / (weights.numel() - 1),
        ),
    ),
)

# 2. GSPO's ratio.


def _sequence_ratio(logps, old_logps, mask):
    """GSPO's ratio of each completion: the geometric mean of its tokens' pi / pi_old.

    logps, old_logps: [..., tokens].  mask: the same shape, 1.0 on the completion's tokens, 0.0 on padding.  Returns [...].
    """
    log_ratio = (logps - old_logps) * mask
    return (log_ratio.sum(-1) / mask.sum(-1)).exp()


def _by_where(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Any:
    difference = np.where(mask.numpy() > 0, (logps - old_logps).numpy(), 0.0)
    return np.exp(difference.sum(-1) / mask.numpy().sum(-1))


def _by_product(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    ratio = torch.where(mask.bool(), (logps - old_logps).exp(), 1.0)
    return ratio.prod(-1) ** (1 / mask.sum(-1))


def completions(*shapes: tuple[int, ...], padded: bool) -> Any:
    """Cases (logps, old_logps, mask); where padded, a completion ends early and padding holds other numbers."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        made: list[tuple[Any, ...]] = []
        for shape in shapes:
            logps, old = (-torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.2 for _ in range(2))
            length = torch.randint(2, shape[-1], (*shape[:-1], 1), generator=generator)
            mask = (torch.arange(shape[-1]) < length) if padded else torch.ones(shape)
            made.append((logps, old, mask.double()))
        return made

    return cases


def _ratio_but(
    difference: Any = lambda new, old: new - old,
    counted: Any = lambda mask: mask,
    number: Any = lambda mask: mask.sum(-1),
    last: Any = torch.exp,
) -> Any:
    """One part changed."""
    return lambda logps, old_logps, mask: last((difference(logps, old_logps) * counted(mask)).sum(-1) / number(mask))


sequence_ratio = WriteIt(
    name="sequence_ratio",
    title="One ratio for a whole completion",
    minutes=7,
    difficulty=2,
    text=r"""
GSPO clips one ratio for each completion, the geometric mean of its tokens' ratios,

$$s_i = \exp\Big(\tfrac1{\vert o_i\vert} \sum_t \log\rho_{it}\Big),\qquad \rho_{it} = \pi/\pi_{old}.$$

Write `sequence_ratio(logps, old_logps, mask)` from the tokens' log-probabilities; where `mask` is 0 there is padding,
which does not count.
""",
    hint=r"""
$\log\rho$ is a difference. Padding must neither enter the sum nor the number of tokens.
""",
    after="Beside it a token's ratio is noisy, and their product runs off with the length; GSPO can clip at 0.0004, not 0.2.",
    solution=_sequence_ratio,
    also_right=(_by_where, _by_product),
    checks=(
        check(
            "values",
            "the values without padding",
            completions((4,), (6,), padded=False),
            rtol=1e-9,
            hint="Two tokens, one twice as likely as before, one half: the ratio is 1.",
        ),
        check("padded", "padding does not count", completions((6,), (9,), (7,), padded=True), rtol=1e-9),
        check("batch", "leading dimensions are a batch", completions((2, 3, 6), padded=True), rtol=1e-9),
    ),
    mistakes=(
        Mistake(
            "the product",
            "this is the product of the ratios: the sum of the logarithms is not divided by the number of tokens.",
            _ratio_but(number=lambda mask: 1.0),
        ),
        Mistake(
            "divided by the padded length",
            "padding is counted among the tokens: divide by mask.sum(-1).",
            _ratio_but(number=lambda mask: mask.shape[-1]),
        ),
        Mistake(
            "padding in both",
            "the mask is not used: padding enters the sum and the number of tokens.",
            _ratio_but(counted=torch.ones_like, number=lambda mask: mask.shape[-1]),
        ),
        Mistake(
            "padding in the sum",
            "padding enters the sum: multiply by the mask before you add.",
            _ratio_but(counted=torch.ones_like),
        ),
        Mistake(
            "the arithmetic mean",
            "this averages the ratios; the geometric mean averages their logarithms.",
            lambda logps, old_logps, mask: ((logps - old_logps).exp() * mask).sum(-1) / mask.sum(-1),
        ),
        Mistake("turned round", "this is pi_old over pi.", _ratio_but(difference=lambda new, old: old - new)),
        Mistake(
            "no exp", "this is the mean logarithm: the exponential is missing.", _ratio_but(last=lambda value: value)
        ),
        Mistake("exp(x) - 1", "1 is subtracted: expm1 is not exp.", _ratio_but(last=torch.expm1)),
        Mistake(
            "logarithms divided",
            "the logarithms are divided; the logarithm of a ratio is their difference.",
            _ratio_but(difference=lambda new, old: new / old),
        ),
        Mistake(
            "probabilities averaged",
            "this is the ratio of mean probabilities; each token's ratio comes first.",
            lambda logps, old_logps, mask: (logps.exp() * mask).sum(-1) / (old_logps.exp() * mask).sum(-1),
        ),
        Mistake(
            "the last token",
            "this is the ratio of the last token alone.",
            lambda logps, old_logps, mask: (
                (logps - old_logps).gather(-1, mask.sum(-1, keepdim=True).long() - 1)[..., 0].exp()
            ),
        ),
        Mistake(
            "the first token",
            "this is the ratio of the first token alone.",
            lambda logps, old_logps, mask: (logps - old_logps)[..., 0].exp(),
        ),
        Mistake(
            "the root of the length",
            "the sum is divided by the root of the number of tokens.",
            _ratio_but(number=lambda mask: mask.sum(-1).sqrt()),
        ),
        Mistake(
            "in bits",
            "the exponential has base 2; log-probabilities are in nats.",
            _ratio_but(last=lambda value: torch.exp(value * math.log(2))),
        ),
        Mistake(
            "a ratio for each token",
            "this is one ratio for each token; one for the completion is asked for.",
            lambda logps, old_logps, mask: (logps - old_logps).exp() * mask,
        ),
        Mistake(
            "over the batch",
            "all completions are averaged together: reduce the last dimension only.",
            lambda logps, old_logps, mask: (((logps - old_logps) * mask).sum() / mask.sum()).exp(),
        ),
    ),
)

exercises = (leave_one_out, sequence_ratio)
