"""Assignment 1, Divergences: write D_alpha and its gradient, see where the naive form fails, and use them.

The mistakes are written with the library's functions: they are right but for one thing each.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor

import apo_edu

from .. import mixtures, plotting
from ..widgets import figure
from .model import Assignment, Check, Code, Exercise, Mistake, NotYet, Numbers, Text, Written, prediction
from .probes import is_the_limit

ORDERS = (0.2, 0.5, 0.8, -0.5, 1.6)
ENDS = (0.0, 1.0)
SMALL = (1e-12, -1e-12, 1e-7, 1e-6, 1e-3, 0.02)  # orders at which a shortcut to the limit, or lost digits, show


def log_probs(generator: torch.Generator, *shape: int, spread: float = 1.5) -> Tensor:
    """Random log-probabilities over the last dimension, float64."""
    return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


def pairs(*orders: float, shape: tuple[int, ...] = (5,)) -> Any:
    """Cases (log_q, log_p, alpha), a fresh pair for each order."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(log_probs(generator, *shape), log_probs(generator, *shape), alpha) for alpha in orders]

    return cases


def near_pairs(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
    """q within 1e-5 and 1e-7 of p."""
    cases: list[tuple[Any, ...]] = []
    for distance, alpha in ((1e-5, 0.3), (1e-7, 0.5), (1e-7, 0.0), (1e-7, 1.0)):
        log_p = log_probs(generator, 6)
        away = distance * torch.randn(6, generator=generator, dtype=torch.float64)
        cases.append(((log_p + away).log_softmax(-1), log_p, alpha))
    return cases


SWITCHED = (
    "close to an end this returns the KL itself. It is the limit, exact at alpha = 0 and 1 only: at 0.02 it is already off in "
    "the second or third digit. Use a form that keeps its digits (torch.expm1), and the KL at the end alone."
)
VANISHED = (
    "at an end this gives 0, or nearly: the numerator vanishes, but so does alpha (1 - alpha). 0/0 has a limit here."
)


def beside_an_end(answer: Any, log_q: Tensor, log_p: Tensor, alpha: float) -> Any:
    """Call an answer at an order near 0 or 1; it must not give the limit there."""
    limit = (apo_edu.forward_kl if alpha > 0.5 else apo_edu.reverse_kl)(log_q, log_p)
    exact = apo_edu.alpha_divergence(log_q, log_p, alpha)
    value = answer(log_q, log_p, alpha)
    if value is not None and is_the_limit(value, limit, exact):
        raise NotYet(SWITCHED)
    return value


def at_an_end(answer: Any, log_q: Tensor, log_p: Tensor, alpha: float) -> Any:
    """Call an answer at 0 or 1; it must not vanish there."""
    exact = apo_edu.alpha_divergence(log_q, log_p, alpha)
    value = answer(log_q, log_p, alpha)
    if isinstance(value, Tensor | float) and bool((abs(torch.as_tensor(value)) < 0.01 * exact).all()):
        raise NotYet(VANISHED)
    return value


def slope(answer: Any, log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor | None:
    """Gradient of an answer with respect to the logits of p, by autograd."""
    logits = log_p.clone().requires_grad_()
    value = answer(log_q, logits.log_softmax(-1), alpha)
    if value is None:
        return None
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise NotYet(
            "the result carries no gradient. Stay in torch from log_p to the result: no .item(), .detach() or numpy."
        )
    return torch.autograd.grad(value.sum(), logits)[0]


def _alpha_divergence(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    """D_alpha(q || p) over the last dimension, in nats, for any real alpha.

    log_q, log_p: [..., n] log-probabilities.  alpha: a float.  Returns [...].
    """
    if alpha > 0.5:  # D_alpha(q || p) = D_{1-alpha}(p || q), and from that side 1 - alpha is never near 0
        log_q, log_p, alpha = log_p, log_q, 1.0 - alpha
    log_ratio = log_q - log_p
    box_cox = log_ratio if alpha == 0 else torch.expm1(alpha * log_ratio) / alpha
    # Adding sum(q) - sum(p) = 0 makes every summand >= 0, so nothing is left to cancel.
    return (log_p.exp() * (torch.expm1(log_ratio) - box_cox)).sum(-1) / (1.0 - alpha)


def _tilted(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    return (alpha * log_q + (1 - alpha) * log_p).exp()


def _sum(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    return _tilted(log_q, log_p, alpha).sum(-1)


def _with_limits(inner: Any, at_0: Any = apo_edu.reverse_kl, at_1: Any = apo_edu.forward_kl) -> Any:
    """A wrong form between exact limits: the mistakes differ from the right answer in one thing only."""

    def whole(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
        if alpha in ENDS:
            return (at_0 if alpha == 0 else at_1)(log_q, log_p)
        return inner(log_q, log_p, alpha)

    return whole


def _naive(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    return (1 - _sum(log_q, log_p, alpha)) / (alpha * (1 - alpha))


def _plain_kl(swap: bool) -> Any:
    """KL(q || p), or KL(p || q) with `swap`, as it is written: first-order terms cancel."""

    def kl(log_q: Tensor, log_p: Tensor) -> Tensor:
        a, b = (log_p, log_q) if swap else (log_q, log_p)
        return (a.exp() * (a - b)).sum(-1)

    return kl


def _zero(log_q: Tensor, log_p: Tensor) -> Tensor:
    return 0 * log_p.sum(-1)


def _one_sided(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    """Stable near alpha = 0 and near q = p; near alpha = 1 the two terms cancel."""
    log_ratio = log_q - log_p
    return (log_p.exp() * (torch.expm1(log_ratio) - apo_edu.box_cox(log_ratio, alpha))).sum(-1) / (1 - alpha)


def _between(low: float, inner: Any) -> Any:
    """A form that gives way to the limits within `low` of an end."""

    def whole(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
        if abs(alpha) < low:
            return apo_edu.reverse_kl(log_q, log_p)
        return apo_edu.forward_kl(log_q, log_p) if abs(1 - alpha) < low else inner(log_q, log_p, alpha)

    return whole


def _first_order(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    if alpha > 0.5:
        log_q, log_p, alpha = log_p, log_q, 1.0 - alpha
    d = log_q - log_p
    return -(log_p.exp() * (d if alpha == 0 else torch.expm1(alpha * d) / alpha)).sum(-1) / (1 - alpha)


alpha_divergence = Exercise(
    name="alpha_divergence",
    title="The divergence",
    minutes=30,
    difficulty=2,
    text=r"""
Write $D_\alpha(q\,\|\,p)$ from log-probabilities, over the last dimension, for any real $\alpha$; $q$ is the target, $p$ the
policy that is to learn it:

$$D_\alpha(q\,\|\,p) = \frac{1 - \sum_i q_i^\alpha\, p_i^{1-\alpha}}{\alpha(1-\alpha)}$$

- at $\alpha = 1$ it is $\mathrm{KL}(q\,\|\,p)$, at $\alpha = 0$ it is $\mathrm{KL}(p\,\|\,q)$, and both must be exact: no small
  constant added to $\alpha$;
- close to an end ($\alpha$ from $10^{-12}$ to 0.02, and as close to 1) it must keep its digits: the KL is right at the end
  alone, at 0.02 it is off in the second or third digit;
- close to $q = p$ it must keep them too. Hint for both: `torch.expm1`, and a sum to which you may add $\sum q - \sum p = 0$;
- leading dimensions are a batch, and a gradient must flow to `log_p`.
""",
    solution=_alpha_divergence,
    referee=apo_edu.alpha_divergence,
    checks=(
        Check(
            name="values",
            title="values between and beyond the ends",
            points=2,
            cases=pairs(*ORDERS),
            rtol=1e-8,
            hint="Compare your line with the formula term by term.",
        ),
        Check(
            name="limits",
            title="both limits, alpha = 0 and alpha = 1",
            points=1,
            cases=pairs(*ENDS, *ENDS),
            probe=at_an_end,
            rtol=1e-8,
            hint="At an end the formula is 0/0. Which KL is the limit, and over which distribution does it average?",
        ),
        Check(
            name="near_0",
            title="its digits near alpha = 0, from 1e-12 to 0.02",
            points=1,
            cases=pairs(*SMALL),
            probe=beside_an_end,
            rtol=1e-7,
            noisy=True,
            hint="Dividing 1 - sum by alpha (1 - alpha) multiplies its rounding by 1/alpha. What does torch.expm1 compute?",
        ),
        Check(
            name="near_1",
            title="its digits near alpha = 1, from 1 - 0.02 to 1 - 1e-12",
            points=1,
            cases=pairs(*(1 - alpha for alpha in SMALL)),
            probe=beside_an_end,
            rtol=1e-7,
            noisy=True,
            hint="Here 1 - alpha is what is tiny. If yours is right near 0, use D_alpha(q || p) = D_(1 - alpha)(p || q).",
        ),
        Check(
            name="near",
            title="its digits close to q = p",
            points=1,
            cases=near_pairs,
            rtol=1e-3,
            noisy=True,
            hint="The value is of second order, the summands are of first order: they cancel. Add sum(q) - sum(p) = 0 to the "
            "sum so that every summand is small itself.",
        ),
        Check(
            name="batch",
            title="leading dimensions are a batch",
            points=1,
            cases=pairs(0.3, 1.0, shape=(2, 3, 4)),
            rtol=1e-8,
        ),
        Check(
            name="gradient",
            title="a gradient flows to log_p",
            points=1,
            cases=pairs(0.0, 0.4, 1.0, shape=(2, 4)),
            probe=slope,
            rtol=1e-7,
            noisy=True,
        ),
    ),
    mistakes=(
        Mistake(
            "arguments swapped",
            "this is D(p || q): the arguments are swapped. q is the target and carries the power alpha.",
            lambda log_q, log_p, alpha: apo_edu.alpha_divergence(log_p, log_q, alpha),
        ),
        Mistake(
            "1/alpha missing",
            "the factor 1/alpha is missing: this is alpha D_alpha, Tsallis' divergence.",
            _with_limits(lambda log_q, log_p, alpha: alpha * apo_edu.alpha_divergence(log_q, log_p, alpha)),
        ),
        Mistake(
            "1/(1 - alpha) missing",
            "the factor 1/(1 - alpha) is missing.",
            _with_limits(lambda log_q, log_p, alpha: (1 - alpha) * apo_edu.alpha_divergence(log_q, log_p, alpha)),
        ),
        Mistake(
            "no divisor",
            "this is 1 - sum: it must be divided by alpha (1 - alpha).",
            _with_limits(lambda log_q, log_p, alpha: 1 - _sum(log_q, log_p, alpha)),
        ),
        Mistake(
            "alpha squared",
            "this divides by alpha squared; the divisor is alpha (1 - alpha).",
            _with_limits(lambda log_q, log_p, alpha: (1 - _sum(log_q, log_p, alpha)) / alpha**2),
        ),
        Mistake(
            "sign",
            "the sign is turned round: a divergence is never negative. The sum is below 1 for 0 < alpha < 1.",
            lambda log_q, log_p, alpha: -apo_edu.alpha_divergence(log_q, log_p, alpha),
        ),
        Mistake(
            "Renyi's divergence",
            "this is Renyi's divergence, log(sum)/(alpha - 1): ours has 1 - sum where Renyi has a logarithm.",
            _with_limits(lambda log_q, log_p, alpha: _sum(log_q, log_p, alpha).log() / (alpha - 1)),
        ),
        Mistake(
            "Renyi's divergence over alpha",
            "this is Renyi's divergence over alpha, log(sum)/(alpha (alpha - 1)): ours has 1 - sum where it has a logarithm.",
            _with_limits(lambda log_q, log_p, alpha: _sum(log_q, log_p, alpha).log() / (alpha * (alpha - 1))),
        ),
        Mistake(
            "Amari's alpha",
            "this is Amari's convention: its order a is 2 alpha - 1, so your alpha = 0 is our 1/2.",
            lambda log_q, log_p, alpha: apo_edu.alpha_divergence(log_q, log_p, (1 + alpha) / 2),
        ),
        Mistake(
            "the limits exchanged",
            "the two limits are exchanged: alpha = 1 averages log(q/p) over q, alpha = 0 averages log(p/q) over p.",
            _with_limits(apo_edu.alpha_divergence, apo_edu.forward_kl, apo_edu.reverse_kl),
        ),
        Mistake(
            "one KL for both limits",
            "both ends give KL(q || p). That is alpha = 1; alpha = 0 averages log(p/q) over p.",
            _with_limits(apo_edu.alpha_divergence, apo_edu.forward_kl, apo_edu.forward_kl),
        ),
        Mistake(
            "the other KL for both limits",
            "both ends give KL(p || q). That is alpha = 0; alpha = 1 averages log(q/p) over q.",
            _with_limits(apo_edu.alpha_divergence, apo_edu.reverse_kl, apo_edu.reverse_kl),
        ),
        Mistake(
            "sign of the limits",
            "the limits have the wrong sign: KL(q || p) averages log(q/p) over q, KL(p || q) averages log(p/q) over p.",
            _with_limits(
                apo_edu.alpha_divergence,
                lambda log_q, log_p: -apo_edu.reverse_kl(log_q, log_p),
                lambda log_q, log_p: -apo_edu.forward_kl(log_q, log_p),
            ),
        ),
        Mistake(
            "the limits in bits",
            "the limits are in bits: use the natural logarithm, the rest of the family is in nats.",
            _with_limits(
                apo_edu.alpha_divergence,
                lambda log_q, log_p: apo_edu.reverse_kl(log_q, log_p) / torch.tensor(2.0).double().log(),
                lambda log_q, log_p: apo_edu.forward_kl(log_q, log_p) / torch.tensor(2.0).double().log(),
            ),
        ),
        Mistake(
            "no limits", "0/0 at alpha = 0 and 1: there the formula has limits, which need a case of their own.", _naive
        ),
        Mistake(
            "an epsilon for the limits",
            "the ends are approached, not reached: alpha is moved away from 0 and 1 by a constant. Both limits are exact.",
            lambda log_q, log_p, alpha: _naive(
                log_q, log_p, min(max(alpha, 1e-6), 1 - 1e-6) if 0 <= alpha <= 1 else alpha
            ),
        ),
        Mistake(
            "the naive form",
            "right in exact arithmetic, but 1 - sum cancels: near an end and near q = p all digits are lost. Start from "
            "torch.expm1, which gives exp(x) - 1 without cancelling.",
            _with_limits(_naive),
        ),
        Mistake(
            "good near 0, not near 1",
            "near alpha = 0 this keeps its digits, near alpha = 1 it divides what cancels by 1 - alpha. You need no second "
            "formula: D_alpha(q || p) = D_(1 - alpha)(p || q), so go to the side where alpha <= 1/2 first.",
            _with_limits(_one_sided),
        ),
        Mistake(
            "good near 0, plain KL at the ends",
            "near alpha = 1 this divides what cancels by 1 - alpha, and near q = p the KL at the ends cancels. One form cures "
            "both: expm1(log q/p) minus the Box-Cox weight inside the sum, at 0 too, on the side where alpha <= 1/2.",
            _with_limits(_one_sided, _plain_kl(swap=True), _plain_kl(swap=False)),
        ),
        Mistake(
            "good near 1, not near 0",
            "near alpha = 1 this keeps its digits, near alpha = 0 it divides what cancels by alpha. You need no second "
            "formula: D_alpha(q || p) = D_(1 - alpha)(p || q), so go to the side where alpha > 1/2 first.",
            _with_limits(lambda log_q, log_p, alpha: _one_sided(log_p, log_q, 1 - alpha)),
        ),
        Mistake("an early switch to the limits", SWITCHED, _between(0.05, apo_edu.alpha_divergence)),
        Mistake(
            "an early switch, and lost digits",
            "close to an end this returns the KL itself, which is the limit and not the value; and near q = p numbers of first "
            "order cancel, in 1 - sum or in the KL as it is written. torch.expm1 with sum(q) - sum(p) = 0 added cures both.",
            _between(1e-3, _naive),
        ),
        Mistake("the limits are 0", VANISHED, _with_limits(apo_edu.alpha_divergence, _zero, _zero)),
        Mistake(
            "an epsilon in the divisor",
            "a small constant is added to alpha (1 - alpha): at an end the result is 0 instead of the KL, and elsewhere digits "
            "are lost. The limits are cases of their own.",
            lambda log_q, log_p, alpha: (1 - _sum(log_q, log_p, alpha)) / (alpha * (1 - alpha) + 1e-8),
        ),
        Mistake(
            "first-order terms cancel",
            "near q = p the first-order terms cancel in the sum and take the digits with them. Add sum(q) - sum(p) = 0 in a "
            "form that makes every summand >= 0.",
            _first_order,
        ),
        Mistake(
            "mean for sum",
            "this averages over the group where the formula sums.",
            lambda log_q, log_p, alpha: apo_edu.alpha_divergence(log_q, log_p, alpha) / log_q.shape[-1],
        ),
        Mistake(
            "sums over the batch",
            "this sums over the batch too: reduce the last dimension only, .sum(-1).",
            lambda log_q, log_p, alpha: apo_edu.alpha_divergence(log_q, log_p, alpha).sum(),
        ),
        Mistake(
            "logarithms taken for probabilities",
            "log_q and log_p are logarithms: take .exp() before you treat them as probabilities.",
            lambda log_q, log_p, alpha: (1 - (log_q**alpha * log_p ** (1 - alpha)).sum(-1)) / (alpha * (1 - alpha)),
        ),
        Mistake(
            "alpha ignored",
            "this does not depend on alpha: it is D_(1/2) for every alpha.",
            lambda log_q, log_p, alpha: apo_edu.alpha_divergence(log_q, log_p, 0.5),
        ),
        Mistake(
            "no gradient",
            "the values are right, but the result carries no gradient: stay in torch, without .detach(), .item() or numpy.",
            lambda log_q, log_p, alpha: apo_edu.alpha_divergence(log_q, log_p, alpha).detach(),
        ),
    ),
)

# 1. By hand.


def _coins(q: tuple[float, float], p: tuple[float, float]) -> tuple[float, float]:
    """Both KL divergences of two coins, in nats: (KL(q || p), KL(p || q))."""
    forward = sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
    reverse = sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    return forward, reverse


def _with_tails(heads: float) -> tuple[float, float]:
    return heads, round(1 - heads, 2)


def _apart(q: float, p: float) -> float:
    forward, reverse = _coins(_with_tails(q), _with_tails(p))
    return abs(forward - reverse)


# Chances of heads, (q, p), whose two divergences can be told apart: for q = 1 - p they are equal.
COINS = [(q / 100, p / 100) for q in range(55, 90) for p in range(15, 45) if _apart(q / 100, p / 100) > 0.02]


def _own_coins(generator: torch.Generator) -> dict[str, Any]:
    heads, other = COINS[int(torch.randint(len(COINS), (1,), generator=generator))]
    return {"q": _with_tails(heads), "p": _with_tails(other)}


def _changed(change: Any) -> Any:
    """A wrong answer made from the right pair."""
    return lambda q, p: change(*_coins(q, p))


by_hand = Exercise(
    name="by_hand",
    title="Two coins by hand",
    minutes=6,
    difficulty=1,
    text=r"""
The Kullback-Leibler divergence averages the logarithm of a ratio of probabilities, over the first of the two distributions:

$$\mathrm{KL}(q\,\|\,p) = \sum_i q_i \log\frac{q_i}{p_i}$$

With the natural logarithm its unit is the nat. Your coins `mine["q"]` and `mine["p"]` give heads and tails with these
probabilities. With paper and a pocket calculator: what are $\mathrm{KL}(q\,\|\,p)$ and $\mathrm{KL}(p\,\|\,q)$, in nats, to
three decimals?
""",
    stub="by_hand = None  # the pair (KL(q || p), KL(p || q)), two numbers in brackets",
    value=True,
    numbers=_own_coins,
    solution=_coins,
    checks=(
        Check(
            name="both",
            title="both divergences, to three decimals",
            points=2,
            cases=lambda generator, numbers: [()],
            rtol=0.0,
            floor=1e-3,
            hint="Write down the two terms of each sum, heads and tails, and add them: natural logarithms, both signs.",
        ),
    ),
    mistakes=(
        Mistake(
            "exchanged", "the two are exchanged: KL(q || p) averages log(q/p) over q.", _changed(lambda f, r: (r, f))
        ),
        Mistake(
            "in bits",
            "these are bits: use the natural logarithm.",
            _changed(lambda f, r: (f / math.log(2), r / math.log(2))),
        ),
        Mistake(
            "logarithm to base 10",
            "these are logarithms to base 10: use the natural one.",
            _changed(lambda f, r: (f / math.log(10), r / math.log(10))),
        ),
        Mistake(
            "sign",
            "the signs are turned round: log(q/p), not log(p/q), under an average over q.",
            _changed(lambda f, r: (-f, -r)),
        ),
        Mistake(
            "the same twice",
            "both numbers are KL(q || p); the second has q and p exchanged.",
            _changed(lambda f, r: (f, f)),
        ),
        Mistake(
            "the reverse twice",
            "both numbers are KL(p || q); the first averages over q.",
            _changed(lambda f, r: (r, r)),
        ),
        Mistake(
            "heads only",
            "this is the term of heads alone: tails has a term too, with the opposite sign.",
            lambda q, p: (q[0] * math.log(q[0] / p[0]), p[0] * math.log(p[0] / q[0])),
        ),
        Mistake(
            "tails only",
            "this is the term of tails alone: heads has a term too, with the opposite sign.",
            lambda q, p: (q[1] * math.log(q[1] / p[1]), p[1] * math.log(p[1] / q[1])),
        ),
        Mistake(
            "the entropies",
            "these are the entropies of the two coins; a divergence compares one coin with the other.",
            lambda q, p: (-sum(a * math.log(a) for a in q), -sum(a * math.log(a) for a in p)),
        ),
        Mistake(
            "the sum of both",
            "one of the two is the sum of both divergences; each is asked for by itself.",
            _changed(lambda f, r: (f + r, f + r)),
        ),
        Mistake(
            "no average",
            "the logarithms are added without their probabilities: each term is q log(q/p).",
            lambda q, p: (
                sum(math.log(a / b) for a, b in zip(q, p, strict=True)),
                sum(math.log(b / a) for a, b in zip(q, p, strict=True)),
            ),
        ),
        Mistake(
            "weights exchanged",
            "each logarithm is averaged over the wrong coin: in KL(q || p) the weights are q.",
            lambda q, p: (
                sum(b * math.log(a / b) for a, b in zip(q, p, strict=True)),
                sum(a * math.log(b / a) for a, b in zip(q, p, strict=True)),
            ),
        ),
        Mistake(
            "magnitudes added",
            "the terms are added without their signs: one of the two is negative.",
            lambda q, p: (
                sum(a * abs(math.log(a / b)) for a, b in zip(q, p, strict=True)),
                sum(b * abs(math.log(b / a)) for a, b in zip(q, p, strict=True)),
            ),
        ),
        Mistake(
            "cross-entropy",
            "this is the cross-entropy, -sum q log p: subtract the entropy of q.",
            lambda q, p: (
                -sum(a * math.log(b) for a, b in zip(q, p, strict=True)),
                -sum(b * math.log(a) for a, b in zip(q, p, strict=True)),
            ),
        ),
        Mistake(
            "the mean of both",
            "this is the mean of the two; each is asked for.",
            _changed(lambda f, r: ((f + r) / 2,) * 2),
        ),
    ),
)

# 3. Digits: a prediction, and why.


def _own_distance(generator: torch.Generator) -> dict[str, Any]:
    return {"exponent": (4, 6, 8)[int(torch.randint(3, (1,), generator=generator))]}


def _digits(exponent: int) -> str:
    """D is about distance^2 / 2; the naive form's error is the rounding of 1, 1e-16, divided by alpha (1 - alpha)."""
    return {4: "about 7", 6: "about 3", 8: "none"}[exponent]


digits_left = prediction(
    name="digits_left",
    title="Predict: how many digits are left?",
    minutes=3,
    difficulty=2,
    text=r"""
A float64 carries 16 digits. The naive form computes $1 - \sum q^\alpha p^{1-\alpha}$ and divides. Take a $q$ that differs
from $p$ by $10^{-k}$ in its logits, with your `mine["exponent"]` as $k$, and $\alpha = 1/2$. Before you run anything: how many
digits of the naive result are right? (One point for committing to one of the choices, right or wrong.)
""",
    numbers=_own_distance,
    solution=_digits,
    choices={
        "all 16": "That would need a result of the size of the summands, but D is tiny and the summands add up to 1.",
        "about 7": "D is about (1e-4)^2 / 2 = 5e-9 at k = 4, the rounding of the sum 1e-16 / (1/4) = 4e-16: 7 digits.",
        "about 3": "D is about (1e-6)^2 / 2 = 5e-13 at k = 6, the rounding of the sum 1e-16 / (1/4) = 4e-16: 3 digits.",
        "none": "D is about (1e-8)^2 / 2 = 5e-17 at k = 8, below the rounding of the sum, 4e-16: nothing is right.",
    },
)


def show_digits(alpha_divergence: Any, exponent: int) -> None:
    """Print the naive form, the student's function and the library's at distances around 10^-exponent from p."""
    generator = torch.Generator().manual_seed(exponent)
    log_p = log_probs(generator, 6, spread=0.3)
    away = torch.randn(6, generator=generator, dtype=torch.float64)
    print(f"{'distance':>9} {'naive form':>14} {'yours':>14} {'library':>14} {'naive digits':>13}")
    for k in (2, 4, 6, 7, 8):
        log_q = (log_p + 10.0**-k * away).log_softmax(-1)
        exact = float(apo_edu.alpha_divergence(log_q, log_p, 0.5))
        naive, yours = float(_naive(log_q, log_p, 0.5)), alpha_divergence(log_q, log_p, 0.5)
        shown = "not yet" if yours is None else f"{float(yours):.7e}"
        digits = max(0.0, -math.log10(abs(naive / exact - 1) + 1e-17))
        mark = "  <- yours" if k == exponent else ""
        print(f"{f'1e-{k}':>9} {naive:14.7e} {shown:>14} {exact:14.7e} {digits:13.1f}{mark}")


cancellation = Written(
    name="cancellation",
    title="Why the naive form fails near q = p",
    minutes=8,
    difficulty=2,
    text=r"""
In five sentences or fewer: where do the digits of the naive form go as $q\to p$, at what rate in the distance, and which line
of *your* `alpha_divergence` keeps them? Copy that line and say what it does.
""",
    rubric=(
        (1, "how large the wanted number is, how large the sum is, and how far apart float64 numbers of that size are"),
        (1, "the rate of the relative error in the distance that follows, with the digits in the table as evidence"),
        (1, "names a line of their own and says why nothing cancels in it"),
    ),
    answer=r"""
The sum $\sum q^\alpha p^{1-\alpha}$ is $1 - \tfrac{\alpha(1-\alpha)}{2}\sum p\,(\log q/p)^2 + \dots$, so what is wanted is of
second order in the distance $d$ while the sum is near 1, where float64 numbers are 2e-16 apart. The relative error is about
$10^{-15}/d^2$: 7 digits are left at $d = 10^{-4}$, 3 at $10^{-6}$, none at $10^{-8}$, as the table shows. My line
`(log_p.exp() * (torch.expm1(log_ratio) - box_cox)).sum(-1)` adds $\sum q - \sum p = 0$ inside the sum: every summand is now
$\tfrac{1-\alpha}{2} p\,(\log q/p)^2 \ge 0$ itself, and `expm1` computes it without subtracting numbers near 1.
""",
)

# 5. Box-Cox weights.


def _box_cox(log_w: Tensor, alpha: float) -> Tensor:
    """The weight (w^alpha - 1) / alpha of samples with log ratio log_w = log(q/p), any shape; log w at alpha = 0."""
    return log_w if alpha == 0 else torch.expm1(alpha * log_w) / alpha


def weights_at(*orders: float, spread: float = 1.5) -> Any:
    """Cases (log_w, alpha)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(spread * torch.randn(6, generator=generator, dtype=torch.float64), alpha) for alpha in orders]

    return cases


def _bent(inner: Any, at_0: Any = lambda log_w: log_w) -> Any:
    """A wrong weight beside the right limit at 0."""
    return lambda log_w, alpha: at_0(log_w) if alpha == 0 else inner(log_w, alpha)


SWITCHED_TO_LOG = (
    "near alpha = 0 this returns log w itself. It is the limit, exact at alpha = 0 only: at 0.02 it is already off in the "
    "second or third digit. torch.expm1 keeps the digits for every alpha other than 0."
)


def beside_0(answer: Any, log_w: Tensor, alpha: float) -> Any:
    """Call an answer near alpha = 0, or where log w is tiny; near 0 it must not give the limit."""
    limit, exact = log_w.clone(), apo_edu.box_cox(log_w, alpha)
    value = answer(log_w, alpha)
    if value is not None and is_the_limit(value, limit, exact):
        raise NotYet(SWITCHED_TO_LOG)
    return value


def _powers(log_w: Tensor, alpha: float) -> Tensor:
    return (log_w.exp() ** alpha - 1) / alpha


box_cox = Exercise(
    name="box_cox",
    title="How loudly a sample speaks",
    minutes=8,
    difficulty=1,
    text=r"""
The gradient of every member of the family is $\nabla D_\alpha = -\,\mathbb{E}_p\big[z\,\nabla\log p\big]$ with the Box-Cox
weight $z = (w^\alpha - 1)/\alpha$, $w = q/p$. Write it, from $\log w$: $\log w$ at $\alpha = 0$, $w - 1$ at $\alpha = 1$, and
its digits kept where $\alpha\log w$ is tiny.
""",
    solution=_box_cox,
    referee=apo_edu.box_cox,
    checks=(
        Check(
            name="values",
            title="values at orders other than 0",
            points=1,
            cases=weights_at(0.3, 1.0, -0.5, 2.0),
            rtol=1e-9,
        ),
        Check(
            name="limit",
            title="the limit at alpha = 0",
            points=1,
            cases=weights_at(0.0, 0.4, 0.0),
            rtol=1e-9,
            hint="Take alpha to 0 in (exp(alpha log w) - 1) / alpha.",
        ),
        Check(
            name="digits",
            title="its digits where alpha log w is tiny, and for alpha up to 0.02",
            points=1,
            noisy=True,
            rtol=1e-8,
            probe=beside_0,
            cases=lambda generator, numbers: [
                *weights_at(1e-9, -1e-9, 1e-7, 1e-5, 1e-3, 0.02)(generator, numbers),
                *weights_at(0.5, spread=1e-10)(generator, numbers),
            ],
            hint="w^alpha is near 1, and subtracting 1 leaves its rounding. What does torch.expm1 compute?",
        ),
    ),
    mistakes=(
        Mistake(
            "log w taken for w",
            "log_w is a logarithm: w is its exponential.",
            _bent(lambda log_w, alpha: (log_w**alpha - 1) / alpha),
        ),
        Mistake(
            "a power of the logarithm",
            "log_w is a logarithm, so log_w**alpha is not w^alpha, which is exp(alpha log w). Then subtract 1 and divide "
            "by alpha.",
            _bent(lambda log_w, alpha: log_w**alpha),
        ),
        Mistake(
            "centred",
            "the mean of the weights is subtracted. That comes later, in the gradient; here each sample has its own weight.",
            lambda log_w, alpha: apo_edu.box_cox(log_w, alpha) - apo_edu.box_cox(log_w, alpha).mean(),
        ),
        Mistake(
            "brackets missing",
            "this subtracts 1/alpha from w^alpha: the brackets are missing, (w^alpha - 1) / alpha.",
            _bent(lambda log_w, alpha: (alpha * log_w).exp() - 1 / alpha),
        ),
        Mistake(
            "1 - w^alpha",
            "away from alpha = 0 the sign is turned round: w^alpha - 1, not 1 - w^alpha.",
            _bent(lambda log_w, alpha: -apo_edu.box_cox(log_w, alpha)),
        ),
        Mistake(
            "a series cut off",
            "log w + alpha (log w)^2 / 2 is the beginning of a series: good for small alpha log w only. The weight itself "
            "is asked "
            "for.",
            _bent(lambda log_w, alpha: log_w + alpha * log_w**2 / 2),
        ),
        Mistake(
            "1/alpha missing",
            "the factor 1/alpha is missing: this is w^alpha - 1.",
            _bent(lambda log_w, alpha: torch.expm1(alpha * log_w)),
        ),
        Mistake(
            "not centred",
            "the -1 is missing: w^alpha / alpha blows up as alpha goes to 0, and that noise is what the -1 removes.",
            _bent(lambda log_w, alpha: (alpha * log_w).exp() / alpha),
        ),
        Mistake(
            "sign",
            "the sign is turned round: a sample with w > 1 has a positive weight, and the minus is in the gradient.",
            lambda log_w, alpha: -apo_edu.box_cox(log_w, alpha),
        ),
        Mistake(
            "p/q for q/p",
            "this is the weight of 1/w: log_w is log q - log p.",
            lambda log_w, alpha: apo_edu.box_cox(-log_w, alpha),
        ),
        Mistake(
            "1 - alpha for alpha",
            "this is the weight for 1 - alpha: check which end is log w.",
            lambda log_w, alpha: apo_edu.box_cox(log_w, 1 - alpha),
        ),
        Mistake(
            "the limit is 1",
            "at alpha = 0 the weight is not w^0 = 1: the -1 and the 1/alpha are still there, and the limit is log w.",
            _bent(apo_edu.box_cox, torch.ones_like),
        ),
        Mistake(
            "the limit is 0",
            "at alpha = 0 the numerator is 0, but so is alpha: 0/0 has a limit here, log w.",
            _bent(apo_edu.box_cox, torch.zeros_like),
        ),
        Mistake(
            "the limit is w",
            "at alpha = 0 this gives w = exp(log_w): take the limit of the whole weight, in which w stands as exp(alpha "
            "log w).",
            _bent(apo_edu.box_cox, torch.exp),
        ),
        Mistake(
            "the limit is log log w",
            "at alpha = 0 this takes the logarithm of a logarithm: log_w is log w already.",
            _bent(apo_edu.box_cox, torch.log),
        ),
        Mistake(
            "the limit is w - 1",
            "w - 1 is the other end, alpha = 1; at alpha = 0 the weight is log w.",
            _bent(apo_edu.box_cox, torch.expm1),
        ),
        Mistake("no limit", "0/0 at alpha = 0: the limit needs a case of its own.", _powers),
        Mistake(
            "an epsilon for the limit",
            "alpha = 0 is approached, not reached: return the limit itself.",
            lambda log_w, alpha: apo_edu.box_cox(log_w, alpha if abs(alpha) > 1e-6 else 1e-6),
        ),
        Mistake(
            "digits lost",
            "right in exact arithmetic, but w^alpha - 1 subtracts numbers near 1: start from torch.expm1.",
            _bent(_powers),
        ),
        Mistake(
            "an early switch to the limit",
            SWITCHED_TO_LOG,
            lambda log_w, alpha: log_w if abs(alpha) < 0.05 else apo_edu.box_cox(log_w, alpha),
        ),
        Mistake("alpha ignored", "this is log w for every alpha.", lambda log_w, alpha: log_w),
        Mistake(
            "alpha log w",
            "alpha log w is only the first term of w^alpha - 1.",
            _bent(lambda log_w, alpha: alpha * log_w),
        ),
        Mistake(
            "w^alpha",
            "this is w^alpha: subtract 1 and divide by alpha.",
            _bent(lambda log_w, alpha: (alpha * log_w).exp()),
        ),
    ),
)

# 6. The gradient.


def _alpha_divergence_grad(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    """Gradient of D_alpha(q || p) with respect to the logits u of p = softmax(u), in closed form; shapes [..., n]."""
    log_ratio = log_q - log_p
    z = log_ratio if alpha == 0 else torch.expm1(alpha * log_ratio) / alpha
    p = log_p.exp()
    return -p * (z - (p * z).sum(-1, keepdim=True))


def without_autograd(answer: Any, log_q: Tensor, log_p: Tensor, alpha: float) -> Any:
    """Call an answer where autograd is switched off: a closed form does not need it."""
    try:
        with torch.inference_mode():  # not no_grad: an answer could switch it on again
            return answer(log_q, log_p, alpha)
    except RuntimeError as error:
        if "does not require grad" in str(error):
            raise NotYet(
                "this asks autograd for the gradient; write the closed form, and let autograd be your own check."
            ) from None
        raise


SWITCHED_WEIGHT = (
    "near alpha = 0 this puts the limit, the weight of alpha = 0, in place of the weight itself. The limit is exact at "
    "alpha = 0 "
    "only: at 0.02 the gradient is already off in the second or third digit. torch.expm1 keeps the digits."
)


def beside_the_limit(answer: Any, log_q: Tensor, log_p: Tensor, alpha: float) -> Any:
    """Call an answer near alpha = 0, without autograd; it must not give the limit."""
    limit, exact = (apo_edu.alpha_divergence_grad(log_q, log_p, order) for order in (0.0, alpha))
    value = without_autograd(answer, log_q, log_p, alpha)
    if value is not None and is_the_limit(value, limit, exact):
        raise NotYet(SWITCHED_WEIGHT)
    return value


def _weights(log_q: Tensor, log_p: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    return log_p.exp(), apo_edu.box_cox(log_q - log_p, alpha)


def _uncentred(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    p, z = _weights(log_q, log_p, alpha)
    return -p * z


def _under_q(log_q: Tensor, z: Tensor) -> Tensor:
    return -log_q.exp() * (z - (log_q.exp() * z).sum(-1, keepdim=True))


def _plain_centre(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    p, z = _weights(log_q, log_p, alpha)
    return -p * (z - z.mean(-1, keepdim=True))


def _centred_only(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    p, z = _weights(log_q, log_p, alpha)
    return -(z - (p * z).sum(-1, keepdim=True))


def _centred_by_q(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    p, z = _weights(log_q, log_p, alpha)
    return -p * (z - (log_q.exp() * z).sum(-1, keepdim=True))


def _no_keepdim(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    p, z = _weights(log_q, log_p, alpha)
    return -p * (z - (p * z).sum())


def _by_powers(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    p, w = log_p.exp(), (log_q - log_p).exp()
    if alpha == 0:
        return apo_edu.alpha_divergence_grad(log_q, log_p, 0.0)
    r = w**alpha
    return -p * (r - (p * r).sum(-1, keepdim=True)) / alpha


def _nan_at_0(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    return apo_edu.alpha_divergence_grad(log_q, log_p, alpha) * (alpha / alpha if alpha else math.nan)


def _by_autograd(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    logits = log_p.clone().requires_grad_()
    value = apo_edu.alpha_divergence(log_q, logits.log_softmax(-1), alpha)
    return torch.autograd.grad(value.sum(), logits)[0]


_grad = apo_edu.alpha_divergence_grad
alpha_divergence_grad = Exercise(
    name="alpha_divergence_grad",
    title="The gradient",
    minutes=16,
    difficulty=3,
    text=r"""
The policy is $p = \mathrm{softmax}(u)$. Derive $\partial D_\alpha/\partial u_j$ in closed form (start from the gradient above;
what is $\partial\log p_i/\partial u_j$?) and write it, for any real $\alpha$, over the last dimension. At $\alpha\to 0$ it must
neither blow up nor lose its digits. Compare it with autograd through your `alpha_divergence` before you check it.
""",
    solution=_alpha_divergence_grad,
    referee=apo_edu.alpha_divergence_grad,
    checks=(
        Check(
            name="values",
            title="values at orders other than 0",
            points=2,
            cases=pairs(0.3, 0.8, 1.0, -0.5, 1.5),
            rtol=1e-8,
            probe=without_autograd,
            hint="Does it sum to 0 over the group? It must, since a constant added to u changes nothing.",
        ),
        Check(
            name="limit",
            title="the limit at alpha = 0",
            points=1,
            cases=pairs(0.0, 0.0),
            rtol=1e-8,
            probe=without_autograd,
            hint="Which weight does a sample have at alpha = 0?",
        ),
        Check(
            name="digits",
            title="its digits near alpha = 0, up to 0.02",
            points=1,
            cases=pairs(1e-11, -1e-11, 1e-7, 1e-5, 1e-3, 0.02),
            rtol=1e-7,
            noisy=True,
            probe=beside_the_limit,
            hint="r^alpha is near 1, and 1/alpha multiplies its rounding. Start from the Box-Cox weight.",
        ),
        Check(
            name="batch",
            title="leading dimensions are a batch",
            points=1,
            cases=pairs(0.4, shape=(2, 3, 4)),
            rtol=1e-8,
            probe=without_autograd,
        ),
    ),
    mistakes=(
        Mistake(
            "sign",
            "the sign is turned round: this climbs. Where q > p the logit must grow, so the gradient is negative there.",
            lambda log_q, log_p, alpha: -_grad(log_q, log_p, alpha),
        ),
        Mistake(
            "no centring",
            "this treats every log p_j as if it could move alone. Raising one logit lowers all other probabilities: what is "
            "d log p_i / d u_j for i other than j? Your numbers do not sum to 0 over the group; they must.",
            lambda log_q, log_p, alpha: _uncentred(log_q, log_p, alpha),
        ),
        Mistake(
            "plain mean", "z is centred by its plain mean over the group; the mean is the one under p.", _plain_centre
        ),
        Mistake("mean under q", "z is centred by its mean under q; the expectation is over p.", _centred_by_q),
        Mistake(
            "p missing before the mean",
            "the mean E_p z is there, but without its factor p_j: both terms have it, -p_j (z_j - E_p z).",
            lambda log_q, log_p, alpha: (
                _uncentred(log_q, log_p, alpha) - _uncentred(log_q, log_p, alpha).sum(-1, keepdim=True)
            ),
        ),
        Mistake(
            "mean for sum",
            "E_p z is the sum of p z over the group; this takes its mean, which divides by the group once more.",
            lambda log_q, log_p, alpha: (
                _uncentred(log_q, log_p, alpha) - log_p.exp() * _uncentred(log_q, log_p, alpha).mean(-1, keepdim=True)
            ),
        ),
        Mistake(
            "q for p",
            "the weights are centred and counted under q; both are under p, whose logits move.",
            lambda log_q, log_p, alpha: _under_q(log_q, _weights(log_q, log_p, alpha)[1]),
        ),
        Mistake(
            "with respect to p",
            "this is the derivative with respect to p_j; the chain rule has one more factor, dp_i/du_j of the softmax.",
            lambda log_q, log_p, alpha: -(alpha * (log_q - log_p)).exp() / (alpha if alpha else 1.0),
        ),
        Mistake(
            "p missing",
            "the centred weight is right, but a sample counts as often as it is drawn: the factor p_j is missing.",
            _centred_only,
        ),
        Mistake(
            "1/alpha missing",
            "the factor 1/alpha is missing.",
            lambda log_q, log_p, alpha: _grad(log_q, log_p, alpha) * (alpha if alpha else 1.0),
        ),
        Mistake(
            "arguments swapped",
            "this is the gradient with q and p exchanged: the ratio is q/p, and the average is over p.",
            lambda log_q, log_p, alpha: _grad(log_p, log_q, alpha),
        ),
        Mistake(
            "p/q for q/p",
            "the ratio is turned round: w = q/p.",
            lambda log_q, log_p, alpha: (
                _grad(2 * log_p - log_q, log_p, alpha)
                if alpha == 0
                else -log_p.exp()
                * (
                    apo_edu.box_cox(log_p - log_q, alpha)
                    - (log_p.exp() * apo_edu.box_cox(log_p - log_q, alpha)).sum(-1, keepdim=True)
                )
            ),
        ),
        Mistake(
            "1 - alpha for alpha",
            "this is the gradient of D_(1 - alpha): the power alpha belongs to q.",
            lambda log_q, log_p, alpha: _grad(log_q, log_p, 1 - alpha),
        ),
        Mistake(
            "q - p for every alpha",
            "p - q is the gradient at alpha = 1 only.",
            lambda log_q, log_p, alpha: log_p.exp() - log_q.exp(),
        ),
        Mistake(
            "with respect to log p",
            "this is the derivative with every log p_i taken as free: p is a softmax of u, so its sum is fixed.",
            lambda log_q, log_p, alpha: -(alpha * log_q + (1 - alpha) * log_p).exp() / (alpha if alpha else 1.0),
        ),
        Mistake(
            "1/(1 - alpha) left over",
            "the factor 1/(1 - alpha) of D is still there: the derivative of p^(1 - alpha) brings 1 - alpha, which cancels it.",
            lambda log_q, log_p, alpha: _grad(log_q, log_p, alpha) / (1 - alpha),
        ),
        Mistake(
            "q in the softmax's derivative",
            "the sum is multiplied by q_j; the derivative of softmax at p has p_j there.",
            lambda log_q, log_p, alpha: (
                _grad(log_q, log_p, alpha)
                if alpha == 0
                else -(_tilted(log_q, log_p, alpha) - log_q.exp() * _sum(log_q, log_p, alpha)[..., None]) / alpha
            ),
        ),
        Mistake(
            "the limit is p - q",
            "at alpha = 0 this is p - q, the gradient at the other end, alpha = 1.",
            lambda log_q, log_p, alpha: _grad(log_q, log_p, alpha or 1.0),
        ),
        Mistake(
            "mean over the first dimension",
            "the mean runs over the first dimension, the batch; a group is the last one: .sum(-1, keepdim=True).",
            lambda log_q, log_p, alpha: (
                -_weights(log_q, log_p, alpha)[0]
                * (
                    _weights(log_q, log_p, alpha)[1]
                    - (_weights(log_q, log_p, alpha)[0] * _weights(log_q, log_p, alpha)[1]).sum(0, keepdim=True)
                )
            ),
        ),
        Mistake("NaN at alpha = 0", "0/0 at alpha = 0: there the weight is log(q/p).", _nan_at_0),
        Mistake(
            "zero at alpha = 0",
            "at alpha = 0 the gradient is not zero: r^0 - 1 = 0 is divided by alpha = 0, and the limit is log r.",
            lambda log_q, log_p, alpha: _grad(log_q, log_p, alpha) * (alpha != 0),
        ),
        Mistake(
            "digits lost near alpha = 0",
            "right in exact arithmetic, but near alpha = 0 the powers are all near 1, and 1/alpha multiplies "
            "their rounding: start from the Box-Cox weight.",
            _by_powers,
        ),
        Mistake(
            "an early switch to the limit",
            SWITCHED_WEIGHT,
            lambda log_q, log_p, alpha: _grad(log_q, log_p, alpha if abs(alpha) > 0.05 else 0.0),
        ),
        Mistake("centred over the batch", "the mean is taken over the batch too: .sum(-1, keepdim=True).", _no_keepdim),
        Mistake(
            "autograd",
            "this asks autograd for the gradient; write the closed form, and let autograd be your own check.",
            _by_autograd,
        ),
    ),
)

# 7. Covering and seeking.

COVERS, LEFT, RIGHT = "covers both modes", "sits on the left mode", "sits on the right mode"


def _own_mixture(generator: torch.Generator) -> dict[str, Any]:
    far, left = torch.randint(2, (2,), generator=generator).tolist()
    return {"separation": (1.2, 3.0)[far], "weight_left": (0.35, 0.65)[left], "alpha": 0.1}


def _what_it_does(separation: float, weight_left: float, alpha: float) -> str:
    """Where the best Gaussian is: on the heavier mode if the modes are far apart, over both if they are near."""
    if separation < 2:
        return "covers both modes"
    return "sits on the left mode" if weight_left > 0.5 else "sits on the right mode"


covering = prediction(
    name="covering",
    title="Predict: what does one Gaussian do?",
    minutes=3,
    difficulty=2,
    text=r"""
The target has two modes at $-s$ and $+s$, each with standard deviation 0.6; your `mine` holds $s$ (`separation`) and the
share of the left mode. The policy is one Gaussian, the one with the least $D_\alpha$ at `mine["alpha"]`, near the
mode-seeking end. What does it do? (One point for committing.)
""",
    numbers=_own_mixture,
    solution=_what_it_does,
    choices={
        COVERS: "Modes 1.2 from the middle (two standard deviations) are too near to be told apart by one Gaussian: the "
        "covering "
        "fit is the only minimum at every alpha. Far modes are another matter.",
        LEFT: "With modes 3 from the middle and alpha near 0, mass in the valley is what costs, so the fit gives one mode up, "
        "the "
        "lighter. Near modes leave no valley.",
        RIGHT: "With modes 3 from the middle and alpha near 0, mass in the valley is what costs, so the fit gives one mode "
        "up, the "
        "lighter. Near modes leave no valley.",
    },
)


def _best_gaussian(x: Tensor, log_q: Tensor, alpha: float, means: Tensor, sds: Tensor) -> tuple[float, float, float]:
    """The Gaussian with the least D_alpha(q || p) among all pairs of a mean and a standard deviation.

    x: [n] points, equally spaced.  log_q: [n] log-probabilities of the target on them (they sum to 1).
    means: [k], sds: [m] candidates.  Returns (mean, sd, divergence), three floats.
    """
    best = (0.0, 0.0, float("inf"))
    for mean in means.tolist():
        for sd in sds.tolist():
            log_p = (-0.5 * ((x - mean) / sd) ** 2).log_softmax(-1)
            value = float(apo_edu.alpha_divergence(log_q, log_p, alpha))
            if value < best[2]:
                best = (mean, sd, value)
    return best


def _searched(loss: Any, give: Any = lambda mean, sd, value: (mean, sd, value), shape: Any = None) -> Any:
    """A search over all candidates for the least loss(log_q, log_p, alpha); `shape` is the log density up to a constant."""
    shape = shape or (lambda x, mean, sd: -0.5 * ((x - mean) / sd) ** 2)

    def search(x: Tensor, log_q: Tensor, alpha: float, means: Tensor, sds: Tensor) -> Any:
        log_p = shape(x, means[:, None, None], sds[None, :, None]).log_softmax(-1)
        values = loss(log_q.expand_as(log_p), log_p, alpha)
        at = int(values.argmin())
        return give(float(means[at // len(sds)]), float(sds[at % len(sds)]), float(values.flatten()[at]))

    return search


def _first_the_mean(x: Tensor, log_q: Tensor, alpha: float, means: Tensor, sds: Tensor) -> tuple[float, float, float]:
    search = _searched(apo_edu.alpha_divergence)
    mean, _, _ = search(x, log_q, alpha, means, sds[len(sds) // 2 :][:1])
    return search(x, log_q, alpha, torch.tensor([mean], dtype=means.dtype), sds)


def _moments(x: Tensor, log_q: Tensor, alpha: float, means: Tensor, sds: Tensor) -> tuple[float, float, float]:
    return _searched(lambda log_q, log_p, alpha: apo_edu.forward_kl(log_q, log_p))(x, log_q, alpha, means, sds)


def _candidates(separation: float, weight: float, alpha: float) -> tuple[Any, ...]:
    x = torch.linspace(-8, 8, 161, dtype=torch.float64)
    log_q = mixtures.two_modes(separation, weight=weight).log_density(x[:, None]).log_softmax(-1)
    means = torch.linspace(-3, 3, 21, dtype=torch.float64)
    return x, log_q, alpha, means, torch.linspace(0.4, 3.0, 14, dtype=torch.float64)


def own_and_others(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
    """The student's mixture at their alpha, then two others at alpha 1, 0.5 and 0."""
    cases = [_candidates(3.0, 0.35, 0.1)]
    for alpha in (1.0, 0.5, 0.0):
        draw = torch.rand(2, generator=generator).tolist()
        cases.append(_candidates(2.4 + 0.6 * draw[0], 0.3 + 0.1 * draw[1], alpha))
    return cases


def _three(answer: Any, *case: Any) -> Any:
    given = answer(*case)
    if given is not None and (not isinstance(given, tuple | list | Tensor) or len(given) != 3):
        raise NotYet("expected three numbers, (mean, sd, divergence).")
    return None if given is None else tuple(float(number) for number in given)


best_gaussian = Exercise(
    name="best_gaussian",
    title="Verify: search for the best Gaussian",
    minutes=16,
    difficulty=2,
    text=r"""
Write the search: of all pairs of a mean and a standard deviation, the Gaussian with the least $D_\alpha(q\,\|\,p)$ to a target
given on a grid. A density becomes probabilities on the grid when it is normalised over it. You may use your own
`alpha_divergence` or `apo_edu.alpha_divergence`; a loop is fine.
""",
    solution=_best_gaussian,
    referee=_searched(apo_edu.alpha_divergence),
    library=("alpha_divergence",),
    checks=(
        Check(
            name="cover",
            title="alpha = 1 and 0.5: the best Gaussian and what it costs",
            points=2,
            probe=_three,
            rtol=1e-6,
            cases=lambda generator, numbers: own_and_others(generator, numbers)[1:3],
        ),
        Check(
            name="seek",
            title="alpha = 0.1 and 0: the same",
            points=2,
            probe=_three,
            rtol=1e-6,
            cases=lambda generator, numbers: own_and_others(generator, numbers)[::3],
        ),
    ),
    mistakes=(
        Mistake(
            "arguments swapped",
            "this minimises D_alpha(p || q): the target is the first argument.",
            _searched(lambda log_q, log_p, alpha: apo_edu.alpha_divergence(log_p, log_q, alpha)),
        ),
        Mistake(
            "alpha ignored",
            "this minimises KL(q || p) whatever alpha is: it matches mean and variance, and covers for ever.",
            _moments,
        ),
        Mistake(
            "alpha = 0 for every alpha",
            "this minimises KL(p || q) whatever alpha is, and always seeks.",
            _searched(lambda log_q, log_p, alpha: apo_edu.reverse_kl(log_q, log_p)),
        ),
        Mistake(
            "the largest",
            "this is the worst candidate: look for the smallest divergence.",
            _searched(
                lambda log_q, log_p, alpha: -apo_edu.alpha_divergence(log_q, log_p, alpha), lambda m, s, v: (m, s, -v)
            ),
        ),
        Mistake(
            "mean and sd exchanged",
            "mean and standard deviation are exchanged in what is returned.",
            _searched(apo_edu.alpha_divergence, lambda m, s, v: (s, m, v)),
        ),
        Mistake(
            "variance for sd",
            "the candidates are standard deviations, but they are used as variances: square them.",
            _searched(apo_edu.alpha_divergence, shape=lambda x, mean, sd: -0.5 * (x - mean) ** 2 / sd),
        ),
        Mistake(
            "1/2 missing",
            "the factor 1/2 in the exponent of the Gaussian is missing.",
            _searched(apo_edu.alpha_divergence, shape=lambda x, mean, sd: -(((x - mean) / sd) ** 2)),
        ),
        Mistake(
            "no square",
            "the exponent of a Gaussian is the square of the distance; this is a Laplace distribution.",
            _searched(apo_edu.alpha_divergence, shape=lambda x, mean, sd: -((x - mean) / sd).abs()),
        ),
        Mistake(
            "one after the other",
            "mean and standard deviation are searched one after the other: the best mean depends on the width, "
            "so all pairs must be tried.",
            _first_the_mean,
        ),
        Mistake(
            "the variance is returned",
            "the second number is the variance; the standard deviation is asked for.",
            _searched(apo_edu.alpha_divergence, lambda m, s, v: (m, s * s, v)),
        ),
        Mistake(
            "log sd is returned",
            "the second number is log sd; the standard deviation is asked for.",
            _searched(apo_edu.alpha_divergence, lambda m, s, v: (m, math.log(s), v)),
        ),
        Mistake(
            "indices",
            "these are the places in the lists of candidates; the candidates themselves are asked for.",
            lambda x, log_q, alpha, means, sds: _searched(
                apo_edu.alpha_divergence, lambda m, s, v: (means.tolist().index(m), sds.tolist().index(s), v)
            )(x, log_q, alpha, means, sds),
        ),
        Mistake(
            "returns inside the loop",
            "this returns after the first mean: `return` stands inside the loop, one indentation too far to the right.",
            lambda x, log_q, alpha, means, sds: _searched(apo_edu.alpha_divergence)(x, log_q, alpha, means[:1], sds),
        ),
        Mistake(
            "sign of the exponent",
            "the exponent has no minus: this density grows away from its mean.",
            _searched(apo_edu.alpha_divergence, shape=lambda x, mean, sd: 0.5 * ((x - mean) / sd) ** 2),
        ),
        Mistake(
            "mean for sum",
            "mean and sd are right, but the divergence is averaged over the grid instead of summed.",
            _searched(apo_edu.alpha_divergence, lambda m, s, v: (m, s, v / 161)),
        ),
        Mistake(
            "square root of D",
            "mean and sd are right, but the third number is the square root of the divergence.",
            _searched(apo_edu.alpha_divergence, lambda m, s, v: (m, s, math.sqrt(v))),
        ),
    ),
)


def show_fits(best_gaussian: Any, separation: float, weight_left: float, alpha: float) -> None:
    """Draw the student's best Gaussians of their mixture at alpha = 1 and at their alpha."""
    fits = {order: best_gaussian(*_candidates(separation, weight_left, order)) for order in (1.0, alpha)}
    if None in fits.values():
        print("Write best_gaussian first; then this cell draws what it finds.")
        return
    x = torch.linspace(-6, 6, 401, dtype=torch.float64)
    with plotting.style():
        picture, ax = plotting.figure(size=(6.4, 3.2))
        target = mixtures.two_modes(separation, weight=weight_left).log_density(x[:, None]).exp()
        ax.fill_between(x, target, color="#dddddd", label="target q")
        for order, (mean, sd, value) in fits.items():
            density = torch.distributions.Normal(mean, sd).log_prob(x).exp()
            ax.plot(x, density, label=f"alpha = {order:g}: D = {value:.2f} nats", **plotting.alpha_line(order))
        ax.set(xlabel="x", ylabel="density (1 / unit of x)")
        ax.legend()
    words = ", ".join(f"alpha = {o:g}: mean {float(f[0]):.2f}, sd {float(f[1]):.2f}" for o, f in fits.items())
    figure(
        picture, f"Your best Gaussians: {words}.", f"A target with modes at -{separation} and {separation}; {words}."
    )


two_fears = Written(
    name="two_fears",
    title="Covering and seeking, in your picture",
    minutes=6,
    difficulty=2,
    text=r"""
Explain your picture with the two terms that matter: what would $\mathrm{KL}(q\,\|\,p)$ have to pay if the fit sat on one
mode, and what would $\mathrm{KL}(p\,\|\,q)$ have to pay if it covered both? Use numbers of your mixture. If nothing changed
between the two values of $\alpha$ in your picture, say why not. Then: which line of *your* `best_gaussian` decides which of
the two is paid?
""",
    rubric=(
        (1, "KL(q || p): which mass costs, where, and how much, with a number of your mixture"),
        (1, "KL(p || q): the same; and the case in which nothing changes with alpha, if it is yours"),
        (1, "names the line of their own where q and p enter, and says what exchanging them would do"),
    ),
    answer=r"""
At $\alpha = 1$ the average is over $q$: a fit on the right mode has density near $e^{-50}$ at the left one, and the 35 % of
$q$ that live there pay $0.35 \times 50$ nats. So the fit widens. Near $\alpha = 0$ the average is over $p$: a covering fit
has a quarter of its mass between $-1$ and 1, where $q$ is smaller than $p$ by a factor $e^{4}$ and more,
while giving up the lighter mode costs only $\log(1/0.65) = 0.43$ nats. With modes at $\pm 1.2$ there is no valley to pay for,
and nothing jumps. In my code `alpha_divergence(log_q, log_p, alpha)` decides: with the arguments exchanged, alpha would run
the other way.
""",
)

# 8. A Lyapunov function that no alpha can disturb.

lyapunov_statement = Written(
    name="lyapunov_statement",
    title="A Lyapunov function: state it",
    minutes=8,
    difficulty=3,
    text=r"""
The policy $p = \mathrm{softmax}(u)$ follows the flow $\dot u = -\nabla_u D_\alpha(q\,\|\,p)$ to a fixed target $q > 0$. State
a function $V$ that falls along this flow for *every* $\alpha$, even for an $\alpha$ that changes on the way; write $\dot V$
as a covariance; and say in one sentence why it is never positive. (Where does the flow end, in logits? And mind that logits
which differ by a constant are the same policy.)
""",
    rubric=(
        (1, "V, with the coordinates in which it is taken, so that a constant added to u leaves it as it is"),
        (1, "dV/dt as a covariance: of which two functions, under which distribution"),
        (
            1,
            "the property that the two functions share, and the inequality that follows, for every alpha at every moment",
        ),
    ),
    answer=r"""
$V = \tfrac12|u - u^*|^2$, with $u$ and $u^* = \log q$ both centred (their mean over the arms subtracted). Along the flow
$\dot u_j = p_j(z_j - \mathbb{E}_p z)$ with $z = (r^\alpha-1)/\alpha$, and $u^*_j - u_j = \log r_j + \text{const}$, so $\dot V
= -\sum_j (\log r_j + c)\,p_j (z_j - \mathbb{E}_p z) = -\mathrm{Cov}_p(\log r, z)$. Both $\log r$ and $z$ increase with $r$,
whatever $\alpha$ is, and two increasing functions of one variable have a covariance $\ge 0$: $\dot V \le 0$ at every moment,
so under every schedule.
""",
)


def _lyapunov(logits: Tensor, log_q: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Your V and its rate dV/dt along the flow du/dt = -grad D_alpha(q || softmax(u)), u the logits.

    logits: [n].  log_q: [n].  alpha: a float.  Returns (V, dV/dt), two numbers.
    """
    log_p = logits.log_softmax(-1)
    away = logits - log_q
    away = away - away.mean()
    log_ratio = log_q - log_p
    z = log_ratio if alpha == 0 else torch.expm1(alpha * log_ratio) / alpha
    p = log_p.exp()
    covariance = (p * log_ratio * z).sum() - (p * log_ratio).sum() * (p * z).sum()
    return 0.5 * (away**2).sum(), -covariance


def _away(logits: Tensor, log_q: Tensor) -> Tensor:
    return logits - log_q - (logits - log_q).mean()


def _v(logits: Tensor, log_q: Tensor) -> Tensor:
    return 0.5 * (_away(logits, log_q) ** 2).sum()


def _cov_of(log_p: Tensor, log_ratio: Tensor, alpha: float) -> Tensor:
    p, z = log_p.exp(), apo_edu.box_cox(log_ratio, alpha)
    return -((p * log_ratio * z).sum() - (p * log_ratio).sum() * (p * z).sum())


def _rate(logits: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    away = logits - log_q
    return -((away - away.mean()) * apo_edu.alpha_divergence_grad(log_q, logits.log_softmax(-1), alpha)).sum()


def _both(v: Any = _v, rate: Any = _rate) -> Any:
    return lambda logits, log_q, alpha: (v(logits, log_q), rate(logits, log_q, alpha))


def _cov(left: Any, right: Any, weights: Any = lambda log_p: log_p.exp(), centred: bool = True) -> Any:
    """-(weighted covariance) of two functions of (log ratio, alpha)."""

    def rate(logits: Tensor, log_q: Tensor, alpha: float) -> Tensor:
        log_p = logits.log_softmax(-1)
        w, r = weights(log_p), log_q - log_p
        a, b = left(r, alpha), right(r, alpha)
        return -((w * a * b).sum() - (w * a).sum() * (w * b).sum() * centred)

    return rate


def _sample_covariance(log_ratio: Tensor, alpha: float) -> Tensor:
    return torch.cov(torch.stack([log_ratio, apo_edu.box_cox(log_ratio, alpha)]))[0, 1]


def logit_pairs(*orders: float) -> Any:
    """Cases (logits, log_q, alpha); the logits are neither centred nor normalised."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [
            (1.0 + 1.5 * torch.randn(4, generator=generator, dtype=torch.float64), log_probs(generator, 4), alpha)
            for alpha in orders
        ]

    return cases


ONE_THING = "this returns one thing; expected two numbers, `return V, rate`."


def part(index: int) -> Any:
    """The probe that looks at one of the two numbers returned."""

    def probe(answer: Any, *case: Any) -> Any:
        given = answer(*case)
        if given is None:
            return None
        if not isinstance(given, tuple | list) and not (isinstance(given, Tensor) and given.dim() == 1):
            raise NotYet(ONE_THING)
        if len(given) != 2:
            raise NotYet(f"this returns {len(given)} things; expected two numbers, `return V, rate`.")
        return given[index]

    return probe


_log_ratio, _z = (lambda r, alpha: r), apo_edu.box_cox
lyapunov = Exercise(
    name="lyapunov",
    title="A Lyapunov function: check it",
    minutes=10,
    difficulty=2,
    text=r"""
Write $V$ and $\dot V$ for one group, as two numbers; if your $V$ is a square, with a factor ½. Any logits may come, whatever
constant was added to them. Then the next cell follows a schedule that jumps between orders at random, and draws $V$.
""",
    solution=_lyapunov,
    referee=_both(),
    checks=(
        Check(
            name="value",
            title="V",
            points=2,
            cases=logit_pairs(0.5, 0.5, 0.5),
            probe=part(0),
            rtol=1e-8,
            hint="Two vectors of logits that differ by a constant are the same policy: V must not see that constant.",
        ),
        Check(
            name="rate",
            title="dV/dt, for alpha from -0.5 to 1.5",
            points=2,
            cases=logit_pairs(0.0, 0.02, 0.3, 1.0, -0.5, 1.5),
            probe=part(1),
            rtol=1e-7,
            hint="dV/dt is the product of u - u* and the velocity -grad D, summed.",
        ),
    ),
    mistakes=(
        Mistake(
            "not centred",
            "V changes when a constant is added to the logits, which is the same policy: centre u and log q.",
            _both(lambda logits, log_q: 0.5 * ((logits - log_q) ** 2).sum()),
        ),
        Mistake(
            "log p for u",
            "log p is normalised, not centred: |log p - log q|^2 keeps a constant that centring removes.",
            _both(lambda logits, log_q: 0.5 * ((logits.log_softmax(-1) - log_q) ** 2).sum()),
        ),
        Mistake("V alone", ONE_THING, lambda logits, log_q, alpha: _v(logits, log_q)),
        Mistake("1/2 missing", "the factor 1/2 in V is missing.", _both(lambda logits, log_q: 2 * _v(logits, log_q))),
        Mistake(
            "mean for sum",
            "V is averaged over the arms; it is a sum of squares.",
            _both(lambda logits, log_q: _v(logits, log_q) / len(log_q)),
        ),
        Mistake(
            "no square",
            "V is a squared length; this is the length.",
            _both(lambda logits, log_q: (2 * _v(logits, log_q)).sqrt()),
        ),
        Mistake(
            "weighted by p",
            "each arm's square is weighted by p; V counts every arm alike.",
            _both(lambda logits, log_q: 0.5 * (logits.softmax(-1) * _away(logits, log_q) ** 2).sum()),
        ),
        Mistake(
            "centred under p",
            "the difference is centred by its mean under p; it is the plain mean over the arms, which does not move with p.",
            _both(
                lambda logits, log_q: (
                    0.5 * ((logits - log_q - (logits.softmax(-1) * (logits - log_q)).sum()) ** 2).sum()
                )
            ),
        ),
        Mistake(
            "logits taken for log p",
            "the logits are taken for log p; they are not normalised: log p is logits.log_softmax(-1).",
            lambda logits, log_q, alpha: (_v(logits, log_q), _cov_of(logits, log_q - logits, alpha)),
        ),
        Mistake(
            "probabilities for logits",
            "V compares centred logits, not probabilities.",
            _both(lambda logits, log_q: 0.5 * ((logits.softmax(-1) - log_q.exp()) ** 2).sum()),
        ),
        Mistake(
            "a divergence for V",
            "this is KL(q || p): it does fall for some orders, not for all.",
            _both(lambda logits, log_q: apo_edu.forward_kl(log_q, logits.log_softmax(-1))),
        ),
        Mistake("sign of the rate", "the rate has the wrong sign: V falls.", _both(rate=lambda *case: -_rate(*case))),
        Mistake(
            "rate of D for rate of V",
            "-|grad D|^2 is how D itself falls; the rate of V has u - u* once and the velocity once.",
            _both(rate=lambda logits, log_q, alpha: -(_grad(log_q, logits.log_softmax(-1), alpha) ** 2).sum()),
        ),
        Mistake(
            "variance of z",
            "this is -Var_p(z): one of the two factors of the covariance is log r, not z.",
            _both(rate=_cov(_z, _z)),
        ),
        Mistake(
            "variance of log r",
            "this is -Var_p(log r), right for alpha = 0 only: one factor is the Box-Cox weight.",
            _both(rate=_cov(_log_ratio, _log_ratio)),
        ),
        Mistake(
            "plain mean",
            "the covariance is under p; here every arm counts the same.",
            _both(rate=_cov(_log_ratio, _z, lambda log_p: torch.full_like(log_p, 1 / len(log_p)))),
        ),
        Mistake(
            "mean under q",
            "the covariance is under q; p moves, and every arm counts as much as p gives it.",
            lambda logits, log_q, alpha: (
                _v(logits, log_q),
                _cov(_log_ratio, _z, lambda log_p: log_q.exp())(logits, log_q, alpha),
            ),
        ),
        Mistake(
            "p/q for q/p",
            "the ratio in the covariance is p/q: r = q/p, for both factors.",
            _both(rate=_cov(lambda r, alpha: -r, lambda r, alpha: apo_edu.box_cox(-r, alpha))),
        ),
        Mistake(
            "alpha ignored",
            "this is -Cov_p(log r, r - 1), right for alpha = 1 only.",
            _both(rate=_cov(_log_ratio, lambda r, alpha: torch.expm1(r))),
        ),
        Mistake(
            "sample covariance",
            "this is torch.cov, the covariance of a sample: every arm counts the same, over n - 1. The one asked for is "
            "under p.",
            _both(rate=lambda logits, log_q, alpha: -_sample_covariance(log_q - logits.log_softmax(-1), alpha)),
        ),
        Mistake(
            "V and rate exchanged",
            "the two are exchanged: V comes first, its rate second.",
            lambda logits, log_q, alpha: (_rate(logits, log_q, alpha), _v(logits, log_q)),
        ),
        Mistake(
            "an early switch to the limit",
            "near alpha = 0 this takes log r for the Box-Cox weight: that is its limit, exact at alpha = 0 only.",
            _both(rate=lambda logits, log_q, alpha: _rate(logits, log_q, alpha if abs(alpha) > 0.05 else 0.0)),
        ),
        Mistake(
            "no covariance",
            "E_p[log r z] is there, but a covariance also subtracts the product of the means.",
            _both(rate=_cov(_log_ratio, _z, centred=False)),
        ),
        Mistake(
            "r^alpha for z",
            "the second factor is r^alpha; with -1 it is centred anyway, but the 1/alpha is missing.",
            _both(rate=_cov(_log_ratio, lambda r, alpha: (alpha * r).exp())),
        ),
    ),
)


def show_lyapunov(lyapunov: Any, seed: int = 0) -> None:
    """Follow the flow under a schedule that jumps at random; draw V and both KL divergences."""
    generator = torch.Generator().manual_seed(seed)
    log_q, logits = log_probs(generator, 4), 2.0 * torch.randn(4, generator=generator, dtype=torch.float64)
    if lyapunov(logits, log_q, 0.5) is None:
        print("Write lyapunov first; then this cell draws V under a schedule that jumps.")
        return
    alpha = 1.0
    traces: dict[str, list[float]] = {"V (yours)": [], "KL(q || p)": [], "KL(p || q)": []}
    for step in range(240):
        alpha = (
            (1.0, 0.0, 0.7, -0.5, 1.4)[int(torch.randint(5, (1,), generator=generator))] if step % 12 == 0 else alpha
        )
        log_p = logits.log_softmax(-1)
        now = (lyapunov(logits, log_q, alpha)[0], apo_edu.forward_kl(log_q, log_p), apo_edu.reverse_kl(log_q, log_p))
        for trace, value in zip(traces.values(), now, strict=True):
            trace.append(float(value))
        logits = logits - 0.1 * apo_edu.alpha_divergence_grad(log_q, log_p, alpha)
    with plotting.style():
        picture, ax = plotting.figure(size=(6.4, 3.0))
        for (name, trace), style in zip(traces.items(), ("-", "--", ":"), strict=True):
            ax.semilogy([value / trace[0] for value in trace], style, label=name)
        ax.set(xlabel="step of the flow (0.1)", ylabel="share of the start")
        ax.legend()
    falls = all(b <= a for a, b in zip(traces["V (yours)"], traces["V (yours)"][1:], strict=False))
    words = f"alpha jumps every 12 steps between -0.5 and 1.4; your V {'never rises' if falls else 'rises somewhere'}."
    figure(picture, words, f"V and both KL divergences against steps, as shares of the start. {words}")


def _own_flow(generator: torch.Generator) -> dict[str, Any]:
    return {"alpha_flow": (0.0, 0.25, 0.75, 1.0)[int(torch.randint(4, (1,), generator=generator))]}


def _rising_example(alpha_flow: float) -> tuple[list[float], list[float], float]:
    """Search pairs (q, p) of three arms at random until a divergence from the other end rises along the flow."""
    measured = 1.0 if alpha_flow < 0.5 else 0.0
    generator = torch.Generator().manual_seed(0)
    while True:
        log_q, log_p = (2 * torch.randn(2, 3, generator=generator, dtype=torch.float64)).log_softmax(-1)
        slopes = []
        for alpha in (alpha_flow, measured):
            ratio = log_q - log_p
            z = ratio if alpha == 0 else torch.expm1(alpha * ratio) / alpha
            slopes.append(-log_p.exp() * (z - (log_p.exp() * z).sum()))
        cosine = -(slopes[0] @ slopes[1]) / (slopes[0].norm() * slopes[1].norm())
        if cosine > 0.1:
            return log_q.exp().tolist(), log_p.exp().tolist(), measured


STEEP = 0.05  # cosine between the measured divergence's gradient and the flow from which a rise counts


def judge_rise(answer: Any, alpha_flow: float) -> bool:
    """Whether the example is one: distributions, and a divergence that rises along the flow; raises NotYet with the reason."""
    try:
        q, p, measured = answer
        q, p = (torch.as_tensor(x, dtype=torch.float64).flatten() for x in (q, p))
        measured = float(measured)
    except (TypeError, ValueError):
        raise NotYet(
            "expected (q, p, alpha): two lists of probabilities and the order of the divergence that rises."
        ) from None
    if len(q) != len(p) or len(q) < 2:
        raise NotYet("q and p need the same number of arms, two or more.")
    if not bool((torch.isfinite(q) & torch.isfinite(p)).all()) or not math.isfinite(measured):
        raise NotYet("q, p and alpha must be finite numbers.")
    if bool((q < 0).any()) and float(q.exp().sum()) < 1.01 and float(q.exp().sum()) > 0.99:
        raise NotYet("these are log-probabilities; give the probabilities themselves.")
    if bool((q <= 0).any()) or bool((p <= 0).any()):
        raise NotYet("every arm needs a probability above 0, in q and in p.")
    if abs(float(q.sum()) - 1) > 1e-3 or abs(float(p.sum()) - 1) > 1e-3:
        raise NotYet("q and p must each sum to 1.")
    log_q, log_p = (q / q.sum()).log(), (p / p.sum()).log()
    if bool(torch.allclose(log_q, log_p, atol=1e-6)):
        raise NotYet("q = p: nothing moves there. Start away from the target.")
    if measured == alpha_flow:
        raise NotYet("this is the divergence whose gradient the flow follows: that one always falls, by -|grad D|^2.")
    if len(q) == 2:
        raise NotYet(
            "with two arms all divergences fall together, since the policy can only move along one line. Take three."
        )
    flow, slope = -_grad(log_q, log_p, alpha_flow), _grad(log_q, log_p, measured)
    cosine = float((flow * slope).sum() / (flow.norm() * slope.norm()))
    if cosine > STEEP:
        return True
    if float((-_grad(log_p, log_q, alpha_flow) * _grad(log_p, log_q, measured)).sum()) > 0:
        raise NotYet(
            "it falls here, but would rise with q and p exchanged: q is the target, p is where the flow starts."
        )
    if cosine > 0:
        raise NotYet(
            f"it rises, but hardly: the cosine between its gradient and the flow must be above {STEEP}. Search on."
        )
    raise NotYet(
        "this divergence falls here. Try many random pairs of three arms, p far from q, and an order from the other end."
    )


_example = functools.cache(_rising_example)


def _spoiled(change: Any) -> Any:
    """A wrong example made from the right one."""
    return lambda alpha_flow: change(*_example(alpha_flow), alpha_flow)


def _nearer(q: list[float], p: list[float], order: float, flow: float) -> tuple[list[float], list[float], float]:
    """The right example with p moved towards q until it hardly rises: next to q every divergence falls."""
    log_q, log_p = torch.tensor(q, dtype=torch.float64).log(), torch.tensor(p, dtype=torch.float64).log()
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        log_m = ((1 - middle) * log_p + middle * log_q).log_softmax(-1)
        cosine = -float(torch.cosine_similarity(_grad(log_q, log_m, flow), _grad(log_q, log_m, order), dim=0))
        if 0.2 * STEEP < cosine < 0.8 * STEEP:
            return q, log_m.exp().tolist(), order
        low, high = (middle, high) if cosine > 0.5 * STEEP else (low, middle)


rising = Exercise(
    name="rising",
    title="Find a divergence that does rise",
    minutes=8,
    difficulty=3,
    text=r"""
$V$ falls for every $\alpha$; a divergence need not. The flow follows $-\nabla D_\alpha$ with your `mine["alpha_flow"]`. Find
a target $q$, a start $p$ (three arms or more) and an order $\alpha'$ for which $D_{\alpha'}(q\,\|\,p)$ *rises* at the start.
Search by program: draw many pairs at random with $p$ far from $q$ (logits with a spread of about 3: one to four pairs in a
hundred will do), and take the gradients from your `alpha_divergence_grad`. The angle counts: the cosine between
$\nabla D_{\alpha'}$ and the flow must be above 0.05.
""",
    stub="rising = None  # (q, p, order): two lists of probabilities, and the order of the divergence that rises",
    value=True,
    numbers=_own_flow,
    library="all",
    solution=_rising_example,
    checks=(
        Check(
            name="rises",
            title="the divergence rises along your flow",
            points=3,
            probe=judge_rise,
            cases=lambda generator, numbers: [(numbers["alpha_flow"],)],
        ),
    ),
    mistakes=(
        Mistake(
            "not a triple",
            "expected (q, p, alpha): two lists of probabilities and the order of the divergence that rises.",
            _spoiled(lambda q, p, order, flow: (q, p)),
        ),
        Mistake(
            "different arms",
            "q and p need the same number of arms, two or more.",
            _spoiled(lambda q, p, order, flow: (q, p[:2], order)),
        ),
        Mistake(
            "not finite", "q, p and alpha must be finite numbers.", _spoiled(lambda q, p, order, flow: (q, p, math.nan))
        ),
        Mistake(
            "logarithms",
            "these are log-probabilities; give the probabilities themselves.",
            _spoiled(lambda q, p, order, flow: ([math.log(x) for x in q], [math.log(x) for x in p], order)),
        ),
        Mistake(
            "a zero",
            "every arm needs a probability above 0, in q and in p.",
            _spoiled(lambda q, p, order, flow: ([0.5, 0.5, 0.0], p, order)),
        ),
        Mistake(
            "not normalised",
            "q and p must each sum to 1.",
            _spoiled(lambda q, p, order, flow: ([2 * x for x in q], p, order)),
        ),
        Mistake(
            "q = p",
            "q = p: nothing moves there. Start away from the target.",
            _spoiled(lambda q, p, order, flow: (q, q, order)),
        ),
        Mistake(
            "the flow's own divergence",
            "this is the divergence whose gradient the flow follows: that one always falls, by -|grad D|^2.",
            _spoiled(lambda q, p, order, flow: (q, p, flow)),
        ),
        Mistake(
            "two arms",
            "with two arms all divergences fall together, since the policy can only move along one line. Take three.",
            _spoiled(lambda q, p, order, flow: ([0.9, 0.1], [0.2, 0.8], order)),
        ),
        Mistake(
            "q and p exchanged",
            "it falls here, but would rise with q and p exchanged: q is the target, p is where the flow starts.",
            _spoiled(lambda q, p, order, flow: (p, q, order)),
        ),
        Mistake(
            "hardly",
            f"it rises, but hardly: the cosine between its gradient and the flow must be above {STEEP}. Search on.",
            _spoiled(_nearer),
        ),
        Mistake(
            "it falls",
            "this divergence falls here. Try many random pairs of three arms, p far from q, and an order from the other end.",
            _spoiled(lambda q, p, order, flow: (q, [(a + 9 * b) / 10 for a, b in zip(p, q, strict=True)], order)),
        ),
    ),
)

sources = Written(
    name="sources",
    title="Whom and what you asked",
    minutes=2,
    difficulty=1,
    text='Name the people, pages and AI assistants that you asked, and for what. "Nobody" is an answer.',
    rubric=((0, "says what was asked of whom, within the course's policy"),),
    answer="I asked nobody.",
)

assignment = Assignment(
    name="a1",
    title="Divergences",
    intro=r"""
You write the family of divergences that the whole method rests on, find out where its formula fails on a computer, and use it
to predict what a policy does that cannot have everything. Afterwards you can write a stable limit, derive a gradient through a
softmax, say what covering and seeking pay for, and prove that something falls.

**You need:** softmax, expectations, one page of calculus. Lessons 01, 02 and 07 cover the same ground with pictures.
""",
    imports="import math\n\nimport torch\nfrom torch import Tensor\n\nimport apo_edu\nfrom toys.course.a1 import show_digits, "
    "show_fits, show_lyapunov",
    parts=(
        by_hand,
        alpha_divergence,
        digits_left,
        Code('show_digits(alpha_divergence, **mine)\nme.reveal("digits_left")'),
        cancellation,
        box_cox,
        alpha_divergence_grad,
        covering,
        best_gaussian,
        Code('show_fits(best_gaussian, **mine)\nme.reveal("covering")'),
        two_fears,
        Text(r"""
## A function that no $\alpha$ can disturb

The next three belong together. Much of the method changes $\alpha$ while the policy learns. Does it still arrive? For a fixed
target yes, and the proof is one line, once the right function is found. (The statement is this project's answer to a question
that the paper leaves open.)
"""),
        lyapunov_statement,
        lyapunov,
        Code("show_lyapunov(lyapunov)"),
        rising,
        sources,
    ),
)
