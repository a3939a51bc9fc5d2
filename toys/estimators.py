"""Sampled gradients: the noise of each estimator against alpha, and the weight each objective gives a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apo_edu import GroupBatch, alpha_divergence_grad, box_cox, effective_sample_size, objectives


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
    """The weight each objective gives a prompt, against its number of successes k = 0..group: {label: [group + 1]}.

    A label is the objective's name, followed by a blank and alpha where it reads alpha. The weight is the push on the
    correct completions, -sum of dL/dl over them times the number of prompts, for binary rewards on policy. It is 0 at
    k = 0 and k = group: such a prompt teaches nothing. Its shape is the implicit curriculum.
    """
    counts = torch.arange(group + 1)
    rewards = (torch.arange(group) < counts[:, None]).double()
    logps = torch.full((group + 1, group, 1), -1.0, dtype=torch.float64)
    batch = GroupBatch(logps=logps, old_logps=logps, mask=torch.ones_like(logps), rewards=rewards)

    def push(objective: objectives.Objective, **kwargs: Any) -> Tensor:
        coef, _, _ = objectives.coefficients(objective, batch, **kwargs)
        return -(coef[..., 0] * rewards).sum(-1) * len(counts)

    options = {"tau_anc": tau_anc, "beta_r": beta_r, "max_completion_tokens": 1, "advantage_scale": "none"}
    weights: dict[str, Tensor] = {}
    for name, record in objectives.OBJECTIVES.items():
        keywords = record.bind(options)
        if record.reads_alpha:
            weights |= {f"{name} {alpha:g}": push(record.function, alpha=alpha, **keywords) for alpha in alphas}
        else:
            weights[name] = push(record.function, **keywords)
    return weights


@dataclass(frozen=True)
class AgainstGrpo:
    """APO's gradient on one batch beside GRPO's; each field [alphas].

    cosine: of the angle between the two.
    length: norm of APO's, 1 / nat.
    """

    alphas: Tensor
    cosine: Tensor
    length: Tensor


def against_grpo(batch: GroupBatch, alphas: Sequence[float] | Tensor, *, tau_anc: float, beta_r: float) -> AgainstGrpo:
    """Which way alpha turns a gradient in the log-probabilities, and how long it makes it; from `coefficients`."""
    orders = torch.as_tensor(alphas, dtype=torch.float64)
    grpo = objectives.coefficients(objectives.grpo, batch)[0].flatten()
    options: dict[str, Any] = {"tau_anc": tau_anc, "beta_r": beta_r}
    rows = torch.stack(
        [objectives.coefficients(objectives.apo, batch, alpha=a, **options)[0].flatten() for a in orders.tolist()]
    )
    return AgainstGrpo(orders, torch.cosine_similarity(rows, grpo[None], dim=-1), rows.norm(dim=-1))


def _sampled_arms(log_p: Tensor, num_samples: int, num_resamples: int, seed: int) -> Tensor:
    """[num_resamples, num_samples] arms drawn from p."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(log_p.exp().expand(num_resamples, -1), num_samples, replacement=True, generator=generator)


def _minus_others(weights: Tensor) -> Tensor:
    """Each weight minus the mean of the other samples', which keeps the estimator unbiased."""
    n = weights.shape[-1]
    return (weights - weights.mean(-1, keepdim=True)) * n / (n - 1)
