"""The lessons to work in: `python -m toys.lab FOLDER` copies them, so that running one changes no tracked file (`make lab`).

A copy that was worked in is never overwritten. One that was not is renewed when the lesson has changed; FOLDER/.lessons.json
remembers what was copied. Whoever opens the lessons themselves reads `NOTICE` under the title; a copy is without it. (A git
filter would hide from git what a student wrote, and git does not keep a file's being read-only.)
"""

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path

LESSONS = Path(__file__).parents[1] / "notebooks"
BESIDE = ("data", "results")  # what the lessons read and link to
RECORD = ".lessons.json"
NOTICE = "*To work in this lesson open a copy of it: `make lab`. Run here, it changes a file that git tracks.*"


def copy_lessons(folder: Path, source: Path = LESSONS) -> list[str]:
    """Copy the lessons and what they read, and return what there is to say, one line a lesson.

    Raises:
        ValueError: if the folder is the lessons' own, or holds no lessons to copy.
    """
    lessons = sorted(source.glob("[0-9]*.ipynb"))
    if not lessons:
        raise ValueError(f"{source} holds no lessons; expected notebooks named like 01_divergences.ipynb.")
    if folder.resolve() == source.resolve():
        raise ValueError(f"folder is {folder}, where the lessons are kept; expected another one, e.g. lab.")
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / RECORD
    copied: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    said = []
    for lesson in lessons:
        mine, text = folder / lesson.name, as_copy(lesson.read_text(encoding="utf-8"))
        now = _digest(text)
        untouched = mine.exists() and _digest(mine.read_text(encoding="utf-8")) == copied.get(lesson.name)
        if not mine.exists() or untouched:
            if not untouched or copied[lesson.name] != now:
                said.append(f"{mine}: {'renewed' if untouched else 'copied'}")
            mine.write_text(text, encoding="utf-8")
            copied[lesson.name] = now
        elif copied.get(lesson.name) != now:
            said.append(f"{mine}: yours is kept; {lesson} is newer. Rename yours to get it.")
    for name in BESIDE:
        if (source / name).exists():
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
    record.write_text(json.dumps(copied, indent=1), encoding="utf-8")
    return said


def as_copy(notebook: str) -> str:
    """A notebook's JSON, line by line, without `NOTICE` and the empty line after it."""
    return re.sub(rf' *"{re.escape(NOTICE)}\\n",\n *"\\n",\n', "", notebook)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toys.lab", description="Copy the lessons to a folder to work in.")
    parser.add_argument("folder", type=Path, help="where to, e.g. lab")
    for line in copy_lessons(parser.parse_args().folder):
        print(line)


if __name__ == "__main__":
    main()
