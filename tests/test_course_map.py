"""The map: every link leads somewhere, minutes add up, formulas have a function and a test, words have one meaning."""

import re
from pathlib import Path

import nbformat
import pytest

from full.report.glossary import METRICS
from tests.course_map import MAP, ROUTES, lessons, minutes_of, read, written
from tests.notebooks import FOLDER
from toys.glossary import WORDS

TEXT = MAP.read_text(encoding="utf-8")
LINKS = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", TEXT)
LESSONS = {one.number: one for one in lessons()}


def test_the_generated_parts_are_up_to_date():
    assert written(TEXT) == TEXT, "run python tests/course_map.py"


def test_every_link_leads_to_a_file():
    assert len(LINKS) > 100
    assert not [target for _, target in LINKS if not target.startswith("http") and not (FOLDER / target).exists()]


@pytest.mark.parametrize(
    ("name", "target"),
    [(label.strip("`"), target) for label, target in LINKS if label.startswith("`") and target.startswith("../")],
    ids=lambda value: value,
)
def test_functions_and_tests_are_in_the_file_they_are_linked_to(name, target):
    source = (FOLDER / target).read_text(encoding="utf-8")
    assert re.search(rf"^(def|class) {re.escape(name)}\b", source, re.MULTILINE), f"{name} is not defined in {target}"


def test_the_routes_fit_their_name():
    assert 40 <= minutes_of("50 minutes") <= 50
    assert 150 <= minutes_of("3 hours") <= 180
    assert minutes_of("two weeks") <= 20 * 60
    for numbers, _, _ in ROUTES.values():
        assert set(numbers or []) <= set(LESSONS)


@pytest.mark.parametrize("number", sorted(LESSONS))
def test_where_a_lesson_says_the_minutes_of_its_exercises_they_are_those(number):
    said = re.search(r"minutes, and (\d+) for the two exercises", LESSONS[number].path.read_text(encoding="utf-8"))
    assert said is None or int(said[1]) == LESSONS[number].exercises
    assert number not in ("01", "02", "03", "04") or (said and LESSONS[number].exercises > 0)


def test_a_lesson_without_a_time_is_named(tmp_path):
    path = tmp_path / "77_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 77 X")]), path)
    with pytest.raises(ValueError, match="77_x.ipynb has no time; expected"):
        read(path)


def test_a_word_has_one_meaning_and_stands_in_the_lesson_that_introduces_it():
    assert not {name.lower() for name in WORDS} & {name.lower().replace("_", " ") for name in METRICS}
    questions = Path(__file__).parents[1] / "toys" / "questions"
    for name, word in WORDS.items():
        assert word.meaning.endswith("."), name
        book = nbformat.read(LESSONS[word.lesson].path, as_version=4)
        asked = questions / f"lesson_{word.lesson}.py"
        text = " ".join(cell.source for cell in book.cells) + (
            asked.read_text(encoding="utf-8") if asked.exists() else ""
        )
        plain = re.sub(r"[\s*\\$]+", " ", text).lower()
        assert all(part.strip().lower() in plain for part in name.split(",")), f"{name} is not in lesson {word.lesson}"


def test_names_in_code_exist():
    notation = TEXT[TEXT.index("## Notation") : TEXT.index("## From a formula")]
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("apo_edu", "toys")
        for path in (Path(__file__).parents[1] / folder).rglob("*.py")
    )
    for row in notation.splitlines()[4:]:
        for name in re.findall(r"`([\w.]+)`", row.split("|")[2]) if row.startswith("|") else []:
            assert re.search(rf"\b{re.escape(name.split('.')[-1])}\b", sources), name
