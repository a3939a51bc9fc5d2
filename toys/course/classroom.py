"""Grade a folder of submissions: find whose is whose, grade them, and write marks, feedback and a summary.

OUT/marks.csv          one row a student: id, e-mail, name, items, total, max
OUT/by_hand.csv        one row a written answer: fill in points and comment, then `python -m toys.course collect OUT`
OUT/feedback/ID.html   what the student gets
OUT/summary.html       the class: marks, and which mistakes how often (also summary.png)
OUT/results/ID.json    Gradescope's results.json of each, from which all the above can be made again
OUT/answers/ID.py      the student's code alone, for tools that compare sources (Dolos, JPlag)
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat

from .catalogue import load
from .grading import Item, Result, Submission, from_json, grade_all, save
from .handout import source_book
from .model import Assignment, normal_id
from .notebook import student_version
from .pages import feedback_page, summary_page, summary_picture

# How the columns of marks.csv are called where they are imported: ours -> theirs. `total` becomes the assignment's column.
COLUMNS = {
    "canvas": {"name": "Student", "id": "SIS Login ID", "total": "{title}"},
    "moodle": {"id": "ID number", "email": "Email address", "total": "{title}"},
}


def read_roster(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV with a column id and, where known, email, name, folder (what the folder or file begins with)."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [
            {(key or "").strip().lower(): (value or "").strip() for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
    if not rows or "id" not in rows[0]:
        raise ValueError(f"{path} has no column id; expected a header with id and, where known, email, name, folder.")
    return rows


def find_submissions(folder: Path, assignment: str, roster: list[dict[str, str]] | None = None) -> list[Submission]:
    """One submission a student, in the order of their ids.

    Understands a folder for each student (also nbgrader's `ID/a1/a1.ipynb` and Moodle's
    `Name_123_assignsubmission_file`) and files that begin with the student's id (Canvas: `name_123_456_a1.ipynb`). With a
    roster, students who handed in nothing are there too; what fits nobody keeps its own name as the id.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one with a folder or a notebook for each student.")
    found: dict[str, list[Path]] = defaultdict(list)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            found[entry.name] += [
                path for path in sorted(entry.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts
            ]
        elif entry.suffix == ".ipynb":
            found[entry.stem].append(entry)
    submissions: dict[str, Submission] = {}
    for key, paths in found.items():
        row = next((row for row in roster or [] if _is(row, key)), {})
        student = row.get("id") or _short(key, assignment)
        path, note = _choose(paths, assignment)
        made = Submission(student, path, row.get("email", ""), row.get("name", ""), (row.get("folder", ""), key), note)
        before = submissions.get(normal_id(student))
        if before is not None and before.path and path:
            newer = max((before.path, path), key=lambda file: file.stat().st_mtime)
            made = replace(
                made, path=newer, note=f"Handed in more than once; {newer.name} is the newest and was graded."
            )
        submissions[normal_id(student)] = made
    for row in roster or []:
        missing = Submission(row["id"], None, row.get("email", ""), row.get("name", ""))
        submissions.setdefault(normal_id(row["id"]), missing)
    return [submissions[key] for key in sorted(submissions)]


def _is(row: dict[str, str], key: str) -> bool:
    theirs = [row.get(column, "") for column in ("id", "email", "name", "folder")] + [
        row.get("email", "").split("@")[0]
    ]
    parts = key.split("_")
    ours = {normal_id(part) for part in (key, parts[0], *(part for part in parts if part.isdigit()))}
    return any(normal_id(value) in ours for value in theirs if value)


def _short(key: str, assignment: str) -> str:
    """The id in a name like `ada_12_34_a1` or `Ada Lovelace_12_assignsubmission_file`, where nothing else is known."""
    parts = key.split("_")
    end = next(
        (i for i, part in enumerate(parts) if i and (part.isdigit() or part in (assignment, "assignsubmission"))), None
    )
    return "_".join(parts[:end])


def _choose(paths: list[Path], assignment: str) -> tuple[Path | None, str]:
    named = [path for path in paths if path.stem == assignment] or [path for path in paths if assignment in path.stem]
    fitting = named or paths
    if not fitting:
        return None, ""
    newest = max(fitting, key=lambda path: path.stat().st_mtime)
    note = (
        f"There are {len(fitting)} notebooks; {newest.name} is the newest and was graded." if len(fitting) > 1 else ""
    )
    return newest, note


def grade_folder(
    assignment: Assignment,
    folder: Path,
    out: Path,
    *,
    course: Path,
    roster: Path | None = None,
    only: tuple[str, ...] | None = None,
    report: Any = print,
    **options: Any,
) -> list[Result]:
    """Grade all of a folder and write everything; `only` regrades some exercises and keeps the other marks.

    Args:
        course: the folder with course.toml and policy/, for the given cells that answers/ leaves out.
        options: as for `grade_all`.
    """
    submissions = find_submissions(folder, assignment.name, read_roster(roster) if roster else None)
    for name in only or ():
        assignment[name]  # raises where there is none
    given = {cell.source.strip() for cell in student_version(source_book(assignment, course)).cells}
    results = []
    for result in grade_all(assignment, submissions, only=only, **options):
        path = out / "results" / f"{_file(result)}.json"
        if only:
            result = _merged(result, path, assignment)
        save(result, path)
        if result.submission.path:
            answers = out / "answers" / f"{_file(result)}.py"
            answers.parent.mkdir(parents=True, exist_ok=True)
            answers.write_text(code_alone(result.submission.path, given), encoding="utf-8")
        results.append(result)
        report(f"{result.submission.student}: {result.score:g} of {result.max_score:g}, {result.seconds:.1f} s")
    collect(out, assignment)
    return results


def collect(out: Path, assignment: Assignment | None = None) -> list[Result]:
    """Write marks, feedback and summary from OUT/results and the points in OUT/by_hand.csv."""
    paths = sorted((out / "results").glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{out / 'results'} holds no results; expected those of `make grade`.")
    results = [from_json(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    assignment = assignment or load(results[0].assignment)
    _take_by_hand(out / "by_hand.csv", results)
    for result in results:
        save(result, out / "results" / f"{_file(result)}.json")
        page = out / "feedback" / f"{_file(result)}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(feedback_page(result, assignment), encoding="utf-8")
    _write_rows(out / "marks.csv", marks(results, assignment))
    summary_picture(results, assignment, out / "summary.png")
    (out / "summary.html").write_text(summary_page(results, assignment, out / "summary.png"), encoding="utf-8")
    return results


def marks(results: Iterable[Result], assignment: Assignment) -> list[dict[str, Any]]:
    """The rows of marks.csv: id, email, name, one column an item, total, max."""
    rows = []
    for result in results:
        row: dict[str, Any] = {
            "id": result.submission.student, "email": result.submission.email, "name": result.submission.name
        }  # fmt: skip
        row |= {item.name: "" if item.score is None else f"{item.score:g}" for item in result.items}
        rows.append(row | {"total": f"{result.score:g}", "max": f"{assignment.points:g}"})
    return rows


def columns_for(rows: list[dict[str, Any]], system: str, title: str) -> list[dict[str, Any]]:
    """The rows under the column names of a learning management system, in `COLUMNS`."""
    names = COLUMNS[system]
    return [{theirs.format(title=title): row[ours] for ours, theirs in names.items()} for row in rows]


def write_marks_for(out: Path, system: str) -> Path:
    """Write OUT/marks-SYSTEM.csv from OUT/marks.csv."""
    with (out / "marks.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    name = json.loads(next((out / "results").glob("*.json")).read_text(encoding="utf-8"))["extra_data"]["assignment"]
    path = out / f"marks-{system}.csv"
    _write_rows(path, columns_for(rows, system, load(name).title))
    return path


def code_alone(path: Path, given: set[str]) -> str:
    """The code cells that a student wrote or changed, as a Python file; magics become comments."""
    try:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    except Exception:
        return f"# {path.name} could not be read\n"
    parts = []
    for cell in cells:
        grade_id = str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
        if grade_id.startswith("check-") or not cell.source.strip() or cell.source.strip() in given:
            continue
        lines = [f"# {line}" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.splitlines()]
        parts.append("\n".join([f"# {grade_id or 'another cell'}", *lines]))
    return "\n\n\n".join(parts) + "\n"


def _merged(result: Result, path: Path, assignment: Assignment) -> Result:
    """The new marks of some exercises among the old ones of the others."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; expected the marks of a whole run. Grade once without --only.")
    before = from_json(json.loads(path.read_text(encoding="utf-8")), result.submission.path)
    new = {item.name: item for item in result.items if item.exercise in {e.name for e in assignment.exercises}}
    items = [new.get(item.name, item) for item in before.items]
    return replace(result, items=items, notes=before.notes, troubles=before.troubles)


def _take_by_hand(path: Path, results: list[Result]) -> None:
    """Take points and comments from by_hand.csv where they are filled in, and write it again with all written answers."""
    filled: dict[tuple[str, str], dict[str, str]] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            filled = {(row["id"], row["item"]): row for row in csv.DictReader(file)}
    rows = []
    for result in results:
        for item in result.items:
            if not item.answer:
                continue
            row = filled.get((result.submission.student, item.name), {})
            if row.get("points", "").strip():
                item.score = _points(row["points"], item, result, path)
                item.output = row.get("comment", "").strip() or "Marked by hand."
            rows.append(
                {
                    "id": result.submission.student,
                    "item": item.name,
                    "max": f"{item.max_score:g}",
                    "points": row.get("points", ""),
                    "comment": row.get("comment", ""),
                    "answer": item.answer,
                }
            )
    if rows:
        _write_rows(path, rows)


def _points(text: str, item: Item, result: Result, path: Path) -> float:
    try:
        points = float(text)
    except ValueError:
        points = -1.0
    if not 0 <= points <= item.max_score:
        raise ValueError(
            f"{path}: points of {result.submission.student} for {item.name} is {text!r}; expected a number from 0 to "
            f"{item.max_score:g}."
        )
    return points


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula, made a text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t") else value


def _file(result: Result) -> str:
    return normal_id(result.submission.student) or "unnamed"
