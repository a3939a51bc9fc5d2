"""Targets to fit: mixtures of isotropic Gaussians in one or two dimensions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Mixture:
    """A mixture of isotropic Gaussians in one or two dimensions.

    means: [components, dim].  sds: [components] standard deviations, in the unit of x.  weights: [components], sum 1.
    """

    means: Tensor
    sds: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        if self.means.dim() != 2 or self.means.shape[1] not in (1, 2):
            raise ValueError(f"means has shape {tuple(self.means.shape)}; expected [components, 1] or [components, 2].")
        for name in ("sds", "weights"):
            value = getattr(self, name)
            if value.shape != self.means.shape[:1] or not bool((torch.isfinite(value) & (value > 0)).all()):
                raise ValueError(
                    f"{name} is {value.tolist()}; expected one number > 0 for each of {len(self.means)} components."
                )
        if abs(float(self.weights.sum()) - 1.0) > 1e-9:
            raise ValueError(f"weights sum to {float(self.weights.sum()):.6g}; expected 1. Divide them by their sum.")

    @property
    def dim(self) -> int:
        """1 or 2."""
        return self.means.shape[1]

    @property
    def mean(self) -> Tensor:
        """[dim] the mean of the mixture."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """[dim, dim]: within the components plus between them. At alpha = 1 the fit has these two moments."""
        off = self.means - self.mean
        within = (self.weights * self.sds**2).sum() * torch.eye(self.dim, dtype=off.dtype)
        return within + (self.weights[:, None] * off).mT @ off

    def log_density(self, x: Tensor) -> Tensor:
        """[..., dim] points -> [...] log density."""
        squared = ((x[..., None, :] - self.means) ** 2).sum(-1) / self.sds**2
        log_norm = self.dim * (0.5 * LOG_2PI + self.sds.log())
        return torch.logsumexp(self.weights.log() - log_norm - 0.5 * squared, dim=-1)


def mixture(means: Sequence, sd: float | Sequence[float] = 0.6, weights: Sequence[float] | None = None) -> Mixture:
    """A `Mixture` from plain numbers: means [k] (1-D) or [k][2] (2-D), one sd or k of them, weights (equal if None)."""
    centres = torch.as_tensor(means, dtype=torch.float64)
    centres = centres[:, None] if centres.dim() == 1 else centres
    sds = torch.as_tensor(sd, dtype=torch.float64).expand(len(centres)).clone()
    shares = (
        torch.ones(len(centres), dtype=torch.float64)
        if weights is None
        else torch.as_tensor(weights, dtype=torch.float64)
    )
    return Mixture(centres, sds, shares / shares.sum() if weights is None else shares)


def two_modes(separation: float = 2.0, sd: float = 0.6, weight: float = 0.5, *, dim: int = 1) -> Mixture:
    """Two modes at -separation and +separation (on the x axis in 2-D); `weight` is the left one's share."""
    means = [-separation, separation] if dim == 1 else [[-separation, 0.0], [separation, 0.0]]
    return mixture(means, sd, [weight, 1.0 - weight])


def ring(num_modes: int = 3, radius: float = 2.5, sd: float = 0.6) -> Mixture:
    """`num_modes` equal modes on a circle in 2-D."""
    angles = torch.arange(num_modes, dtype=torch.float64) * 2 * math.pi / num_modes + math.pi / 2
    return mixture((radius * torch.stack([angles.cos(), angles.sin()], -1)).tolist(), sd)
