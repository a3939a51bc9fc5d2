"""Write the notebooks of an assignment and what lies beside them in a student's folder.

FOLDER/course.toml          what a lecturer sets: the variant, the level of assistants
FOLDER/policy/LEVEL.md      the words of each level, for students and for assistants
FOLDER/source/aN/aN.ipynb   nbgrader's source format, tracked
FOLDER/release/aN/          made: the student's notebook, POLICY.md, AGENTS.md, CLAUDE.md, test_aN.py
FOLDER/solution/aN/         made: the notebook with solutions, model answers and rubrics
"""

import tomllib
from pathlib import Path

import nbformat

from .model import Assignment
from .notebook import Policy, solution_version, source, student_version

LEVELS = ("none", "tutor", "open")
SETTINGS = {"variant": str, "assistants": str}


def settings(folder: Path) -> dict[str, str]:
    """course.toml, checked."""
    path = folder / "course.toml"
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    if found.keys() != SETTINGS.keys() or not all(isinstance(found[key], kind) for key, kind in SETTINGS.items()):
        raise ValueError(f"{path} has {sorted(found)}; expected the texts {', '.join(SETTINGS)}.")
    if found["assistants"] not in LEVELS:
        raise ValueError(f"{path}: assistants is {found['assistants']!r}; expected one of {', '.join(LEVELS)}.")
    return found


def policy(folder: Path, level: str) -> Policy:
    """The words of a level: the file's sections `## For students` and `## For assistants`."""
    path = folder / "policy" / f"{level}.md"
    text = path.read_text(encoding="utf-8")
    parts = text.split("## For assistants")
    if len(parts) != 2 or "## For students" not in parts[0]:
        raise ValueError(f"{path} lacks a section; expected `## For students` and then `## For assistants`.")
    return Policy(level, parts[0].split("## For students")[1].strip(), parts[1].strip())


def source_book(assignment: Assignment, folder: Path) -> nbformat.NotebookNode:
    """The source notebook under the folder's settings."""
    chosen = settings(folder)
    return source(assignment, variant=chosen["variant"], policy=policy(folder, chosen["assistants"]))


def write(assignment: Assignment, folder: Path) -> list[Path]:
    """Write source, release and solution of one assignment; returns the notebooks' paths."""
    name, book = assignment.name, source_book(assignment, folder)
    rules = policy(folder, settings(folder)["assistants"])
    versions = {"source": book, "release": student_version(book), "solution": solution_version(book)}
    paths = []
    for kind, version in versions.items():
        path = folder / kind / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(version, path)
        paths.append(path)
    release = folder / "release" / name
    title = f"{name}: {assignment.title}"
    (release / "POLICY.md").write_text(f"# AI assistants in assignment {title}\n\n{rules.students}\n", encoding="utf-8")
    for file in ("AGENTS.md", "CLAUDE.md"):
        (release / file).write_text(
            f"# Instructions for assistants, assignment {title}\n\n{rules.assistants}\n", encoding="utf-8"
        )
    (release / f"test_{name}.py").write_text(_PYTEST.format(name=name), encoding="utf-8")
    return paths


_PYTEST = '''"""One test for each item of {name}: `pytest test_{name}.py`, here or in CI. Written answers are skipped."""

from pathlib import Path

from toys.course.pytest_face import items

test_item = items(Path(__file__).with_name("{name}.ipynb"))
'''
