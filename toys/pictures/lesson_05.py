"""The pictures of lesson 05: the guard's two gates, what opens them, and what they are worth."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from apo_edu import GuardedAlpha, Signals, palette

from .. import plotting
from ..bandits import History
from ..experiments import schedules
from ..experiments.table import Table
from ..guards import NoiseStudy
from ..widgets import FilmStrip

GAINS = np.linspace(-0.05, 0.4, 91)


def gate_strip() -> FilmStrip:
    """alpha of the guard's second step against the gain in reward, with a slider for the confidence."""

    def alphas(confidence: float) -> list[float]:
        values = []
        for gain in GAINS:
            schedule = GuardedAlpha()
            schedule.update(Signals(0.5, 0.0, confidence))
            values.append(float(schedule.update(Signals(0.5 + gain, 0.0, confidence))))
        return values

    def setup(figure: Figure) -> Line2D:
        ax: Axes = figure.subplots()
        ax.set(
            xlim=(-0.05, 0.4), ylim=(0.3, 0.95), xlabel="reward above its moving average", ylabel="alpha of this step"
        )
        ax.axhline(0.9, ls=":", color="0.5")
        ax.axhline(0.35, ls=":", color="0.5")
        ax.text(0.395, 0.905, "alpha_max", ha="right", fontsize=9)
        ax.text(0.395, 0.36, "alpha_min", ha="right", fontsize=9)
        return ax.plot([], [], color=palette.PURPLE, lw=2.4)[0]

    def update(line: Line2D, confidence: float) -> None:
        line.set_data(GAINS, alphas(confidence))

    def describe(confidence: float) -> str:
        at = alphas(confidence)[np.abs(GAINS - 0.1).argmin()]
        return f"Confidence {confidence:.1f}: a gain of 0.1 brings alpha to {at:.2f}; a loss of any size leaves it at 0.90."

    return FilmStrip(
        setup, update, [round(0.1 * i, 1) for i in range(11)], label="confidence c", form="{:.1f}", start=0.8,
        describe=describe, still=4, dpi=100, ends=("undecided", "certain"),
        caption="The second gate alone cannot move alpha: at confidence 0 the line is flat.",
        alt="Alpha against the gain in reward: flat at 0.9 for losses, falling towards 0.35 for gains if confidence is high.",
    )  # fmt: skip


def traced(history: History) -> Figure:
    """alpha with its two gates, and the expected reward, of guarded runs."""
    made, axes = plotting.figure(1, 2, size=(9.8, 3.8))
    plotting.schedule_traces(axes[0], history)
    plotting.bandit_series(axes[1], {"guarded": history}, "expected_reward")
    return made


def wrong_arm(runs: Mapping[str, History], said: str) -> Figure:
    """Who leaves the wrong arm, and with which alpha."""
    made = plotting.bandit_panels(runs, ("expected_reward", "alpha"), size=(10.4, 3.6))
    made.axes[0].set_title(f"You said: {said}")
    return made


def pure_noise(gates: Mapping[float, float], said: float) -> Figure:
    """{margin in standard errors: mean improvement gate where nothing improves} as bars; the committed mean as a line."""
    made, ax = plotting.figure(size=(6.2, 3.2))
    names = [f"{margin:g} standard errors" for margin in gates]
    ax.barh(names, list(gates.values()), color=[palette.VERMILION, palette.ORANGE, palette.GREEN])
    ax.axvline(said, color="black", ls="--", lw=1)
    ax.set(xlabel="mean improvement gate p under pure noise (no unit)", title=f"You said: {said:.2f}")
    return made


def under_noise(study: NoiseStudy) -> Figure:
    """What reward noise does to alpha, and to the good arms kept, with and without a margin."""
    made, axes = plotting.figure(1, 2, size=(10, 3.4))
    plotting.noise_study(axes[0], study, "alpha")
    plotting.noise_study(axes[1], study, "good_arms")
    return made


def pays(table: Table, said: float) -> Figure:
    """Experiment 3: each schedule against the best fixed alpha, and where its alpha rests."""
    made, _ = schedules.draw(table)
    made.axes[0].set_title(f"The guard (paper). You said: {said:g}")
    return made
