"""Bandits: the complete APO loop in seconds, with the very objectives, targets and schedules of the trainer.

One step: sample a group of arms from pi_old, draw rewards, `GroupBatch`, `group_signals`, the schedule's `update`,
`objectives.coefficients`, the chain rule onto the logits, an optimiser step. Many runs go side by side as the prompts of
one batch (prompts = runs x contexts); an objective averages over prompts, so coefficients are multiplied by the number of
runs, and no run's gradient depends on how many others there are. Each run draws from a generator of its own, seeded by its
own seed alone: the same seed is the same run whatever runs beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from apo_edu import (
    GroupBatch,
    effective_sample_size,
    group_signals,
    normalized_entropy,
    objectives,
    reverse_kl,
    tilted_log_weights,
)
from apo_edu.objectives import group_distributions

BLOCK = 32  # steps of random numbers drawn at once; part of what a seed means
KEPT = 0.1  # a good arm counts as kept while it has this share of its equal share of probability


@dataclass(frozen=True, kw_only=True)
class Bandit:
    """A bandit with one or several contexts.

    values: [contexts, arms] expected reward of each arm.
    noise: standard deviation of Gaussian noise on each reward, in the unit of the reward, >= 0.
    binary: rewards are 1 with probability `values` (which must lie in [0, 1]) and otherwise 0; noise must be 0.
    """

    values: Tensor
    noise: float = 0.0
    binary: bool = False

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or self.values.shape[1] < 2 or not bool(torch.isfinite(self.values).all()):
            raise ValueError(
                f"values has shape {tuple(self.values.shape)}; expected finite [contexts, arms] with at least 2 arms. "
                "One context is values[None]."
            )
        if not self.noise >= 0:
            raise ValueError(f"noise is {self.noise}; expected >= 0, a standard deviation in the unit of the reward.")
        if self.binary and (self.noise > 0 or bool(((self.values < 0) | (self.values > 1)).any())):
            raise ValueError(
                "binary rewards need values in [0, 1] and noise = 0; expected probabilities. Use noise=0.0."
            )

    @property
    def good(self) -> Tensor:
        """[contexts, arms] True where no arm of the context is better."""
        return self.values >= self.values.amax(-1, keepdim=True) - 1e-9

    def draw(self, arms: Tensor, uniform: Tensor) -> Tensor:
        """Rewards of the arms [runs, contexts, group], from as many uniform numbers in (0, 1)."""
        values = self.values.to(uniform.dtype).expand(len(arms), -1, -1).gather(-1, arms)
        if self.binary:
            return (uniform < values).to(uniform.dtype)
        if self.noise == 0:
            return values
        return values + self.noise * math.sqrt(2.0) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-7, 1 - 1e-7))


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
    return Bandit(values=values, binary=True)


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
    tau_anc: anchor temperature > 0, nats.  beta_r: reward temperature > 0, in the unit of the reward.
    confidence_from: which distribution's entropy is read as confidence, see `group_signals`; "tokens" is the arms', and
        "answers" that of the arms sampled.
    group: arms sampled per context and step.  num_steps: steps of samples.  updates: optimiser updates per step.
    anchor: "on_policy" (pi_old), "fixed" (the initial policy), or "every", renewed each `anchor_every` steps.
    optimizer: "sgd" or "adam".  lr: learning rate.  max_grad_norm: each run's gradient is cut to it; None does not cut.
    dtype: of everything; float32 is faster.
    """

    objective: objectives.Objective = objectives.apo
    options: dict[str, Any] | None = None
    schedule: Callable[[], Any] | None = None
    alpha: float | Tensor = 0.6
    tau_anc: float = 0.5
    beta_r: float = 0.3
    confidence_from: str = "tokens"
    group: int = 8
    num_steps: int = 300
    updates: int = 1
    anchor: str = "on_policy"
    anchor_every: int = 10
    optimizer: str = "sgd"
    lr: float = 0.5
    max_grad_norm: float | None = None
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if self.anchor not in ("on_policy", "fixed", "every"):
            raise ValueError(f"anchor is {self.anchor!r}; expected 'on_policy', 'fixed' or 'every'.")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer is {self.optimizer!r}; expected 'sgd' or 'adam'.")
        for name, low in (("group", 2), ("num_steps", 1), ("updates", 1), ("anchor_every", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {low}.")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; expected > 0. 0.5 suits SGD here, 0.05 Adam.")

    def keywords(self) -> dict[str, Any]:
        """What the objective is called with, apart from alpha."""
        known = {"tau_anc": self.tau_anc, "beta_r": self.beta_r, "max_completion_tokens": 1, "advantage_scale": "none"}
        given = self.options or {}
        return objectives.record_of(partial(self.objective, **given)).bind(known) | given


@dataclass(frozen=True)
class History:
    """What happened. Every series is [steps, runs], recorded before the step's update.

    reward: mean of the sampled rewards.  expected_reward: the policy's true expected reward.  entropy: of the arms,
    normalised to [0, 1], mean over contexts.  alpha, confidence, improvement: of the schedule.  grad_norm: of the
    parameters, before any cut.  ess: effective sample size of q^alpha p^(1-alpha), in arms of the group.  kl_anchor:
    KL(pi || anchor) over the arms after the step, nats.  good_arms: number of good arms kept (mean over contexts), those
    with at least a tenth of an equal share.
    probs: [snapshots, runs, contexts, arms] policies at the steps `probs_steps`; the last is the final policy.
    seeds: the seed of each run.  num_good: good arms there were, mean over contexts.
    """

    reward: Tensor
    expected_reward: Tensor
    entropy: Tensor
    alpha: Tensor
    confidence: Tensor
    improvement: Tensor
    grad_norm: Tensor
    ess: Tensor
    kl_anchor: Tensor
    good_arms: Tensor
    probs: Tensor
    probs_steps: Tensor
    seeds: tuple[int, ...]
    num_good: float


SERIES = (
    "reward", "expected_reward", "entropy", "alpha", "confidence", "improvement", "grad_norm", "ess", "kl_anchor",
    "good_arms",
)  # fmt: skip


def run(
    bandit: Bandit,
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
        seeds: a number N for seeds 0..N-1, or the seeds.
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
    optimizer = (torch.optim.SGD if loop.optimizer == "sgd" else torch.optim.Adam)([theta], lr=loop.lr)
    schedule = loop.schedule() if loop.schedule is not None else None
    alpha = _per_run(loop.alpha, runs)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    keywords = loop.keywords()
    mask = torch.ones(runs * contexts, group, 1, dtype=dtype)
    values, good = bandit.values.to(dtype), bandit.good
    fair = KEPT / good.sum(-1, keepdim=True)

    def log_policy() -> Tensor:
        return torch.log_softmax(offset + torch.einsum("cd,rda->rca", features, theta.detach()), dim=-1)

    log_anchor = log_policy()
    series: dict[str, list[Tensor]] = {name: [] for name in SERIES}
    probs, probs_steps = [], sorted({round(i * loop.num_steps / max(1, snapshots - 1)) for i in range(snapshots)})
    for step in range(loop.num_steps):
        if step % BLOCK == 0:
            draws = torch.stack([torch.rand(BLOCK, 2, contexts, group, generator=g) for g in generators], 2).to(dtype)
        uniform, luck = draws[step % BLOCK]
        log_old = log_policy()
        policy = log_old.exp()
        if step in probs_steps:
            probs.append(policy)
        if loop.anchor == "on_policy" or (loop.anchor == "every" and step % loop.anchor_every == 0):
            log_anchor = log_old

        sampled = torch.searchsorted(policy.cumsum(-1), uniform.contiguous()).clamp(max=arms - 1)
        rewards = bandit.draw(sampled, luck)
        old_logps = _prompts(log_old.gather(-1, sampled))
        ref_logps = None if loop.anchor == "on_policy" else _prompts(log_anchor.gather(-1, sampled))
        entropy = normalized_entropy(log_old).mean(-1)
        for update in range(loop.updates):
            log_pi = log_old if update == 0 else log_policy()
            batch = GroupBatch(
                logps=_prompts(log_pi.gather(-1, sampled)),
                old_logps=old_logps,
                mask=mask,
                rewards=rewards.reshape(runs * contexts, group),
                ref_logps=ref_logps,
            )
            if update == 0 and schedule is not None:
                signals = group_signals(
                    batch,
                    tau_anc=loop.tau_anc,
                    beta_r=loop.beta_r,
                    confidence_from=loop.confidence_from,
                    token_entropy=entropy,
                    answers=sampled.flatten(0, 1),
                    num_runs=runs,
                )
                alpha = _per_run(schedule.update(signals), runs)
            order = alpha.repeat_interleave(contexts)
            coef, _, _ = objectives.coefficients(loop.objective, batch, alpha=order, **keywords)
            coef = runs * coef.view(runs, contexts, group).to(dtype)
            # grad of log pi(a) with respect to the logits is onehot(a) - pi.
            on_logits = torch.zeros(runs, contexts, arms, dtype=dtype).scatter_add_(-1, sampled, coef)
            on_logits -= coef.sum(-1, keepdim=True) * log_pi.exp()
            grad = torch.einsum("cd,rca->rda", features, on_logits)
            norm = grad.flatten(1).norm(dim=-1)
            if loop.max_grad_norm is not None:
                grad = grad * (loop.max_grad_norm / norm.clamp(min=1e-12)).clamp(max=1.0)[:, None, None]
            if update == 0:
                log_q, log_p = group_distributions(batch, tau_anc=loop.tau_anc, beta_r=loop.beta_r)
                ess = effective_sample_size(tilted_log_weights(log_q, log_p, order)).view(runs, contexts).mean(-1)
                first_norm = norm
            theta.grad = grad
            optimizer.step()

        zeros = torch.zeros(runs, dtype=torch.float64)
        now = {
            "reward": rewards.mean((-1, -2)),
            "expected_reward": (policy * values).sum(-1).mean(-1),
            "entropy": entropy,
            "alpha": alpha,
            "confidence": zeros if schedule is None else _per_run(signals.confidence, runs),
            "improvement": zeros + torch.as_tensor(schedule.traces().get("improvement", 0.0) if schedule else 0.0),
            "grad_norm": first_norm,
            "ess": ess,
            "kl_anchor": reverse_kl(log_anchor, log_policy()).mean(-1),
            "good_arms": ((policy >= fair) & good).sum(-1).double().mean(-1),
        }
        for name, value in now.items():
            series[name].append(value.double())
    probs.append(log_policy().exp())
    return History(
        **{name: torch.stack(values_) for name, values_ in series.items()},
        probs=torch.stack(probs),
        probs_steps=torch.tensor([s for s in probs_steps if s < loop.num_steps] + [loop.num_steps]),
        seeds=seeds,
        num_good=float(good.sum(-1).double().mean()),
    )


def sweep(
    bandit: Bandit, alphas: Sequence[float], loop: Loop | None = None, *, seeds: int = 20, **kwargs: Any
) -> dict[float, History]:
    """One `run` per fixed alpha, all in one tensor, with the same seeds for every alpha: {alpha: History}."""
    loop = loop or Loop()
    orders = torch.as_tensor(alphas, dtype=torch.float64)
    joint = run(
        bandit,
        replace(loop, alpha=orders.repeat_interleave(seeds), schedule=None),
        seeds=list(range(seeds)) * len(orders),
        **kwargs,
    )
    histories = {}
    for index, alpha in enumerate(orders.tolist()):
        part = slice(index * seeds, (index + 1) * seeds)
        histories[alpha] = replace(
            joint,
            **{name: getattr(joint, name)[:, part] for name in SERIES},
            probs=joint.probs[:, part],
            seeds=joint.seeds[part],
        )
    return histories


def _per_run(value: float | Tensor, runs: int) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.dim() and tensor.shape != (runs,):
        raise ValueError(f"alpha has shape {tuple(tensor.shape)}; expected a number or [{runs}], one per run.")
    return tensor.expand(runs)


def _prompts(values: Tensor) -> Tensor:
    """[runs, contexts, group] -> [prompts, group, 1]."""
    return values.reshape(-1, values.shape[-1], 1)


def _require_count(name: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise ValueError(f"{name} is {value} with {limit} arms; expected 1 to {limit}.")
