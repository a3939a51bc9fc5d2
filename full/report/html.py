"""One offline HTML file per run: `python full/page.py runs/NAME` writes runs/NAME/report.html.

It holds what the run was, what it gained and whether that is more than noise, the curves, what the failure monitor saw,
the configuration, the sampled completions, and what every number means. Also of a run that was killed or still goes on.

Nothing is loaded from elsewhere, and no text of the model can become markup: Jinja escapes it, and the page's
Content-Security-Policy lets its own script run and nothing else. Without scripts only the viewer's filters are missing.
"""

import base64
import dataclasses
import hashlib
import io
import itertools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from apo_edu import LIMITS, FailureMonitor, Finding, palette
from apo_edu.objectives import find_objective
from apo_edu.schedules import find_schedule
from full.config import TrainConfig, explain_option, filled, reads_alpha, resting_alpha, solved_reward
from full.errors import printable
from full.report import glossary
from full.report.curves import (
    draw_accuracy,
    draw_alpha,
    draw_distance,
    draw_entropy,
    draw_ess,
    draw_gradient,
    draw_length,
    draw_loss,
    draw_mismatch,
    draw_reward,
    draw_time,
    evaluations,
)
from full.report.statistics import moved, verdict
from full.runs import RunFolder, RunRecord, read_run
from full.trainer.batches import BatchPlan
from full.units import duration, size

HERE = Path(__file__).parent


MAX_CHARACTERS = 1_500_000  # of completions in the page; all of them are in completions.jsonl


MAX_TEXT = 20_000  # of one completion


MAX_STEPS = 25  # rows of the table of steps


STEP_COLUMNS = (
    "step", "reward_mean", "alpha", "confidence", "improvement", "token_entropy", "grad_norm", "loss", "kl_old",
    "clip_fraction", "ess", "completion_length", "truncated_fraction", "seconds_step",
)  # fmt: skip


def write_report(run: RunFolder | str | Path) -> Path:
    """Write report.html into a run's folder; return its path.

    Raises:
        UserError: the folder holds no config.yaml.
    """
    record = read_run(run.path if isinstance(run, RunFolder) else Path(run))
    out = record.path / "report.html"
    aside = out.with_name("report.html.writing")
    aside.write_text(render(record), encoding="utf-8")
    os.replace(aside, out)
    return out


def render(record: RunRecord) -> str:
    """The whole page."""
    script, sheet = (Markup((HERE / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css"))
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"number": number, "duration": duration, "size": size, "alpha_color": palette.alpha_color}
    points = evaluations(record.rows, record.summary)
    groups, every = completion_groups(record.samples)
    return environment.get_template("page.html").render(
        run=record,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        sheet=sheet,
        gradient=", ".join(palette.ALPHA_COLORS),
        points=points,
        accuracies=accuracy_table(points[0][1], points[-1][1]) if points else [],
        verdict=verdict(points[0][1], points[-1][1]) if len(points) > 1 else [],
        findings=findings(record),
        curves=curves(record),
        groups=groups,
        every=every,
        count={
            "all": sum(len(group.samples) for group in groups),
            "solved": sum(group.solved for group in groups),
            "truncated": sum(bool(sample.get("truncated")) for group in groups for sample in group.samples),
        },
        reads_alpha=reads_alpha(record.options),
        window=LIMITS.window,
        steps=thin(record.rows, MAX_STEPS),
        columns=[name for name in STEP_COLUMNS if any(name in row for row in record.rows)],
        options=option_rows(record),
        metrics=metric_rows(record),
        summary_keys=[(key, glossary.entry(key)) for key in record.summary],
    )


def accuracy_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """(measure, before, after, gain) of each accuracy, with its standard error over problems."""

    def cell(result: Mapping[str, Any], key: str) -> str:
        return f"{result[key]:.3f} ± {result[f'{key}_se']:.3f}" if key in result else ""

    rows: list[tuple[str, ...]] = []
    for key in after:
        if key == "greedy" or re.fullmatch(r"(pass|maj)@\d+", key):
            gain, error, _ = moved(before, after, key) if key in before else (math.nan, math.nan, 0)
            told = f"{gain:+.3f} ± {error:.3f}" if key in before else ""
            rows.append(("sampled pass@1" if key == "pass@1" else key, cell(before, key), cell(after, key), told))
    return rows


def findings(record: RunRecord) -> list[Finding]:
    """What the failure monitor says of the logged steps, as in train.py, and what befell the verifier."""
    monitor = FailureMonitor(alpha_max=resting_alpha(record.options), solved=solved_reward(record.options))
    for row in record.rows:
        monitor.update(row)
    return monitor.findings + verifier_findings(record)


def verifier_findings(record: RunRecord) -> list[Finding]:
    """Answers that hit a limit of the verifier, and workers that died, over all logged steps."""
    told = {
        "verify_timeouts": (
            "{} answers hit a limit of the verifier and counted as wrong.",
            "Look for what they have in common.",
        ),
        "verify_deaths": (
            "{} verifying workers died and were replaced.",
            "Look for what ends them; no reward is affected.",
        ),
    }
    found = []
    for key, (message, remedy) in told.items():
        rows = [row for row in record.rows if row.get(key)]
        if rows:
            total = sum(int(row[key]) for row in rows)
            found.append(Finding(key, int(rows[0]["step"]), message.format(total), remedy))
    return found


class Panel(NamedTuple):
    """One figure: what draws it, the metrics in it, and a caption with this run's numbers (`caption`)."""

    draw: Callable[..., Any]
    keys: tuple[str, ...]
    caption: str


PANELS = (
    Panel(draw_reward, ("reward_mean",),
          "Should rise: from {first} to {last} here; the faint line is single steps, which scatter by about {noise}."),
    Panel(draw_accuracy, ("pass@1", "greedy"),
          "What counts: problems that training never saw; where only sampled pass@1 rises, towards greedy, the policy has "
          "sharpened."),
    Panel(draw_alpha, ("alpha", "confidence", "improvement"), "{schedule_note}; the colour is the order."),
    Panel(draw_entropy, ("token_entropy",),
          "How open the choice of each token is: from {first} to {last} nats; a fall is healthy while the reward rises."),
    Panel(draw_gradient, ("grad_norm",),
          "Steady is healthy, a spike is not; {clipped} of {logged} steps were clipped to max_grad_norm "
          "{max_grad_norm}.{clipped_means}"),
    Panel(draw_length, ("completion_length", "truncated_fraction", "groups_with_signal"),
          f"Truncated should stay below {LIMITS.truncated:g}; only groups with signal, whose completions differ in reward, "
          "teach anything."),
    Panel(draw_loss, ("loss",),
          "No measure of progress: on policy the value says nothing of the policy, and yet its gradient is not zero."),
    Panel(draw_distance, ("kl_old", "clip_fraction"),
          "Both are 0 on the first of the {updates} updates per batch, by definition; {clip_note}."),
    Panel(draw_ess, ("ess",),
          "How many of a group's {group_size} completions the weights q^alpha p^(1-alpha) rest on: 1 would be a single "
          "one{other_weights}."),
    Panel(draw_time, ("seconds_generate", "seconds_update"),
          "Sampling, rewards and scoring take {share} of the steps' time; evaluations and checkpoints are not counted."),
    Panel(draw_mismatch, ("mismatch_mean", "mismatch_max"),
          "How far the engine's log-probabilities are from the policy's: {last} nats at the end; rounding is normal."),
)  # fmt: skip


# Colours of the figures that the page's style sheet names.
PAGE_COLORS = {
    palette.BLACK: "currentColor", str(palette.STYLE["grid.color"]): "var(--grid)", palette.BLUE: "var(--blue)",
    palette.GREEN: "var(--green)", palette.VERMILION: "var(--red)",
}  # fmt: skip


def curves(record: RunRecord) -> list[dict[str, Any]]:
    """The figures of a run: title, SVG, description for those who cannot see it, caption. Those without data are left out."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    made = []
    for index, panel in enumerate(PANELS):
        series = {key: found for key in panel.keys if (found := values(record, key))}
        if panel.draw is draw_alpha and not reads_alpha(record.options):  # logged, and not used
            continue
        exact = panel.draw is draw_mismatch and not any(series.get("mismatch_max", []))
        if panel.keys[0] not in series or exact:  # an engine without mismatch is no picture
            continue
        style: Any = {**palette.STYLE, "svg.hashsalt": "apo_edu"}  # equal runs, equal pages
        with rc_context(style):
            figure = Figure(figsize=(4.4, 3.1))
            FigureCanvasSVG(figure)
            ax = panel.draw(figure.subplots(), record.rows, record.summary)
            title = ax.get_title(loc="left")
            ax.set(xlabel="optimiser step", title="")
            ax.locator_params(axis="x", integer=True)
            out = io.StringIO()
            figure.savefig(out, format="svg", transparent=True)
        ends = {key: (fmean(found[: tenth(found)]), fmean(found[-tenth(found) :])) for key, found in series.items()}
        told = [
            f"{key} from {number(ends[key][0])} to {number(ends[key][1])}, between {number(min(found))} and "
            f"{number(max(found))}"
            for key, found in series.items()
        ]
        made.append(
            {
                "title": title.replace(r"$\alpha$", "alpha"),
                "svg": inline(out.getvalue(), prefix=f"c{index}"),
                "alt": f"Line chart over {len(record.rows)} optimiser steps: {'; '.join(told)}.",
                "caption": caption(panel, record, *ends[panel.keys[0]]),
                "is_alpha": "alpha" in panel.keys,
            }
        )
    return made


def values(record: RunRecord, key: str) -> list[float]:
    """The finite values of a metric over the steps, or of an accuracy over the evaluations."""
    accuracies = [result for _, result in evaluations(record.rows, record.summary)]
    found = [row[key] for row in (accuracies if key in ("pass@1", "greedy") else record.rows) if key in row]
    return [float(v) for v in found if isinstance(v, float | int) and math.isfinite(v)]


def tenth(found: Sequence[float]) -> int:
    """How many values the first and the last tenth of them are."""
    return math.ceil(len(found) / 10)


def caption(panel: Panel, record: RunRecord, first: float, last: float) -> str:
    """A panel's sentence with this run's numbers; `first` and `last` are means over a tenth of the steps."""
    options = record.options
    objective = find_objective(options["objective"], strict=False)
    schedule = find_schedule(options["schedule"], strict=False)
    clips = objective.clips or options["off_policy"] == "clip"
    norms, generate, step = (values(record, key) for key in ("grad_norm", "seconds_generate", "seconds_step"))
    clipped = sum(norm > options["max_grad_norm"] for norm in norms)
    mostly_clipped = clipped > LIMITS.clipped_steps * len(norms)
    numbers = {
        "first": number(first),
        "last": number(last),
        "noise": number(fmean(values(record, "reward_se") or [0.0])),
        "schedule_note": filled(schedule.note, options, last=number(last)),
        "other_weights": "" if objective.reads_alpha else f"; {objective.name} has other weights",
        "clipped": clipped,
        "logged": len(norms),
        "clipped_means": f" {glossary.CLIPPED_MEANS}" if mostly_clipped else "",
        "max_grad_norm": number(options["max_grad_norm"]),
        "updates": BatchPlan(options).updates,
        "clip_note": "small is healthy" if clips else f"{objective.name} clips nothing",
        "share": f"{sum(generate) / max(sum(step), 1e-9):.0%}",
    }
    return panel.caption.format(**{**options, **numbers})


def inline(svg: str, *, prefix: str) -> Markup:
    """An SVG of matplotlib as part of a page: ids of its own, and colours that the page can lighten on a dark ground."""
    # The metadata hold the date.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for color, variable in PAGE_COLORS.items():
        svg = svg.replace(color.lower(), variable)
    return Markup(svg)


class CompletionGroup(NamedTuple):
    """Completions of one prompt, sampled together."""

    first: Mapping[str, Any]  # holds what they share: step, problem, prompt, answer
    samples: list[dict[str, Any]]
    solved: int


def completion_groups(samples: Sequence[Mapping[str, Any]]) -> tuple[list[CompletionGroup], int]:
    """(groups, k): consecutive completions of one prompt; every k-th group where all would make the page too large."""
    groups = []
    for _, members in itertools.groupby(samples, key=lambda s: [s.get(key) for key in ("step", "prompt", "answer")]):
        told = [describe(sample) for sample in members]
        groups.append(CompletionGroup(told[0], told, sum(sample["solved"] for sample in told)))
    total = sum(len(sample["completion"]) for group in groups for sample in group.samples)
    total += sum(len(group.first["prompt"]) + len(group.first["problem"]) for group in groups)
    every = max(1, math.ceil(total / MAX_CHARACTERS))
    return groups[::every], every


def describe(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A completion for the viewer: all fields present, a very long text cut, whether it is solved, its partial rewards."""
    parts = {key.removeprefix("reward/"): value for key, value in sample.items() if key.startswith("reward/")}
    verified = [parts[name] for name in ("accuracy", "accuracy_or_repetition") if name in parts]
    text = str(sample.get("completion", ""))
    return {
        "step": sample.get("step", 0),
        "problem": str(sample.get("problem", "")),
        "prompt": str(sample.get("prompt", "")),
        "answer": str(sample.get("answer", "")),
        "completion": text[:MAX_TEXT],
        "cut": max(0, len(text) - MAX_TEXT),
        "reward": sample.get("reward", float("nan")),
        "parts": parts if len(parts) > 1 else {},
        "truncated": bool(sample.get("truncated")),
        "verified": bool(verified),
        "solved": (verified[0] if verified else sample.get("reward", 0)) >= 1,
    }


def thin(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many rows at even distances, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def option_rows(record: RunRecord) -> list[dict[str, Any]]:
    """Every option with its value, its default, whether it was changed, and its help; unknown ones last."""
    known, rows = dataclasses.asdict(TrainConfig()), []
    for name, value in {**record.options, **record.recorded}.items():
        text = explain_option(name) or "No option of this version."
        if name not in record.recorded:
            text += " (Not recorded: the run is of another version.)"
        changed = name not in known or value != known[name]
        rows.append({"name": name, "value": value, "default": known.get(name, ""), "changed": changed, "help": text})
    return rows


def metric_rows(record: RunRecord) -> list[dict[str, Any]]:
    """Every key of metrics.jsonl with its entry in the glossary, its expected range, and what the run had."""
    rows = []
    for name in dict.fromkeys(key for row in record.rows for key in row):
        found, seen = glossary.entry(name), values(record, name)
        low, high = glossary.bounds(found, record.options) if found else (-math.inf, math.inf)
        rows.append(
            {
                "name": name,
                "entry": found,
                "expected": expected(low, high) if found else "",
                "last": next(row[name] for row in reversed(record.rows) if name in row),
                "seen": [seen[0], seen[-1], min(seen), max(seen)] if seen else [],
                "outside": len(glossary.outside(seen, low, high)),
                "not_finite": sum(1 for row in record.rows if isinstance(v := row.get(name), float) and v - v != 0),
            }
        )
    return rows


def expected(low: float, high: float) -> str:
    """A range in words."""
    if math.isinf(high):
        return "any number" if math.isinf(low) else f"{low:g} or more"
    return f"{low:g} to {high:g}"


def number(value: Any) -> str:
    """A value in a table: about three digits, whole numbers in full, lists with commas."""
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value))
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3f}" if 0.01 <= abs(value) < 100 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
