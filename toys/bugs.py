"""The silent-bug lab: runs that finish without an error and learn the wrong thing, one planted fault each.

Nothing here is a second implementation of the method: a fault calls the core with something wrong.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from apo_edu import GroupBatch, GuardedAlpha, alpha_divergence, objectives
from apo_edu.objectives import group_distributions

from .bandits import Bandit, History, Loop, equal_arms, run
from .worked_example import BETA_R, TAU_ANC, group_batch


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


class DeafAverage(GuardedAlpha):
    """The guard with a moving average of the reward that stays at its first value, so that any reward above it is a gain."""

    def update(self, signals: Any) -> Any:
        """The guard's own update, after which the average is put back."""
        first = self.reward_ema
        alpha = super().update(signals)
        self.reward_ema = self.reward_ema if first is None else first
        return alpha


@dataclass(frozen=True)
class Bug:
    """One fault: what it does to the loop, what was planted, and what gives it away in the plots.

    symptom: what its run shows, said to whoever named it.
    would: what it would show, said to whoever named it of another run.
    shows: whether a run shows it, given the healthy run; on medians over the seeds.
    """

    plant: Callable[[Loop], Loop]
    what: str
    symptom: str
    would: str = ""
    shows: Callable[[History, History], bool] = lambda history, healthy: False


def _median(history: History, series: str, step: int) -> float:
    return float(getattr(history, series)[step].median())


def _norm_at(history: History, reward: float) -> float:
    """Mean gradient norm over five steps around the one at which the mean expected reward first is `reward`; else 0."""
    reached = (history.expected_reward.mean(-1) >= reward).nonzero()
    at = int(reached[0]) if len(reached) else 0
    return float(history.grad_norm[max(0, at - 2) : at + 3].mean()) if len(reached) else 0.0


BUGS = {
    "healthy": Bug(lambda loop: loop, "nothing: this one is right", "Reward rises, alpha dips while it rises and comes back."),
    "swapped": Bug(
        lambda loop: replace(loop, objective=swapped),
        "q and p are swapped in the divergence",
        "It learns as 1 - alpha would: where both runs have reward 0.75, both show alpha 0.9 and an effective sample size near "
        "6, and its gradient is more than half as long again as the healthy one's.",
        "At the same reward, alpha and effective sample size its gradient would be more than half as long again as the healthy "
        "run's.",
        lambda history, healthy: (
            _norm_at(history, 0.75) > 1.3 * _norm_at(healthy, 0.75) and _median(history, "kl_anchor", 0) < 0.01
        ),
    ),
    "sign": Bug(
        lambda loop: replace(loop, objective=sign_error),
        "the advantages have the wrong sign",
        "Reward falls below that of the uniform policy, 0.25, from the first steps on, while the entropy hardly moves.",
        "It would drive the reward *below* 0.25, where the uniform policy starts.",
        lambda history, healthy: _median(history, "expected_reward", -1) < 0.25,
    ),
    "inverted_tau": Bug(
        lambda loop: replace(loop, objective=inverted_tau),
        "tau_anc multiplies instead of dividing",
        "The gradient is shorter by tau_anc squared, 0.16, from the first step on, and KL(pi || anchor) stays tiny: "
        "learning crawls.",
        "Its gradient would be a sixth as long as the healthy run's at the first step, where both have the same policy "
        "and samples.",
        lambda history, healthy: _median(history, "grad_norm", 0) < 0.25 * _median(healthy, "grad_norm", 0),
    ),
    "stale_anchor": Bug(
        lambda loop: replace(loop, anchor="fixed"),
        "the anchor is never refreshed",
        "Reward rises, then stalls; KL to the anchor grows and stays: the policy is held to where it began.",
        "KL to the anchor would grow over the run and stay; on policy it is the length of one step.",
        lambda history, healthy: _median(history, "kl_anchor", -1) > 0.1,
    ),
    "frozen_alpha": Bug(
        lambda loop: replace(loop, confidence_from="anchored"),
        "the schedule reads the anchored policy's entropy, which is uniform on policy",
        "Confidence is exactly 0 and alpha never leaves alpha_max, though the arms' entropy falls.",
        "Confidence would be exactly 0 in every step, whatever the entropy does.",
        lambda history, healthy: float(history.confidence.max()) < 1e-9,
    ),
    "too_fast": Bug(
        lambda loop: replace(loop, lr=10 * loop.lr),
        "the learning rate is ten times too large",
        "Entropy is gone within twenty steps, and with it three of the four good arms.",
        "The entropy would be gone within twenty steps.",
        lambda history, healthy: _median(history, "entropy", 20) < 0.1,
    ),
    "deaf_average": Bug(
        lambda loop: replace(loop, schedule=lambda: DeafAverage(noise_guard=2.0)),
        "the schedule's moving average of the reward is never updated",
        "The improvement gate opens and never closes; alpha sinks to alpha_min and stays.",
        "The improvement gate would open and never close, and alpha sink towards 0.35 and stay there.",
        lambda history, healthy: _median(history, "alpha", -1) < 0.6,
    ),
    "many_updates": Bug(
        lambda loop: replace(loop, updates=8),
        "each batch of samples is used for eight updates",
        "KL to the anchor is some sixteen times the healthy run's in the first step: eight steps were taken in one.",
        "KL to the anchor would be some sixteen times the healthy run's in the very first step.",
        lambda history, healthy: 10 < _median(history, "kl_anchor", 0) / _median(healthy, "kl_anchor", 0) < 50,
    ),
}  # fmt: skip
LAB = ("swapped", "sign", "inverted_tau", "stale_anchor", "frozen_alpha")
SUSPECTS = (
    *LAB,
    "too_fast",
    "deaf_average",
    "many_updates",
)  # three of them are in no run: nothing is free by elimination


def explained(fault: str) -> dict[str, str]:
    """The choices for a run with this fault: {what each suspect is: why it is so, or what it would show that is not there}."""
    return {
        BUGS[name].what: f"Yes. {BUGS[name].symptom}" if name == fault else f"No. {BUGS[name].would} It is not so here."
        for name in SUSPECTS
    }


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
    key = planted(shuffle)
    return {letter: run(bandit, BUGS[name].plant(loop), seeds=seeds) for letter, name in key.items()}, key


def planted(shuffle: int = 3) -> dict[str, str]:
    """Which letter has which fault: {"A": name in BUGS, ...}."""
    order = torch.randperm(len(LAB), generator=torch.Generator().manual_seed(shuffle)).tolist()
    return {letter: LAB[index] for letter, index in zip("ABCDE", order, strict=True)}


def healthy(*, seeds: int = 20) -> History:
    """The same loop without a fault, to compare with."""
    bandit, loop = problem()
    return run(bandit, loop, seeds=seeds)


def in_words(history: History, other: History, panels: Sequence[str]) -> str:
    """The medians of each panel at the first step, at step 20 and at the last, with those of another run in brackets."""

    def told(series: str) -> str:
        steps = [f"{_median(history, series, at):.3g} ({_median(other, series, at):.3g})" for at in (0, 20, -1)]
        return f"{series.replace('_', ' ')} {', '.join(steps)}"

    return "At steps 0, 20 and the last, the healthy run in brackets: " + "; ".join(map(told, panels)) + "."


def reveal(key: dict[str, str]) -> str:
    """What was planted in each run and what gives it away, one line a run."""
    return "\n".join(f"{letter}: {BUGS[name].what}. {BUGS[name].symptom}" for letter, name in sorted(key.items()))


def worked_example_pushes(alphas: Sequence[float] = (1.0, 0.5)) -> dict[str, list[float]]:
    """The lab's faults of the objective and of the anchor on the worked example: {which: three pushes for each alpha}.

    At the first update; for a stale anchor at the next batch's first, where the policy has moved half way to q in its logits
    and a renewed anchor would have moved with it.
    """
    faults: dict[str, tuple[Any, tuple[float, float, float]]] = {
        "healthy": (objectives.apo, (0.0, 0.0, 0.0)),
        "q and p swapped": (swapped, (0.0, 0.0, 0.0)),
        "wrong sign": (sign_error, (0.0, 0.0, 0.0)),
        "tau_anc multiplies": (inverted_tau, (0.0, 0.0, 0.0)),
        "stale anchor, second batch": (objectives.apo, (TAU_ANC * math.log(2), 0.0, -TAU_ANC * math.log(2))),
    }
    found = {}
    for name, (objective, moved) in faults.items():
        pushes: list[float] = []
        for alpha in alphas:
            options: dict[str, Any] = {"alpha": alpha, "tau_anc": TAU_ANC, "beta_r": BETA_R}
            coef, _, _ = objectives.coefficients(objective, group_batch(moved), **options)
            pushes += (-coef[0, :, 0]).tolist()
        found[name] = pushes
    return found
