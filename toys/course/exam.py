"""The bug lab as an exam: each student gets six runs under letters of their own, five with a planted fault and a healthy one.

The bandit and the loop are drawn from a secret word, so that nobody can make the pictures again from the repository and
compare; the letters differ between students. The key is written outside the repository.
"""

import ast
import base64
import csv
import hashlib
import io
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import nbformat

import apo_edu

from .. import bugs, plotting
from ..bandits import History, equal_arms, run
from .model import normal_id

LETTERS = "ABCDEF"
FAULTS = ("healthy", *bugs.LAB)
PANELS = ("expected_reward", "entropy", "alpha", "confidence", "grad_norm", "kl_anchor")
ROOT = Path(apo_edu.__file__).parents[1]


def write_exam(secret: str, students: Iterable[str], out: Path, key: Path, *, seeds: int = 20) -> list[Path]:
    """Write OUT/ID.ipynb for each student and the key as a CSV: id, then the fault under each letter.

    Raises:
        ValueError: if the key would lie inside the repository or inside OUT.
    """
    for place in (ROOT, out):
        if key.resolve().is_relative_to(place.resolve()):
            raise ValueError(f"key is {key}, inside {place}; expected a path outside it, where students do not look.")
    runs, reference = _runs(secret, seeds)
    pictures = {name: _picture(history, reference) for name, history in runs.items()}
    out.mkdir(parents=True, exist_ok=True)
    rows, paths = [], []
    for student in students:
        order = letters(secret, student)
        paths.append(out / f"{normal_id(student)}.ipynb")
        nbformat.write(_notebook(student, {letter: pictures[name] for letter, name in order.items()}), paths[-1])
        rows.append({"id": student, **order})
    key.parent.mkdir(parents=True, exist_ok=True)
    with key.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", *LETTERS])
        writer.writeheader()
        writer.writerows(rows)
    return paths


def mark_exam(folder: Path, key: Path) -> dict[str, int]:
    """Points of each student in the key: one a letter. The notebooks are read, not run."""
    with key.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    points = {}
    for row in rows:
        path = folder / f"{normal_id(row['id'])}.ipynb"
        given = _answers(path) if path.exists() else {}
        points[row["id"]] = sum(given.get(letter) == FAULTS.index(row[letter]) for letter in LETTERS)
    return points


def letters(secret: str, student: str) -> dict[str, str]:
    """Which fault is under which letter."""
    shuffled = list(FAULTS)
    random.Random(hashlib.sha256(f"{secret}/{normal_id(student)}".encode()).digest()).shuffle(shuffled)
    return dict(zip(LETTERS, shuffled, strict=True))


def _runs(secret: str, seeds: int) -> tuple[dict[str, History], History]:
    """The six runs, and a healthy one with other random numbers to compare each with."""
    draw = random.Random(hashlib.sha256(secret.encode()).digest())
    arms = draw.choice((12, 16, 20))
    bandit = equal_arms(arms, arms // 4, noise=draw.uniform(0.08, 0.12))
    _, loop = bugs.problem()
    loop = replace(loop, lr=loop.lr * draw.uniform(0.9, 1.2), tau_anc=loop.tau_anc * draw.uniform(0.95, 1.05))
    first = draw.randrange(10**6)
    used, others = range(first, first + seeds), range(first + seeds, first + 2 * seeds)
    runs = {name: run(bandit, bugs.BUGS[name].plant(loop), seeds=used) for name in FAULTS}
    return runs, run(bandit, loop, seeds=others)


def _picture(history: History, reference: History) -> bytes:
    with plotting.style():
        figure, axes = plotting.figure(2, 3, size=(12, 5.6))
        for ax, series in zip(axes.flat, PANELS, strict=True):
            plotting.bandit_series(ax, {"this run": history, "a healthy run": reference}, series)
            ax.get_legend().set_visible(ax is axes.flat[0])
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=80)
    return file.getvalue()


def _notebook(student: str, pictures: dict[str, bytes]) -> nbformat.NotebookNode:
    choices = "\n".join(f"{i}. {bugs.BUGS[name].what}" for i, name in enumerate(FAULTS))
    cells = [
        nbformat.v4.new_markdown_cell(
            f"# The bug lab\n\nStudent: {student}\n\nSix runs of the bandit loop, each beside a healthy one with other random "
            f"numbers. Each of these occurs once:\n\n{choices}\n\nPut the number of the fault beside each letter in "
            "the last cell, and one sentence of evidence into the cell below each picture."
        )
    ]
    for letter, picture in pictures.items():
        cell = nbformat.v4.new_markdown_cell(
            f"## Run {letter}\n\n![Run {letter}: {', '.join(PANELS).replace('_', ' ')}.](attachment:{letter}.png)"
        )
        cell["attachments"] = {f"{letter}.png": {"image/png": base64.b64encode(picture).decode()}}
        cells += [cell, nbformat.v4.new_markdown_cell("Evidence: ")]
    answers = ", ".join(f'"{letter}": None' for letter in LETTERS)
    cells.append(nbformat.v4.new_code_cell(f"answers = {{{answers}}}"))
    return nbformat.v4.new_notebook(cells=cells)


def _answers(path: Path) -> dict[str, int]:
    """The last dictionary assigned to `answers`, read without running anything."""
    found: dict[str, int] = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        try:
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["answers"]:
                    found = dict(ast.literal_eval(node.value))
        except (SyntaxError, ValueError, TypeError):
            continue
    return found
