"""Lesson 11, Clipping against anchoring: the gradient that a clip passes, and where an anchored inner loop comes to rest."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. The gradient that a clip passes.


def _clipped_push(ratio, advantage, epsilon):
    """d/d(log pi) of min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A), where rho = pi / pi_old.

    ratio, advantage: tensors of one shape.  epsilon: a float.  Returns that shape.
    """
    stopped = ((advantage > 0) & (ratio > 1 + epsilon)) | ((advantage < 0) & (ratio < 1 - epsilon))
    return torch.where(stopped, 0.0, ratio * advantage)


def _by_autograd(ratio: Tensor, advantage: Tensor, epsilon: float) -> Tensor:
    log_ratio = ratio.log().requires_grad_()
    rho = log_ratio.exp()
    value = torch.minimum(rho * advantage, rho.clamp(1 - epsilon, 1 + epsilon) * advantage)
    return torch.autograd.grad(value.sum(), log_ratio)[0]


def _looped(ratio: Tensor, advantage: Tensor, epsilon: float) -> Any:
    pushes = []
    for rho, gain in zip(ratio.flatten().tolist(), advantage.flatten().tolist(), strict=True):
        free = rho <= 1 + epsilon if gain >= 0 else rho >= 1 - epsilon
        pushes.append(rho * gain if free else 0.0)
    return torch.tensor(pushes, dtype=torch.float64).reshape(ratio.shape)


def samples(kind: str, shape: tuple[int, ...] = (24,)) -> Any:
    """Cases (ratio, advantage, epsilon): ratios on the side named by `kind`, advantages of the sign it names, or of both."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        made = []
        for epsilon in (0.2, 0.28):
            spread = torch.rand(*shape, generator=generator, dtype=torch.float64)
            advantage = torch.randn(*shape, generator=generator, dtype=torch.float64)
            advantage = advantage.sign() * (0.3 + advantage.abs())
            low, high = {"all": (0.4, 1.8), "inside": (1 - 0.95 * epsilon, 1 + 0.95 * epsilon)}.get(kind, (0.4, 1.8))
            ratio = low + (high - low) * spread
            if kind == "far enough":
                ratio = 1 + advantage.sign() * (epsilon + 0.02 + 0.3 * spread)
            elif kind == "wrong way":
                ratio = 1 - advantage.sign() * (epsilon + 0.02 + 0.3 * spread)
            made.append((ratio, advantage, epsilon))
        return made

    return cases


def _stop(condition: Any, push: Any = lambda rho, gain: rho * gain) -> Any:
    """The push, 0 where `condition(rho, A, epsilon)` holds."""
    return lambda ratio, advantage, epsilon: torch.where(
        condition(ratio, advantage, epsilon), torch.zeros_like(ratio), push(ratio, advantage)
    )


def _far(rho: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    return ((gain > 0) & (rho > 1 + epsilon)) | ((gain < 0) & (rho < 1 - epsilon))


clipped_push = WriteIt(
    name="clipped_push",
    title="What a clip passes",
    minutes=6,
    difficulty=1,
    text=r"""
With $\rho = \pi/\pi_{\text{old}}$ PPO maximises $\min(\rho A,\ \mathrm{clip}(\rho, 1-\varepsilon,
1+\varepsilon)\,A)$ for each sample.
Write `clipped_push(ratio, advantage, epsilon)`, its derivative with respect to $\log\pi$, sample by sample. (No
sample lies
exactly on an edge.)
""",
    hint=r"""
$\partial\rho/\partial\log\pi = \rho$. A clipped value is a constant and has no gradient. So the answer is $\rho A$
or 0;
decide for each sign of $A$ which of the two values is the smaller, beyond which edge.
""",
    after="The push grows with the ratio up to the edge and is gone behind it: a wall, where APO has a spring.",
    solution=_clipped_push,
    also_right=(_by_autograd, _looped),
    checks=(
        check(
            "inside",
            "inside the clip",
            samples("inside"),
            rtol=1e-9,
            hint="At ratio 1.1 and A = 2 it is 2.2: the derivative of e^x is e^x.",
        ),
        check("far", "a push that has gone far enough is stopped", samples("far enough"), floor=1e-12),
        check(
            "wrong",
            "a push that went the wrong way is not",
            samples("wrong way"),
            rtol=1e-9,
            hint="A > 0 at ratio 0.7: the smaller of 0.7 A and 0.8 A is the first, and it has a gradient.",
        ),
        check("shape", "any shape", samples("all", (3, 4)), rtol=1e-9),
    ),
    mistakes=(
        Mistake(
            "no clip",
            "this is rho A everywhere: nothing is ever stopped.",
            lambda ratio, advantage, epsilon: ratio * advantage,
        ),
        Mistake(
            "both sides",
            "samples outside the clip are stopped on both sides. One that went the wrong way must be pushed back: "
            "the minimum takes "
            "the value that is not clipped.",
            _stop(lambda rho, gain, epsilon: (rho - 1).abs() > epsilon),
        ),
        Mistake(
            "a clipped weight",
            "this clips the weight, clip(rho) A. Where the value is clipped it is a constant, and its gradient 0.",
            lambda ratio, advantage, epsilon: ratio.clamp(1 - epsilon, 1 + epsilon) * advantage,
        ),
        Mistake(
            "ratio missing",
            "the ratio is missing: the derivative of rho with respect to log pi is rho, so the push is rho A, not A.",
            _stop(_far, lambda rho, gain: gain),
        ),
        Mistake(
            "the value",
            "this is the surrogate itself, min(rho A, clip(rho) A); its derivative is asked for.",
            lambda ratio, advantage, epsilon: torch.minimum(
                ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage
            ),
        ),
        Mistake(
            "edges exchanged",
            "the edges are exchanged: A > 0 is stopped above 1 + epsilon, A < 0 below 1 - epsilon; here it is the "
            "other way round, "
            "as with a maximum for the minimum.",
            _stop(lambda rho, gain, epsilon: _far(rho, -gain, epsilon)),
        ),
        Mistake(
            "the loss",
            "the sign is turned: this is the gradient of the loss. The push on A > 0 goes up.",
            _stop(_far, lambda rho, gain: -rho * gain),
        ),
        Mistake(
            "upper edge alone",
            "only the upper edge is there: A < 0 is pushed down without end.",
            _stop(lambda rho, gain, epsilon: (gain > 0) & (rho > 1 + epsilon)),
        ),
        Mistake(
            "lower edge alone",
            "only the lower edge is there: A > 0 is pushed up without end.",
            _stop(lambda rho, gain, epsilon: (gain < 0) & (rho < 1 - epsilon)),
        ),
        Mistake(
            "sign of A ignored",
            "everything above 1 + epsilon is stopped, whatever the sign of A; for A < 0 it is the lower edge that "
            "counts.",
            _stop(lambda rho, gain, epsilon: rho > 1 + epsilon),
        ),
        Mistake(
            "epsilon ignored",
            "the push is stopped as soon as the ratio has left 1; it has room until 1 + epsilon or 1 - epsilon.",
            _stop(lambda rho, gain, epsilon: _far(rho, gain, 0.0)),
        ),
        Mistake(
            "with respect to pi",
            "this divides by the ratio once too often: the derivative is taken with respect to log pi.",
            _stop(_far, lambda rho, gain: gain / rho),
        ),
        Mistake(
            "size of A only",
            "the sign of A is lost: a completion below the mean must be pushed down.",
            _stop(_far, lambda rho, gain: rho * gain.abs()),
        ),
    ),
)

# 2. Where an anchored inner loop comes to rest.


def _rest(rewards, tau_anc, beta_r):
    """log pi/pi_old over a group where APO's loss is 0, with mean 0 over the last dimension, in nats.

    rewards: [..., group].  tau_anc, beta_r: floats > 0.  Returns the shape of rewards.
    """
    log_q = (rewards / beta_r).log_softmax(-1)
    return tau_anc * (log_q - log_q.mean(-1, keepdim=True))


def _rest_plainly(rewards: Tensor, tau_anc: float, beta_r: float) -> Tensor:
    return tau_anc / beta_r * (rewards - rewards.mean(-1, keepdim=True))


def _rest_numpy(rewards: Tensor, tau_anc: float, beta_r: float) -> Any:
    moved = rewards.numpy() * (tau_anc / beta_r)
    return moved - np.mean(moved, axis=-1, keepdims=True)


def groups(*settings: tuple[float, float], shape: tuple[int, ...] = (5,), away: float = 0.0) -> Any:
    """Cases (rewards, tau_anc, beta_r): fresh rewards for each setting, about `away`."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        def rewards() -> Tensor:
            return away + torch.rand(*shape, generator=generator, dtype=torch.float64)

        return [(rewards(), tau, beta) for tau, beta in settings]

    return cases


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(-1, keepdim=True)


rest = WriteIt(
    name="rest",
    title="Where the spring is at rest",
    minutes=7,
    difficulty=2,
    text=r"""
Many updates on one group bring APO's loss $D_\alpha(q\,\|\,p)$ to 0, so $p = q$, where $p = \mathrm{softmax}(u)$ with
$u_i = \log(\pi_i/\pi_{\text{old},i})/\tau_{\text{anc}}$, and $q = \mathrm{softmax}(r/\beta_r)$. Write `rest(rewards,
tau_anc, beta_r)`: the
$\log(\pi_i/\pi_{\text{old},i})$ of that place, over the last dimension. A softmax leaves one number for the whole
group open;
choose it so that the mean is 0.
""",
    hint=r"""
Two softmaxes are equal where their logits differ by one number. So $u_i = r_i/\beta_r + c$, and
$\log(\pi_i/\pi_{\text{old},i})$ is
$\tau_{\text{anc}}$ times that. Subtract the mean at the end.
""",
    after="alpha is not in it: alpha sets the road there, tau_anc and beta_r set the place.",
    solution=_rest,
    also_right=(_rest_plainly, _rest_numpy),
    checks=(
        check(
            "values",
            "the values",
            groups((0.5, 0.3), (1.0, 0.5), (0.2, 0.7)),
            rtol=1e-9,
            hint="Rewards 1 and 0 with tau_anc = 0.3 and beta_r = 0.3: it is 0.5 and -0.5.",
        ),
        check("batch", "leading dimensions are a batch", groups((0.5, 0.3), shape=(2, 3, 4)), rtol=1e-9),
        check("shift", "a number added to all rewards changes nothing", groups((0.5, 0.3), away=10.0), rtol=1e-9),
    ),
    mistakes=(
        Mistake(
            "not centred",
            "its mean over the group is not 0: subtract the mean.",
            lambda rewards, tau, beta: tau * rewards / beta,
        ),
        Mistake(
            "log q",
            "this is tau_anc log q, whose mean is not 0: subtract the mean.",
            lambda rewards, tau, beta: tau * (rewards / beta).log_softmax(-1),
        ),
        Mistake(
            "u",
            "this is u; log pi/pi_old is tau_anc times as much.",
            lambda rewards, tau, beta: _centred(rewards) / beta,
        ),
        Mistake(
            "divided by tau_anc",
            "this divides by tau_anc. u does so; going back it multiplies.",
            lambda rewards, tau, beta: _centred(rewards) / beta / tau,
        ),
        Mistake(
            "beta_r missing",
            "beta_r is missing: the target is softmax(r / beta_r).",
            lambda rewards, tau, beta: tau * _centred(rewards),
        ),
        Mistake(
            "times beta_r",
            "this multiplies by beta_r: a small beta_r makes a sharp target, so it divides.",
            lambda rewards, tau, beta: tau * _centred(rewards) * beta,
        ),
        Mistake(
            "exchanged", "tau_anc and beta_r are exchanged.", lambda rewards, tau, beta: beta * _centred(rewards) / tau
        ),
        Mistake(
            "standard deviations",
            "this divides by the group's standard deviation, as GRPO's advantage does; APO has beta_r in that place.",
            lambda rewards, tau, beta: tau / beta * _centred(rewards) / rewards.std(-1, keepdim=True),
        ),
        Mistake(
            "the ratio",
            "this is the ratio pi/pi_old; its logarithm is asked for.",
            lambda rewards, tau, beta: (tau / beta * _centred(rewards)).exp(),
        ),
        Mistake(
            "sign",
            "the sign is turned: the best completion must have gained.",
            lambda rewards, tau, beta: -tau / beta * _centred(rewards),
        ),
        Mistake(
            "over the batch",
            "the mean is taken over the whole batch; each group has its own, over the last dimension.",
            lambda rewards, tau, beta: tau / beta * (rewards - rewards.mean()),
        ),
        Mistake(
            "the largest at 0",
            "here the best completion has 0; choose the open number so that the mean is 0.",
            lambda rewards, tau, beta: tau / beta * (rewards - rewards.amax(-1, keepdim=True)),
        ),
        Mistake(
            "a probability",
            "this is the target q, a distribution; log pi/pi_old at rest is asked for.",
            lambda rewards, tau, beta: (rewards / beta).softmax(-1),
        ),
        Mistake(
            "base 2",
            "this is in bits; nats are asked for.",
            lambda rewards, tau, beta: tau / beta * _centred(rewards) / math.log(2),
        ),
    ),
)

exercises = (clipped_push, rest)
