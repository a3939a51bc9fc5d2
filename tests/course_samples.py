"""Sample submissions, made from an assignment's student version: good, bad, and ill-meant."""

from pathlib import Path

import nbformat

from toys.course import Assignment, Written, handout
from toys.course.notebook import solution_version, student_version

FOLDER = Path(__file__).parents[1] / "notebooks" / "assignments"
VARIANT = handout.settings(FOLDER)["variant"]


def other_styles():
    """A decorator for another right way to write the exercise of a name, and what it collects: {id: (name, function)}."""
    found = {}

    def style(name):
        def add(function):
            found[f"{name}-{function.__name__}"] = (name, function)
            return function

        return add

    return style, found


def blank(assignment: Assignment, student: str) -> nbformat.NotebookNode:
    """The student version with an id written into it."""
    return _named(student_version(handout.source_book(assignment, FOLDER)), student)


def solved(assignment: Assignment, student: str, **answers: str | None) -> nbformat.NotebookNode:
    """The reference's answers under a student's id; `answers` replaces some of them, None leaves the stub."""
    book, empty = solution_version(handout.source_book(assignment, FOLDER)), blank(assignment, student)
    stubs = {cell.id: cell.source for cell in empty.cells}
    for cell in book.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("locked"):
            cell.source = stubs[cell.id]  # as handed out
        elif marks.get("grade_id") in answers:
            given = answers[marks["grade_id"]]
            cell.source = stubs[cell.id] if given is None else given
    return _named(book, student)


def _named(book: nbformat.NotebookNode, student: str) -> nbformat.NotebookNode:
    for cell in book.cells:
        if cell.metadata.get("apo_edu") == "student":
            cell.source = cell.source.replace('student="solution"', 'student=""').replace(
                'student=""', f'student="{student}"'
            )
    return book


def with_cell(book: nbformat.NotebookNode, source: str, before: str) -> nbformat.NotebookNode:
    """The notebook with one more code cell, before the answer cell of this name."""
    at = next(i for i, cell in enumerate(book.cells) if cell.metadata.get("nbgrader", {}).get("grade_id") == before)
    book.cells.insert(at, nbformat.v4.new_code_cell(source))
    return book


def save(book: nbformat.NotebookNode, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


def automatic(assignment: Assignment) -> float:
    """Points that the checks give; the rest is marked by hand."""
    return assignment.points - sum(part.points for part in assignment.items if isinstance(part, Written))
