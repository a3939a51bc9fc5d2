"""From the model to notebooks: the source in nbgrader's format, and of it the student and the solution version.

The source notebook is what nbgrader would be given. The student version is made from it by nbgrader's own rules (tests hold
the two equal where nbgrader is installed), so that nobody needs nbgrader: not the student, and not the lecturer either.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode

from .model import Assignment, Code, Exercise, Text, Written

CODE_STUB = "pass  # your code here"
TEXT_STUB = "YOUR ANSWER HERE"
DIFFICULTY = {1: "easy", 2: "medium", 3: "hard"}
_BEGIN, _END = "### BEGIN SOLUTION", "### END SOLUTION"
_BEGIN_HIDDEN, _END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"


@dataclass(frozen=True)
class Policy:
    """What the course allows an AI assistant: a level and its words, for students and for the assistant itself."""

    level: str
    students: str
    assistants: str


def source(assignment: Assignment, *, variant: str, policy: Policy) -> NotebookNode:
    """The notebook with solutions and hidden tests, in nbgrader's format."""
    book = nbformat.v4.new_notebook(cells=list(_cells(assignment, variant, policy)))
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata["language_info"] = {"name": "python"}
    book.metadata["apo_edu"] = {"assignment": assignment.name, "variant": variant, "points": assignment.points}
    return book


def student_version(book: NotebookNode) -> NotebookNode:
    """Without solutions and hidden tests, check cells locked: what is handed out."""
    book = nbformat.from_dict(book)
    for cell in book.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution"):
            cell.source = _cleared(cell)
        if marks.get("grade"):
            cell.source = re.sub(rf"\n?[^\n]*{_BEGIN_HIDDEN}.*?{_END_HIDDEN}[^\n]*", "", cell.source, flags=re.S)
        if marks.get("locked"):
            cell.metadata["deletable"] = cell.metadata["editable"] = False
    return book


def solution_version(book: NotebookNode) -> NotebookNode:
    """With solutions, model answers and rubrics, without the markers; under the student id "solution"."""
    book = nbformat.from_dict(book)
    for cell in book.cells:
        lines = cell.source.splitlines()
        cell.source = "\n".join(
            line for line in lines if line.strip() not in (_BEGIN, _END, _BEGIN_HIDDEN, _END_HIDDEN)
        )
        if cell.metadata.get("apo_edu") == "student":
            cell.source = cell.source.replace('student=""', 'student="solution"')
    return book


def _cells(assignment: Assignment, variant: str, policy: Policy) -> Iterator[NotebookNode]:
    yield _markdown("title", _title(assignment, policy))
    start = f'me = start("{assignment.name}", student="", variant="{variant}")  # your student id between the quotes'
    imports = assignment.imports + "\n\nfrom toys.course import start"
    yield _code("start", f"{imports}\n\n{start}", apo_edu="student")
    number, counts = 0, {Text: 0, Code: 0}
    for part in assignment.parts:
        if isinstance(part, Text | Code):
            counts[type(part)] += 1
            name = f"{type(part).__name__.lower()}-{counts[type(part)]}"
            made = _markdown if isinstance(part, Text) else _code
            yield made(name, textwrap.dedent(part.source).strip())
            continue
        number += 1
        yield _markdown(f"{part.name}-task", _task(part, number))
        yield from _exercise(part) if isinstance(part, Exercise) else _written(part)


def _title(assignment: Assignment, policy: Policy) -> str:
    rows = [
        f"| {i} | {item.title} | {_kind(item)} | {item.points:g} | {item.minutes} | {DIFFICULTY[item.difficulty]} |"
        for i, item in enumerate(assignment.items, start=1)
    ]
    table = "\n".join(("| | exercise | kind | points | minutes | difficulty |", "|-|-|-|-:|-:|-|", *rows))
    return f"""# Assignment {assignment.name[1:]}: {assignment.title}

{textwrap.dedent(assignment.intro).strip()}

**{assignment.points:g} points, about {_hours(assignment.minutes)}.** Runs on any laptop, offline.

{table}

**How it works.** Write your student id into the next cell: your numbers follow from it, so they differ from your neighbour's.
Fill the answer cells; leave their names as they are. A cell `me.check("...")` says at once what is right and what is *not
yet*, and why; it never stops you, and you may run it as often as you like. Grading uses the same checks with other random
cases. Before you hand in: *Restart the kernel and run all cells*.

**AI assistants: level "{policy.level}".** {policy.students.strip()}"""


def _hours(minutes: int) -> str:
    return f"{minutes} minutes" if minutes < 90 else f"{minutes / 60:.2g} hours"


def _kind(item: Exercise | Written) -> str:
    if isinstance(item, Written):
        return "in words"
    return "predict" if item.choices else "a result" if item.value else "code"


def _task(item: Exercise | Written, number: int) -> str:
    unit = "point" if item.points == 1 else "points"
    facts = f"*{item.points:g} {unit}, {item.minutes} minutes, {DIFFICULTY[item.difficulty]}*"
    parts = [f"## {number}. {item.title}", facts, textwrap.dedent(item.text).strip()]
    if isinstance(item, Written):
        parts.append("**For full marks:**\n\n" + "\n".join(f"- {what} ({points:g})" for points, what in item.rubric))
    elif item.choices:
        parts.append("Choices: " + ", ".join(f"`{choice!r}`" for choice in item.choices) + ".")
    else:
        bars = "\n".join(f"- {check.title} ({check.points:g})" for check in item.checks)
        parts.append("**Success is:**\n\n" + bars)
    return "\n\n".join(parts)


def _exercise(item: Exercise) -> Iterator[NotebookNode]:
    if item.numbers:
        yield _code(f"{item.name}-numbers", f'mine = me.numbers("{item.name}")\nmine')
    answer = _value(item) if item.value else _function(item)
    yield _code(f"{item.name}", answer, solution=True)
    hidden = f'{_BEGIN_HIDDEN}\nme.check("{item.name}", fresh=True)  # other random cases\n{_END_HIDDEN}'
    check = f'me.check("{item.name}")\n{hidden}' if not item.choices else f'me.check("{item.name}")'
    yield _code(f"check-{item.name}", check, grade=True, locked=True, points=item.points)


def _written(item: Written) -> Iterator[NotebookNode]:
    rubric = "\n".join(f"- {points:g}: {what}" for points, what in item.rubric)
    model = f"{textwrap.dedent(item.answer).strip()}\n\n*Rubric*\n\n{rubric}"
    yield _markdown(item.name, model, solution=True, grade=True, points=item.points)


def _function(item: Exercise) -> str:
    """The reference's source with its body marked as the solution: head and docstring stay."""
    text = reference(item)
    end = text.index('"""', text.index('"""') + 3) + 3
    indent = "    "
    body = text[end:].strip("\n")
    return f"{text[:end]}\n{indent}{_BEGIN}\n{body}\n{indent}{_END}"


def reference(item: Exercise) -> str:
    """The source of a function or class that is the reference, under the exercise's name."""
    text = textwrap.dedent(inspect.getsource(item.solution))
    text = text.replace(f"def {item.solution.__name__}(", f"def {item.name}(", 1)
    return text.replace(f"class {item.solution.__name__}", f"class {item.name}", 1)


def _value(item: Exercise) -> str:
    """A value's cell: its stub, then the reference's source and the assignment of what it gives."""
    stub = item.stub or f"{item.name} = None"
    text = textwrap.dedent(inspect.getsource(item.solution)).strip()
    call = f"{item.name} = {item.solution.__name__}({'**mine' if item.numbers else ''})"
    return f"{stub}\n{_BEGIN}\n{text}\n\n\n{call}\n{_END}"


def _cleared(cell: NotebookNode) -> str:
    """nbgrader's rule: each marked region becomes the stub, and a solution cell without a region becomes it as a whole."""
    stub = CODE_STUB if cell.cell_type == "code" else TEXT_STUB
    lines, inside, seen = [], False, False
    for line in cell.source.splitlines():
        if line.strip() == _BEGIN:
            inside = seen = True
            lines.append(re.match(r"\s*", line)[0] + stub)  # type: ignore[index]
        elif line.strip() == _END:
            inside = False
        elif not inside:
            lines.append(line)
    return "\n".join(lines) if seen else stub


def _markdown(name: str, text: str, **marks: object) -> NotebookNode:
    return _marked(nbformat.v4.new_markdown_cell(text, id=_cell_id(name)), name, marks)


def _code(name: str, text: str, *, apo_edu: str = "", **marks: object) -> NotebookNode:
    cell = _marked(nbformat.v4.new_code_cell(text, id=_cell_id(name)), name, marks)
    if apo_edu:
        cell.metadata["apo_edu"] = apo_edu
    return cell


def _cell_id(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "-", name)[:64]


def _marked(cell: NotebookNode, name: str, marks: dict[str, object]) -> NotebookNode:
    if marks:
        plain = {
            "schema_version": 3,
            "grade_id": name,
            "grade": False,
            "solution": False,
            "locked": False,
            "task": False,
        }
        cell.metadata["nbgrader"] = plain | marks
    return cell
