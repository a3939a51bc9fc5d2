"""Finished runs side by side: grouped, compared in pairs of equal seeds, drawn (`full/compare.py`)."""

import csv
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from apo_edu import palette
from apo_edu.objectives import find_objective
from full.config import FREE_ON_RESUME, is_read
from full.errors import UserError, printable
from full.evaluation import standard_error
from full.report.curves import evaluations, smooth
from full.report.statistics import t_interval
from full.runs import RunRecord, origin, read_json, read_run

# What does not change what is computed.
IGNORED = {*FREE_ON_RESUME, "seed", "cpu_threads", "tracker", "log_completions", "eval_every", "merge_lora"}


# With a difference in these, two accuracies are not of the same thing.
SAME = ("model", "warm_start_pass_at_1", "steps", "temperature", "max_completion_tokens", "thinking")


DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)))


MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Run:
    """A finished run, and what full/eval.py found of it, if it was run."""

    record: RunRecord
    evaluation: dict[str, Any] | None

    @property
    def path(self) -> Path:
        return self.record.path

    @property
    def config(self) -> Mapping[str, Any]:
        """Every option, also those of another version."""
        return {**self.record.options, **self.record.recorded}

    @property
    def summary(self) -> Mapping[str, Any]:
        return self.record.summary

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        return self.record.rows

    def settings(self) -> dict[str, Any]:
        """What decides the run's result, but the seed; None for options that it does not read."""
        kept = {name: value for name, value in self.config.items() if name not in IGNORED}
        for name, value in kept.items():
            kept[name] = ("default" if value is None else value) if self.reads(name) else None
        return kept

    def reads(self, option: str) -> bool:
        """Whether an option has decided anything in this run."""
        if (
            option == "importance_cap"
        ):  # every weight is 1 unless the engine's log-probabilities differ from the policy's
            return any(row.get("mismatch_max", 0.0) > 0 for row in self.rows)
        return is_read(option, self.config)

    def held_out(self) -> str:
        """What it was evaluated on: the source's revision or hash, level and split, as the run recorded them."""
        recorded = str(self.record.provenance.get("test", ""))
        known = origin(recorded)  # a file may have been moved since
        where = recorded[recorded.index(known) :] if known else recorded.removeprefix(self.config["data"])
        return where or f"{self.config['data']}, level {self.config['level']}"


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in nothing but the seed; the name is short, A, B and so on."""

    name: str
    label: str
    objective: str
    runs: dict[int, Run]

    @property
    def legend(self) -> str:
        return printable(f"{self.name}: {self.label} ({count(len(self.runs), 'seed')})")


def read_finished_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        UserError: no run, an unfinished one, or a damaged file.
    """
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path} holds no run (no config.yaml); expected a folder that full/train.py wrote.")
    record = read_run(path)
    damage = [f"{file}: {what}" for file, what in record.damage if file != "completions.jsonl"]
    if not (path / "summary.json").exists():
        raise UserError(
            f"{path} is not finished (step {len(record.rows)} of {record.options['steps']}, no summary.json); expected a "
            f"finished run. Go on with it: full/train.py --resume {path}"
        )
    found: list[tuple[str, str]] = []
    evaluation = read_json(path / "eval.json", found)
    damage += [f"{file}: {what}" for file, what in found]
    if evaluation is not None and not _is_per_problem(evaluation):
        damage.append("eval.json: no results per problem")
    steps = record.summary.get("steps", 0)
    if not damage and [row["step"] for row in record.rows] != list(range(1, steps + 1)):
        damage = [f"metrics.jsonl: {len(record.rows)} of {steps} steps can be read"]
    if damage:
        more = f" and {len(damage) - 1} more" if len(damage) > 1 else ""
        raise UserError(f"{path} is damaged ({damage[0]}{more}); expected a finished run.")
    return Run(record, evaluation)


def _is_per_problem(evaluation: Any) -> bool:
    """Whether something is what full/eval.py writes, as far as `problem_rows` reads it."""
    if not (isinstance(evaluation, dict) and type(evaluation.get("k")) is int and evaluation["k"] > 0):
        return False
    problems = evaluation.get("problems")
    return isinstance(problems, list) and all(
        isinstance(p, dict) and isinstance(p.get("problem"), str) and isinstance(p.get("right"), int | float)
        for p in problems
    )


def group_runs(runs: Sequence[Run]) -> tuple[list[RunGroup], list[str]]:
    """Groups of runs equal but for the seed, in order of appearance; and a line for each run that repeats another."""
    settings = [run.settings() for run in runs]
    values: dict[str, list[Any]] = {}  # different values of each option, where it is read
    for one in settings:
        for name, value in one.items():
            if value is not None and value not in values.setdefault(name, []):
                values[name].append(value)
    told_apart = [name for name, different in values.items() if len(different) > 1]
    groups: dict[str, RunGroup] = {}
    repeated = []
    for run, one in zip(runs, settings, strict=True):
        head = " ".join(one[name] for name in ("objective", "schedule") if one[name] is not None)
        shown = [name for name in one if name in told_apart or name == "alpha"]  # alpha is always told where it is read
        told = [name for name in shown if name not in ("objective", "schedule") and one[name] is not None]
        extra = [f"{name} {as_text(one[name])}" for name in told]
        label = ", ".join([head, *extra])
        group = groups.setdefault(label, RunGroup(letters(len(groups)), label, one["objective"], {}))
        seed = run.config["seed"]
        if seed in group.runs:
            repeated.append(f"{run.path} repeats seed {seed} of {label} ({group.runs[seed].path}).")
        else:
            group.runs[seed] = run
    return list(groups.values()), repeated


def as_text(value: Any) -> str:
    """An option's value in a label."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={member}" for name, member in value.items()) or "none"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """The accuracies that all runs have before and after, in order."""
    parts = [run.summary[when] for run in runs for when in ("eval_before", "eval_after")]
    names = [name.removesuffix("_se") for name in parts[0] if name.endswith("_se")]
    return [n for n in names if all(isinstance(p.get(k), float | int) for p in parts for k in (n, f"{n}_se"))]


def gain_rows(group: RunGroup) -> list[dict[str, Any]]:
    """Before, after and gain of a group: means over its seeds with their standard errors.

    A single seed has none, and its errors are over problems; that of its gain then treats before and after as independent,
    which is on the safe side, since both are on the same problems.
    """
    runs = list(group.runs.values())
    rows = []
    for metric in metrics_of(runs):
        before, after = ([run.summary[when][metric] for run in runs] for when in ("eval_before", "eval_after"))
        columns = {"before": before, "after": after, "gain": [b - a for a, b in zip(before, after, strict=True)]}
        row: dict[str, Any] = {"group": group.label, "metric": metric, "seeds": len(runs)}
        for name, values in columns.items():
            row |= {name: statistics.fmean(values), f"{name}_se": standard_error(values)}
        if len(runs) == 1:
            errors = [runs[0].summary[when][f"{metric}_se"] for when in ("eval_before", "eval_after")]
            row |= {"before_se": errors[0], "after_se": errors[1], "gain_se": math.hypot(*errors)}
        rows.append({**row, "error_over": "seeds" if len(runs) > 1 else "problems"})
    return rows


def pair_rows(a: RunGroup, b: RunGroup) -> list[dict[str, Any]]:
    """Paired comparisons of two groups: the mean difference of gains over shared seeds, and of accuracy over problems."""
    seeds = sorted(a.runs.keys() & b.runs.keys())
    head = {"a": a.label, "b": b.label}
    reasons = differences(a, b) or ([] if seeds else ["no seed in common"])
    if reasons:
        return [{**head, **dict.fromkeys(PAIR_COLUMNS), "not_comparable": "; ".join(reasons)}]
    pairs = [(a.runs[seed], b.runs[seed]) for seed in seeds]
    rows = []
    for metric in metrics_of([run for pair in pairs for run in pair]):
        gaps = [gain(one, metric) - gain(other, metric) for one, other in pairs]
        low, high = t_interval(gaps)
        won, lost = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
        values = (f"gain in {metric}", "seeds", len(gaps), statistics.fmean(gaps), low, high, won, lost)
        rows.append({**head, **dict(zip(PAIR_COLUMNS, values, strict=True)), "not_comparable": ""})
    return rows + problem_rows(head, pairs)


PAIR_COLUMNS = ("metric", "over", "pairs", "difference", "low", "high", "won", "lost")


def problem_rows(head: dict[str, str], pairs: Sequence[tuple[Run, Run]]) -> list[dict[str, Any]]:
    """Sampled accuracy problem by problem, averaged over the seeds, if full/eval.py wrote it alike for all runs."""
    evaluations = [run.evaluation for pair in pairs for run in pair if run.evaluation is not None]
    if len(evaluations) < 2 * len(pairs):
        return []
    alike = ("data", "temperature", "max_completion_tokens", "thinking", "k")
    if any(e.get(name) != evaluations[0].get(name) for e in evaluations for name in alike):
        return []
    solved = [{p["problem"]: p["right"] / e["k"] for p in e["problems"]} for e in evaluations]
    shared = [problem for problem in solved[0] if all(problem in one for one in solved)]
    if not shared:
        return []
    from full.evaluation import mean_intervals  # seconds of imports

    table = np.array([[one[problem] for one in solved] for problem in shared])
    gaps = (table[:, 0::2] - table[:, 1::2]).mean(axis=1)
    ((low, high),) = mean_intervals(gaps[:, None])
    won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    values = ("pass@1 after", "problems", len(shared), float(gaps.mean()), low, high, won, lost)
    return [{**head, **dict(zip(PAIR_COLUMNS, values, strict=True)), "not_comparable": ""}]


def differences(a: RunGroup, b: RunGroup) -> list[str]:
    """Why two groups' accuracies are not of the same thing; empty if they are."""
    one, other = next(iter(a.runs.values())), next(iter(b.runs.values()))
    found = []
    if one.held_out() != other.held_out():
        names = dict.fromkeys(f"{run.config['data']}, level {run.config['level']}" for run in (one, other))
        found = [f"data {' / '.join(names)}{' in two versions' * (len(names) == 1)}"]
    for name in SAME:
        if name == "warm_start_pass_at_1" and one.config["model"] != "tiny":
            continue
        if one.config[name] != other.config[name]:
            found.append(f"{name} {one.config[name]} / {other.config[name]}")
    for name, what in (("n", "held-out problems"), ("k", "samples each")):
        counts = [run.summary["eval_after"].get(name) for run in (one, other)]
        if counts[0] != counts[1]:
            found.append(f"{what} {counts[0]} / {counts[1]}")
    return found


def gain(run: Run, metric: str) -> float:
    return run.summary["eval_after"][metric] - run.summary["eval_before"][metric]


def show(groups: Sequence[RunGroup], gains: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]) -> None:
    """Both tables as text; groups go by their letters in the second."""
    from rich.console import Console
    from rich.table import Table

    from full.report.console import plain

    names = {group.label: group.name for group in groups}
    console = Console(width=None if sys.stdout.isatty() else 150)  # a file should not be cut at 80
    table = Table(title="held-out accuracy", title_justify="left")
    for name in ("", "group", "metric", "seeds", "before", "after", "gain", "± over"):
        table.add_column(name, justify="left" if name in ("", "group", "metric", "± over") else "right")
    for index, row in enumerate(gains):
        first = index == 0 or gains[index - 1]["group"] != row["group"]
        cells = [names[row["group"]], row["group"], row["metric"], str(row["seeds"])]
        for name in ("before", "after", "gain"):
            cells.append(f"{row[name]:{'+' if name == 'gain' else ''}.3f} ± {row[name + '_se']:.3f}")
        table.add_row(*map(plain, cells if first else ["", "", *cells[2:]]), row["error_over"])
    console.print(table)
    if not pairs:
        return
    table = Table(title="paired differences", title_justify="left")
    for name in ("", "of", "over", "difference", "95 % interval", "won : lost"):
        table.add_column(name, justify="left" if name in ("", "of", "over") else "right")
    for row in pairs:
        pair = f"{names[row['a']]} - {names[row['b']]}"
        if row["not_comparable"]:
            table.add_row(pair, plain(f"not comparable: {row['not_comparable']}"))
            continue
        interval = "none: one seed" if row["low"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}"
        over = count(row["pairs"], row["over"].removesuffix("s"))
        table.add_row(
            pair, plain(row["metric"]), over, f"{row['difference']:+.3f}", interval, f"{row['won']} : {row['lost']}"
        )
    console.print(table)


def notes(groups: Sequence[RunGroup], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader of the tables should know."""
    lines = ["± is one standard error; an interval over seeds is Student's t, one over problems a bootstrap."]
    for a, b in combinations(groups, 2):
        for seed in sorted(a.runs.keys() & b.runs.keys()):
            starts = [group.runs[seed].summary["eval_before"] for group in (a, b)]
            if not differences(a, b) and abs(starts[0]["pass@1"] - starts[1]["pass@1"]) > starts[0]["pass@1_se"]:
                lines.append(
                    f"warning: seed {seed} starts at {starts[0]['pass@1']:.3f} in {a.name} and at {starts[1]['pass@1']:.3f} "
                    f"in {b.name}: another start (threads and devices round differently), so the pair is no pair."
                )
    measured = [row for row in pairs if row["low"] is not None]
    if any(row["over"] == "seeds" and row["low"] is None for row in pairs if not row["not_comparable"]):
        lines.append("one shared seed says nothing of other seeds: train two more of each.")
    if any(1 < len(group.runs) < 5 for group in groups):
        lines.append("errors over two to four seeds are rough themselves; their intervals are wide for that reason.")
    if len(measured) > 1:
        lines.append(f"of 95 % intervals one in twenty misses the truth by chance; here are {len(measured)}.")
    return lines


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per row; the keys of the first are the header."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def letters(index: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def draw(groups: Sequence[RunGroup], out: Path) -> None:
    """Reward, held-out accuracy, alpha and token entropy over steps."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = palette.STYLE  # matplotlib's stub wants a literal name for every key
    with rc_context(style):
        columns = max(1, min(len(groups), 150 // (max(len(group.legend) for group in groups) + 12)))
        figure = Figure(figsize=(11, 6.7 + 0.2 * math.ceil(len(groups) / columns)))
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        for ax, panel in zip(axes.flat, (draw_reward, draw_accuracy, draw_alpha, draw_entropy), strict=True):
            panel(ax, groups)
            ax.set_xlabel("optimiser step")
        lines = [line for line in axes[0, 0].get_lines() if not line.get_label().startswith("_")]
        legend = figure.legend(handles=lines, loc="outside lower center", ncols=columns, handlelength=3.5)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a label may hold a path, and a path a dollar sign
        figure.suptitle(
            "Lines: medians over seeds, bands: quartiles. Of a single seed, bars: one standard error over problems.",
            x=0.01,
            ha="left",
            fontsize=9,
        )
        figure.savefig(out)


def look(groups: Sequence[RunGroup], index: int) -> dict[str, Any]:
    """Colour by objective, dash by group: never told apart by colour alone."""
    return {
        "color": find_objective(groups[index].objective, strict=False).color,
        "linestyle": DASHES[index % len(DASHES)],
    }


def series(group: RunGroup, key: str) -> tuple[list[int], np.ndarray]:
    """The steps that all runs of a group have, and one metric [runs, steps]."""
    per_run = [{row["step"]: row.get(key, math.nan) for row in run.rows} for run in group.runs.values()]
    steps = sorted(set.intersection(*map(set, per_run)))
    return steps, np.array([[values[step] for step in steps] for values in per_run])


def draw_quartiles(ax: Any, steps: Sequence[int], runs: np.ndarray, **line: Any) -> None:
    """Median over runs [runs, steps] with the quartiles shaded."""
    low, middle, high = np.quantile(runs, [0.25, 0.5, 0.75], axis=0)
    (drawn,) = ax.plot(steps, middle, **line)
    if len(runs) > 1:
        ax.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)


def draw_reward(ax: Any, groups: Sequence[RunGroup]) -> Any:
    for index, group in enumerate(groups):
        steps, reward = series(group, "reward_mean")
        smoothed = np.array([smooth(values) for values in reward.tolist()])
        draw_quartiles(ax, steps, smoothed, label=group.legend, **look(groups, index))
    ax.set(title="Training reward, moving average", ylabel="mean reward")
    return ax


def draw_accuracy(ax: Any, groups: Sequence[RunGroup]) -> Any:
    """Sampled pass@1; a single seed has its standard error over problems instead of a band."""
    for index, group in enumerate(groups):
        runs = [dict(evaluations(run.rows, run.summary)) for run in group.runs.values()]
        steps = sorted(set.intersection(*map(set, runs)))
        values = np.array([[run[step]["pass@1"] for step in steps] for run in runs])
        line = {**look(groups, index), "marker": MARKERS[index % len(MARKERS)], "ms": 4.5}
        if len(runs) == 1:
            errors = [runs[0][step]["pass@1_se"] for step in steps]
            ax.errorbar(steps, values[0], errors, capsize=2.5, elinewidth=0.9, **line)
        else:
            draw_quartiles(ax, steps, values, **line)
    ax.set(title="Held-out accuracy, sampled pass@1", ylabel="fraction solved")
    return ax


def draw_alpha(ax: Any, groups: Sequence[RunGroup]) -> Any:
    """The orders of the groups whose objective reads alpha."""
    for index, group in enumerate(groups):
        if find_objective(group.objective, strict=False).reads_alpha:
            draw_quartiles(ax, *series(group, "alpha"), **look(groups, index))
    ax.set(title=r"$\alpha$, where the objective reads it", ylabel="no unit", ylim=(-0.03, 1.03))
    return ax


def draw_entropy(ax: Any, groups: Sequence[RunGroup]) -> Any:
    for index, group in enumerate(groups):
        draw_quartiles(ax, *series(group, "token_entropy"), **look(groups, index))
    ax.set(title="Token entropy of the policy", ylabel="nats per token")
    ax.set_ylim(bottom=0)
    return ax
