"""Quadrature against closed forms, and the numbers of the jump from covering to seeking."""

import math

import pytest
import torch

from apo_edu import alpha_divergence
from toys.mixtures import (
    best_fits,
    continuation,
    descend,
    descent_paths,
    divergence,
    follow,
    gaussian_log_density,
    grid,
    grid_around,
    integrand,
    log_masses,
    mixture,
    ring,
    stationary_fits,
    two_modes,
)
from toys.mixtures import fits as search


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


@pytest.mark.parametrize("order", [0.0, 0.3, 1.0])
def test_derivatives_in_closed_form_are_autograd_s(order):
    target = mixture([-4.0, 1.0], [0.4, 0.9], [0.9, 0.1])
    means = torch.tensor([-4.5, -1.0, 0.0, 4.5], dtype=torch.float64)
    theta = torch.cartesian_prod(means, torch.tensor([-1.2, 0.1, 1.2], dtype=torch.float64))
    on = grid_around(target, theta)
    rows = torch.zeros(len(theta), dtype=torch.long), torch.full((len(theta),), order, dtype=torch.float64), theta
    log_q = log_masses(target, on)[None]
    for ours, theirs in zip(
        search._in_closed_form(log_q, on, *rows), search._by_autograd(log_q, on, *rows), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("separation", "order"), [(2.5, 0.2), (2.5, 0.9), (1.2, 0.0), (1.7, 0.5)])
def test_the_optimiser_s_path_goes_downhill_to_a_certified_fit(separation, order):
    target, start = two_modes(separation, weight=0.6), torch.tensor([-3.4, 0.4], dtype=torch.float64)
    found, table = descend(target, order, start), stationary_fits(target, order)
    assert found.path[0].tolist() == start.tolist()
    on = grid_around(target, start[None])
    loss = divergence(found.path, target, order, on)
    assert bool((loss.diff() < 1e-13).all()) and found.path.diff(dim=0).norm(dim=-1).max() < 0.4 + 1e-12
    end = found.minima.where(torch.arange(len(found.minima)) == found.end)
    torch.testing.assert_close(found.path[-1], end.theta[0], rtol=0, atol=1e-9)
    assert end.grad_norm.item() <= 1e-8 and bool(end.stable)
    # The lessons' search on their own grid has the same minima.
    torch.testing.assert_close(found.minima.theta, table.where(table.stable).theta, rtol=0, atol=1e-6)
    assert found.minima.best.tolist() == table.where(table.stable).best.tolist()


def test_a_start_that_does_not_fit_on_the_grid_is_named():
    with pytest.raises(ValueError, match=r"start \[0.0, 3.0\] is narrower than .* or reaches beyond.*Leave `on` out"):
        descend(two_modes(), 0.5, torch.tensor([0.0, 3.0]), on=grid(two_modes()))


def test_a_fit_dragged_along_lets_go_at_3_12_and_never_splits_again():
    locked, covering = torch.tensor([-2.5, -0.5]), torch.tensor([0.3, 0.1])
    together = follow([two_modes(distance / 2) for distance in (5.0, 3.84, 3.82, 3.13, 3.10, 2.5)], 0.2, locked)
    assert [mean > 1.2 for mean in together.mean[:, 0].abs()] == [True, True, True, True, False, False]
    # Covering is better from 3.83 down; nobody told the optimiser.
    assert together.best.tolist() == [True, True, False, False, True, True]
    apart = follow([two_modes(distance / 2) for distance in (2.5, 3.5, 4.5, 6.0, 8.0)], 0.2, covering)
    assert apart.mean.abs().max() < 1e-6 and apart.best.tolist() == [True, True, False, False, False]
    assert together.grad_norm.max() <= 1e-8 and apart.target.tolist() == [0, 1, 2, 3, 4]


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="narrower than.*grid"):
        divergence(torch.tensor([0.0, -9.0], dtype=torch.float64), two_modes(), 0.5)
    with pytest.raises(ValueError, match=r"weights sum to 0.8.*Divide"):
        mixture([0.0, 1.0], weights=[0.4, 0.4])
