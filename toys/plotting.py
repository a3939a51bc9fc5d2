"""Figures: each function takes (ax, data), draws on that Axes and returns it. Nothing here computes, shows or saves.

Colour means alpha, from one map in every figure; other series have the fixed colours of `apo_edu.palette`. Many runs are a
median line with the quartiles shaded, and the legend says how many.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from apo_edu import palette
from apo_edu.objectives import find_objective

CYCLE = (
    palette.BLUE,
    palette.VERMILION,
    palette.GREEN,
    palette.PURPLE,
    palette.ORANGE,
    palette.SKY_BLUE,
    palette.BLACK,
)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKERS = "osD^vPX"
SERIES_LABELS = {
    "reward": "sampled reward", "expected_reward": "expected reward", "entropy": "entropy (1 = uniform)",
    "alpha": "order alpha", "confidence": "confidence c", "improvement": "improvement gate p",
    "grad_norm": "gradient norm", "ess": "effective sample size (arms)", "kl_anchor": "KL(policy || anchor) (nats)",
    "good_arms": "good arms kept",
}  # fmt: skip


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The project's one style: `with style(): figure = Figure(...)`."""
    settings: Any = palette.STYLE  # matplotlib's stub wants a literal name for every key
    with matplotlib.rc_context(settings):
        yield


def figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] | None = None, **kwargs: Any
) -> tuple[Figure, Any]:
    """A Figure of the object API and its Axes (an array if more than one), about 4 x 3 inches a panel."""
    with style():
        made = Figure(figsize=size or (4.4 * columns, 3.2 * rows))
        axes = made.subplots(rows, columns, **kwargs)
    return made, axes


def alpha_line(alpha: float) -> dict[str, Any]:
    """Colour and dash of a line for this alpha: never told by colour alone."""
    return {"color": palette.alpha_color(alpha), "linestyle": DASHES[round(4 * min(max(alpha, 0.0), 1.0))]}


def median_band(ax: Axes, x: Any, runs: Any, label: str = "", **line: Any) -> Axes:
    """Median over the last axis of runs [points, runs] with the quartiles shaded; the legend says how many runs."""
    values = _array(runs)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=-1)
    (drawn,) = ax.plot(_array(x), middle, label=f"{label} ({values.shape[-1]} runs)".strip(), **line)
    if values.shape[-1] > 1:
        ax.fill_between(_array(x), low, high, color=drawn.get_color(), alpha=0.18, linewidth=0)
    return ax


def interval_lines(ax: Axes, lines: Mapping[Any, Sequence[Any]], *, x: str = "x") -> Axes:
    """{alpha or label: table rows}: means with 95 % intervals against the rows' column `x`; alphas take their colours.

    Beside alphas the other series have hollow markers: GRPO's colour is near that of alpha 0.6.
    """
    beside_alphas = any(isinstance(name, float) for name in lines)
    for index, (name, rows) in enumerate(lines.items()):
        if isinstance(name, float):
            look, label = alpha_line(name), f"alpha = {name:g}"
        else:
            record = find_objective(str(name), strict=False)
            look, label = _line(index) | ({"color": record.color} if record.found else {}), str(name)
            look |= {"markerfacecolor": "white"} if beside_alphas else {}
        means = np.array([row.mean for row in rows])
        ends = np.array([[row.mean - row.low, row.high - row.mean] for row in rows]).T.clip(min=0.0)
        places = [getattr(row, x) for row in rows]
        ax.errorbar(
            places, means, ends, label=label, capsize=2.5, marker=MARKERS[index % len(MARKERS)], markersize=4.5, **look
        )
    seeds = sorted({row.seeds for rows in lines.values() for row in rows})
    ax.legend(title=f"{'-'.join(map(str, seeds[:: max(1, len(seeds) - 1)]))} seeds", title_fontsize=8, fontsize=8)
    return ax


def differences(ax: Axes, rows: Mapping[str, Any]) -> Axes:
    """{label: table row} as means with 95 % intervals beside each other, one a line, from the top; 0 is marked."""
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows.values(), strict=True):
        color = palette.BLACK if math.isnan(row.alpha) else palette.alpha_color(row.alpha)
        ax.errorbar(
            row.mean, place, xerr=[[row.mean - row.low], [row.high - row.mean]], fmt="o", capsize=3, color=color
        )
    ax.axvline(0.0, color="#777777", linewidth=0.9)
    ax.set_yticks(places, list(rows))
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.grid(axis="y", visible=False)
    return ax


def density_fits(ax: Axes, x: Any, target: Any, fits: Sequence[tuple[float, Any, bool]]) -> Axes:
    """Target density and Gaussian fits: fits = [(alpha, density at x, is_global)]; local minima are thin."""
    ax.fill_between(_array(x), _array(target), color="#dddddd", label="target q")
    ax.plot(_array(x), _array(target), color=palette.TARGET, linewidth=1.0)
    labelled: set[tuple[float, bool]] = set()
    for alpha, density, is_global in fits:
        key = (alpha, is_global)
        label = None if key in labelled else f"alpha = {alpha:g}, {'global' if is_global else 'local'}"
        labelled.add(key)
        ax.plot(_array(x), _array(density), linewidth=2.6 if is_global else 1.0, label=label, **alpha_line(alpha))
    ax.set(xlabel="x", ylabel="density (1 / unit of x)", ylim=(0, None))
    ax.legend()
    return ax


def minima_and_steps(ax: Axes, x: Any, target: Any, fits: Sequence[tuple[Any, bool]], steps: Any, alpha: float) -> Axes:
    """A target, the fits [(density, is_global)] at one alpha, the global ones bold, and an optimiser's steps on the way.

    steps: densities [steps + 1, points]; at most seven are drawn, the earlier the fainter.
    """
    places, rows, color = _array(x), _array(steps), palette.alpha_color(alpha)
    ax.fill_between(places, _array(target), color="#dddddd")
    ax.plot(places, _array(target), color=palette.TARGET, linewidth=1.0)
    for density, is_global in fits:
        look: dict[str, Any] = {"linewidth": 2.6} if is_global else {"linewidth": 1.2, "linestyle": "--"}
        ax.plot(places, _array(density), color=color, **look)
    for share in np.unique(np.linspace(0, len(rows) - 1, 7).round().astype(int)) / max(len(rows) - 1, 1):
        density = rows[round(share * (len(rows) - 1))]
        ax.plot(
            places,
            density,
            "-.",
            color=palette.POLICY,
            linewidth=1.0 + 0.6 * (share == 1),
            alpha=0.25 + 0.75 * share**2,
        )
    ax.set(xlabel="x", ylabel="density (1 / unit of x)", ylim=(0, 1))
    return ax


def descent(ax: Axes, path: Any, minima: Sequence[tuple[float, float, bool]], alpha: float) -> Axes:
    """An optimiser's path [steps + 1, 2] over a landscape, and its minima [(mean, log sd, is_global)]: stars are global."""
    line, color = _array(path), palette.alpha_color(alpha)
    halo = [withStroke(linewidth=3.6, foreground="white")]
    ax.plot(line[:, 0], line[:, 1], "o-", color=palette.POLICY, mfc="white", ms=3, lw=1.6, path_effects=halo)
    ax.plot(*line[0], "o", color="none", markeredgecolor="black", markersize=9)
    for mean, log_sd, is_global in minima:
        look: dict[str, Any] = {"marker": "*", "mfc": color, "mec": "white", "ms": 13} if is_global else {
            "marker": "o", "mfc": "white", "mec": color, "ms": 6, "mew": 1.8
        }  # fmt: skip
        ax.plot(mean, log_sd, linestyle="none", **look)
    return ax


def bifurcation(ax: Axes, fits: Any, quantity: str = "mean") -> Axes:
    """Mean or sd of every stationary fit of a 1-D target against alpha. Filled: minima (big: global); crosses: saddles."""
    values = _array(getattr(fits, quantity))[:, 0]
    alphas, stable, best = (_array(getattr(fits, name)) for name in ("alpha", "stable", "best"))
    colors = np.array([palette.alpha_color(alpha) for alpha in alphas])
    saddle, local = ~stable, stable & ~best
    looks: list[tuple[np.ndarray, dict[str, Any]]] = [
        (saddle, {"label": "saddle", "marker": "x", "s": 14, "linewidths": 0.9, "color": "#888888"}),
        (local, {"label": "local minimum", "s": 16, "facecolors": "white", "edgecolors": colors[local]}),
        (best, {"label": "global minimum", "s": 30, "facecolors": colors[best], "edgecolors": colors[best]}),
    ]
    for mask, look in looks:
        if mask.any():
            ax.scatter(alphas[mask], values[mask], **look)
    ax.set(
        xlabel="order alpha (0 seeks, 1 covers)",
        ylabel=f"{'mean' if quantity == 'mean' else 'sd'} of the fit (unit of x)",
    )
    if np.ptp(values) < 0.1:  # nothing happens: do not magnify rounding into a branch
        ax.set_ylim(values.mean() - 1.0, values.mean() + 1.0)
    ax.legend(handletextpad=0.2, fontsize=8, loc=(0.64, 0.62 if quantity == "mean" else 0.34))
    return ax


def hysteresis(ax: Axes, branches: Mapping[str, Any], quantity: str = "sd") -> Axes:
    """{"down": Fits, "up": Fits} of `mixtures.continuation`: the warm-started fit in both directions."""
    for name, color, dash in (("down", palette.VERMILION, "-"), ("up", palette.BLUE, "--")):
        fits = branches[name]
        label = f"alpha going {name}"
        ax.plot(_array(fits.alpha), np.abs(_array(getattr(fits, quantity))[:, 0]), dash, color=color, label=label)
    ax.set(
        xlabel="order alpha",
        ylabel="sd of the fit (unit of x)" if quantity == "sd" else "|mean| of the fit (unit of x)",
    )
    ax.legend()
    return ax


def followed(ax: Axes, branches: Mapping[str, tuple[Any, Any]]) -> Axes:
    """{label: (distances of the modes, Fits)}: how far each fit is from the middle; the first is drawn as dots."""
    looks: tuple[dict[str, Any], ...] = (
        {"marker": "o", "linestyle": "none", "color": "#999999", "markersize": 4},
        {"linestyle": "-", "color": palette.GREEN},
        {"linestyle": "--", "color": palette.BLUE},
    )
    for (name, (distances, fits)), look in zip(branches.items(), looks, strict=True):
        ax.plot(_array(distances), np.abs(_array(fits.mean)[:, 0]), label=name, **look)
    ax.set(xlabel="distance of the modes (unit of x)", ylabel="|mean of the fit|\n(0: between the modes)")
    ax.legend()
    return ax


def integrand(ax: Axes, x: Any, contributions: Mapping[float, Any]) -> Axes:
    """{alpha: contribution to D_alpha at each x} of one p against one q."""
    for alpha, values in contributions.items():
        ax.plot(_array(x), _array(values), label=f"alpha = {alpha:g}", **alpha_line(alpha))
    ax.set(xlabel="x", ylabel="contribution to D_alpha\n(nats / unit of x)", ylim=(0, None))
    ax.legend()
    return ax


def landscape_levels(loss: Any) -> np.ndarray:
    """Where the contours of a landscape lie: 14 quantiles, so that a deep valley and a high wall both have some."""
    return np.unique(np.quantile(_array(loss), np.linspace(0, 0.9, 14)))


def landscape(ax: Axes, means: Any, log_sds: Any, loss: Any, paths: Sequence[tuple[float, Any]] = ()) -> Axes:
    """Contours of D_alpha [len(log_sds), len(means)] with descent paths [(alpha, points [steps, 2])] and their ends."""
    values = _array(loss)
    drawn = ax.contourf(
        _array(means), _array(log_sds), values, levels=landscape_levels(values), cmap="Greys_r", extend="max"
    )
    ax.figure.colorbar(drawn, ax=ax, label="D_alpha (nats)", format="%.2f")
    for alpha, points in paths:
        line = _array(points)
        halo = [withStroke(linewidth=3.2, foreground="white")]  # violet on dark grey cannot be seen
        ax.plot(line[:, 0], line[:, 1], **alpha_line(alpha), linewidth=1.6, path_effects=halo)
        ax.plot(*line[0], "o", color="white", markeredgecolor="black", markersize=5)
        ax.plot(*line[-1], "*", color=palette.alpha_color(alpha), markeredgecolor="white", markersize=12)
    ax.set(xlabel="mean (unit of x)", ylabel="log sd", xlim=_ends(means), ylim=_ends(log_sds))
    return ax


def simplex(
    ax: Axes, target: Any, paths: Mapping[float, Any] | None = None, field: tuple[Any, Any] | None = None
) -> Axes:
    """3-arm simplex: {alpha: path [steps, starts, 3]}, an optional vector field (points, velocities), the target as a star."""
    corner = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    ax.plot(*corner[[0, 1, 2, 0]].T, color="#777777", linewidth=1.0)
    for name, place, shift in zip(
        ("arm 1", "arm 2", "arm 3"), corner, ((0, -0.06), (0, -0.06), (0, 0.03)), strict=True
    ):
        ax.text(place[0] + shift[0], place[1] + shift[1], name, ha="center", va="center")
    if field is not None:
        points, arrows = (_array(part) @ corner for part in field)
        ax.quiver(*points.T, *arrows.T, color="#9a9a9a", angles="xy", width=0.004)
    for alpha, path in (paths or {}).items():
        lines = _array(path) @ corner
        for start in range(lines.shape[1]):
            ax.plot(*lines[:, start].T, label=f"alpha = {alpha:g}" if start == 0 else None, **alpha_line(alpha))
    ax.plot(
        *(_array(target) @ corner),
        "*",
        color=palette.TARGET,
        markersize=14,
        markeredgecolor="white",
        label="target q",
        linestyle="none",
    )
    ax.set(aspect="equal", xlim=(-0.08, 1.08), ylim=(-0.12, 0.95))
    ax.set_axis_off()
    ax.legend(loc="upper left", bbox_to_anchor=(0.72, 1.0))
    return ax


def bandit_series(ax: Axes, histories: Mapping[Any, Any], series: str = "expected_reward") -> Axes:
    """One series of several `History` objects against the step: {alpha or label: History}; alphas take their colours."""
    for index, (name, history) in enumerate(histories.items()):
        line = alpha_line(name) if isinstance(name, float) else _line(index)
        label = f"alpha = {name:g}" if isinstance(name, float) else str(name)
        values = _array(getattr(history, series))
        median_band(ax, np.arange(len(values)), values, label, **line)
    ax.set(xlabel="step", ylabel=SERIES_LABELS[series])
    ax.legend(title="median, quartiles shaded", title_fontsize=8)
    return ax


def bandit_panels(histories: Mapping[Any, Any], series: Sequence[str], *, size: tuple[float, float]) -> Figure:
    """`bandit_series` of several series, one panel each, in a row."""
    made, axes = figure(1, len(series), size=size)
    for ax, name in zip(axes, series, strict=True):
        bandit_series(ax, histories, name)
    return made


def against_alpha(ax: Axes, histories: Mapping[float, Any], series: str = "expected_reward") -> Axes:
    """The last value of one series against alpha, median and quartiles: {alpha: History}."""
    alphas = sorted(histories)
    values = np.stack([_array(getattr(histories[alpha], series))[-1] for alpha in alphas])
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=-1)
    ax.vlines(alphas, low, high, colors=[palette.alpha_color(alpha) for alpha in alphas], linewidth=3)
    ax.scatter(alphas, middle, c=[palette.alpha_color(alpha) for alpha in alphas], s=36, zorder=3)
    ax.plot(alphas, middle, color="#999999", linewidth=0.8, label=f"median, quartiles ({values.shape[1]} runs)")
    mean = values.mean(-1)
    ax.plot(alphas, mean, "x", color=palette.BLACK, markersize=6, label="mean")
    ax.set(xlabel="order alpha (0 seeks, 1 covers)", ylabel=f"{SERIES_LABELS[series]}, at the end")
    ax.margins(y=0.25)
    ax.legend(loc="upper left", fontsize=8)
    return ax


def at_equal_reward(ax: Axes, reached: Mapping[float, Sequence[Any]], series: str = "good_arms") -> Axes:
    """{alpha: [AtReward of each level]}: one series at the step where a run first has that reward, mean and 95 % interval."""
    for alpha, found in reached.items():
        values = np.stack([_array(getattr(one, series)) for one in found])
        middle = values.mean(-1)
        half = 1.96 * values.std(-1, ddof=1) / math.sqrt(values.shape[-1])
        levels = [one.level for one in found]
        line = alpha_line(alpha)
        ax.plot(levels, middle, label=f"alpha = {alpha:g}", **line)
        ax.fill_between(levels, middle - half, middle + half, color=line["color"], alpha=0.12, linewidth=0)
    runs = {len(_array(one.steps)) for found in reached.values() for one in found}
    labels = {"steps": "steps needed"} | SERIES_LABELS
    ax.set(xlabel="expected reward, when it is first reached", ylabel=labels[series])
    ax.legend(title=f"{'-'.join(map(str, sorted(runs)))} runs, mean and 95 %", title_fontsize=8, fontsize=8)
    return ax


def schedule_traces(ax: Axes, history: Any) -> Axes:
    """alpha, confidence and improvement of one `History` against the step."""
    steps = np.arange(len(history.alpha))
    median_band(ax, steps, history.alpha, "alpha", color=palette.PURPLE, linestyle="-")
    median_band(ax, steps, history.confidence, "confidence c", color=palette.BLUE, linestyle="--")
    median_band(ax, steps, history.improvement, "improvement p", color=palette.GREEN, linestyle=":", linewidth=0.9)
    ax.set(xlabel="step", ylabel="value (no unit)", ylim=(-0.03, 1.03))
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=7, columnspacing=1.0
    )  # below: the traces fill the panel
    return ax


def alpha_beside(ax: Axes, history: Any) -> Axes:
    """Mean alpha, true reward and entropy of one `History`, all in [0, 1]; alpha has, at each step, the colour of its value.

    The band is what alpha was in the middle half of the runs.
    """
    alpha = _array(history.alpha)
    alpha = alpha if alpha.ndim == 2 else alpha[:, None]
    steps = np.arange(len(alpha))
    low, high = np.quantile(alpha, [0.25, 0.75], axis=-1)
    ax.fill_between(steps, low, high, color=palette.NEUTRAL, alpha=0.25, linewidth=0)
    points = np.stack([steps, alpha.mean(-1)], axis=-1)
    colors = [palette.alpha_color(value) for value in (points[:-1, 1] + points[1:, 1]) / 2]
    ax.add_collection(
        LineCollection(
            list(np.stack([points[:-1], points[1:]], axis=1)), colors=colors, linewidths=2.8, capstyle="round"
        )
    )
    ax.plot(steps, _array(history.expected_reward).mean(-1), "--", color=palette.REWARD, linewidth=1.3)
    ax.plot(steps, _array(history.entropy).mean(-1), ":", color=palette.POLICY, linewidth=1.5)
    ax.set(xlim=(0, len(steps) - 1), ylim=(-0.03, 1.03))
    return ax


def prompt_weights(ax: Axes, weights: Mapping[str, Any], *, normalise: bool = True) -> Axes:
    """{"objective" or "objective alpha": [group + 1]} against the success rate k / P; `normalise` scales peaks to 1."""
    for index, (name, values) in enumerate(weights.items()):
        curve = _array(values)
        curve = curve / curve.max() if normalise else curve
        objective, _, alpha = name.partition(" ")
        line = alpha_line(float(alpha)) if alpha else {
            "color": find_objective(objective, strict=False).color, "linestyle": DASHES[index % len(DASHES)],
            "marker": "osD^v"[index % 5], "markersize": 4,
        }  # fmt: skip
        ax.plot(np.linspace(0, 1, len(curve)), curve, label=name, **line)
    ax.set(
        xlabel="success rate k / P of the prompt",
        ylabel="push on correct completions" + (" / peak" if normalise else ""),
    )
    ax.legend(ncols=2, fontsize=8)
    return ax


def estimator_variance(ax: Axes, study: Any) -> Axes:
    """Variance of one gradient estimate against alpha, log-log, for each estimator of an `EstimatorStudy`."""
    for index, (name, values) in enumerate(study.variance.items()):
        ax.loglog(_array(study.alphas), _array(values), marker="osD"[index], markersize=4, label=name, **_line(index))
    ax.set(xlabel="order alpha", ylabel="variance of one estimate")
    ax.legend(title=f"{study.num_samples} samples, {study.num_resamples} resamples")
    return ax


def effective_samples(ax: Axes, study: Any) -> Axes:
    """Effective sample size of the weights r^alpha against alpha."""
    ax.plot(_array(study.alphas), _array(study.ess), color=palette.BLUE)
    ax.axhline(study.num_samples, color="#999999", linestyle=":", label=f"all {study.num_samples} samples")
    ax.set(xlabel="order alpha", ylabel="effective sample size", ylim=(0, 1.08 * study.num_samples))
    ax.legend()
    return ax


def noise_study(ax: Axes, study: Any, quantity: str = "gate") -> Axes:
    """One quantity ("gate", "alpha", "reward", "good_arms") of a `NoiseStudy` against the signal-to-noise ratio."""
    labels = {
        "gate": "mean improvement gate p",
        "alpha": "mean alpha",
        "reward": "expected reward",
        "good_arms": "good arms kept",
    }
    for index, (name, values) in enumerate(getattr(study, quantity).items()):
        median_band(ax, study.snrs, values, name, marker="os"[index % 2], markersize=4, **_line(index))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="signal to noise (gap / sd of the reward)", ylabel=labels[quantity])
    ax.legend(title="median, quartiles shaded", title_fontsize=8)
    return ax


def training_curves(
    ax: Axes, rows: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("reward_mean",), *, smooth: int = 1
) -> Axes:
    """Keys of a run's metrics.jsonl (a list of dicts) against the step; rows without a key are skipped, `smooth` averages."""
    for index, key in enumerate(keys):
        pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if not pairs:
            raise ValueError(f"no row holds {key!r}; expected one of {sorted(rows[0]) if rows else []}.")
        steps, values = np.array(pairs, dtype=float).T
        if smooth > 1 and len(values) >= smooth:
            values = np.convolve(values, np.ones(smooth) / smooth, mode="valid")
            steps = steps[smooth - 1 :]
        suffix = f" (mean of {smooth} steps)" if smooth > 1 else ""
        ax.plot(steps, values, label=key.replace("_", " ") + suffix, **_line(index))
    ax.set(xlabel="optimiser step", ylabel=keys[0].replace("_", " ") if len(keys) == 1 else "value")
    ax.legend()
    return ax


def training_runs(
    ax: Axes, runs: Mapping[str, Sequence[Mapping[str, Any]]], key: str = "reward_mean", *, smooth: int = 1
) -> Axes:
    """One key of several runs' metrics.jsonl against the step: {objective's name or label: rows}."""
    for index, (name, rows) in enumerate(runs.items()):
        training_curves(ax, rows, (key,), smooth=smooth)
        record = find_objective(name, strict=False)
        ax.lines[-1].set(**_line(index) | ({"color": record.color} if record.found else {}), label=name)
    ax.legend(title=f"mean of {smooth} steps" if smooth > 1 else None, title_fontsize=8)
    return ax


def final_accuracy(ax: Axes, evaluations: Mapping[str, Mapping[str, Any]]) -> Axes:
    """{objective's name or label: eval_after of a summary.json}: sampled and greedy accuracy with one standard error."""
    for index, (name, found) in enumerate(evaluations.items()):
        record = find_objective(name, strict=False)
        look: dict[str, Any] = {"color": record.color} if record.found else {"color": CYCLE[index % len(CYCLE)]}
        keys = ("pass@1", "greedy")
        places = np.arange(len(keys)) + 0.16 * (index - (len(evaluations) - 1) / 2)
        values, errors = [found[key] for key in keys], [found[key + "_se"] for key in keys]
        ax.errorbar(places, values, errors, fmt=MARKERS[index % len(MARKERS)], capsize=4, label=name, **look)
    ax.set_xticks(range(2), ["sampled pass@1", "greedy"])
    ax.set(xlim=(-0.5, 1.5), ylabel="held-out accuracy, one standard error")
    ax.legend(loc="upper left")
    return ax


def _line(index: int) -> dict[str, Any]:
    return {"color": CYCLE[index % len(CYCLE)], "linestyle": DASHES[index % len(DASHES)]}


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _ends(values: Any) -> tuple[float, float]:
    array = _array(values)
    return float(array.min()), float(array.max())
