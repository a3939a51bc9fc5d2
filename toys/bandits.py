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
from typing import Any

import torch
from torch import Tensor

from apo_edu import (
    EssAlpha,
    FixedAlpha,
    GroupBatch,
    GuardedAlpha,
    alpha_divergence,
    alpha_divergence_grad,
    box_cox,
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
    confidence_from: which distribution's entropy is read as confidence, see `group_signals`; "tokens" is the arms'.
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
        peers = (objectives.grpo, objectives.dr_grpo, objectives.dapo, objectives.gspo)
        base: dict[str, Any] = {} if self.objective in peers else {"tau_anc": self.tau_anc, "beta_r": self.beta_r}
        if self.objective is objectives.dr_grpo:
            base = {"max_tokens": 1, "scale": "none"}  # as published
        return base | (self.options or {})


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
            "improvement": zeros + torch.as_tensor(getattr(schedule, "improvement", 0.0)),
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


def population_flow(
    log_q: Tensor,
    start_logits: Tensor,
    alphas: Sequence[float] | Tensor,
    *,
    features: Tensor | None = None,
    lr: float = 0.5,
    num_steps: int = 400,
) -> Tensor:
    """Exact gradient descent on D_alpha(q || softmax(logits)), without sampling.

    Args:
        log_q: [contexts, arms] or [arms] target.
        start_logits: [starts, contexts, arms], or [starts, arms] with log_q [arms].
        features: [contexts, d]; None is tabular. The loss is the mean over contexts.

    Returns:
        [num_steps + 1, alphas, starts, (contexts,) arms] probabilities.
    """
    flat = log_q.dim() == 1
    target, logits = (log_q[None], start_logits[:, None]) if flat else (log_q, start_logits)
    contexts = len(target)
    basis = tabular_features(contexts) if features is None else features.double()
    orders = torch.as_tensor(alphas, dtype=torch.float64)[:, None, None]
    theta = torch.zeros(len(orders), len(logits), basis.shape[1], target.shape[1], dtype=torch.float64)
    path = []
    for _ in range(num_steps + 1):
        log_p = torch.log_softmax(logits.double() + torch.einsum("cd,nsda->nsca", basis, theta), dim=-1)
        path.append(log_p.exp()[..., 0, :] if flat else log_p.exp())
        slope = alpha_divergence_grad(target, log_p, orders)
        theta = theta - lr * torch.einsum("cd,nsca->nsda", basis, slope) / (1 if features is None else contexts)
    return torch.stack(path)


def simplex_field(log_q: Tensor, alpha: float, resolution: int = 14) -> tuple[Tensor, Tensor]:
    """The flow dp/dt of the gradient descent in logits, on a grid inside the 3-arm simplex.

        du/dt = -grad_u D_alpha,    dp/dt = p * (du/dt - E_p[du/dt])

    Returns:
        (points, velocities), each [n, 3]; velocities sum to 0.
    """
    rows = [
        (i, j, resolution - i - j)
        for i in range(1, resolution)
        for j in range(1, resolution - i)
    ]  # fmt: skip
    points = torch.tensor(rows, dtype=torch.float64) / resolution
    push = -alpha_divergence_grad(log_q, points.log(), alpha)
    return points, points * (push - (points * push).sum(-1, keepdim=True))


def arm_divergence(log_q: Tensor, probs: Tensor, alpha: float | Tensor) -> Tensor:
    """D_alpha(q || pi) over all arms, for policies given as probabilities: what a run is far from, nats."""
    return alpha_divergence(log_q, probs.clamp(min=1e-300).log(), alpha)


@dataclass(frozen=True)
class EstimatorStudy:
    """Gradient estimates over many resamples, against alpha; each field [alphas] unless said otherwise.

    variance_*: trace of the covariance of one estimate.  bias_*: norm of (mean estimate - exact gradient).
    ess: effective sample size of the weights r^alpha, in samples.  exact_norm: norm of the exact gradient.
    Variants: "uncentred" (1/alpha) r^alpha, "centred" ((r^alpha - mean r^alpha)/alpha), "clipped" the centred weight with
    r^alpha cut at `clip`.
    """

    alphas: Tensor
    variance: dict[str, Tensor]
    bias: dict[str, Tensor]
    ess: Tensor
    exact_norm: Tensor
    num_samples: int
    num_resamples: int


def estimator_study(
    log_q: Tensor,
    log_p: Tensor,
    alphas: Sequence[float] | Tensor,
    *,
    num_samples: int = 16,
    num_resamples: int = 2000,
    clip: float = 2.0,
    seed: int = 0,
) -> EstimatorStudy:
    """How noisy is a gradient estimated from samples of p?  DESIGN fact: the 1/alpha blow-up is a sampling artefact.

        grad_u D_alpha = -E_p[ (1/alpha) r^alpha (onehot - p) ] = -E_p[ ((r^alpha - b)/alpha) (onehot - p) ]

    for any constant b. The uncentred estimator (b = 0) has variance about 1/alpha^2; with b = E_p r^alpha, estimated by the
    mean of the other samples, it has not.

    Args:
        log_q, log_p: [arms].  alphas: > 0.  num_samples: per estimate.  clip: limit on r^alpha for "clipped".
    """
    orders = torch.as_tensor(alphas, dtype=torch.float64)
    if bool((orders <= 0).any()):
        raise ValueError(f"alphas reach {float(orders.min())}; expected > 0: the uncentred estimator divides by alpha.")
    log_q, log_p = log_q.double(), log_p.double()
    exact = alpha_divergence_grad(log_q, log_p, orders)
    log_ratio = (log_q - log_p)[_sampled_arms(log_p, num_samples, num_resamples, seed)]
    variance: dict[str, list[Tensor]] = {"uncentred": [], "centred": [], "clipped": []}
    bias: dict[str, list[Tensor]] = {name: [] for name in variance}
    ess = []
    for alpha, gradient in zip(orders.tolist(), exact, strict=True):
        estimates = gradient_estimates(
            log_q, log_p, alpha, num_samples=num_samples, num_resamples=num_resamples, clip=clip, seed=seed
        )
        for name, estimate in estimates.items():
            variance[name].append(estimate.var(0).sum())
            bias[name].append((estimate.mean(0) - gradient).norm())
        ess.append(effective_sample_size(alpha * log_ratio).mean())
    return EstimatorStudy(
        orders,
        {name: torch.stack(value) for name, value in variance.items()},
        {name: torch.stack(value) for name, value in bias.items()},
        torch.stack(ess),
        exact.norm(dim=-1),
        num_samples,
        num_resamples,
    )


def gradient_estimates(
    log_q: Tensor,
    log_p: Tensor,
    alpha: float,
    *,
    num_samples: int = 16,
    num_resamples: int = 2000,
    clip: float = 2.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The estimates behind `estimator_study`, at one alpha > 0: {variant: [num_resamples, arms]}.

    Each row estimates grad_u D_alpha from `num_samples` samples of p; every variant sees the same samples.
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; expected > 0: the uncentred estimator divides by alpha.")
    log_q, log_p = log_q.double(), log_p.double()
    arms = _sampled_arms(log_p, num_samples, num_resamples, seed)
    score = torch.eye(len(log_p), dtype=torch.float64)[arms] - log_p.exp()
    z = box_cox((log_q - log_p)[arms], alpha)  # (r^alpha - 1) / alpha
    cut = z.clamp(max=(clip - 1.0) / alpha)
    weights = {"uncentred": z + 1.0 / alpha, "centred": _minus_others(z), "clipped": _minus_others(cut)}
    return {name: -(weight[..., None] * score).mean(1) for name, weight in weights.items()}


def prompt_weights(
    group: int = 8, *, alphas: Sequence[float] = (0.0, 0.35, 0.6, 0.9), tau_anc: float = 0.5, beta_r: float = 0.3
) -> dict[str, Tensor]:
    """The weight each objective gives a prompt, against its number of successes k = 0..group: {name: [group + 1]}.

    The weight is the push on the correct completions, -sum of dL/dl over them times the number of prompts, for binary
    rewards on policy. It is 0 at k = 0 and k = group: such a prompt teaches nothing. Its shape is the implicit curriculum.
    """
    counts = torch.arange(group + 1)
    rewards = (torch.arange(group) < counts[:, None]).double()
    logps = torch.full((group + 1, group, 1), -1.0, dtype=torch.float64)
    batch = GroupBatch(logps=logps, old_logps=logps, mask=torch.ones_like(logps), rewards=rewards)

    def push(objective: objectives.Objective, **kwargs: Any) -> Tensor:
        coef, _, _ = objectives.coefficients(objective, batch, **kwargs)
        return -(coef[..., 0] * rewards).sum(-1) * len(counts)

    anchored = {"tau_anc": tau_anc, "beta_r": beta_r}
    weights = {
        "grpo": push(objectives.grpo),
        "dr_grpo": push(objectives.dr_grpo, max_tokens=1, scale="none"),
        "dapo": push(objectives.dapo),
        "gspo": push(objectives.gspo),
        "adpo": push(objectives.adpo, **anchored),
    }
    return weights | {f"apo {alpha:g}": push(objectives.apo, alpha=alpha, **anchored) for alpha in alphas}


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
                replace(loop, schedule=lambda guard=guard: GuardedAlpha(noise_guard=guard)),
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


def capacity(
    *, alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0), beta_r: float = 0.3, rank: int = 2, num_steps: int = 1500
) -> dict[str, Tensor]:
    """Where the divergence matters: exact descent with a tabular and with a tied policy, to the end.

    Returns:
        {"target": [contexts, arms], "tabular": [alphas, contexts, arms], "tied": the same, "alphas": [alphas]}: with a
        tabular softmax every alpha ends at the target, with tied parameters each alpha ends somewhere else.
    """
    bandit = contextual()
    log_q = torch.log_softmax(bandit.values / beta_r, dim=-1)
    start = torch.zeros(1, *bandit.values.shape, dtype=torch.float64)
    tied = tied_features(len(log_q), rank)
    return {
        "alphas": torch.as_tensor(alphas, dtype=torch.float64),
        "target": log_q.exp(),
        "tabular": population_flow(log_q, start, alphas, num_steps=num_steps)[-1, :, 0],
        "tied": population_flow(log_q, start, alphas, features=tied, lr=2.0, num_steps=num_steps)[-1, :, 0],
    }


def _per_run(value: float | Tensor, runs: int) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.dim() and tensor.shape != (runs,):
        raise ValueError(f"alpha has shape {tuple(tensor.shape)}; expected a number or [{runs}], one per run.")
    return tensor.expand(runs)


def _prompts(values: Tensor) -> Tensor:
    """[runs, contexts, group] -> [prompts, group, 1]."""
    return values.reshape(-1, values.shape[-1], 1)


def _sampled_arms(log_p: Tensor, num_samples: int, num_resamples: int, seed: int) -> Tensor:
    """[num_resamples, num_samples] arms drawn from p."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(log_p.exp().expand(num_resamples, -1), num_samples, replacement=True, generator=generator)


def _minus_others(weights: Tensor) -> Tensor:
    """Each weight minus the mean of the other samples', which keeps the estimator unbiased."""
    n = weights.shape[-1]
    return (weights - weights.mean(-1, keepdim=True)) * n / (n - 1)


def _require_count(name: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise ValueError(f"{name} is {value} with {limit} arms; expected 1 to {limit}.")
