"""`make lab` opens copies: what is tracked stays as it is, and what a learner did is never lost."""

import re
from pathlib import Path

import nbformat
import pytest

from toys.lab import NOTICE, copy_lessons

ROOT = Path(__file__).parents[1]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "notebooks"
    (folder / "data" / "run").mkdir(parents=True)
    (folder / "data" / "run" / "metrics.jsonl").write_text("{}")
    (folder / "01_first.ipynb").write_text("one")
    (folder / "02_second.ipynb").write_text("two")
    (folder / "MAP.md").write_text("not a lesson")
    return folder


def test_copies_are_made_kept_and_renewed(source, tmp_path):
    lab = tmp_path / "lab"
    assert [line.rpartition(": ")[2] for line in copy_lessons(lab, source)] == ["copied", "copied"]
    assert (lab / "02_second.ipynb").read_text() == "two" and (lab / "data" / "run" / "metrics.jsonl").exists()
    assert copy_lessons(lab, source) == []
    (lab / "01_first.ipynb").write_text("worked in")
    assert copy_lessons(lab, source) == []
    (source / "01_first.ipynb").write_text("one, mended")
    (source / "02_second.ipynb").write_text("two, mended")
    kept, renewed = copy_lessons(lab, source)
    assert "yours is kept" in kept and "is newer" in kept and renewed.endswith("02_second.ipynb: renewed")
    assert (lab / "01_first.ipynb").read_text() == "worked in"
    assert (lab / "02_second.ipynb").read_text() == "two, mended"
    (lab / "01_first.ipynb").rename(lab / "mine.ipynb")
    assert copy_lessons(lab, source) == [f"{lab / '01_first.ipynb'}: copied"]
    assert (lab / "mine.ipynb").read_text() == "worked in"


def test_a_copy_that_was_there_before_the_record_is_kept(source, tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "01_first.ipynb").write_text("mine")
    assert "yours is kept" in copy_lessons(tmp_path / "lab", source)[0]
    assert (tmp_path / "lab" / "01_first.ipynb").read_text() == "mine"


def test_the_lessons_own_folder_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="where the lessons are kept; expected another one"):
        copy_lessons(source, source)
    with pytest.raises(ValueError, match="holds no lessons"):
        copy_lessons(tmp_path / "lab", tmp_path / "empty")


def test_the_lessons_say_where_to_work_and_a_copy_does_not(tmp_path):
    lessons = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for lesson in lessons:
        title, empty, notice, after, *_ = nbformat.read(lesson, as_version=4).cells[0].source.splitlines()
        assert title.startswith(f"# {lesson.name[:2]} ") and notice == NOTICE and empty == after == ""
    copy_lessons(tmp_path / "lab", ROOT / "notebooks")
    for lesson in lessons:
        before, after = (nbformat.read(path, as_version=4) for path in (lesson, tmp_path / "lab" / lesson.name))
        assert after.cells[0].source == before.cells[0].source.replace(f"{NOTICE}\n\n", "")
        assert NOTICE not in after.cells[0].source and after.cells[1:] == before.cells[1:]


def test_make_lab_opens_the_copies_and_git_does_not_see_them():
    recipe = re.search(r"^lab: setup\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert re.findall(r"toys\.lab (\w+)|jupyter lab (\w+)", recipe) == [("lab", ""), ("", "lab")]
    assert "/lab/" in (ROOT / ".gitignore").read_text().splitlines()
