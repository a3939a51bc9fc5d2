"""Pushes and inner loops, taken from the library's objectives; the resting point alone is a formula of its own."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from apo_edu import GroupBatch, group_advantages, objectives

from .. import worked_example as example
from ..bandits import History, Loop, graded, run


@dataclass(frozen=True)
class Style:
    """One way to update several times on the same samples: an objective, its options, and how it treats the ratio."""

    objective: objectives.Objective
    off_policy: str = "none"
    options: dict[str, Any] = field(default_factory=dict)


# What the lesson compares. An epsilon of 0.999 and more clips nothing here: that is GRPO without its clip.
STYLES = {
    "APO": Style(objectives.apo),
    "APO, ratio": Style(objectives.apo, "ratio"),
    "APO, clip": Style(objectives.apo, "clip"),
    "GRPO": Style(objectives.grpo),
    "GRPO without its clip": Style(objectives.grpo, options={"epsilon": 1e6}),
}
REWARDS = (1.0, 0.5, 0.0)  # the lesson's group; completion 0 is the best
TAU_ANC, BETA_R = 0.5, 0.3  # the trainer's defaults


def push(
    style: Style, ratio: Tensor, *, which: int = 0, rewards: tuple[float, ...] = REWARDS, alpha: float = 0.6
) -> Tensor:
    """The push on one completion's log-probability, against its ratio pi/pi_old, as a multiple of its push at ratio 1.

    The other completions stay where they were sampled. The push is minus the coefficient of `objectives.coefficients`; a
    positive multiple goes the way the first update went, a negative one goes back.

    Args:
        ratio: [n] values > 0 of pi/pi_old of completion `which`.
        which: the completion; its advantage must not be 0.
        alpha: order, for apo.

    Returns:
        [n]; 1 at ratio 1.

    Raises:
        ValueError: if a ratio is not positive.
    """
    batch = _one_moves(torch.cat([torch.ones(1, dtype=torch.float64), ratio.double()]), which, rewards)
    known = objectives.record_of(style.objective).bind({"tau_anc": TAU_ANC, "beta_r": BETA_R})
    keywords = {"alpha": alpha} | known | style.options
    coef, _, _ = objectives.coefficients(style.objective, batch, off_policy=style.off_policy, **keywords)
    return coef[1:, which, 0] / coef[0, which, 0]


def surrogate(ratio: Tensor, *, which: int, rewards: tuple[float, ...] = REWARDS, epsilon: float = 0.2) -> Tensor:
    """min(rho A, clip(rho) A) of one completion in GRPO's loss, in units of `|A|`, less its value at ratio 1; [n]."""
    points = torch.cat([torch.ones(1, dtype=torch.float64), ratio.double()])
    batch = _one_moves(points, which, rewards)
    one = [GroupBatch.bandit(batch.logps[i : i + 1, :, 0], batch.rewards[i : i + 1], old_logps=batch.old_logps[i : i + 1, :, 0])
           for i in range(len(points))]  # fmt: skip
    losses = torch.stack([objectives.grpo(row, epsilon=epsilon)[0] for row in one])
    advantage = group_advantages(batch.rewards[:1], scale="group")[0, which]
    return (losses[0] - losses[1:]) * len(rewards) / advantage.abs()


def _one_moves(ratio: Tensor, which: int, rewards: tuple[float, ...]) -> GroupBatch:
    """A group for each ratio, in which one completion has it and the others are where they were sampled."""
    if not bool((ratio > 0).all()):
        raise ValueError(f"ratio has {ratio.min():g}; expected pi/pi_old > 0.")
    old = torch.full((len(ratio), len(rewards)), -2.0, dtype=torch.float64)
    logps = old.clone()
    logps[:, which] += ratio.log()
    return GroupBatch.bandit(logps, torch.tensor([rewards], dtype=torch.float64).expand_as(old), old_logps=old)


def rest_log_ratio(rewards: Tensor, tau_anc: float, beta_r: float) -> Tensor:
    """Where APO comes to rest on a group: log pi/pi_old = tau_anc A / beta_r, up to one number for the whole group.

    Source: D_alpha(q || p) is 0 where p = softmax(u) is q = softmax(A / beta_r), so u = A / beta_r (derived here).
    Given with mean 0 over the last dimension; rewards [..., group] in, the same shape out, in nats.
    """
    return tau_anc * group_advantages(rewards, scale="none") / beta_r


def inner_loops(
    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
    *,
    seeds: int = 50,
    alpha: float = 0.6,
    noise: float = 0.0,
) -> dict[str, dict[int, History]]:
    """One batch of samples, updated `counts` times by each style, on sixteen arms of graded reward.

    The learning rates make the first update equally long for all: APO's is 0.05, the others' follow from the norms of their
    first gradients, seed by seed. `noise` is the standard deviation of Gaussian noise on each reward.

    Returns:
        {style: {updates: History of one step}}; `kl_anchor` is KL(pi || pi_old) after the updates, nats.
    """
    bandit, names = graded(16, noise=noise), range(seeds)
    base = Loop(num_steps=1, alpha=alpha, tau_anc=TAU_ANC, beta_r=BETA_R, lr=0.05, group=8)

    def loop(style: Style, updates: int, lr: Tensor | float) -> Loop:
        return replace(
            base, objective=style.objective, options=style.options, off_policy=style.off_policy, updates=updates, lr=lr
        )

    first = {name: run(bandit, loop(style, 1, 0.05), seeds=names, snapshots=2) for name, style in STYLES.items()}
    length = first["APO"].grad_norm[0]
    rates = {name: 0.05 * length / history.grad_norm[0] for name, history in first.items()}
    return {
        name: {count: run(bandit, loop(style, count, rates[name]), seeds=names, snapshots=2) for count in counts}
        for name, style in STYLES.items()
    }


def worked_example_pushes(*, alpha: float = 0.5, lr: float = 0.3) -> tuple[list[float], dict[str, list[float]]]:
    """The worked example after one update of APO, `lr` times its push: what each style does on the same samples next.

    Returns:
        (three ratios pi/pi_old, {style: three pushes at the first update, then three at the second}).
    """
    moved = -lr * example.worked_example(alpha).coefficients
    found = {}
    for name, style in STYLES.items():
        known = objectives.record_of(style.objective).bind({"tau_anc": example.TAU_ANC, "beta_r": example.BETA_R})
        pushes: list[float] = []
        for place in (torch.zeros(3, dtype=torch.float64), moved):
            coef, _, _ = objectives.coefficients(
                style.objective,
                example.group_batch(place),
                off_policy=style.off_policy,
                **{"alpha": alpha} | known | style.options,
            )
            pushes += (-coef[0, :, 0]).tolist()
        found[name] = pushes
    return moved.exp().tolist(), found
