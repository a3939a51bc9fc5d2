"""All stationary Gaussian fits of a mixture, certified: mode covering, mode seeking, and the jump between them.

    theta*(alpha) = stationary points of  D_alpha(q || N(mean, covariance))          (the divergence of `apo_edu`)

Every fit that is returned has a gradient norm <= 1e-8, and the eigenvalues of its Hessian say whether it is a minimum or
a saddle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from apo_edu import alpha_divergence, alpha_divergence_grad

from .gaussians import REACH, Grid, as_list, covariance, gaussian_log_density, grid, log_masses, on_grid
from .targets import Mixture

TOLERANCE = 1e-8  # gradient norm at which a fit counts as stationary
SAME = 1e-5  # two fits whose parameters are this near are one
Rows = tuple[Tensor, Tensor, Tensor]  # target index [n], alpha [n], theta [n, d]


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
    mixtures = as_list(targets)
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
    table = _unique(*_join(found))
    if len(orders) > 1:
        shifted = _neighbours(table, orders)
        found = [table, _newton(log_q, on, *shifted, downhill=False, max_rounds=12)]
        table = _unique(*_join(found))
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
    path: list[Tensor] = []
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


@dataclass(frozen=True)
class Descent:
    """One descent by the optimiser of the certified fits, and the minima beside it.

    path: [steps + 1, 2 or 5] theta at the start and after every step that moved it.  minima: the certified minima found,
    best first.  end: the row of `minima` that the path ended in, or None if it did not converge.
    """

    path: Tensor
    minima: Fits
    end: int | None


def descend(
    target: Mixture,
    alpha: float,
    start: Tensor,
    *,
    others: Tensor | None = None,
    on: Grid | None = None,
    max_rounds: int = 80,
) -> Descent:
    """Watch the optimiser of `stationary_fits` work: its path from `start` to a minimum of D_alpha(target || N_theta).

    The optimiser is Newton's method, downhill: the Hessian's eigenvalues count by their size, a step is at most 0.4 long,
    shorter after a step that would have gone uphill. All starts are rows of one tensor, so the other minima cost little.

    Args:
        start: [2 or 5] theta, where the path begins.
        others: [n, 2 or 5] further starts, to find the other minima; None takes the multi-start set of `stationary_fits`.
        on: quadrature grid; None makes one that holds the start.

    Raises:
        ValueError: where the start is too narrow for the grid or reaches beyond it.
    """
    start = start.detach().double().reshape(1, -1)
    on = on or grid_around(target, start)
    if not bool(on_grid(start, on).all()):
        raise ValueError(
            f"start {start[0].tolist()} is narrower than {1.2 * on.step:.3g} or reaches beyond the grid "
            f"[{on.low.tolist()}, {on.high.tolist()}]; expected {REACH} sds on it. Leave `on` out."
        )
    log_q = log_masses(target, on)[None]
    rows = torch.cat([start, starts(target) if others is None else others.double()])
    which, orders = (
        torch.zeros(len(rows), dtype=torch.long),
        torch.full((len(rows),), float(alpha), dtype=torch.float64),
    )
    trace: list[Tensor] = []
    found = _newton(log_q, on, which, orders, rows, downhill=True, max_rounds=max_rounds, trace=trace)
    table = _certify(_unique(*found), [target], log_q, on)
    table = table.where(table.stable)
    path = torch.stack(trace)[:, 0]
    moved = torch.ones(len(path), dtype=torch.bool)
    moved[1:] = (path[1:] != path[:-1]).any(-1)
    near = (table.theta - path[-1]).abs().amax(-1)
    end = int(near.argmin()) if len(near) and float(near.min()) <= SAME else None
    return Descent(path[moved], table, end)


def follow(targets: Sequence[Mixture], alpha: float, start: Tensor) -> Fits:
    """What a fit does while its target changes: each descent begins where the last one ended.

    Args:
        targets: in the order of the change.
        start: [2 or 5] theta, for the first target.

    Returns:
        One certified minimum per target, in their order; `best` says whether it is the global one.

    Raises:
        RuntimeError: if a descent does not converge.
    """
    rows = []
    for index, target in enumerate(targets):
        found = descend(target, alpha, start)
        if found.end is None:
            raise RuntimeError(
                f"the descent for target {index} did not converge from {start.tolist()}; expected a minimum. Take smaller "
                "steps between the targets."
            )
        row = found.minima.where(torch.arange(len(found.minima)) == found.end)
        rows.append(replace(row, target=torch.tensor([index])))
        start = row.theta[0]
    return Fits(**{field.name: torch.cat([getattr(row, field.name) for row in rows]) for field in fields(Fits)})


def grid_around(target: Mixture, theta: Tensor, *, step: float | None = None, room: float = 1.6) -> Grid:
    """A grid for `target` that also holds the Gaussians theta [n, 2 or 5], and them `room` times as wide."""
    dim = target.dim
    mean, sd = theta[:, :dim], theta[:, dim : 2 * dim].exp()
    away = ((mean - target.mean).abs() + room * REACH * sd) / target.covariance.diagonal().sqrt()
    return grid(target, step=step, width=max(8.0, float(away.max())))


def _derivatives(log_q: Tensor, on: Grid, which: Tensor, alpha: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value [n], gradient [n, d] and Hessian [n, d, d] of the loss in each row."""
    return (_in_closed_form if theta.shape[1] == 2 else _by_autograd)(log_q, on, which, alpha, theta)


def _in_closed_form(
    log_q: Tensor, on: Grid, which: Tensor, alpha: Tensor, theta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives in 1-D, in a quarter of autograd's time; with z the Box-Cox weight of q/p they are

        gradient = -E_p[z g],    Hessian = E_p[(1 - (1 - alpha) z) g g^T - z H],

    g and H being the gradient and the Hessian of log p in (mean, log sd).
    """
    log_q = log_q[which]
    log_p = gaussian_log_density(theta, on.points) + on.log_cell
    p = log_p.exp()
    value = alpha_divergence(log_q, log_p, alpha)
    # p z without overflow: the core's gradient is -p (z - E_p z), and E_p z = -(1 - alpha) D_alpha.
    beta = (1.0 - alpha)[:, None]
    weighted = -alpha_divergence_grad(log_q, log_p, alpha) - beta * value[:, None] * p
    inverse = torch.exp(-theta[:, 1:])
    off = (on.points[:, 0] - theta[:, :1]) * inverse
    g = torch.stack([off * inverse, off * off - 1.0], -1)
    slope = -(weighted[:, None] @ g)[:, 0]
    hessian = (g * (p - beta * weighted)[..., None]).mT @ g
    total, first, second = ((weighted * off**power).sum(-1) for power in range(3))
    hessian[:, 0, 0] += total * inverse[:, 0] ** 2
    hessian[:, 0, 1] += 2.0 * first * inverse[:, 0]
    hessian[:, 1, 0] += 2.0 * first * inverse[:, 0]
    hessian[:, 1, 1] += 2.0 * second
    return value, slope, hessian


def _by_autograd(log_q: Tensor, on: Grid, which: Tensor, alpha: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives in any dimension."""
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
    trace: list[Tensor] | None = None,
) -> Rows:
    """Newton's method in every row at once; rows that converged drop out. Returns the converged rows (or all).

    `trace` receives theta of all rows, [n, d], at the start and after every round.
    """
    theta = theta.clone()
    if trace is not None:
        trace.append(theta.clone())
    converged = torch.zeros(len(theta), dtype=torch.bool)
    active = on_grid(theta, on).nonzero().flatten()
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
        inside = on_grid(trial, on)
        trial = torch.where(inside[:, None], trial, theta[active])
        new = _derivatives(log_q, on, which[active], alpha[active], trial)
        accept = inside & (new[0] <= value + 1e-13) if downhill else inside
        radius[active] = torch.where(accept, (1.5 * radius[active]).clamp(max=0.4), 0.3 * radius[active])
        theta[active] = torch.where(accept[:, None], trial, theta[active])
        value = torch.where(accept, new[0], value)
        slope = torch.where(accept[:, None], new[1], slope)
        hessian = torch.where(accept[:, None, None], new[2], hessian)
        if trace is not None:
            trace.append(theta.clone())
    else:
        converged[active[slope.norm(dim=-1) <= TOLERANCE]] = True
    keep = torch.ones_like(converged) if keep_all else converged
    return which[keep], alpha[keep], theta[keep]


def _join(parts: list[Rows]) -> Rows:
    which, alpha, theta = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return which, alpha, theta


def _unique(which: Tensor, alpha: Tensor, theta: Tensor) -> Rows:
    """Drop rows that repeat an earlier one (same target and alpha, theta within SAME)."""
    keep: list[int] = []
    seen: dict[tuple[int, float], list[Tensor]] = {}
    for index, key in enumerate(zip(which.tolist(), alpha.tolist(), strict=True)):
        known = seen.setdefault(key, [])
        if all(float((theta[index] - other).abs().max()) > SAME for other in known):
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
    return _join(parts)


def _certify(rows: Rows, mixtures: list[Mixture], log_q: Tensor, on: Grid, *, sort: bool = True) -> Fits:
    which, alpha, theta = rows
    loss, slope, hessian = _derivatives(log_q, on, which, alpha, theta)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    order = torch.arange(len(alpha))
    if sort:
        for column in (theta[:, 0], (loss * 1e9).round(), alpha, which):
            order = order[column[order].argsort(stable=True)]
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
