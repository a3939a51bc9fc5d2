"""Lesson 04, Group targets: what RL with a KL penalty makes large, and a baseline that has not seen its own completion."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..a1 import log_probs
from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. The objective of RL with a KL penalty.


def _penalised(log_p, log_ref, rewards, beta):
    """What RL with a KL penalty makes large: the expected reward minus beta KL(p || ref).

    log_p, log_ref, rewards: [n].  beta: a float > 0.  Returns a number.
    """
    p = log_p.exp()
    return (p * (rewards - beta * (log_p - log_ref))).sum()


def _penalised_looped(log_p: Tensor, log_ref: Tensor, rewards: Tensor, beta: float) -> float:
    total = 0.0
    for lp, lr, r in zip(log_p.tolist(), log_ref.tolist(), rewards.tolist(), strict=True):
        total += math.exp(lp) * r - beta * math.exp(lp) * (lp - lr)
    return total


def _penalised_numpy(log_p: Tensor, log_ref: Tensor, rewards: Tensor, beta: float) -> Any:
    p, ref = np.exp(log_p.numpy()), np.exp(log_ref.numpy())
    return np.dot(p, rewards.numpy()) - beta * np.sum(p * np.log(p / ref))


def policies_and_rewards(*betas: float, optimal: bool = False) -> Any:
    """Cases (log_p, log_ref, rewards, beta); with `optimal`, p is proportional to ref e^(r/beta)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for beta in betas:
            log_p, log_ref = log_probs(generator, 4), log_probs(generator, 4)
            rewards = torch.rand(4, generator=generator, dtype=torch.float64)
            given.append(((log_ref + rewards / beta).log_softmax(-1) if optimal else log_p, log_ref, rewards, beta))
        return given

    return cases


def _kl(log_p: Tensor, log_ref: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_ref)).sum()


def _penalised_but(
    reward: Any = lambda p, ref, r: (p.exp() * r).sum(),
    penalty: Any = _kl,
    weigh: Any = lambda reward, penalty, beta: reward - beta * penalty,
) -> Any:
    """Another reward, penalty, or weighing of the two."""
    return lambda p, ref, r, beta: weigh(reward(p, ref, r), penalty(p, ref), beta)


penalised = WriteIt(
    name="penalised",
    title="What RL with a KL penalty makes large",
    minutes=6,
    difficulty=1,
    text=r"""
Write `penalised(log_p, log_ref, rewards, beta)`: the objective $J(p) = \mathbb{E}_p[r] -
\beta\,\mathrm{KL}(p\,\|\,\pi_{\mathrm{ref}})$ of a policy over $n$ answers, from logarithms.
""",
    hint=r"""
Both terms are means under $p$: of $r$, and of $\log p - \log\pi_{\mathrm{ref}}$.
""",
    after="At p proportional to ref e^(r/beta) it reaches beta log Z, and everywhere else it lacks beta KL(p || q): RL with a "
    "KL penalty is the reverse KL.",
    solution=_penalised,
    also_right=(_penalised_looped, _penalised_numpy),
    checks=(
        check(
            "values",
            "any policy",
            policies_and_rewards(0.3, 1.5, 0.1),
            rtol=1e-9,
            hint="At p = ref the penalty is 0 and the mean reward is left.",
        ),
        check(
            "optimum",
            "the optimal policy",
            policies_and_rewards(0.3, 0.8, optimal=True),
            rtol=1e-9,
            hint="There it is beta log(sum ref e^(r/beta)).",
        ),
    ),
    mistakes=(
        Mistake(
            "the other KL",
            "this is KL(ref || p): the penalty averages over the policy's own answers, KL(p || ref).",
            _penalised_but(penalty=lambda p, ref: _kl(ref, p)),
        ),
        Mistake("beta forgotten", "beta does nothing here.", _penalised_but(weigh=lambda j, kl, beta: j - kl)),
        Mistake(
            "divided by beta",
            "the penalty is divided by beta: a larger beta must hold p closer to ref.",
            _penalised_but(weigh=lambda j, kl, beta: j - kl / beta),
        ),
        Mistake(
            "the penalty added",
            "the penalty is added: this pays for running away from ref.",
            _penalised_but(weigh=lambda j, kl, beta: j + beta * kl),
        ),
        Mistake(
            "beta on the reward",
            "beta multiplies the reward; it multiplies the penalty.",
            _penalised_but(weigh=lambda j, kl, beta: beta * j - kl),
        ),
        Mistake(
            "a loss",
            "the sign of all of it is turned round: this is a loss, to be made small.",
            _penalised_but(weigh=lambda j, kl, beta: beta * kl - j),
        ),
        Mistake(
            "log ratios not weighted",
            "the log ratios are added without the weights p: a KL is a mean.",
            _penalised_but(penalty=lambda p, ref: (p - ref).sum()),
        ),
        Mistake(
            "log ratios averaged evenly",
            "the log ratios are averaged with equal weights; a KL weighs them by p.",
            _penalised_but(penalty=lambda p, ref: (p - ref).mean()),
        ),
        Mistake(
            "rewards averaged evenly",
            "the rewards are averaged with equal weights; the policy draws answer i with p_i.",
            _penalised_but(reward=lambda p, ref, r: r.mean()),
        ),
        Mistake(
            "rewards of ref",
            "the rewards are averaged under ref; it is the policy that answers.",
            _penalised_but(reward=lambda p, ref, r: (ref.exp() * r).sum()),
        ),
        Mistake(
            "logarithms for probabilities",
            "log p weighs the rewards; take .exp() first.",
            _penalised_but(reward=lambda p, ref, r: (p * r).sum()),
        ),
        Mistake(
            "entropy for KL",
            "this is an entropy bonus: ref is not in it.",
            _penalised_but(penalty=lambda p, ref: (p.exp() * p).sum()),
        ),
        Mistake(
            "penalty in bits",
            "the KL is in bits; natural logarithms are given.",
            _penalised_but(penalty=lambda p, ref: _kl(p, ref) / math.log(2)),
        ),
        Mistake(
            "no penalty",
            "the penalty is missing: this is the expected reward.",
            _penalised_but(weigh=lambda j, kl, beta: j),
        ),
    ),
)

# 2. Leave one out.


def _against_the_others(rewards):
    """Each reward minus the mean of the other rewards of its group.

    rewards: [prompts, group].  Returns [prompts, group].
    """
    group = rewards.shape[-1]
    others = (rewards.sum(-1, keepdim=True) - rewards) / (group - 1)
    return rewards - others


def _against_stretched(rewards: Tensor) -> Tensor:
    group = rewards.shape[-1]
    return (rewards - rewards.mean(-1, keepdim=True)) * group / (group - 1)


def _against_looped(rewards: Tensor) -> Tensor:
    rows = []
    for row in rewards.tolist():
        rows.append([r - sum(row[:i] + row[i + 1 :]) / (len(row) - 1) for i, r in enumerate(row)])
    return torch.tensor(rows, dtype=torch.float64)


def groups(*sizes: int, right: int = 0) -> Any:
    """Cases (rewards): graded, or with `right` ones among zeros in the first row and one more in the second."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for size in sizes:
            rewards = torch.randn(3, size, generator=generator, dtype=torch.float64)
            if right:
                order = rewards.argsort(-1)
                rewards = (order < torch.tensor([[right], [right + 1], [right + 2]])).double()
            given.append((rewards,))
        return given

    return cases


def _against_but(baseline: Any) -> Any:
    return lambda rewards: rewards - baseline(rewards)


def _of_others(rewards: Tensor, reduce: Any) -> Tensor:
    """A statistic of the others, for each completion."""
    group = rewards.shape[-1]
    keep = ~torch.eye(group, dtype=torch.bool)
    return torch.stack([reduce(rewards[:, keep[i]]) for i in range(group)], -1)


against_the_others = WriteIt(
    name="against_the_others",
    title="A baseline that has not seen the completion",
    minutes=6,
    difficulty=1,
    text=r"""
The group's own mean contains the completion itself, which costs REINFORCE a factor $(P-1)/P$. Write
`against_the_others(rewards)`: each reward minus the mean of the *other* rewards of its group (leave-one-out, as in
RLOO). A group is a row.
""",
    hint=r"""
The sum of the others is the sum of all minus one's own, and there are $P - 1$ of them. `keepdim=True` keeps the rows apart.
""",
    after="It is the group's mean baseline stretched by P/(P - 1): the direction was right before, and now the length is.",
    solution=_against_the_others,
    also_right=(_against_stretched, _against_looped),
    checks=(
        check(
            "graded",
            "graded rewards",
            groups(4, 6),
            rtol=1e-9,
            floor=1e-12,
            hint="In a group of rewards 1, 0, 0: the first gets 1, the others -1/2.",
        ),
        check(
            "binary",
            "rewards of 0 and 1",
            groups(6, 8, right=1),
            rtol=1e-9,
            floor=1e-12,
            hint="One right among six: it gets 1, each other -1/5.",
        ),
    ),
    mistakes=(
        Mistake(
            "the group's mean",
            "the baseline is the mean of the whole group: the completion itself is in it.",
            _against_but(lambda r: r.mean(-1, keepdim=True)),
        ),
        Mistake(
            "divided by P",
            "the sum of the others is divided by P; they are P - 1.",
            _against_but(lambda r: (r.sum(-1, keepdim=True) - r) / r.shape[-1]),
        ),
        Mistake(
            "the sum of the others",
            "the sum of the others is subtracted, not their mean.",
            _against_but(lambda r: r.sum(-1, keepdim=True) - r),
        ),
        Mistake(
            "own reward not left out",
            "the sum of all is divided by P - 1: one's own reward is still in it.",
            _against_but(lambda r: r.sum(-1, keepdim=True) / (r.shape[-1] - 1)),
        ),
        Mistake(
            "the baseline alone",
            "this is the mean of the others: subtract it from the reward.",
            lambda r: (r.sum(-1, keepdim=True) - r) / (r.shape[-1] - 1),
        ),
        Mistake(
            "sign",
            "the sign is turned round: who is better than the others has a positive advantage.",
            lambda r: -_against_the_others(r),
        ),
        Mistake(
            "shrunk for stretched",
            "this shrinks by (P - 1)/P; leaving oneself out stretches by P/(P - 1).",
            lambda r: (r - r.mean(-1, keepdim=True)) * (r.shape[-1] - 1) / r.shape[-1],
        ),
        Mistake(
            "others of the batch",
            "the others are those of the whole batch; a completion competes with its own group.",
            _against_but(lambda r: (r.sum() - r) / (r.numel() - 1)),
        ),
        Mistake(
            "over the prompts",
            "this leaves out one *prompt*; a group is a row, the last dimension.",
            _against_but(lambda r: (r.sum(0, keepdim=True) - r) / (len(r) - 1)),
        ),
        Mistake(
            "the best of the others",
            "the baseline is the best of the others; it is their mean.",
            _against_but(lambda r: _of_others(r, lambda o: o.amax(-1))),
        ),
        Mistake(
            "the neighbour",
            "the baseline is the next completion alone; it is the mean of all others.",
            _against_but(lambda r: r.roll(-1, -1)),
        ),
        Mistake(
            "divided by the standard deviation",
            "this also divides by the group's standard deviation, which was not asked for.",
            lambda r: _against_the_others(r) / (r.std(-1, keepdim=True) + 1e-4),
        ),
        Mistake("no baseline", "nothing is subtracted.", lambda r: r.clone()),
        Mistake("ranks", "these are ranks, not differences of rewards.", lambda r: r.argsort(-1).argsort(-1).double()),
    ),
)

exercises = (penalised, against_the_others)
