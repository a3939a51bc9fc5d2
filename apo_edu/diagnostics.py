"""What to read off a run: entropies, effective sample size, and a monitor for the paper's failure signatures."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .validation import require_finite, require_group, require_log_probs


def normalized_entropy(log_p: Tensor) -> Tensor:
    """Entropy as a fraction of its maximum: H(p) / log n, in [0, 1].

    Args:
        log_p: [..., n] normalised log-probabilities, n >= 2.

    Returns:
        [...]: 1 for the uniform distribution, 0 for a point mass; differentiable.

    >>> normalized_entropy(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]]).log())
    tensor([1.0000, 0.1210])
    """
    (log_p,) = require_log_probs(log_p=log_p)
    return -(log_p.exp() * log_p).sum(-1) / math.log(log_p.shape[-1])


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Kish's effective sample size of n weighted samples: (sum w)^2 / sum w^2, in [1, n].

    Args:
        log_weights: [..., n] finite logarithms of the weights; any common factor cancels.

    Returns:
        [...]: n when all weights are equal, 1 when one sample carries everything.

    >>> effective_sample_size(torch.tensor([1.0, 1.0, 2.0]).log())
    tensor(2.6667)
    """
    require_group("log_weights", log_weights)
    require_finite("log_weights", log_weights, kind="log-weights")
    log_weights = log_weights.float() if log_weights.dtype in (torch.float16, torch.bfloat16) else log_weights
    return torch.exp(2.0 * log_weights.logsumexp(-1) - (2.0 * log_weights).logsumexp(-1))


@dataclass(frozen=True)
class Finding:
    """One failure signature, seen at one step: what happened, in plain words, and what to do about it.

    >>> print(Finding("extreme_ratios", 7, "Extreme ratios: 12 nats.", "Raise beta_r."))
    step 7: Extreme ratios: 12 nats. Raise beta_r.
    """

    signature: str
    step: int
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.message} {self.remedy}"


def _limit(default: Any, unit: str, why: str) -> Any:
    return field(default=default, metadata={"unit": unit, "why": why})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a number of a run stops being healthy: the one table that `FailureMonitor` and every tool quote.

    All of them are ours; each field's metadata holds its `unit` and `why` it is what it is. What depends on the scale of
    the reward (`solved`) has to be given for a reward that does not end at 1.

    >>> Limits(solved=9.0).solved  # a reward from 0 to 10
    9.0
    >>> Limits.__dataclass_fields__["spike"].metadata["unit"]
    'times the median'
    """

    window: int = _limit(20, "optimiser steps", "compared at a time; suits runs of a hundred steps or more")
    solved: float | None = _limit(
        0.9,
        "reward",
        "a mean above it leaves little to lose or gain; for rewards up to 1. None: never counts as solved",
    )
    gain: float = _limit(2.0, "standard errors", "a change of the mean reward beyond it is not noise, 19 times in 20")
    entropy_fall: float = _limit(2.0, "times", "token entropy that fell by this factor has to have bought some reward")
    entropy_high: float = _limit(0.8, "of the first steps' token entropy", "above it, exploration has hardly narrowed")
    at_rest: float = _limit(0.95, "of alpha_max", "an alpha above it has not left its upper end")
    spike: float = _limit(10.0, "times the median", "gradient norms of a healthy run stay within a factor of a few")
    ess: float = _limit(1.2, "completions", "below it one completion of each group carries the gradient")
    log_ratio: float = _limit(
        10.0, "nats", "|log q/p| beyond it: one of the two gives the completion less than 1/20,000"
    )
    truncated: float = _limit(0.2, "of the completions", "above it right answers may be lost to the length limit")
    with_signal: float = _limit(0.25, "of the groups", "below it most of the sampling teaches nothing")
    alpha_reach: float = _limit(0.05, "alpha", "a schedule that cannot move alpha further is a fixed alpha")
    truncated_most: float = _limit(0.8, "of the completions", "above it hardly any answer is given")
    boxed: float = _limit(0.5, "of the completions that ended", "below it rewards are about the form of an answer")
    thinking: float = _limit(0.05, "of the completions", "above it a model thinks that was told not to")
    clipped: float = _limit(0.2, "of the tokens", "above it the last updates of a batch teach little")
    clipped_steps: float = _limit(
        0.5, "of the optimiser steps", "above it max_grad_norm sets the length of the steps, not the objective"
    )
    kl_old: float = _limit(0.05, "nats per token", "above it a batch's samples are hardly the policy's any more")
    mismatch: float = _limit(1e-4, "nats per token", "beyond it float32 engines differ by more than rounding")
    mismatch_broken: float = _limit(1e-2, "nats per token", "beyond it a float32 engine samples from something else")
    mismatch_half: float = _limit(0.03, "nats per token", "beyond it bfloat16 engines differ by more than rounding")
    mismatch_half_broken: float = _limit(0.15, "nats per token", "beyond it any engine samples from something else")

    def __post_init__(self) -> None:
        if self.window < 4:
            raise ValueError(
                f"window is {self.window}; expected at least 4 steps. 20 suits runs of a hundred steps or more."
            )
        for name in ("entropy_fall", "spike", "ess"):
            if not getattr(self, name) > 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected > 1 ({_meaning(name)}), e.g. {_default(name)}."
                )
        positive = ("mismatch", "mismatch_broken", "mismatch_half", "mismatch_half_broken")
        for name in ("gain", "log_ratio", "kl_old", *positive):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected > 0 ({_meaning(name)}), e.g. {_default(name)}."
                )
        fractions = ("truncated", "truncated_most", "with_signal", "boxed", "thinking", "clipped", "clipped_steps")
        for name in ("entropy_high", "at_rest", *fractions):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected in (0, 1] ({_meaning(name)}), e.g. {_default(name)}."
                )


def _default(name: str) -> Any:
    return Limits.__dataclass_fields__[name].default


def _meaning(name: str) -> str:
    return str(Limits.__dataclass_fields__[name].metadata["unit"])


LIMITS = Limits()


class FailureMonitor:
    """Watches a stream of step metrics for the four failure signatures that arXiv 2512.22953 names.

    | signature              | what is seen                                                                              |
    | ---------------------- | ----------------------------------------------------------------------------------------- |
    | `entropy_collapse`     | token entropy halved, and the reward has not risen since it was twice as high             |
    | `stagnant_exploration` | reward flat over two windows and improvable, entropy high, alpha at its upper end         |
    | `gradient_instability` | a gradient norm far above the median, or weights carried by one completion (ESS)          |
    | `extreme_ratios`       | `|log q/p|` beyond what either distribution should give                                   |

    The signatures are the paper's; the limits are ours (`Limits`), and so are the remedies, which say what the bandit's
    experiments support. Each is reported once until it has cleared. A gain is measured over as long as the entropy took to
    fall, or over two windows, because within one window the noise of a healthy run hides its gain. Non-finite and missing
    metrics are not judged.

    Args:
        alpha_max: the schedule's upper end; None takes the largest alpha of the stream, once alpha has moved at all, so
            that a constant alpha is no finding.
        limits: where to draw the lines.
        changes: single limits by name, e.g. `FailureMonitor(solved=9.0)` for a reward from 0 to 10.

    Raises:
        ValueError: a limit out of its range.

    >>> monitor = FailureMonitor(spike=5.0)
    >>> found = [monitor.update({"step": t, "grad_norm": 1.0 if t < 15 else 8.0}) for t in range(16)]
    >>> found[-1][0].signature
    'gradient_instability'
    """

    def __init__(self, *, alpha_max: float | None = None, limits: Limits = LIMITS, **changes: Any) -> None:
        self.limits, self.alpha_max = replace(limits, **changes), alpha_max
        self.window = self.limits.window
        self.findings: list[Finding] = []
        self._history: deque[Mapping[str, float]] = deque(maxlen=self.window)
        # Of the whole run, for the steps that have both: mean rewards, and the token entropy smoothed over a quarter window.
        self._rewards: list[float] = []
        self._entropies: list[float] = []
        self._recent_entropy: deque[float] = deque(maxlen=max(2, self.window // 4))
        self._alphas_seen: tuple[float, float] | None = None  # the smallest and the largest
        self._active: set[str] = set()

    def update(self, metrics: Mapping[str, float]) -> list[Finding]:
        """Take one step's metrics (the keys of metrics.jsonl; absent ones are not judged); return what is new."""
        self._history.append(metrics)
        reward, entropy, alpha = (_number(metrics, key) for key in ("reward_mean", "token_entropy", "alpha"))
        if reward is not None and entropy is not None:
            self._recent_entropy.append(entropy)
            self._rewards.append(reward)
            self._entropies.append(statistics.fmean(self._recent_entropy))
        if alpha is not None:
            low, high = self._alphas_seen or (alpha, alpha)
            self._alphas_seen = min(low, alpha), max(high, alpha)
        new = []
        for signature, check in (
            ("entropy_collapse", self._entropy_collapse),
            ("stagnant_exploration", self._stagnant_exploration),
            ("gradient_instability", self._gradient_instability),
            ("extreme_ratios", self._extreme_ratios),
        ):
            seen = check()
            if seen is None:
                self._active.discard(signature)
            elif signature not in self._active:
                self._active.add(signature)
                new.append(Finding(signature, int(metrics.get("step", -1)), *seen))
        self.findings += new
        return new

    def _series(self, key: str) -> list[float]:
        return [value for m in self._history if (value := _number(m, key)) is not None]

    def _solved(self, rewards: list[float]) -> bool:
        return self.limits.solved is not None and statistics.fmean(rewards) > self.limits.solved

    def _full(self, *keys: str) -> bool:
        return all(len(self._series(key)) == self.window for key in keys)

    def _entropy_collapse(self) -> tuple[str, str] | None:
        if not self._full("token_entropy", "reward_mean"):
            return None
        half = self.window // 2
        now, recent = self._entropies[-1], self._rewards[-half:]
        # When was the entropy last twice what it is? The reward of then is what the exploration should have bought.
        high = self.limits.entropy_fall * now
        ago = next((s for s in range(len(self._entropies) - 1 - half, -1, -1) if self._entropies[s] > high), None)
        if ago is None:
            return None
        first = max(0, ago + 1 - half)
        gain, error = _gain(self._rewards[first : first + half], recent)
        # A solved task also has low entropy: below that there is still something that the collapse may have lost.
        if gain > self.limits.gain * error or self._solved(recent):
            return None
        return (
            f"Entropy collapse without reward gain: token entropy fell from {self._entropies[ago]:.3g} to {now:.3g} nats "
            f"while the reward moved by {gain:+.3g} (standard error {error:.2g}) over {len(self._rewards) - 1 - ago} "
            "steps.",
            "Take shorter steps: a lower lr, or fewer updates per batch of samples. The paper saw such collapse below alpha "
            "0.3; in our bandit it goes away at equal step length, so alpha_min helps by shortening the step. Under Adam "
            "only lr does.",
        )

    def _stagnant_exploration(self) -> tuple[str, str] | None:
        if not self._full("token_entropy", "reward_mean", "alpha") or len(self._rewards) < 2 * self.window:
            return None
        top = self.alpha_max
        if top is None and self._alphas_seen is not None and self._alphas_seen[0] < self._alphas_seen[1]:
            top = self._alphas_seen[1]
        alphas, rewards = self._series("alpha"), self._rewards[-self.window :]
        if top is None or min(alphas) < self.limits.at_rest * top:
            return None
        gain, error = _gain(self._rewards[-2 * self.window : -self.window], rewards)
        entropy = statistics.fmean(self._series("token_entropy"))
        high = (
            entropy
            >= self.limits.entropy_high * self._entropies[min(len(self._entropies), max(2, self.window // 4)) - 1]
        )
        # Saturated is not stagnant: a solved task has little left to improve.
        if gain > self.limits.gain * error or not high or self._solved(rewards):
            return None
        return (
            f"Stagnant reward with high entropy: alpha stayed at {min(alphas):.2f} or above (alpha_max {top:.2f}), the "
            f"reward moved by {gain:+.3g} (standard error {error:.2g}) between the last two windows of {self.window} "
            f"steps and the entropy is still {entropy:.3g} nats.",
            "Look at groups_with_signal first: where every reward in a group is equal, no alpha can help; then at lr. A flat "
            "reward holds the improvement gate p_t at 0, so a guarded run at rest is a run at alpha_max: to try another "
            "order, hold one (schedule=fixed) or lower alpha_max.",
        )

    def _gradient_instability(self) -> tuple[str, str] | None:
        norms = self._series("grad_norm")
        if len(norms) < max(4, self.window // 2):
            return None
        median = statistics.median(norms[:-1])
        ess = self._series("ess")
        if median > 0 and norms[-1] > self.limits.spike * median:
            return (
                f"Gradient instability: the gradient norm is {norms[-1]:.3g}, {norms[-1] / median:.0f} times its median "
                f"over {len(norms)} steps.",
                "Clip the gradient (max_grad_norm), lower lr, or raise beta_r, which makes the target softer. Orders near 0 "
                "have unbounded weights (log r), those above 0 are at least -1/alpha.",
            )
        if self._full("ess") and statistics.fmean(ess) < self.limits.ess:
            return (
                f"Gradient instability: the effective sample size of the weights is {statistics.fmean(ess):.2f} over "
                f"{self.window} steps: one completion carries each group's gradient.",
                "Raise beta_r or lower alpha (on policy only alpha / beta_r counts), or use schedule=ess, which holds the "
                "effective sample size.",
            )
        return None

    def _extreme_ratios(self) -> tuple[str, str] | None:
        ratios = self._series("log_ratio_max")
        if not ratios or ratios[-1] <= self.limits.log_ratio:
            return None
        return (
            f"Extreme ratios: |log q/p| reached {ratios[-1]:.3g} nats (limit {self.limits.log_ratio:g}): the policy gives "
            "almost no probability to a completion that the target wants, or the other way round.",
            "Raise beta_r: on a batch's first update it alone says how extreme q is. If only later updates are extreme, "
            "lower lr or take fewer updates per batch of samples.",
        )


def _number(metrics: Mapping[str, float], key: str) -> float | None:
    """The metric as a finite float; None where it is absent, null or not finite."""
    value = metrics.get(key)
    return None if value is None or not math.isfinite(value) else float(value)


def _gain(before: list[float], after: list[float]) -> tuple[float, float]:
    """Mean of `after` minus mean of `before`, and the standard error of that difference."""
    error = math.sqrt(statistics.variance(before) / len(before) + statistics.variance(after) / len(after))
    return statistics.fmean(after) - statistics.fmean(before), error
