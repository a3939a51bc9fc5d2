"""Assignment 1, Divergences: write D_alpha and its gradient, see where the naive form fails, and use them."""

from typing import Any

import torch
from torch import Tensor

import apo_edu

from .model import Assignment, Check, Exercise, Mistake, NotYet, Numbers

ORDERS = (0.2, 0.5, 0.8, -0.5, 1.6)
ENDS = (0.0, 1.0)


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


def slope(answer: Any, log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    """Gradient of an answer with respect to the logits of p, by autograd."""
    logits = log_p.clone().requires_grad_()
    value = answer(log_q, logits.log_softmax(-1), alpha)
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


def _sum(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    return (alpha * log_q + (1 - alpha) * log_p).exp().sum(-1)


def _with_limits(inner: Any, at_0: Any = apo_edu.reverse_kl, at_1: Any = apo_edu.forward_kl) -> Any:
    """A wrong form between exact limits: the mistakes differ from the right answer in one thing only."""

    def whole(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
        if alpha in ENDS:
            return (at_0 if alpha == 0 else at_1)(log_q, log_p)
        return inner(log_q, log_p, alpha)

    return whole


def _naive(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    return (1 - _sum(log_q, log_p, alpha)) / (alpha * (1 - alpha))


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
Write $D_\alpha(q\,\|\,p)$ from log-probabilities, over the last dimension, for any real $\alpha$:

$$D_\alpha(q\,\|\,p) = \frac{1 - \sum_i q_i^\alpha\, p_i^{1-\alpha}}{\alpha(1-\alpha)}$$

- at $\alpha = 1$ it is $\mathrm{KL}(q\,\|\,p)$, at $\alpha = 0$ it is $\mathrm{KL}(p\,\|\,q)$, and both must be exact: no small
  constant added to $\alpha$;
- close to an end ($\alpha = 10^{-12}$) and close to $q = p$ it must keep its digits. Hint: `torch.expm1`, and a sum to which
  you may add $\sum q - \sum p = 0$;
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
            points=2,
            cases=pairs(*ENDS, *ENDS),
            rtol=1e-8,
            hint="At an end the formula is 0/0. Which KL is the limit, and over which distribution does it average?",
        ),
        Check(
            name="ends",
            title="its digits close to an end, alpha = 1e-12 and 1 - 1e-12",
            points=1,
            cases=pairs(1e-12, 1 - 1e-12, -1e-12),
            rtol=1e-6,
            noisy=True,
            hint="Dividing 1 - sum by alpha (1 - alpha) multiplies its rounding by 1e12. What does torch.expm1 compute?",
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

assignment = Assignment(
    name="a1",
    title="Divergences",
    intro=r"""
You write the family of divergences that the whole method rests on, find out where its formula fails on a computer, and use
it to predict what a policy does that cannot have everything.
""",
    parts=(alpha_divergence,),
)
