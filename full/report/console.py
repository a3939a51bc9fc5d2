"""The plan before a run, one progress line during it, a table and advice after it."""

import contextlib
import logging
import os
import resource
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from apo_edu import LIMITS, Finding
from apo_edu.objectives import OBJECTIVES
from apo_edu.schedules import SCHEDULES
from full.config import TrainConfig
from full.errors import printable
from full.runs import RunFolder
from full.trainer.batches import BatchPlan


def quiet_libraries() -> None:
    """Turn off the progress bars and hints of the libraries, among which ours would be lost."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of names that peft still uses
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def plain(text: str) -> Text:
    """A text for a table as it is: other people's labels are no markup, no emoji and no terminal escapes."""
    return Text(printable(text))


def write_line(text: str) -> None:
    """Print above the progress bar; where nobody reads any more (a closed terminal, a dead `| tee`) the run goes on."""
    try:
        tqdm.write(printable(text), file=sys.stdout)
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Console:
    """Prints on the main process and nowhere else; of what it prints nothing is obeyed by a terminal."""

    def __init__(self, main: bool) -> None:
        self.main = main

    def line(self, *lines: str) -> None:
        """Print lines, above the progress bar if there is one."""
        if self.main:
            for line in lines:
                write_line(line)

    def plan(
        self, config: TrainConfig, plan: BatchPlan, model: Any, rendered: str, accelerator: Any, num_problems: int
    ) -> None:
        """What will happen, with the derived numbers, and one prompt as the model sees it."""
        counts = [
            sum(p.numel() for p in model.parameters() if p.requires_grad or all_of_them) for all_of_them in (1, 0)
        ]
        trained = "" if counts[0] == counts[1] else f" ({counts[1] / 1e6:.2f} M trained)"
        clip = ", clipped" if config.objective_record.clips else ""
        schedule = f", schedule {config.schedule}" if config.objective_record.reads_alpha else ""
        unread = config.unread()
        self.line(
            f"policy: {config.model}, {counts[0] / 1e6:.2f} M parameters{trained}, on {accelerator.num_processes} x "
            f"{accelerator.device.type}, {accelerator.mixed_precision.replace('no', config.weights)}; sampled by "
            f"{config.engine}",
            f"plan: {config.steps} optimiser steps; batches of {config.prompts_per_batch} prompts x {config.group_size} "
            f"completions, {plan.updates} updates each; {config.objective}{clip}{schedule}, "
            f"run folder {config.run_dir}",
            f"that is: {plan.batches} batches of {plan.completions} completions ({plan.local_completions} a process), "
            f"{plan.passes(num_problems):.2f} passes over {num_problems} problems, "
            f"{plan.batches * plan.completions:,} completions in all",
            *[
                f"note: {name} is set and has no effect: {config.objective} and its schedule do not read it"
                for name in unread
            ],
            f"one prompt, as the model sees it:\n{rendered}\n",
        )

    @contextmanager
    def progress(self, config: TrainConfig, start: int) -> Iterator["ProgressLine"]:
        """The one progress line."""
        hidden = None if self.main else True  # None: only without a terminal
        with tqdm(total=config.steps, initial=start, disable=hidden, unit="step", dynamic_ncols=True) as bar:
            yield ProgressLine(bar, self.main, with_alpha=config.objective_record.reads_alpha)

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
        with contextlib.suppress(OSError):
            RichConsole().print(table)
        self.line(
            "± is one standard error over problems; what pass@1 gains beyond greedy is sharpening.",
            f"{summary['steps']} steps in {summary['seconds']:.0f} s; curves: {run.path / 'curves.png'}, report with samples "
            f"and a glossary: {run.path / 'report.html'}",
            *[f"seen: {finding}" for finding in findings],
            "next: " + advice(summary, findings, config),
        )


class ProgressLine:
    """The progress line: step, reward, alpha, tokens per second, time left. Without a terminal, twenty lines in all."""

    def __init__(self, bar: tqdm, main: bool, *, with_alpha: bool) -> None:
        self.bar, self.main, self.with_alpha = bar, main, with_alpha

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Show one step's metrics."""
        speed = f"{metrics['tokens_per_second']:,.0f} tokens/s"
        alpha = f"alpha {metrics['alpha']:.2f}, " if self.with_alpha else ""
        text = f"reward {metrics['reward_mean']:.3f}, {alpha}{speed}"
        if metrics["truncated_fraction"] > LIMITS.truncated:
            text += f", {metrics['truncated_fraction']:.0%} truncated"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        step, total = metrics["step"], self.bar.total
        if self.bar.disable and self.main and (step % max(1, total // 20) == 0 or step == total):
            left = (total - step) * metrics["seconds_step"]
            write_line(f"step {step}/{total}: {text}, about {left:.0f} s left")


def advice(summary: Mapping[str, Any], findings: Sequence[Finding], config: TrainConfig) -> str:
    """One thing to try next, from what the run showed."""
    before, after = summary["eval_before"], summary["eval_after"]
    gain = after["pass@1"] - before["pass@1"]
    error = (after["pass@1_se"] ** 2 + before["pass@1_se"] ** 2) ** 0.5
    if findings:
        return findings[-1].remedy
    if gain <= LIMITS.gain * error:
        noise = f"the gain is within {LIMITS.gain:g} standard errors"
        return f"{noise}: more steps, a higher lr, or problems that are solved sometimes."
    if config.objective_record.reads_alpha and config.schedule_record.moves:
        other = next(record.name for record in OBJECTIVES.values() if record.clips)
        held = next(record.name for record in SCHEDULES.values() if not record.moves)
        return (
            f"compare with another objective on the same seed (--objective {other}), or hold alpha (--schedule {held})."
        )
    default = f"--objective {TrainConfig.objective} --schedule {TrainConfig.schedule}"
    return f"compare with APO on the same seed: {default} --seed {config.seed}."


def evaluation_line(when: str, result: Mapping[str, Any]) -> str:
    """An evaluation in one line."""
    return (
        f"{when}: sampled pass@1 {result['pass@1']:.3f} ± {result['pass@1_se']:.3f}, greedy {result['greedy']:.3f} "
        f"± {result['greedy_se']:.3f} on {result['n']} held-out problems"
    )


def peak_memory_bytes() -> int:
    """The most memory this process has held: of its GPU, or, on a CPU, resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError, StopIteration):
        # Linux: getrusage would also count what the process that started this one held then, a notebook's say.
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def summarize(
    config: TrainConfig, before: Mapping[str, Any], after: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """summary.json."""
    return {
        "eval_before": dict(before),
        "eval_after": dict(after),
        "steps": config.steps,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "seed": config.seed,
        "objective": config.objective,
        "schedule": config.schedule,
    }
