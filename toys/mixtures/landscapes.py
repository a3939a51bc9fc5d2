"""What D_alpha looks like around the fits: its landscape, the descent on it, and what each x contributes to it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from apo_edu import alpha_divergence

from .gaussians import REACH, Grid, divergence, gaussian_log_density, grid, log_masses, on_grid
from .targets import Mixture


def landscape(target: Mixture, alpha: float, means: Tensor, log_sds: Tensor, *, on: Grid | None = None) -> Tensor:
    """D_alpha in nats over a (mean, log sd) grid in 1-D: [len(log_sds), len(means)]."""
    widest = float(log_sds.max().exp())
    on = on or grid(
        target, width=max(8.0, (REACH * widest + float(means.abs().max())) / float(target.covariance[0, 0].sqrt()))
    )
    theta = torch.stack(torch.meshgrid(means.double(), log_sds.double(), indexing="xy"), -1)
    return divergence(theta, target, alpha, on)


def descent_paths(
    target: Mixture,
    alphas: Sequence[float] | Tensor,
    start: Tensor,
    *,
    lr: float = 0.1,
    num_steps: int = 400,
    on: Grid | None = None,
) -> Tensor:
    """Plain gradient descent on (mean, log sd) from the same starts for several alphas.

    Args:
        start: [starts, 2] starting points.
        lr: step size.  A step is cut to length 0.25, so that a steep valley does not throw the path off the picture.

    Returns:
        [num_steps + 1, alphas, starts, 2].
    """
    on = on or grid(target, width=12.0)
    log_q = log_masses(target, on)
    orders = torch.as_tensor(alphas, dtype=torch.float64)[:, None]
    theta = start.double().expand(len(orders), *start.shape).clone()
    path = [theta]
    for _ in range(num_steps):
        leaf = theta.detach().requires_grad_()
        log_p = gaussian_log_density(leaf, on.points) + on.log_cell
        (slope,) = torch.autograd.grad(alpha_divergence(log_q, log_p, orders).sum(), leaf)
        step = lr * slope
        step = step * (0.25 / step.norm(dim=-1, keepdim=True).clamp(min=0.25))
        moved = theta - step
        theta = torch.where(on_grid(moved, on)[..., None], moved, theta)
        path.append(theta)
    return torch.stack(path)


def integrand(target: Mixture, theta: Tensor, alpha: float | Tensor, x: Tensor) -> Tensor:
    """What each x contributes to D_alpha, per unit of x, in nats: [..., n], >= 0, integrating to D_alpha.

        (alpha q + (1 - alpha) p - q^alpha p^(1-alpha)) / (alpha (1 - alpha))

    The core's divergence of a distribution over {here, elsewhere} in the limit of a small cell, so the KL limits are exact.
    """
    # D of the two-point split (w q, 1 - w q) against (w p, 1 - w p), divided by w, is this integrand as w -> 0.
    cell = 1e-7
    log_q, log_p = target.log_density(x[:, None]), gaussian_log_density(theta, x[:, None])
    pair_q = torch.stack([log_q + math.log(cell), torch.log1p(-cell * log_q.exp())], -1)
    pair_p = torch.stack([log_p + math.log(cell), torch.log1p(-cell * log_p.exp())], -1)
    return alpha_divergence(pair_q, pair_p, alpha) / cell


def cost_below(target: Mixture, theta: Tensor, alpha: float, border: float, *, num: int = 4001) -> tuple[float, float]:
    """What x < border contributes to D_alpha by `integrand`, and the whole of it, both in nats, for a target in 1-D."""
    reach = 10 * float(target.covariance[0, 0].sqrt())
    x = torch.linspace(float(target.mean) - reach, float(target.mean) + reach, num, dtype=torch.float64)
    values = integrand(target, theta, alpha, x[:, None]).flatten()
    below = x <= border
    return float(torch.trapezoid(values[below], x[below])), float(torch.trapezoid(values, x))
