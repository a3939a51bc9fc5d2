"""Bandits: the complete APO loop in seconds, with the very objectives, targets and schedules of the trainer.

One step: sample a group of arms from pi_old, draw rewards, `GroupBatch`, `group_signals`, the schedule's `update`,
`objectives.coefficients`, the chain rule onto the logits, an optimiser step. Many runs go side by side as the prompts of
one batch (prompts = runs x contexts); an objective averages over prompts, so coefficients are multiplied by the number of
runs, and no run's gradient depends on how many others there are. Each run draws from a generator of its own, seeded by its
own seed alone: the same seed is the same run whatever runs beside it.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from apo_edu import (
    GroupBatch,
    Signals,
    effective_sample_size,
    group_signals,
    normalized_entropy,
    objectives,
    reverse_kl,
    tilted_log_weights,
)
from apo_edu.objectives import group_distributions

from . import closed_form
from .closed_form import FORMS

BLOCK = 32  # steps of random numbers drawn at once; part of what a seed means
VANISHED = 1e-12  # a gradient shorter than this is rounding and has no direction
KEPT = 0.1  # a good arm counts as kept while it has this share of its equal share of probability


@dataclass(frozen=True, kw_only=True)
class Bandit:
    """A bandit with one or several contexts.

    values: [contexts, arms] expected reward of each arm.
    noise: standard deviation of Gaussian noise on each reward, in the unit of the reward, >= 0; a number, or
        [contexts, arms] for arms of different noise.
    chance: [contexts, arms] probability in [0, 1] that an arm pays; it then pays values / chance, and otherwise 0. None:
        every arm always pays its value. An arm with a chance below 1 has no noise.
    shown: what the learner is shown of a reward, e.g. a clipped one; None: the reward itself. `values` stay the truth.
    """

    values: Tensor
    noise: float | Tensor = 0.0
    chance: Tensor | None = None
    shown: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or self.values.shape[1] < 2 or not bool(torch.isfinite(self.values).all()):
            raise ValueError(
                f"values has shape {tuple(self.values.shape)}; expected finite [contexts, arms] with at least 2 arms. "
                "One context is values[None]."
            )
        noise = torch.as_tensor(self.noise, dtype=torch.float64)
        if noise.dim() and noise.shape != self.values.shape:
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}; expected a number or {tuple(self.values.shape)}, as values."
            )
        if not bool((noise >= 0).all()):
            raise ValueError(f"noise reaches {float(noise.min())}; expected >= 0, a standard deviation of the reward.")
        if self.chance is None:
            return
        if self.chance.shape != self.values.shape or bool(((self.chance < 0) | (self.chance > 1)).any()):
            raise ValueError(
                f"chance has shape {tuple(self.chance.shape)} and reaches from {float(self.chance.min())} to "
                f"{float(self.chance.max())}; expected probabilities of the shape of values, {tuple(self.values.shape)}."
            )
        if bool(((self.chance < 1) & (noise > 0)).any()):
            raise ValueError("an arm has a chance below 1 and noise; expected one of them. Set its noise to 0.")
        if bool(((self.chance == 0) & (self.values != 0)).any()):
            raise ValueError("an arm with chance 0 has a value other than 0; expected value 0: it never pays.")

    @property
    def good(self) -> Tensor:
        """[contexts, arms] True where no arm of the context is better."""
        return self.values >= self.values.amax(-1, keepdim=True) - 1e-9

    def draw(self, arms: Tensor, uniform: Tensor) -> Tensor:
        """The rewards shown for the arms [runs, contexts, group], from as many uniform numbers in (0, 1)."""

        def of_arms(table: Tensor) -> Tensor:
            return table.to(uniform.dtype).expand(len(arms), -1, -1).gather(-1, arms)

        rewards = of_arms(self.values)
        noise = torch.as_tensor(self.noise)
        if bool((noise > 0).any()):
            normal = math.sqrt(2.0) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-7, 1 - 1e-7))
            rewards = rewards + of_arms(noise.expand(self.values.shape)) * normal
        if self.chance is not None:
            chance = of_arms(self.chance)
            rewards = torch.where(uniform < chance, rewards / chance.clamp(min=1e-12), 0.0)
        return rewards if self.shown is None else self.shown(rewards)

    def at(self, step: int) -> "Bandit":
        """The bandit at this step: always itself."""
        return self


@dataclass(frozen=True, kw_only=True)
class Changing:
    """A task that changes: bandits of one shape, one after another.

    bandits: what is played.
    starts: the step from which each holds; ascending, the first 0.
    """

    bandits: tuple[Bandit, ...]
    starts: tuple[int, ...]

    def __post_init__(self) -> None:
        if (
            len(self.bandits) != len(self.starts)
            or self.starts[0] != 0
            or list(self.starts) != sorted(set(self.starts))
        ):
            raise ValueError(
                f"starts is {self.starts} for {len(self.bandits)} bandits; expected as many steps, ascending from 0."
            )
        if len({bandit.values.shape for bandit in self.bandits}) > 1:
            raise ValueError("the bandits differ in shape; expected the same number of contexts and arms in each.")

    @property
    def values(self) -> Tensor:
        """[contexts, arms] of the first bandit."""
        return self.bandits[0].values

    def at(self, step: int) -> Bandit:
        """The bandit that is played at this step."""
        return [bandit for bandit, start in zip(self.bandits, self.starts, strict=True) if start <= step][-1]


def equal_arms(num_arms: int = 16, num_good: int = 4, *, noise: float = 0.0) -> Bandit:
    """`num_good` equally good arms of value 1 among arms of value 0."""
    _require_count("num_good", num_good, num_arms)
    return Bandit(values=(torch.arange(num_arms) < num_good).double()[None], noise=noise)


def decoys(
    num_arms: int = 16, num_good: int = 2, num_decoys: int = 4, *, decoy: float = 0.8, noise: float = 0.1
) -> Bandit:
    """Good arms of value 1, near-good decoys of value `decoy`, the rest 0."""
    _require_count("num_good + num_decoys", num_good + num_decoys, num_arms)
    values = torch.zeros(1, num_arms, dtype=torch.float64)
    values[0, :num_good], values[0, num_good : num_good + num_decoys] = 1.0, decoy
    return Bandit(values=values, noise=noise)


def graded(num_arms: int = 16, *, noise: float = 0.0) -> Bandit:
    """Rewards rise evenly from 0 to 1 over the arms."""
    return Bandit(values=torch.linspace(0, 1, num_arms, dtype=torch.float64)[None], noise=noise)


def binary(num_arms: int = 16, num_good: int = 4, *, success: float = 0.9, failure: float = 0.1) -> Bandit:
    """Rewards 0 or 1: good arms succeed with probability `success`, the others with `failure`."""
    _require_count("num_good", num_good, num_arms)
    values = torch.full((1, num_arms), failure, dtype=torch.float64)
    values[0, :num_good] = success
    return Bandit(values=values, chance=values)


def lucky(num_arms: int = 16, num_good: int = 2, num_lucky: int = 4) -> Bandit:
    """Good arms N(1, 0.1), lucky arms N(0.7, 0.8), the rest N(0, 0.1): the best draws come from the lucky arms."""
    _require_count("num_good + num_lucky", num_good + num_lucky, num_arms)
    values, noise = torch.zeros(1, num_arms, dtype=torch.float64), torch.full((1, num_arms), 0.1, dtype=torch.float64)
    values[0, :num_good], values[0, num_good : num_good + num_lucky] = 1.0, 0.7
    noise[0, num_good : num_good + num_lucky] = 0.8
    return Bandit(values=values, noise=noise)


def gamble(
    num_arms: int = 16,
    num_safe: int = 4,
    num_risky: int = 4,
    *,
    safe: float = 0.6,
    win: float = 1.0,
    chance: float = 0.5,
) -> Bandit:
    """Safe arms pay `safe` always, risky arms pay `win` with probability `chance` and else 0, the rest pay 0."""
    _require_count("num_safe + num_risky", num_safe + num_risky, num_arms)
    values = torch.zeros(1, num_arms, dtype=torch.float64)
    values[0, :num_safe], values[0, num_safe : num_safe + num_risky] = safe, win * chance
    pays = torch.ones_like(values)
    pays[0, num_safe : num_safe + num_risky] = chance
    return Bandit(values=values, chance=pays)


def contextual(
    num_contexts: int = 6, num_arms: int = 8, *, num_good: int = 2, seed: int = 0, noise: float = 0.0
) -> Bandit:
    """A bandit whose `num_good` good arms (value 1) differ from context to context; other arms lie in [0, 0.8]."""
    _require_count("num_good", num_good, num_arms)
    generator = torch.Generator().manual_seed(seed)
    values = 0.8 * torch.rand(num_contexts, num_arms, generator=generator, dtype=torch.float64)
    values.scatter_(1, torch.rand(num_contexts, num_arms, generator=generator).argsort(-1)[:, :num_good], 1.0)
    return Bandit(values=values, noise=noise)


def tabular_features(num_contexts: int) -> Tensor:
    """[contexts, contexts]: a parameter of its own for every context and arm."""
    return torch.eye(num_contexts, dtype=torch.float64)


def tied_features(num_contexts: int, rank: int = 2, *, seed: int = 0) -> Tensor:
    """[contexts, rank] random unit vectors: contexts share parameters, so most targets cannot be represented."""
    if not rank >= 1:
        raise ValueError(f"rank is {rank}; expected at least 1. Below the number of contexts the parameters are tied.")
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_contexts, rank, generator=generator, dtype=torch.float64)
    return features / features.norm(dim=-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How a run learns. Names and defaults are the trainer's where both have them.

    objective: a function of `apo_edu.objectives`, or one with the same signature.
    options: more keyword arguments for the objective, e.g. {"epsilon": 0.1}; apo and adpo get tau_anc and beta_r anyway.
    schedule: makes the schedule of alpha, e.g. `lambda: GuardedAlpha(noise_guard=2.0)`; None holds `alpha`.
    alpha: order, a number or [runs] for a sweep in one call; used while `schedule` is None.
    tau_anc: anchor temperature > 0, nats; a number or [runs].
    beta_r: reward temperature > 0, in the unit of the reward; a number or [runs].
    confidence_from: which distribution's entropy is read as confidence, see `group_signals`; "tokens" is the arms', and
        "answers" that of the arms sampled.
    group: arms sampled per context and step.
    num_steps: steps of samples.
    updates: optimiser updates per step, on the same samples.
    mini_batches: update k takes the samples of every `mini_batches`-th context alone, from context k on: with as many
        updates each sample is used once, and the later ones are stale by what contexts share (`tied_features`).
    off_policy: "none" (the paper), "ratio" or "clip", see `objectives.coefficients`; matters from the second update on.
    anchor: "on_policy" (pi_old), "fixed" (the initial policy), or "every", renewed each `anchor_every` steps.
    optimizer: "sgd" or "adam".
    lr: learning rate; a number or [runs].
    max_grad_norm: each run's gradient is cut to it; None does not cut.
    reference_alpha: order of a second APO gradient taken at the same points, with the same samples; the angle to it is
        recorded. None: no reference.
    matched: every update is rescaled to the norm of the reference gradient there, so that settings differ in direction
        only.
    closed_form: take the coefficients from `closed_form` instead of by autograd: the same to 1e-12, and faster.
    dtype: of everything; float32 is faster.
    """

    objective: objectives.Objective = objectives.apo
    options: dict[str, Any] | None = None
    schedule: Callable[[], Any] | None = None
    alpha: float | Tensor = 0.6
    tau_anc: float | Tensor = 0.5
    beta_r: float | Tensor = 0.3
    confidence_from: str = "tokens"
    group: int = 8
    num_steps: int = 300
    updates: int = 1
    mini_batches: int = 1
    off_policy: str = "none"
    anchor: str = "on_policy"
    anchor_every: int = 10
    optimizer: str = "sgd"
    lr: float | Tensor = 0.5
    max_grad_norm: float | None = None
    reference_alpha: float | None = None
    matched: bool = False
    closed_form: bool = False
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if self.anchor not in ("on_policy", "fixed", "every"):
            raise ValueError(f"anchor is {self.anchor!r}; expected 'on_policy', 'fixed' or 'every'.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; expected one of {sorted(OPTIMIZERS)}.")
        for name, low in (("group", 2), ("num_steps", 1), ("updates", 1), ("mini_batches", 1), ("anchor_every", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {low}.")
        if not bool((torch.as_tensor(self.lr) > 0).all()):
            raise ValueError(f"lr is {self.lr}; expected > 0. 0.5 suits SGD here, 0.05 Adam.")
        if self.matched and self.reference_alpha is None:
            raise ValueError("matched is True without a reference; expected reference_alpha, e.g. 0.6.")
        if self.closed_form and (self.objective not in FORMS or self.options or self.off_policy != "none"):
            name = getattr(self.objective, "__name__", "this objective")
            raise ValueError(
                f"closed_form is True for {name} with options {self.options} and off_policy {self.off_policy!r}; expected "
                "apo or grpo without options, and off_policy 'none'. "
                "Leave it out: autograd takes any objective."
            )

    def keywords(self) -> dict[str, Any]:
        """What the objective is called with, apart from alpha."""
        known = {"tau_anc": self.tau_anc, "beta_r": self.beta_r, "max_completion_tokens": 1, "advantage_scale": "none"}
        given = self.options or {}
        return objectives.record_of(partial(self.objective, **given)).bind(known) | given


@dataclass(frozen=True)
class ArmSignals(Signals):
    """What a schedule may look at in a bandit: also which arms were drawn, and what each draw paid.

    arms, rewards: [runs, contexts, group].
    """

    arms: Tensor | None = None
    rewards: Tensor | None = None


@dataclass(frozen=True)
class History:
    """What happened. Every series is [steps, runs], recorded before the step's update.

    reward: mean of the sampled rewards.
    expected_reward: the policy's true expected reward.
    entropy: of the arms, normalised to [0, 1], mean over contexts.
    alpha, confidence, improvement: of the schedule.
    grad_norm: of the parameters, before any cut or rescaling.
    cosine: of the gradient with that of `reference_alpha`; NaN without one, and where a gradient is rounding alone: a group
        that drew one arm only, or whose rewards are all alike, has no direction.
    ess: effective sample size of q^alpha p^(1-alpha), in arms of the group.
    kl_anchor: KL(pi || anchor) over the arms after the step, nats; on policy it is the length of the step.
    good_arms: number of good arms kept (mean over contexts), those with at least a tenth of an equal share.
    probs: [snapshots, runs, contexts, arms] policies at the steps `probs_steps`; the last is the final policy.
    seeds: the seed of each run.
    num_good: good arms there were at first, mean over contexts.
    """

    reward: Tensor
    expected_reward: Tensor
    entropy: Tensor
    alpha: Tensor
    confidence: Tensor
    improvement: Tensor
    grad_norm: Tensor
    cosine: Tensor
    ess: Tensor
    kl_anchor: Tensor
    good_arms: Tensor
    probs: Tensor
    probs_steps: Tensor
    seeds: tuple[int, ...]
    num_good: float

    def part(self, start: int, stop: int) -> "History":
        """The runs from `start` to before `stop`."""
        series = {name: getattr(self, name)[:, start:stop] for name in (*SERIES, "probs")}
        return replace(self, **series, seeds=self.seeds[start:stop])


SERIES = (
    "reward", "expected_reward", "entropy", "alpha", "confidence", "improvement", "grad_norm", "cosine", "ess",
    "kl_anchor", "good_arms",
)  # fmt: skip


class Descent:
    """Gradient descent on one tensor. The first optimiser of torch.optim imports torch's compiler: 0.9 s."""

    def __init__(self, parameters: Sequence[Tensor], lr: float):
        (self.parameter,), self.lr = parameters, lr

    @torch.no_grad()
    def step(self) -> None:
        """Subtract lr times the gradient."""
        assert self.parameter.grad is not None
        self.parameter.add_(self.parameter.grad, alpha=-self.lr)


OPTIMIZERS: dict[str, Callable[..., Any]] = {"sgd": Descent, "adam": torch.optim.Adam}
BATCHED = ("alpha", "tau_anc", "beta_r", "lr")  # fields of Loop in which the runs of one call may differ


def run(
    bandit: Bandit | Changing,
    loop: Loop | None = None,
    *,
    seeds: int | Sequence[int] = 20,
    features: Tensor | None = None,
    initial_logits: Tensor | None = None,
    snapshots: int = 30,
) -> History:
    """Run the APO loop once per seed, all at once.

        logits[context, arm] = sum_d features[context, d] theta[d, arm],    pi = softmax(logits)

    Args:
        seeds: a number N for seeds 0..N-1, or the seeds. Runs of the same seed draw the same random numbers.
        features: [contexts, d]; None is tabular. See `tied_features`.
        initial_logits: [contexts, arms], fixed offsets added to the logits: the policy the run starts from. None: uniform.
        snapshots: how many policies to keep in `History.probs`.

    Raises:
        ValueError: shapes that do not fit, or whatever the core objects to.
    """
    loop = loop or Loop()
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(seed) for seed in seeds)
    if not seeds:
        raise ValueError("seeds is empty; expected at least one. 20 gives an interval.")
    contexts, arms = bandit.values.shape
    runs, group, dtype = len(seeds), loop.group, loop.dtype
    features = (tabular_features(contexts) if features is None else features).to(dtype)
    if features.dim() != 2 or len(features) != contexts:
        raise ValueError(f"features has shape {tuple(features.shape)}; expected [{contexts}, d], a row per context.")
    offset = torch.zeros(contexts, arms, dtype=dtype) if initial_logits is None else initial_logits.to(dtype)
    if offset.shape != (contexts, arms):
        raise ValueError(f"initial_logits has shape {tuple(offset.shape)}; expected {(contexts, arms)}.")

    theta = torch.zeros(runs, features.shape[1], arms, dtype=dtype, requires_grad=True)
    lr = _per_run("lr", loop.lr, runs).to(dtype)[:, None, None]
    optimizer = OPTIMIZERS[loop.optimizer](
        [theta], lr=1.0
    )  # an update is proportional to lr, so each run scales its own
    schedule = loop.schedule() if loop.schedule is not None else None
    alpha = _per_run("alpha", loop.alpha, runs)
    temperatures: dict[str, Any] = {
        name: _per_run(name, getattr(loop, name), runs).repeat_interleave(contexts) for name in ("tau_anc", "beta_r")
    }
    keywords = {name: temperatures.get(name, value) for name, value in loop.keywords().items()}
    draws = _draws(seeds, contexts, group, dtype)
    mask = torch.ones(runs * contexts, group, 1, dtype=dtype)

    def log_policy() -> Tensor:
        return torch.log_softmax(offset + torch.einsum("cd,rda->rca", features, theta.detach()), dim=-1)

    if contexts % loop.mini_batches:
        raise ValueError(f"mini_batches is {loop.mini_batches} for {contexts} contexts; expected a divisor.")

    def on_parameters(coef: Tensor, sampled: Tensor, policy: Tensor, update: int) -> Tensor:
        # The mean over all prompts becomes each run's own; grad of log pi(a) with respect to the logits is onehot(a) - pi.
        coef = runs * coef.view(runs, contexts, group).to(dtype)
        if loop.mini_batches > 1:  # the mean over the contexts of this mini-batch, without the others
            now = torch.arange(contexts) % loop.mini_batches == update % loop.mini_batches
            coef = loop.mini_batches * coef * now[:, None]
        on_logits = torch.zeros(runs, contexts, arms, dtype=dtype).scatter_add_(-1, sampled, coef)
        on_logits -= coef.sum(-1, keepdim=True) * policy
        return torch.einsum("cd,rca->rda", features, on_logits)

    log_anchor = log_next = log_policy()
    series: dict[str, list[Tensor]] = {name: [] for name in SERIES}
    probs, probs_steps = [], sorted({round(i * loop.num_steps / max(1, snapshots - 1)) for i in range(snapshots)})
    for step in range(loop.num_steps):
        uniform, luck = next(draws)
        played = bandit.at(step)
        log_old = log_next
        policy = log_old.exp()
        if step in probs_steps:
            probs.append(policy)
        if loop.anchor == "on_policy" or (loop.anchor == "every" and step % loop.anchor_every == 0):
            log_anchor = log_old

        sampled = torch.searchsorted(policy.cumsum(-1), uniform.contiguous()).clamp(max=arms - 1)
        rewards = played.draw(sampled, luck)
        entropy = normalized_entropy(log_old).mean(-1)
        batch = GroupBatch(
            logps=_prompts(log_old.gather(-1, sampled)),
            old_logps=_prompts(log_old.gather(-1, sampled)),
            mask=mask,
            rewards=rewards.reshape(runs * contexts, group),
            ref_logps=None if loop.anchor == "on_policy" else _prompts(log_anchor.gather(-1, sampled)),
        )
        if schedule is not None:
            signals = group_signals(
                batch,
                **temperatures,
                confidence_from=loop.confidence_from,
                token_entropy=entropy,
                answers=sampled.flatten(0, 1),
                num_runs=runs,
            )
            seen = {field.name: getattr(signals, field.name) for field in fields(Signals)}
            alpha = _per_run("alpha", schedule.update(ArmSignals(**seen, arms=sampled, rewards=rewards)), runs)
        order = alpha.repeat_interleave(contexts)
        log_pi = log_old
        for update in range(loop.updates):
            if update > 0:
                log_pi = log_policy()
                batch = replace(batch, logps=_prompts(log_pi.gather(-1, sampled)))
            now = log_pi.exp()
            grad = on_parameters(_coefficients(loop, batch, order, keywords), sampled, now, update)
            norm = grad.flatten(1).norm(dim=-1)
            cosine = torch.full_like(norm, math.nan)
            if loop.reference_alpha is not None:
                reference = closed_form.apo(*_flat(batch), alpha=torch.as_tensor(loop.reference_alpha), **temperatures)
                other = on_parameters(reference, sampled, now, update)
                length = other.flatten(1).norm(dim=-1)
                cosine = (grad * other).flatten(1).sum(-1) / (norm * length).clamp(min=1e-300)
                cosine = torch.where((norm > VANISHED) & (length > VANISHED), cosine, math.nan)
                if loop.matched:
                    grad = grad * (length / norm.clamp(min=1e-300))[:, None, None]
            if loop.max_grad_norm is not None:
                cut = loop.max_grad_norm / grad.flatten(1).norm(dim=-1).clamp(min=1e-12)
                grad = grad * cut.clamp(max=1.0)[:, None, None]
            if update == 0:
                log_q, log_p = group_distributions(batch, **temperatures)
                ess = effective_sample_size(tilted_log_weights(log_q, log_p, order)).view(runs, contexts).mean(-1)
                first = {"grad_norm": norm, "cosine": cosine, "ess": ess}
            before = theta.detach().clone()
            theta.grad = grad
            optimizer.step()
            with torch.no_grad():
                theta.copy_(before + lr * (theta - before))
        log_next = log_policy()

        values, good = played.values.to(dtype), played.good
        fair = KEPT / good.sum(-1, keepdim=True)
        zeros = torch.zeros(runs, dtype=torch.float64)
        recorded = {
            "reward": rewards.mean((-1, -2)),
            "expected_reward": (policy * values).sum(-1).mean(-1),
            "entropy": entropy,
            "alpha": alpha,
            "confidence": zeros if schedule is None else _per_run("confidence", signals.confidence, runs),
            "improvement": zeros + torch.as_tensor(schedule.traces().get("improvement", 0.0) if schedule else 0.0),
            **first,
            "kl_anchor": reverse_kl(log_anchor, log_next).mean(-1),
            "good_arms": ((policy >= fair) & good).sum(-1).double().mean(-1),
        }
        for name, value in recorded.items():
            series[name].append(value.double())
    probs.append(log_next.exp())
    return History(
        **{name: torch.stack(values_) for name, values_ in series.items()},
        probs=torch.stack(probs),
        probs_steps=torch.tensor([s for s in probs_steps if s < loop.num_steps] + [loop.num_steps]),
        seeds=seeds,
        num_good=float(bandit.at(0).good.sum(-1).double().mean()),
    )


K = TypeVar("K", bound=Hashable)


def run_all(
    bandit: Bandit | Changing, loops: Mapping[K, Loop], *, seeds: int | Sequence[int] = 20, **kwargs: Any
) -> dict[K, History]:
    """Run several loops on the same seeds: {name: Loop} -> {name: History}.

    Runs are paired: run i of every loop draws the same random numbers. Loops that differ only in alpha, tau_anc, beta_r and
    lr go as one batch, whatever their number; no run's result depends on what is batched with it.
    """
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(int(seed) for seed in seeds)
    batches: dict[tuple[Any, ...], list[K]] = {}
    for name, loop in loops.items():
        alike = tuple(getattr(loop, field.name) for field in fields(loop) if field.name not in BATCHED)
        key = tuple(value if isinstance(value, Hashable) else id(value) for value in alike)
        batches.setdefault(key, []).append(name)
    histories: dict[K, History] = {}
    for names in batches.values():
        columns: dict[str, Any] = {
            field: torch.cat([_per_run(field, getattr(loops[name], field), len(chosen)) for name in names])
            for field in BATCHED
        }
        joint = run(bandit, replace(loops[names[0]], **columns), seeds=chosen * len(names), **kwargs)
        for index, name in enumerate(names):
            histories[name] = joint.part(index * len(chosen), (index + 1) * len(chosen))
    return {name: histories[name] for name in loops}


def sweep(
    bandit: Bandit | Changing,
    alphas: Sequence[float] | Tensor,
    loop: Loop | None = None,
    *,
    seeds: int = 20,
    **kwargs: Any,
) -> dict[float, History]:
    """The same seeds for every alpha, in one batched run: {alpha: History}."""
    base = replace(loop or Loop(), schedule=None)
    orders = torch.as_tensor(alphas, dtype=torch.float64).tolist()
    return run_all(bandit, {alpha: replace(base, alpha=alpha) for alpha in orders}, seeds=seeds, **kwargs)


@dataclass(frozen=True)
class AtReward:
    """Where each run stands when its expected reward first reaches `level`; each field [runs], NaN where it never does.

    steps: how many steps it took.
    good_arms, entropy: of the policy at that step.
    """

    level: float
    steps: Tensor
    good_arms: Tensor
    entropy: Tensor


def at_reward(history: History, level: float) -> AtReward:
    """The runs at equal reward, whatever it took to get there: what compares policies, where equal steps compare speeds."""
    reached = history.expected_reward >= level
    first = reached.double().argmax(0, keepdim=True)
    ever = reached.any(0)

    def there(series: Tensor) -> Tensor:
        return torch.where(ever, series.gather(0, first)[0], math.nan)

    steps = torch.arange(len(reached), dtype=torch.float64)[:, None].expand(reached.shape)
    return AtReward(level, there(steps), there(history.good_arms), there(history.entropy))


def _draws(seeds: Sequence[int], contexts: int, group: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Step by step, uniform numbers for the arms and for their luck, each [runs, contexts, group]; one stream a seed."""
    generators = {seed: torch.Generator().manual_seed(seed) for seed in dict.fromkeys(seeds)}
    place = {seed: index for index, seed in enumerate(generators)}
    rows = torch.tensor([place[seed] for seed in seeds])
    while True:
        block = torch.stack([torch.rand(BLOCK, 2, contexts, group, generator=g) for g in generators.values()], 2)
        for numbers in block.to(dtype):
            uniform, luck = numbers[:, rows]
            yield uniform, luck


def _coefficients(loop: Loop, batch: GroupBatch, order: Tensor, keywords: dict[str, Any]) -> Tensor:
    """dL/dlogps, [prompts, group, 1]."""
    if loop.closed_form:
        return FORMS[loop.objective](*_flat(batch), alpha=order, **keywords)
    return objectives.coefficients(loop.objective, batch, off_policy=loop.off_policy, alpha=order, **keywords)[0]


def _flat(batch: GroupBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return batch.logps[..., 0], batch.old_logps[..., 0], batch.anchor_logps[..., 0], batch.rewards


def _per_run(name: str, value: float | Tensor, runs: int) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.dim() and tensor.shape != (runs,):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected a number or [{runs}], one per run.")
    return tensor.expand(runs)


def _prompts(values: Tensor) -> Tensor:
    """[runs, contexts, group] -> [prompts, group, 1]."""
    return values.reshape(-1, values.shape[-1], 1)


def _require_count(name: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise ValueError(f"{name} is {value} with {limit} arms; expected 1 to {limit}.")
