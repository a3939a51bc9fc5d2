"""Quadrature against closed forms, and the numbers of the jump from covering to seeking."""

import math

import pytest
import torch

from apo_edu import alpha_divergence
from toys.mixtures import (
    best_fits,
    continuation,
    descent_paths,
    divergence,
    gaussian_log_density,
    grid,
    integrand,
    log_masses,
    mixture,
    ring,
    stationary_fits,
    two_modes,
)


def gaussian_alpha_divergence(m0, s0, m1, s1, alpha):
    """D_alpha(N(m0, s0) || N(m1, s1)) in closed form, by completing the square in q^alpha p^(1-alpha)."""
    if alpha == 1:
        return math.log(s1 / s0) + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5
    if alpha == 0:
        return gaussian_alpha_divergence(m1, s1, m0, s0, 1)
    spread = alpha * s1**2 + (1 - alpha) * s0**2
    overlap = s0 ** (1 - alpha) * s1**alpha / math.sqrt(spread)
    overlap *= math.exp(-alpha * (1 - alpha) * (m0 - m1) ** 2 / (2 * spread))
    return (1 - overlap) / (alpha * (1 - alpha))


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_quadrature_equals_the_closed_form_between_two_gaussians(alpha):
    target = mixture([-0.4], 0.9)
    theta = torch.tensor([0.7, math.log(1.3)], dtype=torch.float64)
    value = divergence(theta, target, alpha, grid(target, width=14.0))
    assert value.item() == pytest.approx(gaussian_alpha_divergence(-0.4, 0.9, 0.7, 1.3, alpha), abs=1e-8)


@pytest.mark.parametrize("target", [two_modes(), two_modes(3.0, weight=0.3), ring(3)])
def test_masses_sum_to_one(target):
    assert abs(log_masses(target, grid(target)).exp().sum().item() - 1) < 1e-8


def test_forward_kl_fit_has_the_moments_of_the_target():
    target = mixture([-2.0, 0.5, 3.0], [0.6, 0.8, 0.5], [0.5, 0.3, 0.2])
    fit = best_fits(target, 1.0)
    # By hand: mean = -1 + 0.15 + 0.6, E x^2 = sum w (m^2 + s^2).
    second = 0.5 * (4 + 0.36) + 0.3 * (0.25 + 0.64) + 0.2 * (9 + 0.25)
    assert fit.mean.item() == pytest.approx(-0.25, abs=1e-8)
    assert fit.sd.item() == pytest.approx(math.sqrt(second - 0.0625), abs=1e-8)


def test_modes_at_two_cover_alone_down_to_0_6_and_jump_between_0_3_and_0_2():
    fits = stationary_fits(two_modes(2.0), [0.0, 0.2, 0.3, 0.5, 0.6, 0.8, 1.0])
    assert fits.grad_norm.max() <= 1e-8
    for alpha in (0.6, 0.8, 1.0):
        (sd,) = fits.at(alpha).sd[:, 0].tolist()
        assert sd == pytest.approx(2.05, abs=0.05)
    for alpha in (0.0, 0.2, 0.3, 0.5):  # two locked minima, the covering one, and two saddles between them
        assert fits.at(alpha).stable.sum() == 3
        assert len(fits.at(alpha)) == 5
    assert fits.at(0.3).where(fits.at(0.3).best).mean.abs().item() < 1e-6
    assert fits.at(0.2).where(fits.at(0.2).best).mean.abs().flatten().tolist() == pytest.approx([2.0, 2.0], abs=0.01)
    at_0 = fits.at(0.0)
    covering = at_0.where(at_0.stable & (at_0.mean[:, 0].abs() < 0.1))
    assert covering.sd.item() == pytest.approx(1.79, abs=0.005)
    assert math.sqrt(4.36) == pytest.approx(fits.at(1.0).sd.item(), abs=1e-8)


def test_close_modes_have_one_minimum_for_every_alpha():
    fits = stationary_fits(two_modes(1.2), torch.linspace(0, 1, 11))
    assert len(fits) == 11
    assert bool(fits.stable.all())


def test_far_modes_lock_by_0_8_and_globally_from_0_5_down():
    fits = stationary_fits(two_modes(3.0), [0.3, 0.5, 0.8])
    assert fits.at(0.8).stable.sum() == 3
    assert fits.at(0.8).where(fits.at(0.8).best).mean.abs().item() < 1e-6
    for alpha in (0.3, 0.5):
        assert fits.at(alpha).where(fits.at(alpha).best).mean.abs().min() > 2.9


def test_warm_start_never_snaps_going_down_and_lets_go_going_up():
    branches = continuation(two_modes(2.0), torch.linspace(0, 1, 11))
    assert branches["down"].sd.min() > 1.78
    up = branches["up"]
    assert up.sd[up.alpha < 0.51].max() < 0.7
    assert up.sd[up.alpha > 0.59].min() > 2.0
    assert up.grad_norm.max() <= 1e-8


def test_two_dimensional_forward_kl_fit_is_moment_matching():
    fit = best_fits(two_modes(dim=2), 1.0)
    assert fit.sd[0].tolist() == pytest.approx([math.sqrt(4.36), 0.6], abs=1e-7)


def test_descent_ends_at_a_certified_minimum():
    path = descent_paths(two_modes(), [1.0], torch.tensor([[0.8, 0.2]]), lr=0.5, num_steps=300)
    assert path[-1, 0, 0, 1].exp().item() == pytest.approx(math.sqrt(4.36), abs=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_integrand_integrates_to_the_divergence(alpha):
    target, theta = two_modes(1.0), torch.tensor([0.3, 0.1], dtype=torch.float64)
    on = grid(target)
    values = integrand(target, theta, alpha, on.points[:, 0])
    log_p = gaussian_log_density(theta, on.points) + on.log_cell
    assert values.min() > -1e-6
    total = alpha_divergence(log_masses(target, on), log_p, alpha).item()
    assert values.sum().item() * on.step == pytest.approx(total, abs=1e-5)


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="narrower than.*grid"):
        divergence(torch.tensor([0.0, -9.0], dtype=torch.float64), two_modes(), 0.5)
    with pytest.raises(ValueError, match=r"weights sum to 0.8.*Divide"):
        mixture([0.0, 1.0], weights=[0.4, 0.4])
