"""What the schedules do in a bandit: noise that opens the guard, confidence in the wrong arm, and ways to break it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from apo_edu import EssAlpha, FixedAlpha, GuardedAlpha, Signals

from .bandits import Bandit, History, Loop, equal_arms, run, run_all


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


def mean_gate(noise_guard: float, *, noise: float = 0.07, steps: int = 4000) -> float:
    """Mean improvement gate of the guard where nothing improves: the reward is noise of this standard deviation alone.

    noise_guard: the guard's margin, in standard errors.
    """
    rewards = noise * torch.randn(steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule, gates = GuardedAlpha(noise_guard=noise_guard), []
    for reward in rewards.tolist():
        schedule.update(Signals(reward, noise, 1.0))
        gates.append(float(schedule.improvement))
    return sum(gates) / steps


def confident_but_wrong(*, seeds: int = 20, num_steps: int = 300, head_start: float = 5.0) -> dict[str, History]:
    """A policy that starts sure of a mediocre arm: what fixed alphas and the schedules make of it. {label: History}

    Arm 15, of value 0.5, has `head_start` nats over the rest; arms 0-3 are worth 1. A good arm is drawn rarely, so a
    step has to be long when it is: whoever holds alpha near 0.9 leaves, the guard as well as a fixed 0.9.
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


def at_equal_steps(
    alphas: Sequence[float] = (-1.0, 0.0, 0.35, 0.9), *, seeds: int = 20, num_steps: int = 300, head_start: float = 5.0
) -> dict[tuple[float, bool], History]:
    """Fixed alphas from the start of `confident_but_wrong`: with their own steps (False), and with steps of alpha 0.9's length.

    Returns:
        {(alpha, rescaled): History}. Rescaled steps differ in direction only: what is left of a difference is not step length.
    """
    bandit, start = _wrong_start(head_start)
    own = Loop(closed_form=True, num_steps=num_steps, lr=0.1)
    rescaled = replace(own, reference_alpha=0.9, matched=True)
    loops = {(alpha, way): replace(rescaled if way else own, alpha=alpha) for alpha in alphas for way in (False, True)}
    return run_all(bandit, loops, seeds=seeds, initial_logits=start)


def _wrong_start(head_start: float) -> tuple[Bandit, Tensor]:
    """Arms 0 to 3 worth 1, arm 15 worth 0.5; logits that prefer arm 15 by `head_start` nats."""
    values = equal_arms().values.clone()
    values[0, -1] = 0.5
    start = torch.zeros_like(values)
    start[0, -1] = head_start
    return Bandit(values=values, noise=0.1), start


def stuck(history: History) -> float:
    """Share of the runs that end at the mediocre arm of `confident_but_wrong`: expected reward below 0.6."""
    return float((history.expected_reward[-1] < 0.6).double().mean())


def _from_a_wrong_start(
    schedules: dict[str, tuple[Callable[[], Any], str]], seeds: int, num_steps: int, head_start: float
) -> dict[str, History]:
    bandit, start = _wrong_start(head_start)
    return {
        label: run(
            bandit,
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
