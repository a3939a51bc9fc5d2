"""Lesson 06, The bandit: how many good arms a policy keeps, and the distance that falls on every road."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..a1 import log_probs
from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. Good arms kept.


def _arms_kept(probs, good):
    """How many good arms a policy keeps: those with at least a tenth of an equal share among the good ones.

    probs: [..., arms].  good: [arms], True for a good arm.  Returns [...].
    """
    least = 0.1 / good.sum()
    return ((probs >= least) & good).sum(-1)


def _selected(probs: Tensor, good: Tensor) -> Any:
    return (probs[..., good].numpy() * int(good.sum()) >= 0.1).sum(-1)


def _one_arm_after_another(probs: Tensor, good: Tensor) -> Tensor:
    number = sum(good.tolist())
    kept = torch.zeros(probs.shape[:-1], dtype=torch.float64)
    for arm, is_good in enumerate(good.tolist()):
        if is_good:
            kept = kept + (probs[..., arm] * number >= 0.1)
    return kept


def policies(*shapes: tuple[int, ...], num_good: int = 4) -> Any:
    """Cases (probs, good): policies of very unequal probabilities, so that every threshold counts differently."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        made = []
        for shape in shapes:
            good = torch.randperm(shape[-1], generator=generator) < num_good
            made.append((log_probs(generator, *shape, spread=2.5).exp(), good))
        return made

    return cases


def _kept_above(least: Any, among: Any = lambda good: good) -> Any:
    """Counted with another threshold, or among other arms."""
    return lambda probs, good: ((probs >= least(probs, good)) & among(good)).sum(-1)


def _fair(probs: Tensor, good: Tensor) -> Tensor:
    return 0.1 / good.sum()


arms_kept = WriteIt(
    name="arms_kept",
    title="How many good arms are kept",
    minutes=4,
    difficulty=1,
    text=r"""
Among $g$ equally good arms a policy that does not care gives each $1/g$. A good arm counts as kept while it has at
least a tenth of that. Write `arms_kept(probs, good)`, the number of good arms kept by each policy.
""",
    hint=r"""
Two conditions for each arm, joined by `&`, and a sum over the last dimension. The threshold depends on the number of good arms.
""",
    after="The figures of this lesson count so.",
    solution=_arms_kept,
    also_right=(_selected, _one_arm_after_another),
    checks=(
        check(
            "values",
            "many policies over twelve arms",
            policies((400, 12), (400, 12)),
            rtol=1e-12,
            hint="Four good arms with 0.9, 0.03, 0.02 and 0.001: two are kept, since the threshold is 0.025.",
        ),
        check("other", "another number of good arms", policies((400, 10), num_good=2), rtol=1e-12),
        check("batch", "leading dimensions are a batch", policies((3, 100, 12)), rtol=1e-12),
    ),
    mistakes=(
        Mistake(
            "a tenth",
            "the threshold is 0.1 itself; it is a tenth of an equal share among the good arms.",
            _kept_above(lambda probs, good: 0.1),
        ),
        Mistake(
            "of all arms",
            "the equal share is among the *good* arms, not among all.",
            _kept_above(lambda probs, good: 0.1 / probs.shape[-1]),
        ),
        Mistake(
            "the whole share",
            "a tenth of an equal share is enough; here a whole one is asked for.",
            _kept_above(lambda probs, good: 1 / good.sum()),
        ),
        Mistake(
            "bad arms too", "arms that are not good are counted as well.", _kept_above(_fair, among=torch.ones_like)
        ),
        Mistake("the bad ones", "these are the arms that are *not* good.", _kept_above(_fair, among=torch.logical_not)),
        Mistake(
            "those lost",
            "this counts the good arms that are lost.",
            lambda probs, good: ((probs < _fair(probs, good)) & good).sum(-1),
        ),
        Mistake(
            "all good arms", "this counts the good arms there are, kept or not.", _kept_above(lambda probs, good: 0.0)
        ),
        Mistake(
            "a share",
            "this is the share of the good arms kept; their number is asked for.",
            lambda probs, good: ((probs >= _fair(probs, good)) & good).sum(-1) / good.sum(),
        ),
        Mistake(
            "probability",
            "this is the probability of the good arms that are kept; count them.",
            lambda probs, good: torch.where((probs >= _fair(probs, good)) & good, probs, 0.0).sum(-1),
        ),
        Mistake(
            "beside the likeliest",
            "the threshold is a tenth of the largest probability; it is a tenth of an equal share.",
            _kept_above(lambda probs, good: 0.1 * probs.amax(-1, keepdim=True)),
        ),
        Mistake(
            "any",
            "this says whether any is kept; how many is asked for.",
            lambda probs, good: ((probs >= _fair(probs, good)) & good).any(-1),
        ),
        Mistake(
            "among themselves",
            "the probabilities of the good arms are normalised first; a good arm that is never played is lost, whatever "
            "the others do.",
            lambda probs, good: ((probs / (probs * good).sum(-1, keepdim=True) >= _fair(probs, good)) & good).sum(-1),
        ),
        Mistake(
            "over the batch",
            "all policies are counted together: sum over the last dimension only.",
            lambda probs, good: ((probs >= _fair(probs, good)) & good).sum(),
        ),
    ),
)

# 2. The distance that always falls.


def _distance(log_q, log_p):
    """V, half the squared distance of the centred logits, over the last dimension.

    log_q, log_p: [..., n] logits or log-probabilities.  Returns [...].
    """
    gap = log_p - log_q
    return (gap - gap.mean(-1, keepdim=True)).square().sum(-1) / 2


def _each_centred(log_q: Tensor, log_p: Tensor) -> Any:
    q, p = (x.numpy() - x.numpy().mean(-1, keepdims=True) for x in (log_q, log_p))
    return 0.5 * np.linalg.norm(p - q, axis=-1) ** 2


def _by_the_variance(log_q: Tensor, log_p: Tensor) -> Tensor:
    return (log_p - log_q).var(-1, unbiased=False) * log_p.shape[-1] / 2


def pairs(*shapes: tuple[int, ...], shift: float = 0.0) -> Any:
    """Cases (log_q, log_p), a constant added to each."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(log_probs(generator, *shape) - shift, log_probs(generator, *shape) + 2 * shift) for shape in shapes]

    return cases


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _half_square(of: Any) -> Any:
    return lambda log_q, log_p: of(log_q, log_p).square().sum(-1) / 2


distance = WriteIt(
    name="distance",
    title="What falls on every road",
    minutes=5,
    difficulty=2,
    text=r"""
A softmax does not change when a constant is added to all logits, so compare *centred* ones: each minus their mean. Write
`distance(log_q, log_p)`, the number $V=\tfrac12|u-u^*|^2$ that falls for every alpha, with $u$ and $u^*$ the centred `log_p`
and `log_q`.
""",
    hint=r"""
Centring is linear: the difference can be centred once, instead of both.
""",
    after="Plot it beside both KLs along a road of another alpha: they may rise, it never does.",
    solution=_distance,
    also_right=(_each_centred, _by_the_variance),
    checks=(
        check(
            "values",
            "the values",
            pairs((3,), (5,), (4,)),
            rtol=1e-9,
            hint="log_p = (3, 1) and log_q = (0, 0): centred (1, -1), so V = 1.",
        ),
        check(
            "shift",
            "a constant changes nothing",
            pairs((3,), (5,), shift=1.7),
            rtol=1e-9,
            hint="Both arguments may have a constant added; centring takes it out.",
        ),
        check("batch", "leading dimensions are a batch", pairs((2, 3, 4), (3, 3)), rtol=1e-9),
    ),
    mistakes=(
        Mistake(
            "not centred",
            "the logits are not centred: a constant must change nothing.",
            _half_square(lambda q, p: p - q),
        ),
        Mistake(
            "one of them centred",
            "only log_p is centred; log_q needs it as well.",
            _half_square(lambda q, p: _centred(p) - q),
        ),
        Mistake(
            "normalised for centred",
            "log-softmax makes probabilities sum to 1; centring makes logits sum to 0.",
            _half_square(lambda q, p: p.log_softmax(-1) - q.log_softmax(-1)),
        ),
        Mistake("1/2 missing", "the half in front is missing.", lambda q, p: 2 * _distance(q, p)),
        Mistake(
            "the distance",
            "this is the distance; half its square is asked for.",
            lambda q, p: (2 * _distance(q, p)).sqrt(),
        ),
        Mistake(
            "mean for sum",
            "this averages over the last dimension where the formula sums.",
            lambda q, p: _distance(q, p) / q.shape[-1],
        ),
        Mistake(
            "the variance",
            "this is the variance of the difference, n - 1 below; sum the squares and halve them.",
            lambda q, p: (p - q).var(-1),
        ),
        Mistake(
            "weighted",
            "the squares are weighted by p; here every arm counts the same.",
            lambda q, p: (_centred(p - q).square() * p.softmax(-1)).sum(-1) / 2,
        ),
        Mistake(
            "probabilities",
            "this compares probabilities; compare the logits.",
            _half_square(lambda q, p: p.softmax(-1) - q.softmax(-1)),
        ),
        Mistake(
            "absolute for square",
            "this adds absolute differences; the formula squares them.",
            lambda q, p: _centred(p - q).abs().sum(-1) / 2,
        ),
        Mistake(
            "KL(q || p)",
            "this is the forward KL, which may rise along a road of another alpha.",
            lambda q, p: (q.softmax(-1) * (q.log_softmax(-1) - p.log_softmax(-1))).sum(-1),
        ),
        Mistake(
            "KL(p || q)",
            "this is the reverse KL, which may rise along a road of another alpha.",
            lambda q, p: (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1),
        ),
        Mistake(
            "added", "the centred logits are added; take their difference.", _half_square(lambda q, p: _centred(p + q))
        ),
        Mistake(
            "the largest taken out",
            "the largest logit is subtracted, as in a stable softmax; centring subtracts the mean.",
            _half_square(lambda q, p: (p - p.amax(-1, keepdim=True)) - (q - q.amax(-1, keepdim=True))),
        ),
        Mistake(
            "over the batch",
            "this sums over the batch too: reduce the last dimension only.",
            lambda q, p: _distance(q, p).sum(),
        ),
    ),
)

exercises = (arms_kept, distance)
