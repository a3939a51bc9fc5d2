"""The pages that people read: feedback for a student, the summary of a class, and the picture in it."""

import base64
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from apo_edu import palette

from .. import plotting
from .grading import Item, Result
from .model import Assignment, Exercise

_FOLDER = Path(__file__).parent
_JINJA = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip
_JINJA.filters["points"] = lambda value: f"{value:g}"
# A diagnosis as a sentence; a name such as z or log_w at its beginning keeps its case.
_JINJA.filters["sentence"] = lambda text: re.sub(r"^[a-z](?=[a-z]+\b(?!_))", lambda first: first[0].upper(), text)


def _code(text: str) -> Markup:
    """What stands between backticks as code; everything else stays text."""
    parts = re.split(r"`([^`\n]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


_JINJA.filters["code"] = _code

_NOT_A_MISTAKE = ("not judged", "no answer", "not done", "not defined")


def feedback_page(result: Result, assignment: Assignment) -> str:
    """One student's feedback as a page of its own: marks, each check with its diagnosis, comments on written answers."""
    parts = []
    for part in assignment.items:
        items = [item for item in result.items if item.exercise == part.name]
        if items:
            parts.append({"part": part, "items": items, "score": _sum(items), "diagnoses": _diagnoses(items)})
    open_points = sum(item.max_score for item in result.items if item.score is None)
    return _render("feedback.html", result=result, assignment=assignment, parts=parts, open_points=open_points)


def _sum(items: list[Item]) -> float | None:
    return None if any(item.score is None for item in items) else sum(item.score or 0.0 for item in items)


def _diagnoses(items: list[Item]) -> list[dict[str, Any]]:
    """What is wrong, once for all the checks that it explains, in the order of the checks."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.score is not None and item.score < item.max_score and item.output:
            groups[item.output].append(item)
    return [{"says": says, "items": group} for says, group in groups.items()]


def summary_page(results: list[Result], assignment: Assignment, picture: Path) -> str:
    """The class on one page: marks of each exercise, the mistakes and how often, and who needs a look."""
    scores = sorted(result.score for result in results)
    rows = []
    for part in assignment.items:
        items = [[item for item in result.items if item.exercise == part.name] for result in results]
        got = [sum(item.score or 0.0 for item in group) for group in items]
        waiting = sum(any(item.score is None for item in group) for group in items)
        full = sum(abs(points - part.points) < 1e-9 for points in got)
        absent = sum(any(item.mistake in _NOT_A_MISTAKE for item in group) for group in items)
        rows.append({"part": part, "mean": sum(got) / len(got), "full": full, "waiting": waiting, "absent": absent})
    isolation = next((result.isolation for result in results if result.isolation), {})
    return _render(
        "summary.html",
        assignment=assignment,
        results=sorted(results, key=lambda result: result.submission.student),
        rows=rows,
        mistakes=mistakes(results, assignment),
        median=scores[len(scores) // 2],
        picture=base64.b64encode(picture.read_bytes()).decode(),
        given=[name for name, there in isolation.items() if there],
        lacking=[name for name, there in isolation.items() if not there],
    )


def mistakes(results: list[Result], assignment: Assignment) -> list[dict[str, Any]]:
    """Each mistake with its exercise and the number of students who made it, the most frequent first in each exercise."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        for exercise, mistake in {
            (item.exercise, item.mistake) for item in result.items if item.mistake not in ("", *_NOT_A_MISTAKE)
        }:
            counts[exercise][mistake] += 1
    rows = []
    for part in assignment.items:
        words = {mistake.name: mistake.says for mistake in part.mistakes} if isinstance(part, Exercise) else {}
        for name, count in counts[part.name].most_common():
            rows.append({"part": part, "name": name, "count": count, "says": words.get(name, "")})
    return rows


MOST_BARS = 24


def summary_picture(results: list[Result], assignment: Assignment, path: Path) -> None:
    """Which mistakes how often: a bar for each, grouped by exercise, as a PNG."""
    found = mistakes(results, assignment)
    most = {id(row) for row in sorted(found, key=lambda row: -row["count"])[:MOST_BARS]}
    shown = [row for row in found if id(row) in most]
    with plotting.style():
        figure = Figure(figsize=(8.6, 1.3 + 0.27 * max(len(shown), 2)), dpi=144)
        ax = figure.subplots()
        names = list(dict.fromkeys(row["part"].name for row in shown))
        colors = dict(zip(names, _COLORS * len(names), strict=False))
        for at, row in enumerate(shown):
            ax.barh(at, row["count"], height=0.7, color=colors[row["part"].name])
            ax.text(row["count"], at, f" {row['count']}", va="center", fontsize=9)
        ax.set_yticks(range(len(shown)), [f"{row['part'].name}: {row['name']}" for row in shown], fontsize=9)
        ax.invert_yaxis()
        ax.set(xlabel=f"students (of {len(results)})", title="Mistakes in the checked exercises")
        ax.set_xlim(0, max([row["count"] for row in shown], default=1) * 1.12)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y", visible=False)
        if not shown:
            ax.text(0.5, 0.5, "none", transform=ax.transAxes, ha="center")
            ax.set_yticks([])
        figure.savefig(path)


_COLORS = [palette.BLUE, palette.ORANGE, palette.GREEN, palette.PURPLE, palette.SKY_BLUE, palette.VERMILION]


def _render(template: str, **values: Any) -> str:
    values["sheet"] = Markup((_FOLDER / "pages.css").read_text(encoding="utf-8"))
    return _JINJA.get_template(template).render(**values)
