"""The pictures of lesson 11."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from apo_edu import palette
from apo_edu.statistics import median_quartiles

from .. import plotting
from ..bandits import History
from ..experiments import anchor
from ..experiments.table import Table
from ..widgets import FilmStrip
from .theory import STYLES, push, surrogate

EPSILON = 0.2
RATIOS = torch.logspace(-0.6, 0.6, 241, base=10, dtype=torch.float64)
CASES = {0: "A > 0: the best of three", 2: "A < 0: the worst of three"}
LINES: dict[str, dict[str, Any]] = {
    "APO": {"color": palette.BLUE, "linestyle": "-", "marker": "o"},
    "APO, ratio": {"color": palette.SKY_BLUE, "linestyle": "--", "marker": "^"},
    "APO, clip": {"color": palette.GREEN, "linestyle": "-.", "marker": "D"},
    "GRPO": {"color": palette.VERMILION, "linestyle": "--", "marker": "s"},
    "GRPO without its clip": {"color": "#000000", "linestyle": ":", "marker": "v"},
}


def clip_cases(said: str | None = None) -> Figure:
    """PPO's surrogate against the ratio, for either sign of the advantage; grey where its gradient is 0."""
    made, axes = plotting.figure(1, 2, size=(9.2, 3.4))
    ratios = torch.linspace(0.4, 1.8, 141, dtype=torch.float64)
    for ax, (which, title) in zip(axes, CASES.items(), strict=True):
        value = surrogate(ratios, which=which, epsilon=EPSILON)
        dead = push(STYLES["GRPO"], ratios, which=which) == 0
        ax.plot(ratios, np.where(dead, np.nan, value), color=palette.VERMILION, lw=2.4, label="pushes")
        ax.plot(ratios, np.where(dead, value, np.nan), color="0.55", lw=2.4, ls=":", label="flat: gradient 0")
        ax.plot([1], [0], "o", color="black", ms=6)
        for edge in (1 - EPSILON, 1 + EPSILON):
            ax.axvline(edge, color="0.75", lw=0.9)
        ax.set(xlabel="ratio pi / pi_old", ylabel="min(rho A, clip(rho) A) / |A|, less its start", title=title)
        ax.legend(loc="upper left" if which == 0 else "upper right")
    if said is not None:
        made.suptitle(f"You said: {said}", fontsize=10)
    return made


def pushes_strip() -> FilmStrip:
    """The push on the best and on the worst of three, relative to the first update's, with a slider for alpha."""
    alphas = np.linspace(0, 1, 21)
    fixed = {which: push(STYLES["GRPO"], RATIOS, which=which) for which in CASES}
    free = {which: push(STYLES["GRPO without its clip"], RATIOS, which=which) for which in CASES}
    moved = {which: {a: push(STYLES["APO"], RATIOS, which=which, alpha=a) for a in alphas.tolist()} for which in CASES}

    def setup(figure: Figure) -> list[Any]:
        made = []
        for ax, (which, title) in zip(figure.subplots(1, 2), CASES.items(), strict=True):
            ax.axhline(0, color="0.4", lw=0.8)
            ax.plot(RATIOS, free[which], label="GRPO without its clip", lw=1.2, color="#000000", ls=":")
            clipped = np.where(fixed[which] == 0, np.nan, fixed[which])
            ax.plot(RATIOS, clipped, color=palette.VERMILION, ls="--", lw=1.8, label="GRPO (0 beyond its clip)")
            ax.set(xscale="log", xlim=(0.25, 4), ylim=(-0.6, 3.0), title=title)
            ax.set(xlabel="ratio pi / pi_old", ylabel="push, first update = 1")
            ax.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
            ax.minorticks_off()
            made.append(
                ax.plot(
                    RATIOS, free[which], lw=2.6, label="APO (in the colour of alpha)", color=palette.alpha_color(0.6)
                )[0]
            )
            if which == 0:
                ax.legend(loc="upper left", fontsize=8)
        return made

    def update(lines: list[Any], alpha: float) -> None:
        for line, which in zip(lines, CASES, strict=True):
            line.set_ydata(moved[which][alpha])
            line.set_color(palette.alpha_color(alpha))

    def describe(alpha: float) -> str:
        best = moved[0][alpha]
        half, double = (float(np.interp(at, RATIOS, moved[0][alpha])) for at in (1.2, 2.0))
        zero = float(RATIOS[int((best > 0).sum()) - 1]) if bool((best <= 0).any()) else None
        ends = f"and turns round at {zero:.1f}" if zero else "and keeps its sign up to 4"
        return (
            f"At alpha = {alpha:.2f} APO's push on the best is {half:.2f} of the first at ratio 1.2, {double:.2f} at 2 {ends}; "
            "GRPO's grows to 1.2, and is 0 from there on."
        )

    return FilmStrip(
        setup, update, alphas.tolist(), label="alpha", start=0.6, describe=describe, still=4, dpi=110,
        ends=("0: mode seeking", "1: mode covering"),
        caption="A clip is a wall at a place chosen beforehand; an anchor is a spring whose rest is the target.",
        alt="Push against the ratio pi/pi_old for the best and the worst of three completions. GRPO's grows with the ratio and "
        "is 0 beyond 1.2 or below 0.8; APO's falls as the completion goes its way and crosses 0 near ratio 3 for the best.",
    )  # fmt: skip


def inner_loop(runs: Mapping[str, Mapping[int, History]], said: str | None = None) -> Figure:
    """KL to the sampling policy, and the true expected reward, against the number of updates on one batch."""
    made, axes = plotting.figure(1, 2, size=(10.4, 4.0))
    for name, by_count in runs.items():
        counts = list(by_count)
        kl = torch.stack([history.kl_anchor[0] for history in by_count.values()])
        reward = torch.stack([_reward(history) for history in by_count.values()])
        for ax, values in zip(axes, (kl, reward), strict=True):
            quartiles = [median_quartiles(row) for row in values]
            ax.plot(counts, [q.median for q in quartiles], ms=4, label=name, **LINES[name])
            ax.fill_between(
                counts,
                [q.low for q in quartiles],
                [q.high for q in quartiles],
                color=LINES[name]["color"],
                alpha=0.15,
                lw=0,
            )
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_xlabel("updates on the same samples")
    axes[0].set(yscale="log", ylabel="KL(pi || pi_old) (nats)", title="How far the policy went")
    axes[1].set(ylabel="expected reward", title="What it is worth")
    axes[0].legend(fontsize=8)
    if said is not None:
        made.suptitle(f"You said: {said}", fontsize=10)
    return made


def _reward(history: History) -> torch.Tensor:
    """True expected reward of the final policy, [runs], on the graded arms 0 to 1."""
    probs = history.probs[-1][:, 0]
    return (probs * torch.linspace(0, 1, probs.shape[-1], dtype=probs.dtype)).sum(-1)


def loop_table(runs: Mapping[str, Mapping[int, History]], counts: tuple[int, ...] = (1, 8, 64, 256)) -> str:
    """Median KL (nats) after some numbers of updates, as text."""
    lines = [f"{'updates':22}" + "".join(f"{count:>9}" for count in counts)]
    for name, by_count in runs.items():
        medians = [float(by_count[count].kl_anchor.median()) for count in counts]
        lines.append(f"{name:22}" + "".join(f"{value:9.4f}" for value in medians))
    return "\n".join(lines)


def reward_table(
    exact: Mapping[str, Mapping[int, History]], noisy: Mapping[str, Mapping[int, History]], counts: tuple[int, ...]
) -> str:
    """Expected reward after some numbers of updates, with exact and with noisy rewards: median and quartiles, as text."""
    head = [f"{kind}, {count} updates" for kind in ("exact", "noisy") for count in counts]
    lines = [f"{'expected reward':22}" + "".join(f"{title:>24}" for title in head)]
    for name in exact:
        cells = []
        for runs in (exact, noisy):
            for count in counts:
                low, median, high = (float(part) for part in median_quartiles(_reward(runs[name][count])))
                cells.append(f"{median:.3f} ({low:.3f}, {high:.3f})")
        lines.append(f"{name:22}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def anchor_lengths(table: Table, said: str | None = None) -> Figure:
    """Experiment 9: KL per batch against tau_anc, for SGD and Adam and one to 64 updates."""
    made, _ = anchor.draw(table)
    if said is not None:
        made.suptitle(f"You said: {said}", fontsize=10)
    return made
