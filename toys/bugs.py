"""The silent-bug lab: runs that finish without an error and learn the wrong thing, one planted fault each.

Nothing here is a second implementation of the method: a fault calls the core with something wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from apo_edu import GroupBatch, GuardedAlpha, alpha_divergence, objectives
from apo_edu.objectives import group_distributions

from .bandits import Bandit, History, Loop, equal_arms, run


def swapped(batch: GroupBatch, *, alpha: float | Tensor, **options: Any) -> tuple[Tensor, objectives.Stats]:
    """q and p swapped: D_alpha(p || q), so that alpha does the opposite of what it says."""
    log_q, log_p = group_distributions(batch, **options)
    return alpha_divergence(log_p, log_q, alpha).mean(), {}


def sign_error(batch: GroupBatch, **options: Any) -> tuple[Tensor, objectives.Stats]:
    """Advantages with the wrong sign: the target prefers the worst arms."""
    return objectives.apo(replace(batch, rewards=-batch.rewards), **options)


def inverted_tau(batch: GroupBatch, *, tau_anc: float, **options: Any) -> tuple[Tensor, objectives.Stats]:
    """Multiplied by tau_anc where it should be divided: the gradient has the wrong scale."""
    return objectives.apo(batch, tau_anc=1.0 / tau_anc, **options)


@dataclass(frozen=True)
class Bug:
    """One fault: what it does to the loop, what was planted, and what gives it away in the plots."""

    plant: Callable[[Loop], Loop]
    what: str
    symptom: str


BUGS = {
    "healthy": Bug(lambda loop: loop, "nothing: this one is right", "Reward rises, alpha dips while it rises and comes back."),
    "swapped": Bug(
        lambda loop: replace(loop, objective=swapped),
        "q and p are swapped in the divergence",
        "It learns, but on the schedule of 1 - alpha: the effective sample size and the gradient do not fit the alpha shown.",
    ),
    "sign": Bug(
        lambda loop: replace(loop, objective=sign_error),
        "the advantages have the wrong sign",
        "Reward falls below that of the uniform policy while the entropy behaves.",
    ),
    "inverted_tau": Bug(
        lambda loop: replace(loop, objective=inverted_tau),
        "tau_anc multiplies instead of dividing",
        "Gradients are smaller by tau_anc squared and KL(pi || anchor) stays tiny: learning crawls.",
    ),
    "stale_anchor": Bug(
        lambda loop: replace(loop, anchor="fixed"),
        "the anchor is never refreshed",
        "Reward rises, then stalls; KL to the anchor grows and stays: the policy is held to where it began.",
    ),
    "frozen_alpha": Bug(
        lambda loop: replace(loop, confidence_from="anchored"),
        "the schedule reads the anchored policy's entropy, which is uniform on policy",
        "Confidence is exactly 0 and alpha never leaves alpha_max, though the arms' entropy falls.",
    ),
}  # fmt: skip
LAB = ("swapped", "sign", "inverted_tau", "stale_anchor", "frozen_alpha")


def problem() -> tuple[Bandit, Loop]:
    """The bandit and the loop of the lab: 16 arms, 4 good, noise 0.1, the guarded schedule."""
    return equal_arms(noise=0.1), Loop(
        schedule=lambda: GuardedAlpha(noise_guard=2.0), lr=0.2, tau_anc=0.4, num_steps=200
    )


def lab(*, seeds: int = 20, shuffle: int = 3) -> tuple[dict[str, History], dict[str, str]]:
    """Five faulty runs under letters, and the key to reveal afterwards.

    Returns:
        ({"A": History, ..., "E": History}, {"A": name in BUGS, ...}); `shuffle` decides which letter has which fault.
    """
    bandit, loop = problem()
    order = torch.randperm(len(LAB), generator=torch.Generator().manual_seed(shuffle)).tolist()
    key = {letter: LAB[index] for letter, index in zip("ABCDE", order, strict=True)}
    return {letter: run(bandit, BUGS[name].plant(loop), seeds=seeds) for letter, name in key.items()}, key


def healthy(*, seeds: int = 20) -> History:
    """The same loop without a fault, to compare with."""
    bandit, loop = problem()
    return run(bandit, loop, seeds=seeds)


def reveal(key: dict[str, str]) -> str:
    """What was planted in each run and what gives it away, one line a run."""
    return "\n".join(f"{letter}: {BUGS[name].what}. {BUGS[name].symptom}" for letter, name in sorted(key.items()))
