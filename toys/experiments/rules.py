"""Rules for alpha that only the experiments use: controls, a smoother gate, and a cap by the reward's variance "
"(ours)."""

from typing import Any

import torch
from torch import Tensor

from apo_edu import GuardedAlpha
from apo_edu.schedules import Schedule, Signals

from ..bandits import ArmSignals


class Yoked(Schedule):
    """Replays alphas recorded from other runs: the same numbers at the same steps, cut off from what happens here.

    alphas: [steps, runs], e.g. `history.alpha.roll(1, dims=1)`, so that every run gets the trace of another seed.
    """

    def __init__(self, alphas: Tensor) -> None:
        self.alphas, self.step = alphas, 0
        self.alpha: Any = alphas[0]

    def update(self, signals: Signals) -> Tensor:
        """Return the recorded alpha of this step and move on."""
        self.alpha = self.alphas[self.step]
        self.step += 1
        return self.alpha

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


class TrendGuard(GuardedAlpha):
    """The guard with its gain read from a fast minus a slow moving average, instead of from one step's reward.

        p_t = tanh(max(0, fast_t - slow_t) / gain_scale),   decays rho_fast and rho

    A single lucky step moves the fast average by (1 - rho_fast) only.
    """

    def __init__(self, *, rho_fast: float = 0.7, **guard: Any) -> None:
        super().__init__(**guard)
        if not 0 <= rho_fast < self.rho:
            raise ValueError(
                f"rho_fast is {rho_fast}; expected 0 <= rho_fast < rho = {self.rho}: it is the faster one."
            )
        self.rho_fast = rho_fast
        self.fast: Any = None

    def update(self, signals: Signals) -> Any:
        """The guard's own update, shown the fast average as the reward."""
        reward = torch.as_tensor(signals.reward, dtype=torch.float64)
        self.fast = reward if self.fast is None else self.rho_fast * self.fast + (1 - self.rho_fast) * reward
        # The guard moves its slow average by what it is shown; it must move by the reward itself.
        slow = reward if self.reward_ema is None else self.reward_ema
        shown = Signals(reward=self.fast, reward_se=signals.reward_se, confidence=signals.confidence)
        alpha = super().update(shown)
        self.reward_ema = self.rho * slow + (1 - self.rho) * reward
        return alpha


class VarianceCap(Schedule):
    """alpha_t = min(alpha_max, 2 beta_r delta / sigma^2): no more risk than a gain of delta is worth. Ours.

    Above 2 beta_r gap / (difference of variances), APO prefers an arm of the larger variance (DESIGN fact 6). sigma^2 is the
    largest variance of the reward within one answer, read off answers that were drawn more than once in a group: the
    unbiased variance of each, the largest over the group, averaged over steps with `decay`. It looks at no true value.

    beta_r: the loop's.  delta: gap in reward that should still decide, in the unit of the reward.
    """

    def __init__(
        self, alpha_max: float = 0.9, *, beta_r: float = 0.3, delta: float = 0.05, decay: float = 0.97
    ) -> None:
        self.alpha_max, self.beta_r, self.delta, self.decay = alpha_max, beta_r, delta, decay
        self.alpha: Any = alpha_max
        self.variance: Any = None

    def update(self, signals: Signals) -> Any:
        """Read arms and rewards, [runs, contexts, group]; return the alpha of each run."""
        if not isinstance(signals, ArmSignals) or signals.arms is None or signals.rewards is None:
            raise ValueError("signals hold no arms and rewards; expected those of a bandit (`ArmSignals`).")
        same = (signals.arms[..., :, None] == signals.arms[..., None, :]).to(signals.rewards.dtype)
        count = same.sum(-1)
        mean = (same * signals.rewards[..., None, :]).sum(-1) / count
        squares = (same * (signals.rewards[..., None, :] - mean[..., None]) ** 2).sum(-1)
        seen = torch.where(count > 1, squares / (count - 1).clamp(min=1), -1.0).flatten(1).amax(-1)
        previous = seen.clamp(min=0.0) if self.variance is None else self.variance
        self.variance = torch.where(seen >= 0, self.decay * previous + (1 - self.decay) * seen, previous)
        self.alpha = (2 * self.beta_r * self.delta / self.variance.clamp(min=1e-12)).clamp(max=self.alpha_max)
        return self.alpha

    def state_dict(self) -> dict[str, Any]:
        return {"variance": self.variance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.variance = state["variance"]
