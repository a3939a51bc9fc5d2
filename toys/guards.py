"""What the schedules do in a bandit: noise that opens the guard, confidence in the wrong arm, and ways to break it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from apo_edu import EssAlpha, FixedAlpha, GuardedAlpha

from .bandits import Bandit, History, Loop, equal_arms, run


@dataclass(frozen=True)
class NoiseStudy:
    """Guarded schedules under reward noise. snrs: [n] gap between good and bad arms over the noise's sd. alpha, gate, reward,
    good_arms: {label: [n, runs]}, means over the last third of the run, when nothing improves any more."""

    snrs: Tensor
    alpha: dict[str, Tensor]
    gate: dict[str, Tensor]
    reward: dict[str, Tensor]
    good_arms: dict[str, Tensor]


def guard_noise_study(
    snrs: Sequence[float] = (0.5, 1.0, 2.0, 4.0, 8.0),
    *,
    noise_guards: Sequence[float] = (0.0, 2.0),
    seeds: int = 20,
    loop: Loop | None = None,
) -> NoiseStudy:
    """How far does noise alone open the guard?  Naive (noise_guard 0, the paper's) against noise-aware, by SNR."""
    loop = loop or Loop(num_steps=200)
    results: dict[str, dict[str, list[Tensor]]] = {
        name: {} for name in ("alpha", "improvement", "expected_reward", "good_arms")
    }
    for guard in noise_guards:
        label = "naive" if guard == 0 else f"noise-aware ({guard:g} se)"
        for snr in snrs:
            history = run(
                equal_arms(noise=1.0 / snr),
                replace(loop, schedule=partial(GuardedAlpha, noise_guard=guard)),
                seeds=seeds,
                snapshots=2,
            )
            last = 2 * loop.num_steps // 3
            for name, table in results.items():
                table.setdefault(label, []).append(getattr(history, name)[last:].mean(0))
    stacked = {name: {label: torch.stack(rows) for label, rows in table.items()} for name, table in results.items()}
    return NoiseStudy(
        torch.as_tensor(snrs, dtype=torch.float64),
        stacked["alpha"], stacked["improvement"], stacked["expected_reward"], stacked["good_arms"],
    )  # fmt: skip


def confident_but_wrong(*, seeds: int = 20, num_steps: int = 300, head_start: float = 5.0) -> dict[str, History]:
    """A policy that starts sure of a mediocre arm: what fixed alphas and the schedules make of it. {label: History}

    Arm 15, of value 0.5, has `head_start` nats over the rest; arms 0-3 are worth 1. The guard stays near alpha_max, since
    nothing improves yet; a schedule that trusts confidence alone seeks modes around the wrong arm.
    """
    return _from_a_wrong_start(
        {
            "guarded": (lambda: GuardedAlpha(noise_guard=2.0), "tokens"),
            "confidence only": (ConfidenceOnly, "tokens"),
            "ESS": (EssAlpha, "tokens"),
            "fixed 0.35": (lambda: FixedAlpha(0.35), "tokens"),
            "fixed 0.9": (lambda: FixedAlpha(0.9), "tokens"),
        },
        seeds,
        num_steps,
        head_start,
    )


def break_the_guard(*, seeds: int = 20, num_steps: int = 300, head_start: float = 5.0) -> dict[str, History]:
    """The guard, and ways to break it, from the start of `confident_but_wrong`. {label: History}"""
    return _from_a_wrong_start(
        {
            "guarded": (lambda: GuardedAlpha(noise_guard=2.0), "tokens"),
            "no improvement gate": (ConfidenceOnly, "tokens"),
            "gain scale 0.001": (lambda: GuardedAlpha(gain_scale=1e-3), "tokens"),
            "no gate, alpha_min -1": (lambda: ConfidenceOnly(alpha_min=-1.0), "tokens"),
        },
        seeds,
        num_steps,
        head_start,
    )


def _from_a_wrong_start(
    schedules: dict[str, tuple[Callable[[], Any], str]], seeds: int, num_steps: int, head_start: float
) -> dict[str, History]:
    values = equal_arms().values.clone()
    values[0, -1] = 0.5
    start = torch.zeros_like(values)
    start[0, -1] = head_start
    return {
        label: run(
            Bandit(values=values, noise=0.1),
            Loop(schedule=make, confidence_from=source, num_steps=num_steps, lr=0.1),
            seeds=seeds,
            initial_logits=start,
        )
        for label, (make, source) in schedules.items()
    }


class ConfidenceOnly(GuardedAlpha):
    """The guard with its improvement gate taken out: p_t = 1 whatever the reward does. For the lesson on breaking it."""

    def update(self, signals: Any) -> Any:
        """alpha_t = alpha_max - (alpha_max - alpha_min) c_t: the guard's own rule, shown a gain it cannot miss."""
        self.reward_ema = None
        super().update(replace(signals, reward_se=0.0))
        self.reward_ema = torch.as_tensor(signals.reward) - 1e6 * self.gain_scale
        return super().update(replace(signals, reward_se=0.0))
