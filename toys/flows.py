"""Exact flows, without sampling: gradient descent on D_alpha over a softmax policy, and where it ends."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from apo_edu import alpha_divergence, alpha_divergence_grad

from .bandits import contextual, tabular_features, tied_features


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


def scheduled_flow(
    log_q: Tensor, start_logits: Tensor, alpha_at: Callable[[int], float], *, lr: float = 0.5, num_steps: int = 60
) -> Tensor:
    """Exact gradient descent on D_alpha(q || softmax(logits)) with an alpha for every step: [num_steps + 1, arms] log p.

    Args:
        log_q, start_logits: [arms].
        alpha_at: from the step, 0 first, to its alpha.
    """
    logits, path = start_logits.double(), [start_logits.double().log_softmax(-1)]
    for step in range(num_steps):
        logits = logits - lr * alpha_divergence_grad(log_q, path[-1], alpha_at(step))
        path.append(logits.log_softmax(-1))
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
