"""Lesson 10, The risk dial: what a gamble is worth, and how much a rarely solved prompt counts."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. What a gamble is worth.


def _certainty_equivalent(rewards, kappa):
    """The sure reward that equally likely rewards are worth, over the last dimension; the mean at kappa = 0.

    rewards: [..., n].  kappa: a float of either sign.  Returns [...].
    """
    if kappa == 0:
        return rewards.mean(-1)
    return (torch.logsumexp(kappa * rewards, -1) - math.log(rewards.shape[-1])) / kappa


def _shifted(rewards: Tensor, kappa: float) -> Any:
    """numpy, with the largest term taken out by hand."""
    paid = rewards.numpy()
    if kappa == 0:
        return paid.mean(-1)
    top = paid.max(-1) if kappa > 0 else paid.min(-1)
    return top + np.log(np.exp(kappa * (paid - top[..., None])).mean(-1)) / kappa


def _by_softplus(rewards: Tensor, kappa: float) -> Tensor:
    """One reward after another, by logaddexp."""
    if kappa == 0:
        return rewards.sum(-1) / rewards.shape[-1]
    total = kappa * rewards[..., 0]
    for i in range(1, rewards.shape[-1]):
        total = torch.logaddexp(total, kappa * rewards[..., i])
    return total / kappa - math.log(rewards.shape[-1]) / kappa


def lotteries(*kappas: float, shape: tuple[int, ...] = (5,), scale: float = 1.0) -> Any:
    """Cases (rewards, kappa), fresh rewards for each kappa."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(scale * torch.randn(*shape, generator=generator, dtype=torch.float64), kappa) for kappa in kappas]

    return cases


def _log_mean_exp(power: Tensor) -> Tensor:
    return torch.logsumexp(power, -1) - math.log(power.shape[-1])


def _ce_but(compute: Any, limit: Any = lambda rewards: rewards.mean(-1)) -> Any:
    """One thing changed away from kappa = 0, or at it."""
    return lambda rewards, kappa: limit(rewards) if kappa == 0 else compute(rewards, kappa)


def _plainly(rewards: Tensor, kappa: float) -> Tensor:
    return (kappa * rewards).exp().mean(-1).log() / kappa


certainty_equivalent = WriteIt(
    name="certainty_equivalent",
    title="What a gamble is worth",
    minutes=6,
    difficulty=1,
    text=r"""
Rewards $r_1, \dots, r_n$ are equally likely. Write `certainty_equivalent(rewards, kappa)`, the sure reward that is
worth as much,

$$\mathrm{CE}_\kappa = \tfrac1\kappa \log\Big(\tfrac1n \sum_i e^{\kappa r_i}\Big),$$

over the last dimension, for $\kappa$ of either sign and for $\kappa = 0$.
""",
    hint=r"""
A logarithm of a mean is the logarithm of a sum, minus $\log n$. `torch.logsumexp` computes the first without overflow, also
where $e^{\kappa r}$ would. At $\kappa = 0$ the formula is $0/0$; its limit is named in the text above this exercise.
""",
    after="Above kappa = 0 it lies above the mean, and the more so the wider the rewards scatter.",
    solution=_certainty_equivalent,
    also_right=(_shifted, _by_softplus),
    checks=(
        check(
            "values",
            "the values, for kappa of either sign",
            lotteries(0.5, 2.0, -1.0, 3.0),
            rtol=1e-9,
            hint="Rewards 0 and 1 at kappa = ln 3: log((1 + 3)/2) / ln 3 = 0.631.",
        ),
        check("limit", "the mean at kappa = 0", lotteries(0.0, 0.0), rtol=1e-12),
        check("batch", "leading dimensions are a batch", lotteries(1.5, -0.5, shape=(2, 3, 4)), rtol=1e-9),
        check(
            "large",
            "large rewards",
            lotteries(3.0, -3.0, scale=1000.0),
            rtol=1e-9,
            hint="e^(kappa r) with r near 1000 is not a number any more; its logarithm is.",
        ),
    ),
    mistakes=(
        Mistake(
            "no limit",
            "0/0 at kappa = 0: there the limit, the mean, needs a case of its own.",
            lambda rewards, kappa: _log_mean_exp(kappa * rewards) / torch.tensor(kappa).double(),
        ),
        Mistake(
            "zero at the limit",
            "at kappa = 0 this gives 0; the limit of the formula there is the mean.",
            _ce_but(lambda rewards, kappa: _log_mean_exp(kappa * rewards) / kappa, lambda rewards: 0 * rewards[..., 0]),
        ),
        Mistake(
            "exp before log",
            "right on paper, but e^(kappa r) overflows where rewards are large: torch.logsumexp does not.",
            _ce_but(_plainly),
        ),
        Mistake(
            "sum for mean",
            "the sum of the exponentials is taken where their mean is asked for: log n is missing. Equal rewards must be worth "
            "just themselves.",
            _ce_but(lambda rewards, kappa: torch.logsumexp(kappa * rewards, -1) / kappa),
        ),
        Mistake(
            "1/kappa missing",
            "the result is not divided by kappa: it is in nats, and a certainty equivalent is a reward.",
            _ce_but(lambda rewards, kappa: _log_mean_exp(kappa * rewards)),
        ),
        Mistake(
            "times kappa",
            "the logarithm is multiplied by kappa where it should be divided.",
            _ce_but(lambda rewards, kappa: _log_mean_exp(kappa * rewards) * kappa),
        ),
        Mistake(
            "temperature",
            "this divides by kappa inside and multiplies outside, as for a temperature: kappa is its inverse.",
            _ce_but(lambda rewards, kappa: _log_mean_exp(rewards / kappa) * kappa),
        ),
        Mistake(
            "the mean",
            "this is the mean whatever kappa is; the logarithm and the exponential must enclose it.",
            lambda rewards, kappa: rewards.mean(-1),
        ),
        Mistake(
            "utility",
            "this is the expected utility, (E e^(kappa R) - 1)/kappa; the reward that is worth as much needs the logarithm.",
            _ce_but(lambda rewards, kappa: torch.expm1(kappa * rewards).mean(-1) / kappa),
        ),
        Mistake(
            "utility of the mean",
            "this takes the utility of the mean; take the mean of the exponentials.",
            _ce_but(lambda rewards, kappa: torch.expm1(kappa * rewards.mean(-1)) / kappa),
        ),
        Mistake(
            "the Gaussian's",
            "mean + kappa variance/2 is exact for Gaussian rewards only; here are a few rewards.",
            _ce_but(lambda rewards, kappa: rewards.mean(-1) + kappa * rewards.var(-1, unbiased=False) / 2),
        ),
        Mistake(
            "sign of kappa",
            "this is the certainty equivalent at -kappa: above 0 it must exceed the mean.",
            _ce_but(lambda rewards, kappa: -_log_mean_exp(-kappa * rewards) / kappa),
        ),
        Mistake(
            "the sign outside",
            "the sign is turned: equal rewards must be worth just themselves.",
            _ce_but(lambda rewards, kappa: -_log_mean_exp(kappa * rewards) / kappa),
        ),
        Mistake(
            "the largest",
            "this is the largest reward, the limit of a very large kappa.",
            _ce_but(lambda rewards, kappa: rewards.amax(-1)),
        ),
        Mistake(
            "base 2",
            "the logarithm has base 2; the one that undoes e^x is the natural one.",
            _ce_but(lambda rewards, kappa: _log_mean_exp(kappa * rewards) / kappa / math.log(2)),
        ),
        Mistake(
            "over the batch",
            "this averages over the batch too: reduce the last dimension only.",
            _ce_but(
                lambda rewards, kappa: _log_mean_exp(kappa * rewards.flatten()) / kappa, lambda rewards: rewards.mean()
            ),
        ),
    ),
)

# 2. How much a prompt counts.


def _prompt_weight(solved, group, alpha, beta_r):
    """The push on the right completions of a prompt that is solved `solved` times in `group`, rewards 1 and 0; a float.

    The sum over them of (z_i - mean z) / group with z = ((group q)^alpha - 1) / alpha, q = softmax(rewards / beta_r).
    """
    rewards = (torch.arange(group) < solved).double()
    log_ratio = (rewards / beta_r).log_softmax(-1) + math.log(group)
    z = log_ratio if alpha == 0 else torch.expm1(alpha * log_ratio) / alpha
    return float((z - z.mean())[:solved].sum() / group)


def _by_the_formula(solved: int, group: int, alpha: float, beta_r: float) -> float:
    share = solved / group
    if alpha == 0:
        return share * (1 - share) / beta_r
    mean = share * math.exp(1 / beta_r) + 1 - share
    return share * (1 - share) * math.expm1(alpha / beta_r) / (alpha * mean**alpha)


def _looped(solved: int, group: int, alpha: float, beta_r: float) -> float:
    powers = [math.exp(1 / beta_r)] * solved + [1.0] * (group - solved)
    ratios = [group * power / sum(powers) for power in powers]
    z = [math.log(r) if alpha == 0 else (r**alpha - 1) / alpha for r in ratios]
    return sum(value - sum(z) / group for value in z[:solved]) / group


def prompts(*settings: tuple[float, float], group: int = 8, counts: tuple[int, ...] = (1, 3, 7)) -> Any:
    """Cases (solved, group, alpha, beta_r), every count at each (alpha, beta_r); the sizes vary a little."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        more = int(torch.randint(3, (), generator=generator))
        return [(count, group + more, alpha, beta_r) for alpha, beta_r in settings for count in counts]

    return cases


def _weight_but(
    share: Any = lambda p: p * (1 - p),
    gain: Any = lambda alpha, beta_r: math.expm1(alpha / beta_r) / alpha,
    damping: Any = lambda p, alpha, beta_r: (p * math.exp(1 / beta_r) + 1 - p) ** alpha,
    limit: Any = lambda p, beta_r: 1 / beta_r,
    factor: Any = lambda group: 1.0,
) -> Any:
    """The formula with one part changed; the limit stays exact unless `limit` is the part."""

    def compute(solved: int, group: int, alpha: float, beta_r: float) -> float:
        p = solved / group
        inner = limit(p, beta_r) if alpha == 0 else gain(alpha, beta_r) / damping(p, alpha, beta_r)
        return share(p) * inner * factor(group)

    return compute


prompt_weight = WriteIt(
    name="prompt_weight",
    title="How much a rare success counts",
    minutes=9,
    difficulty=2,
    text=r"""
A group of $P$ completions has `solved` rewards of 1, the rest 0. On policy a completion is pushed by $(z_i - \bar z)/P$ with
$z_i = ((P q_i)^\alpha - 1)/\alpha$ and $q = \mathrm{softmax}(r/\beta_r)$. Write `prompt_weight(solved, group, alpha, beta_r)`:
the sum of the pushes on the *right* completions, a float. At $\alpha = 0$, $z_i = \log(P q_i)$.
""",
    hint=r"""
Build the rewards of the group, take $q$, then $z$, centre it over the *whole* group, and add up the right ones. Or on paper:
$w_k$ is printed just above, and its limit at $\alpha = 0$ is $\frac kP (1 - \frac kP)/\beta_r$.
""",
    after="At alpha = 0 it is the same for 1 in 8 as for 7 in 8; at 0.9 the rare success counts 4.7 times as much.",
    solution=_prompt_weight,
    also_right=(_by_the_formula, _looped),
    checks=(
        check(
            "values",
            "the weights at alpha 0.35, 0.6 and 0.9",
            prompts((0.35, 0.3), (0.6, 0.5), (0.9, 0.3)),
            rtol=1e-9,
            hint="1 solved in 2, alpha = 1, beta_r = 1/ln 3: q = (3/4, 1/4), z = (1/2, -1/2), so the weight is 1/4.",
        ),
        check("limit", "the limit at alpha = 0", prompts((0.0, 0.3), (0.0, 0.7)), rtol=1e-9),
        check(
            "none",
            "nothing to learn where all or none are solved",
            lambda generator, numbers: [(0, 6, 0.6, 0.3), (5, 5, 0.6, 0.3)],
            floor=1e-12,
            hint="In a group of equal rewards every z is the mean.",
        ),
    ),
    mistakes=(
        Mistake(
            "no limit", "alpha = 0 divides by 0: there z is log(P q).", _weight_but(limit=lambda p, beta_r: math.nan)
        ),
        Mistake(
            "zero at the limit",
            "at alpha = 0 this gives 0; the limit of z there is log(P q).",
            _weight_but(limit=lambda p, beta_r: 0.0),
        ),
        Mistake(
            "the limit of large groups",
            "the group's normaliser is missing: divide by M^alpha, the mean of e^(r/beta_r) to the power alpha. It is "
            "what makes rare "
            "successes count more.",
            _weight_but(damping=lambda p, alpha, beta_r: 1.0),
        ),
        Mistake(
            "M without its power",
            "the normaliser M lacks its power alpha.",
            _weight_but(damping=lambda p, alpha, beta_r: p * math.exp(1 / beta_r) + 1 - p),
        ),
        Mistake(
            "not centred",
            "z is not centred: subtract the mean of the whole group before you add up.",
            lambda solved, group, alpha, beta_r: solved / group * _z(solved, group, alpha, beta_r),
        ),
        Mistake(
            "1/alpha missing",
            "the 1/alpha of z is missing.",
            _weight_but(gain=lambda alpha, beta_r: math.expm1(alpha / beta_r)),
        ),
        Mistake(
            "not divided by P",
            "the pushes are not divided by the size of the group.",
            _weight_but(factor=lambda group: group),
        ),
        Mistake(
            "of one completion",
            "this is the push on one right completion; add up all of them.",
            _weight_but(share=lambda p: 1 - p, factor=lambda group: 1 / group),
        ),
        Mistake(
            "of the wrong ones",
            "the sign is turned: this is the push on the wrong completions.",
            _weight_but(factor=lambda group: -1.0),
        ),
        Mistake(
            "alpha beta_r",
            "kappa is alpha / beta_r; here alpha is multiplied by beta_r.",
            _weight_but(gain=lambda alpha, beta_r: math.expm1(alpha * beta_r) / alpha),
        ),
        Mistake(
            "P missing inside",
            "q is taken for P q: under the anchored policy a completion has probability 1/P, and the ratio is q / (1/P).",
            lambda solved, group, alpha, beta_r: _by_the_formula(solved, group, alpha, beta_r) / group**alpha,
        ),
        Mistake(
            "divided by the standard deviation",
            "this is divided by the standard deviation of the rewards, as GRPO does; APO has beta_r instead.",
            _weight_but(share=lambda p: math.sqrt(p * (1 - p))),
        ),
        Mistake(
            "1 - p missing",
            "the factor 1 - k/P is missing: a prompt that is always solved would count most.",
            _weight_but(share=lambda p: p),
        ),
        Mistake(
            "solved for failed",
            "solved and failed are exchanged: the normaliser must grow with the number of successes.",
            _weight_but(damping=lambda p, alpha, beta_r: ((1 - p) * math.exp(1 / beta_r) + p) ** alpha),
        ),
        Mistake(
            "alpha ignored",
            "this is the weight at alpha = 0, whatever alpha is.",
            _weight_but(gain=lambda alpha, beta_r: 1 / beta_r, damping=lambda p, alpha, beta_r: 1.0),
        ),
        Mistake(
            "q for q^alpha",
            "this is the weight at alpha = 1: q lacks its power alpha.",
            _weight_but(
                gain=lambda alpha, beta_r: math.expm1(1 / beta_r),
                damping=lambda p, alpha, beta_r: p * math.exp(1 / beta_r) + 1 - p,
            ),
        ),
    ),
)


def _z(solved: int, group: int, alpha: float, beta_r: float) -> float:
    """z of a right completion."""
    p = solved / group
    ratio = math.exp(1 / beta_r) / (p * math.exp(1 / beta_r) + 1 - p)
    return math.log(ratio) if alpha == 0 else (ratio**alpha - 1) / alpha


exercises = (certainty_equivalent, prompt_weight)
