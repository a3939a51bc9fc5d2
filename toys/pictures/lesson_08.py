"""The pictures of lesson 08: the curves of a run of the language model, alone and beside another one."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from apo_edu import palette

from .. import plotting

Rows = Sequence[Mapping[str, Any]]  # a run's metrics.jsonl


def first_steps(rows: Rows) -> Figure:
    """Training reward, and alpha with its two gates, of a short run."""
    made, axes = plotting.figure(1, 2, size=(9.6, 3.2))
    plotting.training_curves(axes[0], rows, ("reward_mean",), smooth=5)
    plotting.training_curves(axes[1], rows, ("alpha", "confidence", "improvement"))
    return made


def accuracy(summary: Mapping[str, Any], said: str) -> Figure:
    """Sampled and greedy held-out accuracy before and after, with one standard error: a run's summary.json."""
    before, after = summary["eval_before"], summary["eval_after"]
    made, ax = plotting.figure(size=(5.6, 3.2))
    for key, marker, color in (("pass@1", "o-", palette.BLUE), ("greedy", "s--", palette.VERMILION)):
        ax.errorbar(
            [0, summary["steps"]],
            [before[key], after[key]],
            [before[key + "_se"], after[key + "_se"]],
            fmt=marker,
            color=color,
            capsize=4,
            label="sampled pass@1" if key == "pass@1" else key,
        )
    ax.set(xlabel="optimiser step", ylabel="held-out problems solved", ylim=(0, 1), title=f"You said: {said}")
    ax.legend()
    return made


def six_curves(rows: Rows) -> Figure:
    """The six curves to read in every run."""
    made, axes = plotting.figure(2, 3, size=(13.5, 6.6))
    plotting.training_curves(axes[0, 0], rows, ("reward_mean",), smooth=10)
    plotting.training_curves(axes[0, 1], rows, ("alpha", "confidence", "improvement"))
    plotting.training_curves(axes[0, 2], rows, ("token_entropy",))
    plotting.training_curves(axes[1, 0], rows, ("grad_norm",))
    plotting.training_curves(axes[1, 1], rows, ("kl_old",))
    plotting.training_curves(axes[1, 2], rows, ("groups_with_signal", "truncated_fraction"))
    axes[0, 2].set_ylabel("token entropy (nats)")
    axes[1, 1].set_ylabel("KL to the sampler (nats / token)")
    axes[1, 2].set_ylabel("fraction")
    return made


def beside(runs: Mapping[str, Rows], evaluations: Mapping[str, Mapping[str, Any]], said: str) -> Figure:
    """Reward, token entropy and final accuracy of runs: {objective: rows}, {objective: eval_after of its summary.json}."""
    made, axes = plotting.figure(1, 3, size=(13.2, 3.4))
    for ax, key, label in (
        (axes[0], "reward_mean", "training reward"),
        (axes[1], "token_entropy", "token entropy (nats)"),
    ):
        plotting.training_runs(ax, runs, key, smooth=10)
        ax.set_ylabel(label)
    plotting.final_accuracy(axes[2], evaluations)
    made.suptitle(f"You said: {said}")
    return made
