"""Fit one Gaussian to a mixture by D_alpha: `targets`, the `gaussians` that are fitted, the `fits`, and `landscapes`."""

from .fits import Descent, Fits, best_fits, continuation, descend, follow, grid_around, stationary_fits
from .gaussians import Grid, covariance, divergence, gaussian_log_density, grid, log_masses
from .landscapes import cost_below, descent_paths, integrand, landscape
from .targets import Mixture, mixture, ring, two_modes

__all__ = [
    "Descent",
    "Fits",
    "Grid",
    "Mixture",
    "best_fits",
    "continuation",
    "cost_below",
    "covariance",
    "descend",
    "descent_paths",
    "divergence",
    "follow",
    "gaussian_log_density",
    "grid",
    "grid_around",
    "integrand",
    "landscape",
    "log_masses",
    "mixture",
    "ring",
    "stationary_fits",
    "two_modes",
]
