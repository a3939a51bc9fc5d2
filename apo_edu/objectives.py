"""The group objectives: APO, ADPO, and the peers GRPO, Dr.GRPO, DAPO and GSPO, as pure functions of one batch.

An objective is `objective(batch, *, alpha, ...) -> (loss, stats)`. A bandit is the case tokens = 1, so notebooks and the
1.7B trainer call the same functions. `coefficients` turns any of them into one weight per token, which is all that a
trainer needs to know; the `ObjectiveRecord` above each function (`describe`) is all that a tool needs to know.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import palette
from .anchored import anchored_logits
from .diagnostics import effective_sample_size
from .divergences import alpha_divergence, tilted_log_weights
from .records import Record, import_attribute, nearest, options_of
from .targets import boltzmann_log_target, group_advantages
from .validation import require_choice, require_finite, require_positive

Stats = dict[str, Tensor]
Objective = Callable[..., tuple[Tensor, Stats]]

# The logit of a completion left out of its group: exp(-1e4) is 0 in every dtype, and, being finite, breaks no gradient.
LEFT_OUT = -1e4


@dataclass(frozen=True)
class GroupBatch:
    """One optimiser step's completions, grouped by prompt.

    logps: [prompts, group, tokens] log-probabilities of the sampled tokens under the policy being trained, nats.
    old_logps: [prompts, group, tokens] the same under the policy that sampled them; a constant.
    mask: [prompts, group, tokens] 1 on the tokens of the completion (its end-of-sequence token too), 0 on padding.
    rewards: [prompts, group] one finite reward per completion.
    ref_logps: [prompts, group, tokens] the same under the anchor of `apo` and `adpo`; None, the paper's choice, anchors
        at old_logps.
    valid: [prompts, group] booleans; False leaves a completion out of its group altogether: of its baseline, its
        softmax and its loss. None keeps all.

    Raises:
        ValueError: wrong shapes, a group of 1, or a non-finite log-probability (on the mask) or reward, with its index.

    >>> logps = torch.tensor([[[-1.0, -2.0], [-0.5, 0.0]]])  # one prompt, two completions, the second of one token
    >>> mask = torch.tensor([[[1, 1], [1, 0]]])
    >>> batch = GroupBatch(logps=logps, old_logps=logps, mask=mask, rewards=torch.tensor([[1.0, 0.0]]))
    """

    logps: Tensor
    old_logps: Tensor
    mask: Tensor
    rewards: Tensor
    ref_logps: Tensor | None = None
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.logps.shape)
        if len(shape) != 3:
            raise ValueError(
                f"logps has shape {shape}; expected [prompts, group, tokens]. Reshape it first, e.g. "
                "logps.view(num_prompts, group_size, -1); a bandit has tokens = 1."
            )
        if shape[1] < 2:
            raise ValueError(
                f"logps has shape {shape}, a group of size {shape[1]}; expected [prompts, group, tokens] with a group "
                "of at least 2. Sample more completions per prompt."
            )
        expected = {"old_logps": shape, "mask": shape, "rewards": shape[:2], "ref_logps": shape, "valid": shape[:2]}
        for name, want in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != want:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; expected {want}, because logps has shape {shape} = "
                    "[prompts, group, tokens]."
                )
        on = self.mask.bool()
        for name in ("logps", "old_logps", "ref_logps"):
            value = getattr(self, name)
            if value is None:
                continue
            if not value.is_floating_point():
                raise ValueError(f"{name} has dtype {value.dtype}; expected a floating dtype. Use .float().")
            require_finite(name, value.masked_fill(~on, 0.0), kind="log-probabilities on the mask")
        require_finite("rewards", self.rewards, kind="rewards")

    @classmethod
    def bandit(cls, logps: Tensor, rewards: Tensor, *, old_logps: Tensor | None = None) -> "GroupBatch":
        """Completions of one token each, such as a bandit's arms: logps, rewards, old_logps [prompts, group].

        old_logps: None is on policy, old_logps = logps.

        >>> GroupBatch.bandit(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]])).mask.shape
        torch.Size([1, 2, 1])
        """
        old = logps.detach() if old_logps is None else old_logps
        return cls(logps[..., None], old[..., None], torch.ones_like(logps.detach())[..., None], rewards)

    @property
    def anchor_logps(self) -> Tensor:
        """[prompts, group, tokens] what `apo` and `adpo` are anchored at."""
        return self.old_logps if self.ref_logps is None else self.ref_logps


def sequence_logps(logps: Tensor, mask: Tensor, logp_reduction: str) -> Tensor:
    """Log-probability of each completion: "sum" over its tokens, or "mean" per token (length-normalised).

    [prompts, group, tokens] -> [prompts, group]. "mean" is what the paper's author trains with; a completion without
    any token gets 0. Values off the mask, NaN included, do not count. Half precision is summed in float32.

    >>> sequence_logps(torch.tensor([[[-1.0, -2.0], [-0.5, 0.0]]]), torch.tensor([[[1, 1], [1, 0]]]), "mean")
    tensor([[-1.5000, -0.5000]])
    """
    require_choice("logp_reduction", logp_reduction, ("mean", "sum"))
    on = mask.bool()
    values = logps.float() if logps.dtype in (torch.float16, torch.bfloat16) else logps
    total = values.masked_fill(~on, 0.0).sum(-1)
    return total / on.sum(-1).clamp(min=1) if logp_reduction == "mean" else total


def group_distributions(
    batch: GroupBatch,
    *,
    tau_anc: float | Tensor,
    beta_r: float | Tensor,
    logp_reduction: str = "mean",
    scale: str = "none",
) -> tuple[Tensor, Tensor]:
    """The two distributions that APO compares: (log_q, log_p), each [prompts, group].

        q = softmax(A / beta_r),    p_theta = softmax((l - l_ref) / tau_anc)         (arXiv 2512.22953)

    log_q is a constant; log_p carries the gradient. A completion that is not `valid` gets probability 0 in both.

    >>> batch = GroupBatch.bandit(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    >>> log_q, log_p = group_distributions(batch, tau_anc=0.5, beta_r=0.5)
    >>> log_q.exp(), log_p.exp()
    (tensor([[0.8808, 0.1192]]), tensor([[0.5000, 0.5000]]))
    """
    advantages = group_advantages(batch.rewards, scale=scale, valid=batch.valid)
    u = anchored_logits(
        sequence_logps(batch.logps, batch.mask, logp_reduction),
        sequence_logps(batch.anchor_logps, batch.mask, logp_reduction),
        tau_anc,
    )
    advantages = advantages.to(u.dtype)
    if batch.valid is None:
        return boltzmann_log_target(advantages, beta_r), torch.log_softmax(u, dim=-1)
    left_out = ~batch.valid.bool()
    require_positive("beta_r", beta_r, remedy="The paper uses 0.3; larger makes the target more even.")
    scores = advantages / (beta_r[..., None] if isinstance(beta_r, Tensor) else beta_r)
    log_q = torch.log_softmax(scores.masked_fill(left_out, LEFT_OUT), dim=-1)
    return log_q, torch.log_softmax(u.masked_fill(left_out, LEFT_OUT), dim=-1)


@dataclass(frozen=True, kw_only=True)
class ObjectiveRecord(Record):
    """What every tool needs to know about an objective.

    function: the objective itself.
    reads_alpha: whether alpha changes its loss; otherwise a schedule has no effect.
    clips: whether it clips ratios, so that clip_fraction means something.
    first_loss: what the value of its loss is at the first on-policy update, where no value tells how good the policy is.
    color: in every figure.

    >>> OBJECTIVES["dr_grpo"].options
    {'epsilon': 'epsilon', 'max_tokens': 'max_completion_tokens', 'scale': 'advantage_scale'}
    >>> OBJECTIVES["dr_grpo"].bind({"epsilon": None, "max_completion_tokens": 1280, "advantage_scale": "none"})
    {'max_tokens': 1280, 'scale': 'none'}
    """

    function: Objective
    reads_alpha: bool = True
    clips: bool = False
    first_loss: str = "not stated by its record"
    color: str = palette.NEUTRAL

    @property
    def target(self) -> Objective:
        """The function."""
        return self.function

    def reads(self, option: str) -> bool:
        """Whether a user-facing option changes what the objective does; off_policy does where it carries no ratio."""
        return super().reads(option) or (option == "off_policy" and not self.clips)


AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def describe(**fields: Any) -> Callable[[AnyFunction], AnyFunction]:
    """Attach a record to an objective, built in or your own: `@describe(summary="...", clips=True)` above the function.

    Args:
        fields: as in `ObjectiveRecord`, all optional; what is left out is derived as `record_of` says.

    >>> @describe(summary="half of grpo", clips=True, reads_alpha=False)
    ... def half(batch, *, alpha=None, epsilon=0.2):
    ...     loss, stats = grpo(batch, epsilon=epsilon)
    ...     return loss / 2, stats
    >>> record_of(half).summary
    'half of grpo'
    """

    def attach(function: AnyFunction) -> AnyFunction:
        record = dataclasses.replace(_derived_record(function), **fields)
        function.record = record  # type: ignore[attr-defined]
        return function

    return attach


def record_of(function: Objective) -> ObjectiveRecord:
    """The record of an objective: the one attached by `describe`, or one derived from its signature.

    Derived: each keyword-only argument but alpha is an option (the user-facing option of the same name, but for
    `records.OPTION_OF`: scale is advantage_scale, max_tokens max_completion_tokens, epsilon_low epsilon); it reads alpha
    if it accepts it; it does not clip; its colour is neutral. A function with `**options` may pass them on to `apo`, so it
    is given apo's. A `functools.partial` has the record of its function, without the options already bound.

    >>> def mine(batch, *, alpha, scale="none", sharpness=1.0): ...
    >>> record_of(mine).options
    {'scale': 'advantage_scale', 'sharpness': 'sharpness'}
    """
    if isinstance(function, functools.partial):
        record = record_of(function.func)
        free = {keyword: option for keyword, option in record.options.items() if keyword not in function.keywords}
        return dataclasses.replace(record, function=function, options=free)
    attached = getattr(function, "record", None)
    return attached if isinstance(attached, ObjectiveRecord) else _derived_record(function)


def _derived_record(function: Objective) -> ObjectiveRecord:
    options = options_of(function, positional=False)
    reads_alpha = options.pop("alpha", None) is not None
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
        options, reads_alpha = {**record_of(apo).options, **options}, True
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return ObjectiveRecord(
        name=f"{getattr(function, '__module__', '')}:{name}",
        function=function,
        options=options,
        reads_alpha=reads_alpha,
    )


def find_objective(objective: "str | ObjectiveRecord | Objective", *, strict: bool = True) -> ObjectiveRecord:
    """The record of an objective given by name, by import path "module:function", by itself, or as a record.

    Args:
        strict: False returns, for what cannot be found, a neutral record with `found` False: for tools that read somebody
            else's finished run.

    Raises:
        ValueError: an unknown name (with the known names and the nearest), or a path that cannot be imported.

    >>> find_objective("grpo").clips
    True
    >>> find_objective("grppo")
    Traceback (most recent call last):
    ValueError: objective is 'grppo'; expected one of apo, adpo, grpo, dr_grpo, dapo, gspo, or module:function of your own. Did
    you mean 'grpo'?
    """
    if isinstance(objective, ObjectiveRecord):
        return objective
    if not isinstance(objective, str):
        return record_of(objective)
    if objective in OBJECTIVES:
        return OBJECTIVES[objective]
    try:
        if ":" not in objective:
            raise ValueError(
                f"objective is {objective!r}; expected one of {', '.join(OBJECTIVES)}, or module:function of your own."
                f"{nearest(objective, OBJECTIVES)}"
            )
        found = import_attribute("objective", objective)
        if not callable(found):
            raise ValueError(f"objective is {objective!r}, a {type(found).__name__}; expected a function.")
    except ValueError as error:
        if strict:
            raise
        message = str(error)

        def unavailable(batch: GroupBatch, **options: Any) -> tuple[Tensor, Stats]:
            raise ValueError(message)

        return dataclasses.replace(_derived_record(unavailable), name=objective, found=False)
    return dataclasses.replace(record_of(found), name=objective)


@describe(
    name="apo",
    summary="alpha-divergence between the Boltzmann target and the anchored policy over a group (arXiv 2512.22953)",
    first_loss="D_alpha(q || uniform)",
    color=palette.BLUE,
)
def apo(
    batch: GroupBatch,
    *,
    alpha: float | Tensor,
    tau_anc: float | Tensor,
    beta_r: float | Tensor,
    logp_reduction: str = "mean",
    scale: str = "none",
) -> tuple[Tensor, Stats]:
    """alpha-divergence preference optimisation (arXiv 2512.22953).

        L = mean over prompts of D_alpha(q || p_theta)

    On policy, at the first update, u = 0 and p_theta is uniform. The gradient there is centred and not zero: it is
    REINFORCE with the reshaped advantage (q_i^alpha - mean q^alpha) / alpha, up to a constant. What follows holds for that
    update, which is every update of a run with one per batch of samples (derived here; tests/test_claims.py and
    tests/test_objectives.py show each):

    * alpha and beta_r are one knob. A prompt's weights are proportional to exp(kappa A_i) - mean, kappa = alpha / beta_r,
      so only kappa turns its gradient; alpha and beta_r apart change its length.
    * kappa is a risk attitude. In the limit of large groups the direction is the policy gradient of the exponential
      utility (1/kappa) log E exp(kappa R): the policy prefers the larger certainty equivalent, for Gaussian rewards
      mean + kappa variance / 2, not the larger mean. kappa -> 0 is the mean.
    * For binary rewards q takes two values: a prompt's gradient points the same way for every alpha, and with
      logp_reduction "mean" the same way as GRPO's. alpha is then only a step size, one for each prompt.
    * Between prompts that step size is a curriculum. Solved k times in P, a prompt pushes its right completions with
      w_k = (k/P)(1 - k/P)(e^kappa - 1) / (alpha M_k^alpha), M_k = (k e^(1/beta_r) + P - k) / P: as alpha grows, rare
      successes count more (w_1 / w_7 at P = 8, beta_r 0.3: 1.0 at alpha 0, 1.83 at 0.35, 4.74 at 0.9; GRPO 1.0).
    * tau_anc only divides the gradient (see `anchored` for several updates).

    On later updates of the batch the samples are no longer the policy's own; see `coefficients` for `off_policy`.

    Args:
        batch: the completions; anchored at `batch.anchor_logps`.
        alpha: order of the divergence, a number or a tensor [prompts]; the paper schedules it between 0.35 and 0.9.
        tau_anc: anchor temperature > 0, in the unit of the reduced log-probability; see `anchored`.
        beta_r: reward temperature > 0, in the unit of the (scaled) reward.
        logp_reduction: "mean" (per token) or "sum", see `sequence_logps`.
        scale: of the advantages, see `group_advantages`; "none" is the paper's mean-only advantage.

    Returns:
        (loss, stats): a scalar, differentiable in batch.logps; detached scalars for the log.

    Raises:
        ValueError: as for `group_advantages`, `anchored_logits` and `boltzmann_log_target`.

    >>> batch = GroupBatch.bandit(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    >>> loss, stats = apo(batch, alpha=0.6, tau_anc=0.5, beta_r=0.3)
    >>> loss, stats["ess"]
    (tensor(0.6562), tensor(1.2658))
    """
    log_q, log_p = group_distributions(
        batch, tau_anc=tau_anc, beta_r=beta_r, logp_reduction=logp_reduction, scale=scale
    )
    loss = alpha_divergence(log_q, log_p, alpha).mean()
    return loss, _anchored_stats(batch, log_q, log_p.detach(), alpha)


@describe(
    name="adpo",
    summary="anchored cross-entropy to the Boltzmann target: apo at alpha = 1",
    reads_alpha=False,
    first_loss="the logarithm of the group size",
    color=palette.SKY_BLUE,
)
def adpo(
    batch: GroupBatch,
    *,
    alpha: float | Tensor | None = None,
    tau_anc: float | Tensor,
    beta_r: float | Tensor,
    logp_reduction: str = "mean",
    scale: str = "none",
) -> tuple[Tensor, Stats]:
    """ADPO-softmax: the anchored cross-entropy, mean over prompts of -sum_i q_i log p_theta,i.

    It is APO at alpha = 1 plus the entropy of q, a constant. `alpha` is accepted, so that every objective is called
    alike, and unused. Other arguments as for `apo`.

    >>> batch = GroupBatch.bandit(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    >>> adpo(batch, tau_anc=0.5, beta_r=0.3)[0]  # log 2, at the anchor
    tensor(0.6931)
    """
    log_q, log_p = group_distributions(
        batch, tau_anc=tau_anc, beta_r=beta_r, logp_reduction=logp_reduction, scale=scale
    )
    loss = -(log_q.exp() * log_p).sum(-1).mean()
    return loss, _anchored_stats(batch, log_q, log_p.detach(), 1.0)


@describe(
    name="grpo",
    summary="clipped token surrogate, mean over tokens, then over completions (arXiv 2402.03300)",
    reads_alpha=False,
    clips=True,
    first_loss="0, since the advantages of a group sum to 0",
    color=palette.VERMILION,
)
def grpo(batch: GroupBatch, *, alpha: float | Tensor | None = None, epsilon: float = 0.2) -> tuple[Tensor, Stats]:
    """GRPO: the clipped token surrogate, averaged over the tokens of a completion, then over completions.

        L = -mean_i 1/|o_i| sum_t min(rho_it A_i, clip(rho_it, 1 - epsilon, 1 + epsilon) A_i),  rho = pi / pi_old

    with A = (r - mean) / (std + 1e-4), std unbiased, and no KL term. Source: arXiv 2402.03300; equals TRL's
    loss_type="grpo" with beta = 0. `alpha` is accepted and unused.

    >>> old, rewards = torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]])
    >>> batch = GroupBatch.bandit(torch.tensor([[-0.9, -2.0]]), rewards, old_logps=old)
    >>> grpo(batch)[0]
    tensor(-0.0372)
    """
    surrogate, on, stats = _clipped_surrogate(batch, epsilon, epsilon, scale="group")
    return _mean_over_completions((surrogate * on).sum(-1) / on.sum(-1).clamp(min=1), batch), stats


@describe(
    name="dr_grpo",
    summary="grpo divided by a constant length instead of each completion's (arXiv 2503.20783)",
    reads_alpha=False,
    clips=True,
    first_loss="the advantages of a group sum to 0, but for their weights by length",
    color=palette.ORANGE,
)
def dr_grpo(
    batch: GroupBatch,
    *,
    alpha: float | Tensor | None = None,
    epsilon: float = 0.2,
    max_tokens: int,
    scale: str = "none",
) -> tuple[Tensor, Stats]:
    """Dr.GRPO: GRPO divided by a constant length, so that long wrong answers are not favoured.

        L = -mean_i 1/max_tokens sum_t min(rho_it A_i, clip(rho_it, 1 - epsilon, 1 + epsilon) A_i)

    The advantages are r - mean, without the division by the standard deviation, as published (arXiv 2503.20783).
    scale="group" divides by it: then it equals TRL's loss_type="dr_grpo" on TRL's own advantages, which is GRPO with one
    change. `alpha` is accepted and unused.

    Args:
        max_tokens: the longest completion allowed, in tokens; > 0.
        scale: of the advantages, see `group_advantages`.

    >>> old, rewards = torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]])
    >>> batch = GroupBatch.bandit(torch.tensor([[-0.9, -2.0]]), rewards, old_logps=old)
    >>> dr_grpo(batch, max_tokens=4)[0]
    tensor(-0.0066)
    """
    require_positive("max_tokens", max_tokens, remedy="Pass the limit that completions were sampled with.")
    surrogate, on, stats = _clipped_surrogate(batch, epsilon, epsilon, scale=scale)
    return _mean_over_completions((surrogate * on).sum(-1) / max_tokens, batch), stats


@describe(
    name="dapo",
    summary="clipped token surrogate, clip-higher, mean over all tokens of the step (arXiv 2503.14476)",
    reads_alpha=False,
    clips=True,
    first_loss="the advantages of a group sum to 0, but for their weights by length",
    color=palette.PURPLE,
)
def dapo(
    batch: GroupBatch, *, alpha: float | Tensor | None = None, epsilon_low: float = 0.2, epsilon_high: float = 0.28
) -> tuple[Tensor, Stats]:
    """DAPO's loss: clip-higher, averaged over all tokens of the step.

        L = -1/(sum_i |o_i|) sum_i sum_t min(rho_it A_i, clip(rho_it, 1 - epsilon_low, 1 + epsilon_high) A_i)

    Source: arXiv 2503.14476 (its dynamic sampling and overlong shaping are not part of the loss); equals TRL's
    loss_type="dapo". `alpha` is accepted and unused.

    >>> old, rewards = torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]])
    >>> batch = GroupBatch.bandit(torch.tensor([[-0.9, -2.0]]), rewards, old_logps=old)
    >>> dapo(batch)[0]
    tensor(-0.0372)
    """
    surrogate, on, stats = _clipped_surrogate(batch, epsilon_low, epsilon_high, scale="group")
    return (surrogate * on).sum() / on.sum().clamp(min=1), stats


@describe(
    name="gspo",
    summary="grpo with one ratio per completion, the geometric mean of its tokens (arXiv 2507.18071)",
    reads_alpha=False,
    clips=True,
    first_loss="0, since the advantages of a group sum to 0",
    color=palette.GREEN,
)
def gspo(
    batch: GroupBatch, *, alpha: float | Tensor | None = None, epsilon_low: float = 3e-4, epsilon_high: float = 4e-4
) -> tuple[Tensor, Stats]:
    """GSPO: GRPO with one ratio per sequence, the geometric mean of its token ratios.

        L = -mean_i min(s_i A_i, clip(s_i, 1 - epsilon_low, 1 + epsilon_high) A_i),  s_i = exp(mean_t log rho_it)

    Source: arXiv 2507.18071; equals TRL's importance_sampling_level="sequence" with loss_type="grpo". On the first,
    on-policy update s = 1 and its gradient is GRPO's. `alpha` is accepted and unused.

    >>> old, rewards = torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]])
    >>> batch = GroupBatch.bandit(torch.tensor([[-0.9, -2.0]]), rewards, old_logps=old)
    >>> gspo(batch)[0]  # the better one is clipped at once: 1.0004, not 1.105
    tensor(-0.0001)
    """
    surrogate, on, stats = _clipped_surrogate(batch, epsilon_low, epsilon_high, scale="group", sequence_level=True)
    return _mean_over_completions((surrogate * on).sum(-1) / on.sum(-1).clamp(min=1), batch), stats


# To add an objective: a function with `@describe(...)` above it, and its name here.
OBJECTIVES: dict[str, ObjectiveRecord] = {
    function.__name__: record_of(function) for function in (apo, adpo, grpo, dr_grpo, dapo, gspo)
}


def coefficients(
    objective: Objective, batch: GroupBatch, *, off_policy: str = "none", off_policy_epsilon: float = 0.2, **kwargs: Any
) -> tuple[Tensor, Tensor, Stats]:
    """The gradient of an objective as one weight per token: c = dL/dlogps.

        grad_theta L = sum_i sum_t c_it grad_theta log pi_theta(token_it)

    An objective ties a group together, but by the chain rule its gradient is this weighted sum. So a trainer takes c
    once, over whole groups and the whole step, and pushes sum(c * logps(theta)) through the model in micro-batches of
    any size, on any number of processes. The gradient is exact, and the trainer need not know which objective it runs.

    `off_policy` says what to do from the second update of a batch on, when its samples are no longer the policy's own. The
    clipped objectives carry the ratio rho = pi / pi_old of each token; `apo` and `adpo` do not, as in the paper. Ours, for
    objectives without a ratio (named options; the paper is "none"):

        "ratio"   c_it -> rho_it c_it
        "clip"    the same, and 0 where the push has already gone far enough (PPO's clip, read off the sign of c):
                  c_it < 0 (push up) and rho_it > 1 + epsilon, or c_it > 0 (push down) and rho_it < 1 - epsilon

    On the first update rho = 1 and both are "none", bit for bit. Each token is corrected for itself, as PPO does: the
    probability of the whole group would take the product of its ratios. "ratio" is the gradient of the surrogate
    sum_it sg(c_it) rho_it, in which the weights c stand where PPO has minus the advantage; but no function of logps has it
    as its gradient everywhere: with H = d c/d logps, symmetric, the field's Jacobian is diag(rho) H + diag(rho c), which
    is symmetric only where the ratios of all tokens that H couples are equal. With the anchor at the policy itself
    (ref_logps = logps, so u = 0) c depends on the rewards alone, and "clip" is exactly the gradient of PPO's clipped
    surrogate, summed over tokens, with -c for the advantage. (tests/test_objectives.py shows each of these.)

    Args:
        objective: any function of this module, or one of your own with the same signature.
        batch: all completions of the optimiser step; `batch.logps` need no graph.
        off_policy: "none", "ratio" or "clip"; anything but "none" needs an objective without a ratio of its own.
        off_policy_epsilon: how far from 1 a ratio may go with its push under "clip", in (0, 1).
        kwargs: passed to the objective; alpha only if it accepts one.

    Returns:
        (coef, loss, stats): coef [prompts, group, tokens], exactly 0 off the mask; the loss, detached, which no
        `off_policy` changes; the stats, whose clip_fraction counts what "clip" has stopped.

    Raises:
        ValueError: an unknown off_policy, one beside a clipped objective, or an epsilon out of its range.

    >>> batch = GroupBatch.bandit(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    >>> coef, loss, stats = coefficients(apo, batch, alpha=0.6, tau_anc=0.5, beta_r=0.3)
    >>> coef.squeeze(-1)  # descending, the better one is pushed up
    tensor([[-1.0694,  1.0694]])
    """
    if "alpha" in kwargs and not _accepts(objective, "alpha"):
        kwargs = {name: value for name, value in kwargs.items() if name != "alpha"}
    require_choice("off_policy", off_policy, ("none", "ratio", "clip"))
    if off_policy != "none" and record_of(objective).clips:
        raise ValueError(
            f"off_policy is {off_policy!r} for {record_of(objective).name}, which has a ratio and a clip of its own; "
            "expected 'none'."
        )
    with torch.enable_grad():
        leaf = batch.logps.detach().requires_grad_()
        loss, stats = objective(dataclasses.replace(batch, logps=leaf), **kwargs)
        (coef,) = torch.autograd.grad(loss, leaf)
    if off_policy != "none":
        coef, stopped = _importance_weighted(coef, batch, off_policy_epsilon if off_policy == "clip" else None)
        if off_policy == "clip":
            stats = stats | {"clip_fraction": _masked_mean(stopped.to(coef.dtype), batch.mask.bool())}
    return coef, loss.detach(), stats


def _importance_weighted(coef: Tensor, batch: GroupBatch, epsilon: float | None) -> tuple[Tensor, Tensor]:
    """The coefficients times each token's pi / pi_old, 0 where `stopped`: (coef, stopped), [prompts, group, tokens]."""
    log_ratio = (batch.logps - batch.old_logps).detach().masked_fill(~batch.mask.bool(), 0.0)
    ratio = log_ratio.to(torch.float32 if log_ratio.dtype in (torch.float16, torch.bfloat16) else log_ratio.dtype).exp()
    if epsilon is None:
        return (coef * ratio).to(coef.dtype), torch.zeros_like(ratio, dtype=torch.bool)
    if not 0 < epsilon < 1:
        raise ValueError(f"off_policy_epsilon is {epsilon}; expected in (0, 1), how far a ratio may go. PPO uses 0.2.")
    stopped = ((coef < 0) & (ratio > 1.0 + epsilon)) | ((coef > 0) & (ratio < 1.0 - epsilon))
    return (coef * ratio).to(coef.dtype).masked_fill(stopped, 0.0), stopped


def _accepts(function: Objective, keyword: str) -> bool:
    parameters = inspect.signature(function).parameters
    return keyword in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _clipped_surrogate(
    batch: GroupBatch, epsilon_low: float, epsilon_high: float, *, scale: str, sequence_level: bool = False
) -> tuple[Tensor, Tensor, Stats]:
    """Per-token -min(rho A, clip(rho) A), the mask it counts on, and the statistics. All [prompts, group, tokens]."""
    require_positive("epsilon_low", epsilon_low, remedy="PPO-style clipping uses 0.2, GSPO 3e-4.")
    require_positive("epsilon_high", epsilon_high, remedy="PPO-style clipping uses 0.2, DAPO 0.28, GSPO 4e-4.")
    on = batch.mask.bool()
    if batch.valid is not None:
        on = on & batch.valid.bool()[..., None]
    log_ratio = (batch.logps - batch.old_logps.detach()).masked_fill(~on, 0.0)
    if log_ratio.dtype in (torch.float16, torch.bfloat16):
        log_ratio = log_ratio.float()
    if sequence_level:
        log_ratio = (log_ratio.sum(-1, keepdim=True) / on.sum(-1, keepdim=True).clamp(min=1)).expand(on.shape)
    advantages = group_advantages(batch.rewards, scale=scale, valid=batch.valid).to(log_ratio.dtype)[..., None]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - epsilon_low, 1.0 + epsilon_high)
    surrogate = -torch.minimum(ratio * advantages, clipped * advantages)
    with torch.no_grad():
        too_low = (ratio < 1.0 - epsilon_low) & (advantages < 0)
        too_high = (ratio > 1.0 + epsilon_high) & (advantages > 0)
        stats = {"clip_fraction": _masked_mean((too_low | too_high).to(ratio.dtype), on), "kl_old": kl_old(batch)}
    return surrogate, on.to(ratio.dtype), stats


def kl_old(batch: GroupBatch) -> Tensor:
    """Estimate of KL(pi_old || pi_theta) per token, in nats: mean of rho - 1 - log rho >= 0 over sampled tokens.

    >>> batch = GroupBatch.bandit(torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    >>> kl_old(batch)
    tensor(0.)
    """
    log_ratio = (batch.logps - batch.old_logps).detach().float().masked_fill(~batch.mask.bool(), 0.0)
    return _masked_mean(torch.expm1(log_ratio) - log_ratio, batch.mask.bool())


def _anchored_stats(batch: GroupBatch, log_q: Tensor, log_p: Tensor, alpha: float | Tensor) -> Stats:
    with torch.no_grad():
        log_ratio = log_q - log_p
        if batch.valid is not None:
            log_ratio = log_ratio.masked_fill(~batch.valid.bool(), 0.0)
        return {
            "clip_fraction": torch.zeros((), device=log_q.device),  # apo and adpo have no clip
            "kl_old": kl_old(batch),
            "ess": effective_sample_size(tilted_log_weights(log_q, log_p, alpha)).mean(),
            "log_ratio_max": log_ratio.abs().max(),
        }


def _masked_mean(values: Tensor, on: Tensor) -> Tensor:
    return (values * on).sum() / on.sum().clamp(min=1)


def _mean_over_completions(values: Tensor, batch: GroupBatch) -> Tensor:
    """Mean of [prompts, group] over the completions that count."""
    if batch.valid is None:
        return values.mean()
    return _masked_mean(values, batch.valid.bool())
