"""Fit one Gaussian to a mixture by D_alpha: mode covering, mode seeking, and the jump between them.

    theta*(alpha) = stationary points of  D_alpha(q || N(mean, covariance))          (the divergence of `apo_edu`)

Densities become distributions over a quadrature grid (log density + log cell weight), so the core's `alpha_divergence` is
the only divergence here. On a uniform grid the trapezoid rule is spectrally accurate for these integrands: sums agree with
integrals to 1e-10 (tests/test_mixtures.py). Every fit that is returned is certified: gradient norm <= 1e-8, and the
eigenvalues of its Hessian say whether it is a minimum or a saddle.

Parameters theta, in float64: in 1-D (mean, log sd); in 2-D (mean x, mean y, log sd x, log sd y, atanh correlation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from apo_edu import alpha_divergence

LOG_2PI = math.log(2.0 * math.pi)
TOLERANCE = 1e-8  # gradient norm at which a fit counts as stationary
REACH = 6.5  # standard deviations of the fit that must lie on the grid: the mass beyond is 8e-11


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


TARGETS = {
    "two equal modes": two_modes(),
    "two unequal modes": two_modes(weight=0.3),
    "close modes": two_modes(1.2),
    "far modes": two_modes(3.0),
    "three modes": mixture([-3.0, 0.0, 3.0], weights=[0.25, 0.5, 0.25]),
    "four modes": mixture([-4.0, -1.5, 1.0, 3.5], weights=[0.1, 0.4, 0.3, 0.2]),
}
TARGETS_2D = {
    "two modes": two_modes(dim=2),
    "three modes": ring(3),
    "four modes": ring(4),
    "unequal": mixture([[-2.0, -1.0], [2.0, 1.0], [1.5, -2.0]], weights=[0.5, 0.3, 0.2]),
}


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
    mixtures = _list(targets)
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
    if abs(total - 1.0) > TOLERANCE:
        raise ValueError(
            f"the target's mass on the grid is {total:.10f}; expected 1 within {TOLERANCE}. Widen or refine it."
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
    if not bool(_on_grid(theta, on).all()):
        raise ValueError(
            f"theta holds a Gaussian narrower than {1.2 * on.step:.3g} or reaching beyond the grid "
            f"[{on.low.tolist()}, {on.high.tolist()}]; expected {REACH} sds on it. Pass grid(target, width=..., step=...)."
        )
    return alpha_divergence(log_masses(target, on), gaussian_log_density(theta, on.points) + on.log_cell, alpha)


@dataclass(frozen=True)
class Fits:
    """A table of certified stationary fits, one row each.

    target: [n] index into the targets.  alpha: [n].  theta: [n, 2 or 5].  loss: [n] D_alpha in nats.
    grad_norm: [n], <= 1e-8.  eigenvalues: [n, 2 or 5] of the Hessian, ascending.  stable: [n] booleans, True for a minimum.
    best: [n] booleans, True for the global minimum of its target and alpha (both of a symmetric pair).
    mass_missed: [n] share of the target outside the fit's central 95 % region.  mass_in_valley: [n] share of the fit
    where the target's density is below a tenth of its peak, within the ball that reaches the outermost mode.
    """

    target: Tensor
    alpha: Tensor
    theta: Tensor
    loss: Tensor
    grad_norm: Tensor
    eigenvalues: Tensor
    stable: Tensor
    best: Tensor
    mass_missed: Tensor
    mass_in_valley: Tensor

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def mean(self) -> Tensor:
        """[n, dim]."""
        return self.theta[:, : 1 if self.theta.shape[1] == 2 else 2]

    @property
    def sd(self) -> Tensor:
        """[n, dim] standard deviations along the axes."""
        return self.theta[:, 1:2].exp() if self.theta.shape[1] == 2 else self.theta[:, 2:4].exp()

    def where(self, keep: Tensor) -> "Fits":
        """The rows where `keep` [n] is True."""
        return Fits(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})

    def at(self, alpha: float, target: int = 0) -> "Fits":
        """The rows of one target at the alpha nearest to the one given."""
        nearest = self.alpha[(self.alpha - alpha).abs().argmin()]
        return self.where((self.alpha == nearest) & (self.target == target))


def starts(target: Mixture, num: int | None = None) -> Tensor:
    """Starting points for the search: on every mode, between every two, and over the whole target, [n, 2 or 5].

    `num` caps their number. Narrow, middling and wide Gaussians at each place in 1-D.
    """
    rows = []
    pairs = [(a, b) for a in range(len(target.means)) for b in range(a)]
    overall = target.covariance.diagonal().sqrt()
    if target.dim == 1:
        sd = float(target.sds.min())
        places = [*target.means[:, 0].tolist(), float(target.mean)]
        for a, b in pairs:
            places += [float(target.means[a] + f * (target.means[b] - target.means[a])) for f in (0.25, 0.5, 0.75)]
        for place in sorted(set(places)):
            for width in (sd, 1.5 * sd, (sd * float(overall)) ** 0.5, float(overall)):
                rows.append([place, math.log(width)])
    else:
        cov = target.covariance
        rho = float(cov[0, 1] / (overall[0] * overall[1]))
        rows.append([*target.mean.tolist(), *overall.log().tolist(), math.atanh(rho)])
        for mean, sd in zip(target.means.tolist(), target.sds.tolist(), strict=True):
            rows.append([*mean, math.log(sd), math.log(sd), 0.0])
        for a, b in pairs:  # a fit that covers two modes lies along the line between them
            middle, off = (target.means[a] + target.means[b]) / 2, (target.means[a] - target.means[b]) / 2
            cov = off[:, None] * off + float(target.sds.mean()) ** 2 * torch.eye(2, dtype=off.dtype)
            sds = cov.diagonal().sqrt()
            rows.append([*middle.tolist(), *sds.log().tolist(), math.atanh(float(cov[0, 1] / (sds[0] * sds[1])))])
    return torch.tensor(rows[:num], dtype=torch.float64)


def stationary_fits(
    targets: Mixture | Sequence[Mixture],
    alphas: float | Sequence[float] | Tensor,
    *,
    saddles: bool = True,
    on: Grid | None = None,
    max_rounds: int = 60,
) -> Fits:
    """All stationary Gaussian fits of each target at each alpha that a multi-start search finds, certified.

        grad_theta D_alpha(q || N_theta) = 0,    |grad| <= 1e-8

    Every (target, alpha, start) is a row of one tensor. Rows go downhill by a trust-region Newton method to minima; with
    `saddles`, a second set goes by plain Newton to whatever stationary point is near, and every round ends by starting
    each alpha from the points found at its neighbours, so that a branch found anywhere is followed as far as it goes.

    Args:
        targets: one or several mixtures of one dimension.
        alphas: orders; [0, 1] is what the lessons use.
        saddles: look for unstable fits too (the dashed branches of the bifurcation diagram).
        on: quadrature grid; None makes one that suits all targets.
        max_rounds: Newton steps per row.

    Returns:
        A `Fits`, sorted by target, alpha and loss.
    """
    mixtures = _list(targets)
    on = on or grid(mixtures)
    orders = torch.as_tensor(alphas, dtype=torch.float64).reshape(-1)
    log_q = torch.stack([log_masses(target, on) for target in mixtures])
    which, alpha, theta = [], [], []
    for index, target in enumerate(mixtures):
        points = starts(target)
        theta.append(points.repeat(len(orders), 1))
        alpha.append(orders.repeat_interleave(len(points)))
        which.append(torch.full((len(points) * len(orders),), index))
    rows = (torch.cat(which), torch.cat(alpha), torch.cat(theta))
    found = [_newton(log_q, on, *rows, downhill=True, max_rounds=max_rounds)]
    if saddles:
        found.append(_newton(log_q, on, *rows, downhill=False, max_rounds=max_rounds // 2))
    table = _unique(torch.cat([part[0] for part in found]), *_join(found))
    if len(orders) > 1:
        shifted = _neighbours(table, orders)
        found = [table, _newton(log_q, on, *shifted, downhill=False, max_rounds=12)]
        table = _unique(torch.cat([part[0] for part in found]), *_join(found))
    return _certify(table, mixtures, log_q, on)


def best_fits(
    targets: Mixture | Sequence[Mixture], alphas: float | Sequence[float] | Tensor, *, on: Grid | None = None
) -> Fits:
    """Only the global minima among `stationary_fits`, one row per target and alpha (the first of a symmetric pair)."""
    table = stationary_fits(targets, alphas, saddles=False, on=on)
    table = table.where(table.best)
    keys = torch.stack([table.target.double(), table.alpha], -1)
    first = torch.ones(len(table), dtype=torch.bool)
    first[1:] = (keys[1:] != keys[:-1]).any(-1)
    return table.where(first)


def continuation(target: Mixture, alphas: Sequence[float] | Tensor, *, on: Grid | None = None) -> dict[str, Fits]:
    """What a warm-started slider shows: follow one minimum as alpha goes down and as it goes up.

    Each step starts where the last ended. "down" begins at the global fit of the largest alpha, "up" at that of the
    smallest. Where the two differ there is hysteresis: the fit depends on where alpha came from.

    Returns:
        {"down": Fits, "up": Fits}, each with one row per alpha, in ascending alpha.
    """
    on = on or grid(target)
    orders = torch.as_tensor(alphas, dtype=torch.float64).sort().values
    log_q = log_masses(target, on)[None]
    ends = best_fits(target, orders[[0, -1]], on=on)
    theta = torch.stack([ends.at(float(orders[-1])).theta[0], ends.at(float(orders[0])).theta[0]])
    path = []
    which = torch.zeros(2, dtype=torch.long)
    for down, up in zip(orders.flip(0), orders, strict=True):
        if path:
            # A saddle is stationary too: without a nudge the fit would stay on it when its minimum has vanished.
            theta = (
                theta + 1e-4 * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(theta.shape[1])[: theta.shape[1]]
            )
        result = _newton(log_q, on, which, torch.stack([down, up]), theta, downhill=True, max_rounds=80, keep_all=True)
        theta = result[2]
        path.append(theta)
    steps = torch.stack(path)
    zeros = torch.zeros(len(orders), dtype=torch.long)
    return {
        "down": _certify((zeros, orders, steps[:, 0].flip(0)), [target], log_q, on, sort=False),
        "up": _certify((zeros, orders, steps[:, 1]), [target], log_q, on, sort=False),
    }


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
        theta = torch.where(_on_grid(moved, on)[..., None], moved, theta)
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


def _list(targets: Mixture | Sequence[Mixture]) -> list[Mixture]:
    return [targets] if isinstance(targets, Mixture) else list(targets)


def _on_grid(theta: Tensor, on: Grid) -> Tensor:
    """Whether the quadrature holds to 1e-10 for each Gaussian: wide enough for the step, narrow enough for the ends."""
    dim = 1 if theta.shape[-1] == 2 else 2
    mean, sd = theta[..., :dim], theta[..., dim : 2 * dim].exp()
    inside = ((mean - REACH * sd >= on.low) & (mean + REACH * sd <= on.high)).all(-1)
    narrow = sd.amin(-1)
    if dim == 2:  # the narrow axis of a correlated Gaussian
        narrow = torch.linalg.eigvalsh(covariance(theta.nan_to_num()))[..., 0].clamp(min=0).sqrt()
    return inside & (narrow >= 1.2 * on.step) & torch.isfinite(theta).all(-1)


def _derivatives(log_q: Tensor, on: Grid, which: Tensor, alpha: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value [n], gradient [n, d] and Hessian [n, d, d] of the loss in each row."""
    values, slopes, curvatures = [], [], []
    chunk = max(1, 2_000_000 // len(on.points))
    for part in torch.arange(len(theta)).split(chunk):
        leaf = theta[part].detach().requires_grad_()
        log_p = gaussian_log_density(leaf, on.points) + on.log_cell
        loss = alpha_divergence(log_q[which[part]], log_p, alpha[part])
        (slope,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
        columns = [torch.autograd.grad(slope[:, i].sum(), leaf, retain_graph=True)[0] for i in range(leaf.shape[1])]
        values.append(loss.detach())
        slopes.append(slope.detach())
        curvatures.append(torch.stack(columns, -1))
    hessian = torch.cat(curvatures)
    return torch.cat(values), torch.cat(slopes), 0.5 * (hessian + hessian.mT)


Rows = tuple[Tensor, Tensor, Tensor]  # target index [n], alpha [n], theta [n, d]


def _newton(
    log_q: Tensor,
    on: Grid,
    which: Tensor,
    alpha: Tensor,
    theta: Tensor,
    *,
    downhill: bool,
    max_rounds: int,
    keep_all: bool = False,
) -> Rows:
    """Newton's method in every row at once; rows that converged drop out. Returns the converged rows (or all)."""
    theta = theta.clone()
    converged = torch.zeros(len(theta), dtype=torch.bool)
    active = _on_grid(theta, on).nonzero().flatten()
    radius = torch.full((len(theta),), 0.4, dtype=torch.float64)
    if not len(active):
        return which[converged], alpha[converged], theta[converged]
    value, slope, hessian = _derivatives(log_q, on, which[active], alpha[active], theta[active])
    for _ in range(max_rounds):
        done = slope.norm(dim=-1) <= 0.01 * TOLERANCE
        converged[active[done]] = True
        active, value, slope, hessian = active[~done], value[~done], slope[~done], hessian[~done]
        if not len(active):
            break
        eigenvalues, vectors = torch.linalg.eigh(hessian)
        along = (vectors.mT @ slope[..., None])[..., 0]
        # Downhill: |eigenvalue| turns a saddle's uphill step around. Otherwise plain Newton, which saddles attract.
        divisor = eigenvalues.abs().clamp(min=1e-6)
        if not downhill:
            divisor = torch.where(eigenvalues < 0, -divisor, divisor)
        step = -(vectors @ (along / divisor)[..., None])[..., 0]
        step = step * (radius[active, None] / step.norm(dim=-1, keepdim=True)).clamp(max=1.0)
        trial = theta[active] + step
        inside = _on_grid(trial, on)
        trial = torch.where(inside[:, None], trial, theta[active])
        new = _derivatives(log_q, on, which[active], alpha[active], trial)
        accept = inside & (new[0] <= value + 1e-13) if downhill else inside
        radius[active] = torch.where(accept, (1.5 * radius[active]).clamp(max=0.4), 0.3 * radius[active])
        theta[active] = torch.where(accept[:, None], trial, theta[active])
        value = torch.where(accept, new[0], value)
        slope = torch.where(accept[:, None], new[1], slope)
        hessian = torch.where(accept[:, None, None], new[2], hessian)
    else:
        converged[active[slope.norm(dim=-1) <= TOLERANCE]] = True
    keep = torch.ones_like(converged) if keep_all else converged
    return which[keep], alpha[keep], theta[keep]


def _join(found: list[Rows]) -> tuple[Tensor, Tensor]:
    return torch.cat([part[1] for part in found]), torch.cat([part[2] for part in found])


def _unique(which: Tensor, alpha: Tensor, theta: Tensor) -> Rows:
    """Drop rows that repeat an earlier one (same target and alpha, theta within 1e-5)."""
    keep: list[int] = []
    seen: dict[tuple[int, float], list[Tensor]] = {}
    for index, key in enumerate(zip(which.tolist(), alpha.tolist(), strict=True)):
        known = seen.setdefault(key, [])
        if all(float((theta[index] - other).abs().max()) > 1e-5 for other in known):
            known.append(theta[index])
            keep.append(index)
    return which[keep], alpha[keep], theta[keep]


def _neighbours(table: Rows, orders: Tensor) -> Rows:
    """Every found point as a start at the two neighbouring alphas."""
    which, alpha, theta = table
    ranked = orders.sort().values
    position = torch.searchsorted(ranked, alpha)
    parts = []
    for offset in (-1, 1):
        moved = position + offset
        keep = (moved >= 0) & (moved < len(ranked))
        parts.append((which[keep], ranked[moved[keep]], theta[keep]))
    return torch.cat([part[0] for part in parts]), *_join(parts)


def _certify(rows: Rows, mixtures: list[Mixture], log_q: Tensor, on: Grid, *, sort: bool = True) -> Fits:
    which, alpha, theta = rows
    loss, slope, hessian = _derivatives(log_q, on, which, alpha, theta)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    order = torch.arange(len(alpha))
    if sort:
        for key in (theta[:, 0], (loss * 1e9).round(), alpha, which):
            order = order[key[order].argsort(stable=True)]
    best = torch.zeros(len(alpha), dtype=torch.bool)
    for key in set(zip(which.tolist(), alpha.tolist(), strict=True)):
        same = (which == key[0]) & (alpha == key[1])
        best |= same & (loss <= loss[same].min() + 1e-9)
    missed, valley = [], []
    for index, row in zip(which.tolist(), theta, strict=True):
        target, dim = mixtures[index], mixtures[index].dim
        off = on.points - row[:dim]
        squared = (off * torch.linalg.solve(covariance(row), off.mT).mT).sum(-1)
        limit = 3.841458820694124 if dim == 1 else 5.991464547107979  # 95 % quantiles of chi-squared
        missed.append(log_q[index].exp()[squared > limit].sum())
        reach = (target.means - target.mean).norm(dim=-1).max()
        low = log_q[index] < log_q[index].max() + math.log(0.1)
        between = (on.points - target.mean).norm(dim=-1) <= reach
        valley.append((gaussian_log_density(row, on.points) + on.log_cell).exp()[low & between].sum())
    table = Fits(
        which, alpha, theta, loss, slope.norm(dim=-1), eigenvalues, eigenvalues[:, 0] > 0, best,
        torch.stack(missed), torch.stack(valley),
    )  # fmt: skip
    return table.where(order)
