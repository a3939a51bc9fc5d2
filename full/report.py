"""What a run shows: the plan before it, one progress line during it, a table, a picture and advice after it."""

import logging
import resource
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console as RichConsole
from rich.table import Table
from tqdm import tqdm

from apo_edu import Finding, palette
from full.config import TrainConfig
from full.runs import RunFolder


def quiet_libraries() -> None:
    """Turn off the progress bars and hints of the libraries, among which ours would be lost."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of names that peft still uses
    logging.getLogger("accelerate").setLevel(logging.ERROR)


class Console:
    """Prints on the main process and nowhere else."""

    def __init__(self, main: bool) -> None:
        self.main = main

    def line(self, *lines: str) -> None:
        """Print lines, above the progress bar if there is one."""
        if self.main:
            for line in lines:
                tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def plan(self, config: TrainConfig, model: Any, rendered: str, accelerator: Any, num_problems: int) -> None:
        """What will happen, with the derived numbers, and one prompt as the model sees it."""
        counts = [
            sum(p.numel() for p in model.parameters() if p.requires_grad or all_of_them) for all_of_them in (1, 0)
        ]
        trained = "" if counts[0] == counts[1] else f" ({counts[1] / 1e6:.2f} M trained)"
        clip = "" if config.objective in ("apo", "adpo") else ", clipped"
        schedule = f", schedule {config.schedule}" if config.objective == "apo" else ""
        batches = -(-config.steps // config.updates_per_batch)
        completions = config.prompts_per_batch * config.group_size
        self.line(
            f"policy: {config.model}, {counts[0] / 1e6:.2f} M parameters{trained}, on {accelerator.num_processes} x "
            f"{accelerator.device.type}, {accelerator.mixed_precision.replace('no', config.weights)}; sampled by "
            f"{config.engine}",
            f"plan: {config.steps} optimiser steps; batches of {config.prompts_per_batch} prompts x {config.group_size} "
            f"completions, {config.updates_per_batch} updates each; {config.objective}{clip}{schedule}, "
            f"run folder {config.run_dir}",
            f"that is: {batches} batches of {completions} completions ({completions // accelerator.num_processes} a "
            f"process), {batches * config.prompts_per_batch / num_problems:.2f} passes over {num_problems} problems, "
            f"{batches * completions:,} completions in all",
            f"one prompt, as the model sees it:\n{rendered}\n",
        )

    @contextmanager
    def progress(self, config: TrainConfig, start: int) -> Iterator["Progress"]:
        """The one progress line."""
        hidden = None if self.main else True  # None: only without a terminal
        with tqdm(total=config.steps, initial=start, disable=hidden, unit="step", dynamic_ncols=True) as bar:
            yield Progress(bar, self.main, with_alpha=config.objective == "apo")

    def conclusion(
        self, run: RunFolder, summary: Mapping[str, Any], findings: Sequence[Finding], config: TrainConfig
    ) -> None:
        """The table of before and after, where the files are, and what to try next."""
        table = Table(title=f"held-out accuracy, {summary['eval_after']['n']} problems")
        for column in ("", "before", "after", "gain"):
            table.add_column(column, justify="left" if not column else "right")
        for key, label in (("pass@1", "sampled pass@1"), ("greedy", "greedy")):
            before, after = summary["eval_before"], summary["eval_after"]
            cells = [f"{result[key]:.3f} ± {result[key + '_se']:.3f}" for result in (before, after)]
            table.add_row(label, *cells, f"{after[key] - before[key]:+.3f}")
        RichConsole().print(table)
        self.line(
            "± is one standard error over problems; what pass@1 gains beyond greedy is sharpening.",
            f"{summary['steps']} steps in {summary['seconds']:.0f} s; curves: {run.path / 'curves.png'}, report with samples "
            f"and a glossary: {run.path / 'report.html'}",
            *[f"seen: {finding}" for finding in findings],
            "next: " + advice(summary, findings, config),
        )


class Progress:
    """The progress line: step, reward, alpha, tokens per second, time left. Without a terminal, twenty lines in all."""

    def __init__(self, bar: tqdm, main: bool, *, with_alpha: bool) -> None:
        self.bar, self.main, self.with_alpha = bar, main, with_alpha

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Show one step's metrics."""
        speed = f"{metrics['tokens_per_second']:,.0f} tokens/s"
        alpha = f"alpha {metrics['alpha']:.2f}, " if self.with_alpha else ""
        text = f"reward {metrics['reward_mean']:.3f}, {alpha}{speed}"
        if metrics["truncated_fraction"] > 0.2:
            text += f", {metrics['truncated_fraction']:.0%} truncated"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        step, total = metrics["step"], self.bar.total
        if self.bar.disable and self.main and (step % max(1, total // 20) == 0 or step == total):
            left = (total - step) * metrics["seconds_step"]
            print(f"step {step}/{total}: {text}, about {left:.0f} s left", flush=True)


def advice(summary: Mapping[str, Any], findings: Sequence[Finding], config: TrainConfig) -> str:
    """One thing to try next, from what the run showed."""
    before, after = summary["eval_before"], summary["eval_after"]
    gain = after["pass@1"] - before["pass@1"]
    error = (after["pass@1_se"] ** 2 + before["pass@1_se"] ** 2) ** 0.5
    if findings:
        return findings[-1].remedy
    if gain <= 2 * error:
        return "the gain is within two standard errors: more steps, a higher lr, or problems that are solved sometimes."
    if config.objective == "apo" and config.schedule == "guarded":
        return "compare with another objective on the same seed (--objective grpo), or hold alpha (--schedule fixed)."
    return f"compare with APO on the same seed: --objective apo --schedule guarded --seed {config.seed}."


def evaluation_line(when: str, result: Mapping[str, Any]) -> str:
    """An evaluation in one line."""
    return (
        f"{when}: sampled pass@1 {result['pass@1']:.3f} ± {result['pass@1_se']:.3f}, greedy {result['greedy']:.3f} "
        f"± {result['greedy_se']:.3f} on {result['n']} held-out problems"
    )


def summarize(
    config: TrainConfig, before: Mapping[str, Any], after: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """summary.json."""
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "eval_before": dict(before),
        "eval_after": dict(after),
        "steps": config.steps,
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "seed": config.seed,
        "objective": config.objective,
        "schedule": config.schedule,
    }


def draw_curves(run: RunFolder) -> None:
    """curves.png: reward, held-out accuracy, alpha with its gates, entropy, gradient norm, completion length."""
    import json

    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = run.read("metrics.jsonl")
    summary = json.loads((run.path / "summary.json").read_text())
    with rc_context(palette.STYLE):
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


def evaluations(rows: Rows, summary: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
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
    unused = "" if summary.get("objective", "apo") == "apo" else f" ({summary['objective']} does not use it)"
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
