"""The one Gaussian that is fitted, and D_alpha between a target and it, on a quadrature grid.

Densities become distributions over the grid (log density + log cell weight), so the core's `alpha_divergence` is the only
divergence here. On a uniform grid the trapezoid rule is spectrally accurate for these integrands: sums agree with
integrals to 1e-10 (tests/test_mixtures.py).

Parameters theta, in float64: in 1-D (mean, log sd); in 2-D (mean x, mean y, log sd x, log sd y, atanh correlation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apo_edu import alpha_divergence

from .targets import LOG_2PI, Mixture

MASS_TOLERANCE = 1e-8  # how far from 1 the target's mass on the grid may be

REACH = 6.5  # standard deviations of the fit that must lie on the grid: the mass beyond is 8e-11


@dataclass(frozen=True)
class Grid:
    """A uniform quadrature grid: points [n, dim] and the logarithm of the volume of a cell."""

    points: Tensor
    log_cell: float
    low: Tensor
    high: Tensor
    step: float


def grid(targets: Mixture | Sequence[Mixture], *, step: float | None = None, width: float = 8.0) -> Grid:
    """The grid on which one or several targets are fitted.

    Args:
        targets: mixtures of one dimension.
        step: distance of the points; None takes a tenth (2-D: three tenths) of the smallest sd.
        width: half-width in standard deviations of the whole mixture, beyond the outermost of the overall means.
    """
    mixtures = as_list(targets)
    dim = mixtures[0].dim
    if any(target.dim != dim for target in mixtures):
        raise ValueError("targets mix 1-D and 2-D; expected one dimension. Fit them in two calls.")
    smallest = min(float(target.sds.min()) for target in mixtures)
    step = step or smallest * (0.1 if dim == 1 else 0.3)
    reach = [width * target.covariance.diagonal().sqrt() for target in mixtures]
    low = torch.stack([target.mean - r for target, r in zip(mixtures, reach, strict=True)]).amin(0)
    high = torch.stack([target.mean + r for target, r in zip(mixtures, reach, strict=True)]).amax(0)
    axes = []
    for a, b in zip(low.tolist(), high.tolist(), strict=True):
        half = math.ceil((b - a) / (2 * step))
        axes.append((a + b) / 2 + step * torch.arange(-half, half + 1, dtype=torch.float64))
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
    return Grid(points, dim * math.log(step), points.amin(0), points.amax(0), step)


def log_masses(target: Mixture, on: Grid) -> Tensor:
    """[n] log mass of each cell: log density + log cell volume. They sum to 1 within 1e-8 or this raises ValueError."""
    values = target.log_density(on.points) + on.log_cell
    total = float(values.exp().sum())
    if abs(total - 1.0) > MASS_TOLERANCE:
        raise ValueError(
            f"the target's mass on the grid is {total:.10f}; expected 1 within {MASS_TOLERANCE}. Widen or refine it."
        )
    return values


def gaussian_log_density(theta: Tensor, x: Tensor) -> Tensor:
    """Log density of the Gaussians theta [..., 2 or 5] at points x [n, dim]: [..., n]. Parameters as in the module text."""
    if theta.shape[-1] == 2:
        z = (x[:, 0] - theta[..., :1]) * torch.exp(-theta[..., 1:])
        return -0.5 * z * z - theta[..., 1:] - 0.5 * LOG_2PI
    mean_x, mean_y, log_x, log_y, fisher = (theta[..., i : i + 1] for i in range(5))
    rho = torch.tanh(fisher)
    log_one_minus = -2.0 * torch.log(torch.cosh(fisher))  # log(1 - rho^2) without cancellation
    zx, zy = (x[:, 0] - mean_x) * torch.exp(-log_x), (x[:, 1] - mean_y) * torch.exp(-log_y)
    quadratic = (zx * zx - 2 * rho * zx * zy + zy * zy) * torch.exp(-log_one_minus)
    return -0.5 * quadratic - log_x - log_y - 0.5 * log_one_minus - LOG_2PI


def covariance(theta: Tensor) -> Tensor:
    """[..., 5] -> [..., 2, 2] covariance of a 2-D fit; [..., 2] -> [..., 1, 1]."""
    if theta.shape[-1] == 2:
        return torch.exp(2 * theta[..., 1:])[..., None]
    sd_x, sd_y = theta[..., 2].exp(), theta[..., 3].exp()
    cross = torch.tanh(theta[..., 4]) * sd_x * sd_y
    return torch.stack([torch.stack([sd_x**2, cross], -1), torch.stack([cross, sd_y**2], -1)], -2)


def divergence(theta: Tensor, target: Mixture, alpha: float | Tensor, on: Grid | None = None) -> Tensor:
    """D_alpha(target || Gaussian theta) in nats, [...] for theta [..., 2 or 5] and alpha that broadcasts; differentiable.

    Raises:
        ValueError: where a Gaussian is too narrow for the grid or reaches beyond it.
    """
    on = on or grid(target)
    if not bool(on_grid(theta, on).all()):
        raise ValueError(
            f"theta holds a Gaussian narrower than {1.2 * on.step:.3g} or reaching beyond the grid "
            f"[{on.low.tolist()}, {on.high.tolist()}]; expected {REACH} sds on it. Pass grid(target, width=..., step=...)."
        )
    return alpha_divergence(log_masses(target, on), gaussian_log_density(theta, on.points) + on.log_cell, alpha)


def on_grid(theta: Tensor, on: Grid) -> Tensor:
    """Whether the quadrature holds to 1e-10 for each Gaussian: wide enough for the step, narrow enough for the ends."""
    dim = 1 if theta.shape[-1] == 2 else 2
    mean, sd = theta[..., :dim], theta[..., dim : 2 * dim].exp()
    inside = ((mean - REACH * sd >= on.low) & (mean + REACH * sd <= on.high)).all(-1)
    narrow = sd.amin(-1)
    if dim == 2:  # the narrow axis of a correlated Gaussian
        narrow = torch.linalg.eigvalsh(covariance(theta.nan_to_num()))[..., 0].clamp(min=0).sqrt()
    return inside & (narrow >= 1.2 * on.step) & torch.isfinite(theta).all(-1)


def as_list(targets: Mixture | Sequence[Mixture]) -> list[Mixture]:
    return [targets] if isinstance(targets, Mixture) else list(targets)
