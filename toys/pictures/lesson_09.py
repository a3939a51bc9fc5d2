"""The pictures of lesson 09: a faulty run beside the healthy one, in eight panels."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plotting
from ..bandits import History

PANELS = ("expected_reward", "entropy", "alpha", "confidence", "improvement", "grad_norm", "kl_anchor", "ess")
MODEL_PANELS = (
    "reward_mean", "token_entropy", "alpha", "grad_norm",
    "kl_old", "groups_with_signal", "completion_length", "truncated_fraction",
)  # fmt: skip


def sheet(histories: Mapping[str, History]) -> Figure:
    """Eight panels of bandit runs: {label: History}."""
    made, axes = plotting.figure(2, 4, size=(14, 5.4))
    for ax, series in zip(axes.flat, PANELS, strict=True):
        plotting.bandit_series(ax, histories, series)
    _one_legend(axes.flat)
    return made


def model_sheet(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Eight panels of a language model's runs: {label: rows of metrics.jsonl}."""
    made, axes = plotting.figure(2, 4, size=(14, 5.4))
    for ax, name in zip(axes.flat, MODEL_PANELS, strict=True):
        plotting.training_runs(ax, runs, name, smooth=1 if name == "kl_old" else 5)
    _one_legend(axes.flat)
    return made


def _one_legend(axes: Sequence[Axes]) -> None:
    """The first panel's legend stands for all."""
    for i, ax in enumerate(axes):
        legend = ax.get_legend()
        assert legend is not None
        legend.set_visible(i == 0)
