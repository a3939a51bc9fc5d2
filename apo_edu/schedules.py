"""Schedules of alpha: fixed, linear, the paper's reward-and-confidence guard, and effective sample size.

A schedule has `alpha`, `update(signals) -> alpha` (once per optimiser step), `traces`, `state_dict` and
`load_state_dict`. Signals may be numbers, or tensors [runs] for many independent runs at once; then alpha is a tensor
[runs] too. The `ScheduleRecord` above each class (`describe`) says what tools need to know about it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .diagnostics import effective_sample_size, normalized_entropy
from .divergences import tilted_log_weights
from .objectives import LEFT_OUT, GroupBatch, group_distributions, sequence_logps
from .records import Record, import_attribute, nearest, options_of
from .validation import require_choice, require_group

CONFIDENCE_SOURCES = ("tokens", "answers", "candidates", "anchored", "target")


@dataclass(frozen=True)
class Signals:
    """What a schedule may look at; equal on every process.

    reward: mean reward of the step.  reward_se: its standard error.  confidence: c_t in [0, 1].
    log_q, log_p: [prompts, group] target and anchored policy (only EssAlpha reads them), or [runs, prompts, group].

    >>> Signals(reward=0.4, reward_se=0.05, confidence=0.7).confidence
    0.7
    """

    reward: float | Tensor
    reward_se: float | Tensor = 0.0
    confidence: float | Tensor = 0.0
    log_q: Tensor | None = None
    log_p: Tensor | None = None


@torch.no_grad()
def group_signals(
    batch: GroupBatch,
    *,
    tau_anc: float | Tensor,
    beta_r: float | Tensor,
    logp_reduction: str = "mean",
    scale: str = "none",
    confidence_from: str = "tokens",
    token_entropy: float | Tensor | None = None,
    answers: Tensor | None = None,
    num_runs: int | None = None,
) -> Signals:
    """Read a schedule's signals off a batch: one function for the bandit and for the trainer.

    The paper's confidence is one minus the normalised entropy "of the candidate set". Which distribution that is decides
    what the schedule does, so it is named (the names and the default are ours; notebook 05 shows the effect). "tokens" is the
    default by experiment 8 (notebooks/results/confidence.csv, confidence_bandit.csv): of six readings it ranks problems best by
    their true success rates, on a language model at the start and at the end of training. It is near 1 there throughout, so
    that alpha follows the improvement alone; "answers" ranks less well and rises with the success rate.

    * "tokens": the policy's own choice at each token, averaged; pass it as `token_entropy`, normalised to [0, 1]. In a
      bandit this is the entropy of the arms.
    * "answers": how often the completions of a group end in the same answer, see `answer_entropy`; pass them as `answers`.
      In a bandit the answer is the arm.
    * "candidates": softmax of the sequence log-probabilities over the group, the policy restricted to its candidates.
      Where these lie within d nats of each other c_t is at most d^2 / (8 log group): 0.017 for half a nat and a group of
      6, so that with means over tokens alpha hardly leaves alpha_max.
    * "anchored": p_theta over the group. On policy this is uniform, so c_t = 0 and alpha never leaves alpha_max.
    * "target": q over the group: how decisive the rewards are, not how sure the policy is.

    The reward is that of all completions, left-out ones too: it is what the policy earns. Entropies are over the members
    that count. The standard error is taken over prompts, since completions of one prompt share its difficulty; with a
    single prompt, over its completions.

    Args:
        batch: the step's completions over all processes.
        tau_anc, beta_r, logp_reduction, scale: as for `apo`.
        confidence_from: one of the names above.
        token_entropy: mean normalised token entropy, a number or [runs]; only for "tokens".
        answers: [prompts, group] integers, equal where two completions give the same answer; only for "answers".
        num_runs: reads the prompts as [runs, prompts per run] and returns tensors [runs]; None is one run, in floats.

    >>> logps = torch.full((2, 4, 1), -1.0)
    >>> batch = GroupBatch(logps, logps, torch.ones(2, 4, 1), torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    >>> answers = torch.tensor([[1, 2, 2, 1], [5, 5, 5, 5]])
    >>> signals = group_signals(batch, tau_anc=0.5, beta_r=0.3, confidence_from="answers", answers=answers)
    >>> signals.reward, signals.confidence
    (0.25, 0.75)
    """
    require_choice("confidence_from", confidence_from, CONFIDENCE_SOURCES)
    runs = 1 if num_runs is None else num_runs
    prompts, group = batch.rewards.shape
    if prompts % runs:
        raise ValueError(
            f"num_runs is {runs} for {prompts} prompts; expected a divisor. Give every run as many prompts."
        )
    log_q, log_p = group_distributions(
        batch, tau_anc=tau_anc, beta_r=beta_r, logp_reduction=logp_reduction, scale=scale
    )
    if confidence_from == "tokens":
        if token_entropy is None:
            raise ValueError(
                "token_entropy is None; expected the normalised token entropy for confidence_from='tokens', the default. "
                "Pass it, or read another confidence_from."
            )
        entropy = torch.as_tensor(token_entropy, dtype=torch.float64).expand(runs)
    elif confidence_from == "answers":
        if answers is None:
            raise ValueError(
                "answers is None; expected [prompts, group] integers for confidence_from='answers', one for each distinct "
                "final answer (a bandit's arm). Pass them, or read another confidence_from."
            )
        entropy = answer_entropy(answers, valid=batch.valid).view(runs, -1).mean(-1)
    elif confidence_from == "anchored":
        entropy = _group_entropy(log_p, batch.valid).view(runs, -1).mean(-1)
    elif confidence_from == "target":
        entropy = _group_entropy(log_q, batch.valid).view(runs, -1).mean(-1)
    else:
        entropy = candidate_entropy(batch, logp_reduction=logp_reduction).view(runs, -1).mean(-1)

    rewards = batch.rewards.double() if batch.rewards.device.type != "mps" else batch.rewards.float()
    per_prompt = rewards.mean(-1).view(runs, -1)
    samples = per_prompt if per_prompt.shape[-1] > 1 else rewards.view(runs, -1)
    signals = Signals(
        reward=per_prompt.mean(-1),
        reward_se=samples.std(-1) / samples.shape[-1] ** 0.5,
        confidence=(1.0 - entropy.to(rewards.dtype)).clamp(0.0, 1.0),
        log_q=log_q.view(runs, -1, group),
        log_p=log_p.view(runs, -1, group),
    )
    if num_runs is not None:
        return signals
    assert isinstance(signals.reward, Tensor)
    assert isinstance(signals.reward_se, Tensor)
    assert isinstance(signals.confidence, Tensor)
    return Signals(signals.reward.item(), signals.reward_se.item(), signals.confidence.item(), log_q=log_q, log_p=log_p)


def candidate_entropy(batch: GroupBatch, *, logp_reduction: str = "mean") -> Tensor:
    """Normalised entropy of the policy restricted to its sampled candidates, softmax(l) over the group: [prompts].

    >>> logps = torch.tensor([[[-1.0], [-1.0]], [[0.0], [-1.1]]])
    >>> candidate_entropy(GroupBatch(logps, logps, torch.ones(2, 2, 1), torch.zeros(2, 2)))
    tensor([1.0000, 0.8109])
    """
    logps = sequence_logps(batch.logps.detach(), batch.mask, logp_reduction)
    if batch.valid is not None:
        logps = logps.masked_fill(~batch.valid.bool(), LEFT_OUT)
    return _group_entropy(torch.log_softmax(logps, dim=-1), batch.valid)


def answer_entropy(answers: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Normalised entropy of the answers that a group's completions end in: how far the policy is from always saying the same.

        H / log n,   H = -sum_a f_a log f_a,   f_a = fraction of the group's n completions with answer a

    The divisor is the logarithm of the group size, because how many answers are possible is not known: it is 1 only where
    every completion answers differently, and a question with two answers stays below log 2 / log n. H of a small group is
    biased low for the same reason.

    Args:
        answers: [..., group] integers, equal where two completions of a prompt give the same answer; only equality counts.
            Completions without an answer share one number of their own, e.g. -1, and so are one more answer.
        valid: [..., group] booleans; False leaves a completion out (and n is what is left).

    Returns:
        [...] in [0, 1], float64; 1, no confidence, where fewer than two completions count.

    Raises:
        ValueError: answers of a floating dtype, or a group of 1.

    >>> answer_entropy(torch.tensor([[7, 7, 7, 7], [0, 0, 1, 1], [0, 1, 2, -1]]))
    tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    require_group("answers", answers)
    if answers.is_floating_point():
        raise ValueError(
            f"answers has dtype {answers.dtype}; expected integers, one for each distinct answer. Number the answers, e.g. "
            "[seen.setdefault(text, len(seen)) for text in texts]."
        )
    dtype = torch.float64 if answers.device.type != "mps" else torch.float32
    keep = torch.ones_like(answers, dtype=dtype) if valid is None else valid.to(dtype)
    members = keep.sum(-1)
    same = ((answers[..., :, None] == answers[..., None, :]) * keep[..., None, :]).sum(-1)
    # A mean over completions of -log of their answer's fraction is the sum over answers of -f log f.
    surprise = (keep * (members[..., None] / same.clamp(min=1)).log()).sum(-1)
    entropy = surprise / (members * members.clamp(min=2).log()).clamp(min=1)
    return torch.where(members >= 2, entropy, torch.ones_like(entropy))


def _group_entropy(log_p: Tensor, valid: Tensor | None) -> Tensor:
    """Entropy over the log of the number of members that count; 1, no confidence, where fewer than two do."""
    fraction = normalized_entropy(log_p)
    if valid is None:
        return fraction
    members = valid.bool().sum(-1)
    rescaled = fraction * math.log(log_p.shape[-1]) / members.clamp(min=2).to(log_p.dtype).log()
    return torch.where(members >= 2, rescaled, torch.ones_like(rescaled))


class Schedule(Protocol):
    """What a trainer calls. Subclassing is optional and gives `traces` for nothing.

    alpha: the current order; before the first update, the one to start from.

    >>> class Halving(Schedule):
    ...     def __init__(self, alpha_max=0.9):
    ...         self.alpha = alpha_max
    ...     def update(self, signals):
    ...         self.alpha /= 2
    ...         return self.alpha
    ...     def state_dict(self):
    ...         return {"alpha": self.alpha}
    ...     def load_state_dict(self, state):
    ...         self.alpha = state["alpha"]
    >>> schedule = Halving()
    >>> schedule.update(Signals(reward=0.0)), schedule.traces()
    (0.45, {})
    """

    alpha: Any

    def update(self, signals: Signals) -> Any:
        """Take one optimiser step's signals, equal on every process; return the alpha of that step."""
        ...

    def traces(self) -> dict[str, Any]:
        """What the schedule wants logged after `update`: numbers (or tensors [runs]) by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, in plain numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; ValueError if it is another schedule's."""
        ...


# Which user-facing options decide a field of Signals.
ANCHORED_OPTIONS = ("tau_anc", "beta_r", "logp_reduction", "advantage_scale")
SIGNAL_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "reward": (), "reward_se": (), "confidence": ("confidence_from",), "log_q": ANCHORED_OPTIONS, "log_p": ANCHORED_OPTIONS,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScheduleRecord(Record):
    """What every tool needs to know about a schedule.

    factory: the class.
    signals: fields of `Signals` that it looks at.
    rests_at_max: whether alpha is alpha_max while nothing happens, so that staying there says something.
    moves: whether alpha can change during a run.
    rule: how alpha comes about, a format string over user-facing options, e.g. "alpha = {alpha:g}".
    note: a sentence for a figure of alpha, a format string over user-facing options and {last}, alpha's last value.

    >>> SCHEDULES["linear"].make({"alpha_max": 0.9, "alpha_min": 0.3, "steps": 100}).num_steps
    100
    >>> SCHEDULES["guarded"].reads("confidence_from"), SCHEDULES["ess"].reads("confidence_from")
    (True, False)
    """

    factory: Callable[..., Schedule]
    signals: tuple[str, ...] = tuple(SIGNAL_OPTIONS)
    rests_at_max: bool = False
    moves: bool = True
    rule: str = "alpha by its own rule"
    note: str = "Alpha by its schedule"

    @property
    def target(self) -> Callable[..., Schedule]:
        """The class."""
        return self.factory

    def reads(self, option: str) -> bool:
        """Whether a user-facing option changes what the schedule does, in its constructor or through its signals."""
        return super().reads(option) or any(option in SIGNAL_OPTIONS.get(name, ()) for name in self.signals)

    def make(self, values: Mapping[str, Any]) -> Schedule:
        """A new schedule from the values of user-facing options, e.g. `vars(config)`."""
        return self.factory(**self.bind(values))


AnyClass = TypeVar("AnyClass", bound=type)


def describe(**fields: Any) -> Callable[[AnyClass], AnyClass]:
    """Attach a record to a schedule's class, built in or your own; fields as in `ScheduleRecord`, all optional.

    >>> @describe(summary="never above 0.5", rests_at_max=False)
    ... class Low(FixedAlpha):
    ...     pass
    >>> record_of(Low).summary
    'never above 0.5'
    """

    def attach(cls: AnyClass) -> AnyClass:
        cls.record = dataclasses.replace(_derived_record(cls), **fields)  # type: ignore[attr-defined]
        return cls

    return attach


def record_of(cls: Callable[..., Schedule]) -> ScheduleRecord:
    """The record of a schedule's class: the one attached by `describe`, or one derived from its constructor.

    Derived: each argument of the constructor is an option (of the same name, but for `records.OPTION_OF`: num_steps is
    steps, target_fraction ess_fraction, alpha_start and alpha_end are alpha_max and alpha_min), and every signal counts as
    read. A subclass has its parent's record with its own constructor's options.

    >>> record_of(EssAlpha).options
    {'target_fraction': 'ess_fraction', 'alpha_max': 'alpha_max', 'alpha_min': 'alpha_min'}
    """
    if "record" in vars(cls):
        return cls.record  # type: ignore[attr-defined]
    derived, parent = _derived_record(cls), getattr(cls, "record", None)
    if not isinstance(parent, ScheduleRecord):
        return derived
    return dataclasses.replace(parent, name=derived.name, factory=cls, options=derived.options)


def _derived_record(cls: Callable[..., Schedule]) -> ScheduleRecord:
    missing = [name for name in ("update", "traces", "state_dict", "load_state_dict") if not hasattr(cls, name)]
    if missing:
        raise ValueError(
            f"{cls!r} has no {', '.join(missing)}; expected a schedule's class. See apo_edu.schedules.Schedule, which "
            "gives traces to its subclasses."
        )
    return ScheduleRecord(
        name=f"{cls.__module__}:{cls.__qualname__}", factory=cls, options=options_of(cls, positional=True)
    )


def find_schedule(schedule: "str | ScheduleRecord | Callable[..., Schedule]", *, strict: bool = True) -> ScheduleRecord:
    """The record of a schedule given by name, by import path "module:class", by its class, or as a record.

    Args:
        strict: False returns, for what cannot be found, a neutral record with `found` False: for tools that read somebody
            else's finished run.

    Raises:
        ValueError: an unknown name (with the known names and the nearest), or a path that cannot be imported.

    >>> find_schedule("fixed").factory(alpha=0.3).alpha
    0.3
    >>> find_schedule("gaurded")
    Traceback (most recent call last):
    ValueError: schedule is 'gaurded'; expected one of guarded, fixed, linear, ess, or module:class of your own. Did you mean
    'guarded'?
    """
    if isinstance(schedule, ScheduleRecord):
        return schedule
    if not isinstance(schedule, str):
        return record_of(schedule)
    if schedule in SCHEDULES:
        return SCHEDULES[schedule]
    try:
        if ":" not in schedule:
            raise ValueError(
                f"schedule is {schedule!r}; expected one of {', '.join(SCHEDULES)}, or module:class of your own."
                f"{nearest(schedule, SCHEDULES)}"
            )
        found = import_attribute("schedule", schedule)
        if not isinstance(found, type):
            raise ValueError(f"schedule is {schedule!r}, a {type(found).__name__}; expected a class.")
        return dataclasses.replace(record_of(found), name=schedule)
    except ValueError as error:
        if strict:
            raise
        message = str(error)

        def unavailable(*args: Any, **options: Any) -> Schedule:
            raise ValueError(message)

        return ScheduleRecord(name=schedule, factory=unavailable, found=False)


@describe(
    name="fixed",
    summary="alpha is held",
    signals=(),
    moves=False,
    rule="alpha = {alpha:g}",
    note="Alpha is held at {last}",
)
class FixedAlpha(Schedule):
    """alpha_t = alpha. The paper's fixed variant uses 0.6.

    >>> FixedAlpha(0.6).update(Signals(reward=0.0))
    0.6
    """

    def __init__(self, alpha: float = 0.6) -> None:
        _require_number("alpha", alpha)
        self.alpha: Any = float(alpha)

    def update(self, signals: Signals) -> Any:
        """Return alpha; the signals are not looked at."""
        return self.alpha

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": self.alpha}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _require_state(self, state)
        self.alpha = state["alpha"]


@describe(
    name="linear",
    summary="alpha goes in a straight line from alpha_max to alpha_min over the run",
    signals=(),
    rule="alpha from {alpha_max:g} to {alpha_min:g} over the run's optimiser steps, {steps}",
    note="Alpha goes in a straight line from {alpha_max} to {last}",
)
class LinearAlpha(Schedule):
    """alpha_t = alpha_start + (alpha_end - alpha_start) min(1, t / num_steps), t = 0, 1, ...; then alpha_end for good.

    Args:
        alpha_start, alpha_end: the ends, by default the paper's 0.9 and 0.35.
        num_steps: length in optimiser steps, >= 1.

    >>> schedule = LinearAlpha(0.9, 0.3, num_steps=3)
    >>> [round(schedule.update(Signals(reward=0.0)), 2) for _ in range(5)]
    [0.9, 0.7, 0.5, 0.3, 0.3]
    """

    def __init__(self, alpha_start: float = 0.9, alpha_end: float = 0.35, *, num_steps: int) -> None:
        _require_number("alpha_start", alpha_start)
        _require_number("alpha_end", alpha_end)
        if num_steps < 1:
            raise ValueError(
                f"num_steps is {num_steps}; expected at least 1, the number of optimiser steps to the end."
            )
        self.alpha_start, self.alpha_end, self.num_steps = float(alpha_start), float(alpha_end), int(num_steps)
        self.alpha: Any = self.alpha_start
        self.step = 0

    def update(self, signals: Signals) -> Any:
        """Return the alpha of this step and move on; the signals are not looked at."""
        fraction = min(1.0, self.step / self.num_steps)
        self.alpha = self.alpha_start + (self.alpha_end - self.alpha_start) * fraction
        self.step += 1
        return self.alpha

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _require_state(self, state)
        self.alpha, self.step = state["alpha"], state["step"]


@describe(
    name="guarded",
    summary="alpha is below alpha_max only while the policy is confident and improving (arXiv 2512.22953)",
    signals=("reward", "reward_se", "confidence"),
    rests_at_max=True,
    rule="alpha = {alpha_max:g} - ({alpha_max:g} - {alpha_min:g}) x confidence x improvement",
    note="Alpha is below alpha_max only while both gates are open",
)
class GuardedAlpha(Schedule):
    """The reward-and-confidence guard: seek modes only while the policy is confident AND improving.

        alpha_t = alpha_max - (alpha_max - alpha_min) c_t p_t
        p_t     = tanh(max(0, R_t - EMA_{t-1} - noise_guard se_t) / gain_scale)
        EMA_t   = rho EMA_{t-1} + (1 - rho) R_t,   EMA_0 = R_1, so that the first step shows no improvement

    Source: arXiv 2512.22953 for the product of gates, the EMA and the positive part; the tanh and the noise guard are
    ours. E[max(0, noise)] > 0, so with noise_guard = 0, the paper's gate, pure reward noise of 0.07 reads as a mean
    improvement of 0.23; with 2 standard errors, of less than 0.02 (tests/test_schedules.py).

    Where an exact reward stops rising p_t goes to 0: a guarded run at rest is a run at alpha_max. Noise keeps the gate ajar.

    Args:
        alpha_max, alpha_min: the range of alpha; alpha_min <= alpha_max. The paper: 0.9 and 0.35, with entropy collapse
            reported below 0.3. That is no rule: on our bandits a small alpha collapses more often than a large one only
            under a very noisy reward, and not when steps are made equally long (tests/test_claims.py), so a shorter step
            serves as well as a larger alpha_min.
        rho: decay of the reward's moving average, in [0, 1): how long a gain goes on counting. A reward that rises by g a
            step stays g / (1 - rho) above its average. On noise rho has little effect (the mean improvement
            above is 0.28 at rho 0 and 0.23 at 0.99); that is what noise_guard is for.
        gain_scale: the gain at which the gate is about 3/4 open, in the unit of the reward, > 0.
        noise_guard: standard errors of the mean reward that a gain must exceed to count, >= 0.

    `traces` gives the gates `improvement` (p_t) and `confidence` (c_t) of the last update, for the log.

    >>> schedule = GuardedAlpha()
    >>> [round(schedule.update(Signals(reward=r, confidence=0.8)), 3) for r in (0.2, 0.4, 0.4, 0.1)]
    [0.9, 0.476, 0.483, 0.9]
    """

    def __init__(
        self,
        alpha_max: float = 0.9,
        alpha_min: float = 0.35,
        rho: float = 0.9,
        gain_scale: float = 0.1,
        noise_guard: float = 0.0,
    ) -> None:
        _require_range(alpha_max, alpha_min)
        if not 0.0 <= rho < 1.0:
            raise ValueError(
                f"rho is {rho}; expected 0 <= rho < 1, the decay of the reward's moving average, e.g. 0.9."
            )
        _require_number("gain_scale", gain_scale)
        _require_number("noise_guard", noise_guard)
        if gain_scale <= 0:
            raise ValueError(f"gain_scale is {gain_scale}; expected > 0, in the unit of the reward, e.g. 0.1.")
        if noise_guard < 0:
            raise ValueError(f"noise_guard is {noise_guard}; expected >= 0 standard errors. 0 is the paper's gate.")
        self.alpha_max, self.alpha_min, self.rho = float(alpha_max), float(alpha_min), float(rho)
        self.gain_scale, self.noise_guard = float(gain_scale), float(noise_guard)
        self.alpha: Any = self.alpha_max
        self.improvement: Any = 0.0
        self.confidence: Any = 0.0
        self.reward_ema: Any = None  # None until the first update

    def update(self, signals: Signals) -> Any:
        """Take one step's signals; return the alpha of that step, a float or a tensor [runs]."""
        reward = _signal("reward", signals.reward)
        margin = self.noise_guard * _signal("reward_se", signals.reward_se)
        confidence = _signal("confidence", signals.confidence)
        if bool(((confidence < 0) | (confidence > 1)).any()):
            raise ValueError(f"confidence is {signals.confidence}; expected [0, 1]: 1 minus a normalised entropy.")
        last = reward if self.reward_ema is None else torch.as_tensor(self.reward_ema, dtype=torch.float64)
        improvement = torch.tanh((reward - last - margin).clamp(min=0.0) / self.gain_scale)
        alpha = self.alpha_max - (self.alpha_max - self.alpha_min) * confidence * improvement
        self.reward_ema = _plain(self.rho * last + (1.0 - self.rho) * reward)
        self.improvement, self.confidence, self.alpha = _plain(improvement), _plain(confidence), _plain(alpha)
        return self.alpha

    def traces(self) -> dict[str, Any]:
        """The two gates: `confidence` (c_t) and `improvement` (p_t)."""
        return {"confidence": self.confidence, "improvement": self.improvement}

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "reward_ema": self.reward_ema}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _require_state(self, state)
        self.alpha, self.reward_ema = state["alpha"], state["reward_ema"]


@describe(
    name="ess",
    summary="the largest alpha that keeps a fraction of the group effective",
    signals=("log_q", "log_p"),
    rests_at_max=True,
    rule="the alpha in [{alpha_min:g}, {alpha_max:g}] at which the effective sample size is {ess_fraction:g} of a group",
    note="Alpha is the largest order that keeps ess_fraction of the group effective",
)
class EssAlpha(Schedule):
    """The largest alpha in [alpha_min, alpha_max] at which the mean effective sample size is still `target_fraction` n.

        ESS(alpha) = (sum w)^2 / sum w^2,   w_i = q_i^alpha p_i^(1-alpha)

    On policy p is uniform, so ESS falls from n at alpha = 0 to that of q at alpha = 1, and the crossing is unique. Off
    policy it need not be monotone: the largest alpha that keeps the fraction is taken, and alpha_min where none does.
    Source: the ESS-based alternative of arXiv 2512.22953; the paper gives no rule, this one is ours. It looks at no
    reward trend, so it cannot tell improvement from confident error.

    Args:
        target_fraction: of the group, in (0, 1].
        alpha_max, alpha_min: the range; alpha_min <= alpha_max.

    >>> log_p = torch.full((1, 4), 0.25, dtype=torch.float64).log()
    >>> log_q = torch.tensor([[0.7, 0.1, 0.1, 0.1]], dtype=torch.float64).log()
    >>> round(EssAlpha(0.75).update(Signals(reward=0.0, log_q=log_q, log_p=log_p)), 3)
    0.565
    """

    # Finer than any effect of alpha that we could measure; all are tried in one call.
    GRID = 201

    def __init__(self, target_fraction: float = 0.5, alpha_max: float = 0.9, alpha_min: float = 0.35) -> None:
        _require_range(alpha_max, alpha_min)
        if not 0.0 < target_fraction <= 1.0:
            raise ValueError(
                f"target_fraction is {target_fraction}; expected (0, 1], a fraction of the group, e.g. 0.5."
            )
        self.target_fraction = float(target_fraction)
        self.alpha_max, self.alpha_min = float(alpha_max), float(alpha_min)
        self.alpha: Any = self.alpha_max

    def update(self, signals: Signals) -> Any:
        """Read log_q and log_p, [prompts, group] or [runs, prompts, group]; return the alpha of that step."""
        if signals.log_q is None or signals.log_p is None:
            raise ValueError("signals.log_q or signals.log_p is None; expected both. Use group_signals(batch, ...).")
        alphas = torch.linspace(self.alpha_min, self.alpha_max, self.GRID, dtype=torch.float64)
        alphas = alphas.to(signals.log_q.device, signals.log_q.dtype)
        batch_dims = signals.log_q.dim() - 1
        weights = tilted_log_weights(signals.log_q, signals.log_p, alphas.view(-1, *[1] * batch_dims))
        members = (signals.log_q > LEFT_OUT / 2).sum(-1)  # completions left out of their group do not count
        fraction = (effective_sample_size(weights) / members).mean(-1)  # [GRID] or [GRID, runs]
        enough = fraction >= self.target_fraction * (1 - 1e-6)
        last = torch.where(
            enough, torch.arange(self.GRID, device=fraction.device).view(-1, *[1] * (fraction.dim() - 1)), 0
        )
        self.alpha = _plain(alphas.double()[last.amax(0)])
        return self.alpha

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": self.alpha}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _require_state(self, state)
        self.alpha = state["alpha"]


# To add a schedule: a class with `@describe(...)` above it, and its name here.
SCHEDULES: dict[str, ScheduleRecord] = {
    record.name: record for record in map(record_of, (GuardedAlpha, FixedAlpha, LinearAlpha, EssAlpha))
}


def _require_number(name: str, value: float) -> None:
    if not torch.isfinite(torch.as_tensor(value, dtype=torch.float64)):
        raise ValueError(f"{name} is {value}; expected a finite number.")


def _require_range(alpha_max: float, alpha_min: float) -> None:
    _require_number("alpha_max", alpha_max)
    _require_number("alpha_min", alpha_min)
    if not alpha_min <= alpha_max:
        raise ValueError(
            f"alpha_min is {alpha_min} and alpha_max is {alpha_max}; expected alpha_min <= alpha_max. Swap them: "
            "alpha_max is where the schedule rests, alpha_min where it goes while the gates are open."
        )


def _require_state(schedule: Any, state: dict[str, Any]) -> None:
    if state.keys() != schedule.state_dict().keys():
        raise ValueError(
            f"{type(schedule).__name__} state has {sorted(state)}; expected {sorted(schedule.state_dict())}. Resume with "
            "the schedule that wrote the checkpoint."
        )


def _signal(name: str, value: float | Tensor) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} is {value}; expected finite numbers. Look for a reward that is NaN or infinite.")
    return tensor


def _plain(value: Tensor) -> float | Tensor:
    """A float for one run (what JSON and checkpoints take), the tensor for many."""
    return value.item() if value.dim() == 0 else value
