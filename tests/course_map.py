"""Write the generated parts of notebooks/MAP.md, the lessons, routes and words: `python tests/course_map.py`.

Minutes, prerequisites and aims come from the lessons' first cells, words from `toys.glossary` and `full.report.glossary`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

from full.report.glossary import METRICS
from tests.notebooks import FOLDER, notebooks
from toys.course import load
from toys.course.lessons import load as exercises_of
from toys.glossary import WORDS

MAP = FOLDER / "MAP.md"
ROUTES = {
    "50 minutes": (["00", "01", "02"], False, []),
    "3 hours": (["00", "01", "02", "03", "04", "06", "10"], False, []),
    "two weeks": (None, True, ["a1", "a2", "a3"]),
}


@dataclass(frozen=True)
class Lesson:
    """What a lesson's first cell says; `exercises` are the minutes of its write-it exercises."""

    path: Path
    title: str
    minutes: int
    exercises: int
    needs: str
    aim: str

    @property
    def number(self) -> str:
        return self.path.name[:2]

    @property
    def link(self) -> str:
        return f"[{self.title}]({self.path.name})"


def read(path: Path) -> Lesson:
    """The lesson's own words; raises where its first cell does not have them."""
    cells = nbformat.read(path, as_version=4).cells
    first = cells[0].source
    time = re.search(r"\*\*Time:\*\* (\d+) minutes", first)
    if time is None:
        raise ValueError(f"{path.name} has no time; expected '**Time:** N minutes' in its first cell.")
    needs = re.search(r"\*\*Prerequisites:\*\* (.+)", first)
    aims = re.search(r"\*\*After this lesson you can predict\*\*\s+- (.+)", first)
    assert needs and aims, path.name
    title = first.splitlines()[0].removeprefix("# ").split(":")[0]
    keys = re.findall(r"^check\(\"(\d\d\.\w+)\"", "\n".join(cell.source for cell in cells), re.MULTILINE)
    exercises = sum(exercises_of(key[:2])[key].minutes for key in keys)
    return Lesson(path, title, int(time[1]), exercises, needs[1].strip(), aims[1].strip())


def lessons() -> list[Lesson]:
    return [read(path) for path in notebooks()]


def lesson_table() -> str:
    rows = [
        "| lesson | minutes | with its exercises | needs | you will be able to predict |",
        "| --- | ---: | ---: | --- | --- |",
    ]
    for one in lessons():
        rows.append(f"| {one.link} | {one.minutes} | {one.minutes + one.exercises} | {one.needs} | {one.aim} |")
    return "\n".join(rows)


def minutes_of(route: str) -> int:
    """What the parts of a route add up to."""
    numbers, exercises, assignments = ROUTES[route]
    chosen = [one for one in lessons() if numbers is None or one.number in numbers]
    total = sum(one.minutes + (one.exercises if exercises else 0) for one in chosen)
    return total + sum(load(name).minutes for name in assignments)


def route_table() -> str:
    rows = ["| you have | do | adds up to |", "| --- | --- | ---: |"]
    for name, (numbers, exercises, assignments) in ROUTES.items():
        chosen = [f"[{one.number}]({one.path.name})" for one in lessons() if numbers is None or one.number in numbers]
        what = "all lessons with their exercises" if numbers is None else ", ".join(chosen)
        if exercises and numbers is not None:
            what += ", with their exercises"
        what += "".join(f", [{name}](assignments/source/{name}/{name}.ipynb)" for name in assignments)
        total = minutes_of(name)
        rows.append(f"| {name} | {what} | {total} minutes" + (f" ({total / 60:.0f} hours) |" if total > 180 else " |"))
    return "\n".join(rows)


def word_table() -> str:
    files = {one.number: one.path.name for one in lessons()}
    words = {name: (word.meaning, f"[{word.lesson}]({files[word.lesson]})") for name, word in WORDS.items()}
    words |= {
        f"`{name}`": (entry.meaning + (f" Unit: {entry.unit}." if entry.unit else ""), "a run")
        for name, entry in METRICS.items()
    }
    rows = ["| word | what it means | where |", "| --- | --- | --- |"]
    for name, (meaning, where) in sorted(words.items(), key=lambda item: item[0].strip("`").lower()):
        rows.append(f"| {name} | {meaning.replace('|', chr(92) + '|')} | {where} |")
    return "\n".join(rows)


PARTS = {"lessons": lesson_table, "routes": route_table, "words": word_table}


def written(text: str) -> str:
    """The map with its generated parts renewed."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}: written by python tests/course_map.py -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        assert found and end in rest, f"{MAP.name} lacks the markers of {name}"
        text = before + begin + make() + "\n" + rest[rest.index(end) :]
    return text


if __name__ == "__main__":
    MAP.write_text(written(MAP.read_text(encoding="utf-8")), encoding="utf-8")
