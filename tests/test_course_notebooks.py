"""The tracked source is what the model gives; the student version holds no answer and scores nothing; the solution is full."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

from toys.course import ASSIGNMENTS, Exercise, Written, handout, load
from toys.course.notebook import solution_version, student_version

FOLDER = Path(__file__).parents[1] / "notebooks" / "assignments"
each = pytest.mark.parametrize("name", ASSIGNMENTS)


def source(name):
    return handout.source_book(load(name), FOLDER)


def run(book):
    """Run the code cells in order, in one namespace; returns it and what was printed. Raises at the first error."""
    shell, printed = InteractiveShell(), io.StringIO()
    for cell in book.cells:
        if cell.cell_type == "code":
            with redirect_stdout(printed):
                shell.run_cell(cell.source).raise_error()
    return shell.user_ns, printed.getvalue()


@each
def test_the_tracked_source_is_up_to_date(name):
    tracked = nbformat.read(FOLDER / "source" / name / f"{name}.ipynb", as_version=4)
    assert tracked == nbformat.from_dict(source(name)), "run `make assignments` and commit what it writes"
    nbformat.validate(tracked)


@each
def test_the_student_version_holds_no_answer_and_no_hidden_test(name):
    assignment, book = load(name), student_version(source(name))
    text = "\n".join(cell.source for cell in book.cells)
    for marker in ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN", "fresh="):
        assert marker not in text
    solved = "\n".join(cell.source for cell in solution_version(source(name)).cells)
    for item in assignment.items:
        if isinstance(item, Written):
            secret = item.answer.strip().splitlines()
        else:
            lines = solved.split(f"def {item.name}(")[-1] if not item.value else solved.split(item.solution.__name__)[1]
            secret = [line for line in lines.splitlines()[1:] if line.strip().startswith("return ")][:1]
            assert secret
        for line in secret:
            assert line.strip() in solved
            assert line.strip() not in text, line


@each
def test_the_student_version_runs_and_scores_nothing(name):
    assignment = load(name)
    _, printed = run(student_version(source(name)))
    for exercise in assignment.exercises:
        assert f"{exercise.name}: 0 of {exercise.points:g} points" in printed
    # Nothing is blamed that was not done.
    for exercise in assignment.exercises:
        assert not [mistake for mistake in exercise.mistakes if mistake.says in printed]


@each
def test_the_solution_version_is_full(name):
    assignment = load(name)
    _, printed = run(solution_version(source(name)))
    for exercise in assignment.exercises:
        assert printed.count(f"{exercise.name}: {exercise.points:g} of {exercise.points:g} points") >= 1
    assert "not yet" not in printed


@each
def test_points_minutes_and_names_reach_the_notebook(name):
    assignment, book = load(name), source(name)
    marked = {
        cell.metadata["nbgrader"]["grade_id"]: cell.metadata["nbgrader"]
        for cell in book.cells
        if cell.metadata.get("nbgrader", {}).get("grade")
    }
    assert sum(marks["points"] for marks in marked.values()) == assignment.points
    for item in assignment.items:
        key = f"check-{item.name}" if isinstance(item, Exercise) else item.name
        assert marked[key]["points"] == item.points
    assert f"{assignment.points:g} points" in book.cells[0].source
    assert len({cell.id for cell in book.cells}) == len(book.cells)


@each
def test_a_students_folder_has_what_belongs_there(name, tmp_path):
    for kind in ("policy", "course.toml"):
        (tmp_path / kind).symlink_to(FOLDER / kind)
    handout.write(load(name), tmp_path)
    release = tmp_path / "release" / name
    assert {path.name for path in release.iterdir()} == {
        f"{name}.ipynb", "AGENTS.md", "CLAUDE.md", "POLICY.md", f"test_{name}.py"
    }  # fmt: skip
    assert "tutor, do not solve" in (release / "AGENTS.md").read_text()
    assert (release / "AGENTS.md").read_text() == (release / "CLAUDE.md").read_text()
    assert handout.settings(FOLDER)["assistants"] in (tmp_path / "release" / name / f"{name}.ipynb").read_text()


@pytest.mark.parametrize("level", handout.LEVELS)
def test_each_level_of_assistants_has_its_words(level):
    policy = handout.policy(FOLDER, level)
    assert len(policy.students.split()) > 20 and len(policy.assistants.split()) > 20


def test_bad_settings_are_named(tmp_path):
    (tmp_path / "course.toml").write_text('variant = "x"\nassistants = "all"\n')
    with pytest.raises(ValueError, match="assistants is 'all'; expected one of none, tutor, open"):
        handout.settings(tmp_path)
    (tmp_path / "course.toml").write_text("variant = 3\n")
    with pytest.raises(ValueError, match="expected the texts variant, assistants"):
        handout.settings(tmp_path)


@each
def test_the_student_version_is_nbgraders(name, tmp_path):
    pytest.importorskip("nbgrader")
    from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions
    from traitlets.config import Config

    config = Config()
    config.ClearSolutions.code_stub = {"python": "pass  # your code here"}
    theirs, _ = ClearSolutions(config=config).preprocess(nbformat.from_dict(source(name)), {})
    theirs, _ = ClearHiddenTests().preprocess(theirs, {})
    mine = student_version(source(name))
    assert [cell.source.rstrip() for cell in theirs.cells] == [cell.source.rstrip() for cell in mine.cells]
