"""The figures of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from apo_edu import palette
from apo_edu.objectives import find_objective
from full.config import TrainConfig
from full.runs import RunFolder


def draw_curves(run: RunFolder) -> None:
    """curves.png: reward, held-out accuracy, alpha with its gates, entropy, gradient norm, completion length."""
    import json

    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = run.read("metrics.jsonl")
    summary = json.loads((run.path / "summary.json").read_text())
    style: Any = palette.STYLE  # matplotlib's stub wants a literal name for every key
    with rc_context(style):
        figure = Figure(figsize=(12, 6.4))
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 3)
        panels = (draw_reward, draw_accuracy, draw_alpha, draw_entropy, draw_gradient, draw_length)
        for ax, panel in zip(axes.flat, panels, strict=True):
            panel(ax, rows, summary)
            ax.set_xlabel("optimiser step")
        figure.suptitle(
            f"{summary['objective']}, schedule {summary['schedule']}, seed {summary['seed']}: held-out pass@1 "
            f"{summary['eval_before']['pass@1']:.2f} to {summary['eval_after']['pass@1']:.2f}",
            x=0.01,
            ha="left",
        )
        figure.savefig(run.path / "curves.png")


Rows = Sequence[Mapping[str, Any]]


BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "ncols": 3}


def column(rows: Rows, key: str) -> list[float]:
    """One metric over the steps."""
    return [row.get(key, float("nan")) for row in rows]


def smooth(values: Sequence[float], decay: float = 0.9) -> list[float]:
    """Exponential moving average that starts at the first value."""
    out: list[float] = []
    for value in values:
        out.append(value if not out else decay * out[-1] + (1 - decay) * value)
    return out


def evaluations(rows: Rows, summary: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """(step, result) of every evaluation, in order; without a summary, of those that metrics.jsonl has."""
    during = [(r["step"], {k[5:]: v for k, v in r.items() if k.startswith("eval_")}) for r in rows if "eval_n" in r]
    if not summary:
        return during
    return [(0, summary["eval_before"]), *during, (summary["steps"], summary["eval_after"])]


def draw_reward(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    steps, reward = column(rows, "step"), column(rows, "reward_mean")
    ax.plot(steps, reward, color=palette.REWARD, alpha=0.35, lw=1, label="each step")
    ax.plot(steps, smooth(reward), color=palette.REWARD, label="moving average")
    ax.set(title="Training reward", ylabel="mean reward")
    ax.legend()
    return ax


def draw_accuracy(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    points = evaluations(rows, summary)
    steps = [step for step, _ in points]
    lines = (("pass@1", "sampled pass@1", palette.POLICY, "o-"), ("greedy", "greedy", palette.WARNING, "s--"))
    for key, label, color, style in lines:
        values, errors = [p[key] for _, p in points], [p[key + "_se"] for _, p in points]
        ax.errorbar(steps, values, errors, fmt=style, color=color, ms=4, capsize=3, label=label)
    ax.set(title="Held-out accuracy (± 1 standard error)", ylabel="fraction solved")
    ax.legend()
    return ax


def draw_alpha(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    steps, alphas = column(rows, "step"), column(rows, "alpha")
    ax.plot(steps, alphas, color="#888888", lw=0.8, zorder=1)
    colors = [palette.alpha_color(a) for a in alphas]
    dots = ax.scatter(steps, alphas, c=colors, s=12, zorder=2, label=r"$\alpha_t$")
    dots.set_rasterized(len(rows) > 2000)  # a file of vectors would grow with every dot
    ax.plot(steps, column(rows, "confidence"), color=palette.SKY_BLUE, ls="--", lw=1.3, label="confidence $c_t$")
    ax.plot(steps, column(rows, "improvement"), color=palette.REWARD, ls=":", lw=1.6, label="improvement $p_t$")
    objective = summary.get("objective", TrainConfig.objective)
    unused = "" if find_objective(objective, strict=False).reads_alpha else f" ({objective} does not use it)"
    ax.set(title=r"$\alpha$ and its two gates" + unused, ylabel="no unit", ylim=(-0.03, 1.03))
    ax.legend(**BELOW)
    return ax


def draw_entropy(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    ax.plot(column(rows, "step"), column(rows, "token_entropy"), color=palette.POLICY)
    ax.set(title="Token entropy of the policy", ylabel="nats per token")
    ax.set_ylim(bottom=0)
    return ax


def draw_gradient(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    ax.plot(column(rows, "step"), column(rows, "grad_norm"), color=palette.PURPLE, lw=1)
    ax.set(title="Gradient norm before clipping", ylabel="norm")
    ax.set_ylim(bottom=0)
    return ax


def fraction_axis(ax: Any) -> Any:
    """A second axis on the right, for fractions."""
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)
    right.set(ylabel="fraction", ylim=(-0.03, 1.03))
    return right


def draw_loss(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    ax.plot(column(rows, "step"), column(rows, "loss"), color=palette.BLUE, lw=1)
    ax.set(title="Loss", ylabel="value of the objective")
    return ax


def draw_distance(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    """KL from the policy that sampled, and clipping: both 0 on the first update of a batch."""
    ax.plot(column(rows, "step"), column(rows, "kl_old"), color=palette.POLICY, lw=1, label="kl_old (left)")
    ax.set(title="Distance from the policy that sampled", ylabel="nats per token")
    ax.set_ylim(bottom=0)
    right = fraction_axis(ax)
    right.plot(column(rows, "step"), column(rows, "clip_fraction"), color=palette.WARNING, ls="--", label="clipped")
    ax.legend(handles=[*ax.get_lines(), *right.get_lines()], **BELOW)
    return ax


def draw_ess(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    ax.plot(column(rows, "step"), column(rows, "ess"), color=palette.PURPLE, lw=1)
    ax.set(title="Effective sample size", ylabel="completions of a group")
    ax.set_ylim(bottom=0)
    return ax


def draw_time(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    parts = [column(rows, "seconds_generate"), column(rows, "seconds_update")]
    labels = ["sampling, rewards, scoring", "update"]
    ax.stackplot(column(rows, "step"), *parts, labels=labels, colors=[palette.SKY_BLUE, palette.ORANGE], lw=0)
    ax.set(title="Where the time goes", ylabel="seconds per step")
    ax.legend(**BELOW)
    return ax


def draw_mismatch(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    for key, style in (("mismatch_mean", "-"), ("mismatch_max", "--")):
        values = [value if value > 0 else float("nan") for value in column(rows, key)]
        ax.plot(column(rows, "step"), values, style, color=palette.WARNING, lw=1, label=key.removeprefix("mismatch_"))
    ax.set(title="Engine against policy", ylabel="nats per token", yscale="log")
    ax.legend(**BELOW)
    return ax


def draw_length(ax: Any, rows: Rows, summary: Mapping[str, Any]) -> Any:
    steps = column(rows, "step")
    ax.plot(steps, column(rows, "completion_length"), color=palette.BLACK, label="mean length")
    ax.set(title="Completions", ylabel="tokens")
    right = fraction_axis(ax)
    right.plot(steps, column(rows, "truncated_fraction"), color=palette.WARNING, ls="--", label="truncated")
    right.plot(steps, column(rows, "groups_with_signal"), color=palette.REWARD, ls=":", label="groups with signal")
    ax.legend(handles=[*ax.get_lines(), *right.get_lines()], **BELOW)
    return ax
