"""Every lesson has its parts, is committed clean, defines no mathematics, and runs from top to bottom."""

import ast
import base64
import importlib
import json
import re
import sys
import types
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import WIDGET_VIEW, execute, notebooks

LESSONS = notebooks()
BOOKS = {path.name: nbformat.read(path, as_version=4) for path in LESSONS}
each_lesson = pytest.mark.parametrize("name", BOOKS)


def code(book) -> list:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def asked_in(book) -> list[str]:
    return re.findall(r'\bask\(\s*"([^"]+)"', "\n".join(cell.source for cell in code(book)))


def questions_of(name):
    return importlib.import_module(f"toys.questions.lesson_{name[:2]}")


def test_all_lessons_are_there():
    assert [name[:2] for name in BOOKS] == [f"{i:02d}" for i in range(14)]


@each_lesson
def test_first_and_last_cells(name):
    book = BOOKS[name]
    first = book.cells[0].source
    assert first.startswith(f"# {name[:2]} ")
    for label in (
        "**After this lesson you can predict**",
        "**Prerequisites:**",
        "**Time:**",
        "**Level:**",
        "**Runs on:**",
    ):
        assert label in first, label
    end = "\n".join(cell.source for cell in book.cells[-3:])
    for part in ("## Summary", "## Self-test", "## What next", "## References", "2512.22953"):
        assert part in end, part


@each_lesson
def test_the_second_cell_sets_up_colab_and_does_nothing_elsewhere(name, monkeypatch, tmp_path):
    cell = BOOKS[name].cells[1]
    assert cell.source == BOOKS[LESSONS[0].name].cells[1].source and cell.metadata["jupyter"]["source_hidden"]
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    exec(cell.source, {})
    assert sys.path == path and Path.cwd() == tmp_path and not list(tmp_path.iterdir())


def test_in_colab_the_second_cell_fetches_the_toolkit(monkeypatch):
    done = []
    colab = types.SimpleNamespace(
        output=types.SimpleNamespace(enable_custom_widget_manager=lambda: done.append("widgets"))
    )
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("APO_EDU_GIT", "ADDRESS")
    monkeypatch.setattr("subprocess.run", lambda words, check: done.append(words))
    monkeypatch.setattr("os.chdir", done.append)
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(BOOKS[LESSONS[0].name].cells[1].source, {})
    assert done == [
        ["git", "clone", "--depth", "1", "ADDRESS", "/content/apo_edu"],
        [sys.executable, "-m", "pip", "install", "-q", "-e", "/content/apo_edu[notebooks]"],
        "/content/apo_edu/notebooks",
        "widgets",
    ]
    assert sys.path[0] == "/content/apo_edu"


@each_lesson
def test_predict_before_the_main_results(name):
    asked = asked_in(BOOKS[name])
    assert len(asked) >= (1 if name.startswith("00") else 2)
    assert asked == [f"{name[:2]}.{short}" for short in questions_of(name).QUESTIONS]


@each_lesson
def test_no_answer_stands_in_what_a_saved_lesson_shows_before_its_question(name):
    """Questions and answers are in toys/questions; a saved lesson has them folded, the pictures too."""
    book = BOOKS[name]
    for question in questions_of(name).QUESTIONS.values():
        explained = (question.explain or question.choices).values()
        assert not [why for why in explained for cell in book.cells if why in cell.source]
    for cell in code(book):
        assert "Predict(" not in cell.source and "SelfTest(" not in cell.source
        if not re.search(r"\bask\(", cell.source):
            continue
        (shown,) = [
            o.data["text/html"] for o in cell.outputs if "apo-question" in o.get("data", {}).get("text/html", "")
        ]
        above, _, folded = shown.partition("<details><summary>Answer</summary>")
        assert "data-choice" not in above and "<img" not in above and "data-choice" in folded
        assert ("<img" in folded) == ("reveal=" in cell.source)
        assert re.search(r'<img [^>]*alt="\S[^"]{20,}"', folded) or "<img" not in folded


@each_lesson
def test_saved_clean_and_in_order(name):
    book = BOOKS[name]
    assert "widgets" not in book.metadata
    assert [cell.execution_count for cell in code(book)] == list(range(1, len(code(book)) + 1))
    for cell in code(book):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert WIDGET_VIEW not in output.get("data", {})
            assert output.get("name") != "stderr", output.get("text")


@each_lesson
def test_pictures_are_small_and_come_with_words(name):
    size = 0
    for cell in code(BOOKS[name]):
        for i, output in enumerate(cell.outputs):
            data = output.get("data", {})
            embedded = re.findall(r"data:image/png;base64,([^\"]+)", data.get("text/html", ""))
            size += sum(len(base64.b64decode(picture)) for picture in embedded)
            if "image/png" not in data:
                continue
            size += len(base64.b64decode(data["image/png"]))
            words = data.get("text/plain", "") + data.get("text/markdown", "")
            words += "".join(
                o.get("text", "") + o.get("data", {}).get("text/markdown", "") + o.get("data", {}).get("text/html", "")
                for o in cell.outputs[i + 1 : i + 3]
            )
            assert len(words.split()) > 8, cell.source[:80]
            assert not re.fullmatch(r"<.*object at 0x.*>", data.get("text/plain", "")), cell.source[:80]
    assert size < 1_000_000


@each_lesson
def test_a_lesson_defines_no_mathematics(name):
    allowed = {"apo_edu", "toys", "numpy", "torch", "matplotlib", "IPython", "ipywidgets"} | set(
        sys.stdlib_module_names
    )
    for cell in code(BOOKS[name])[1:]:  # the first one is for Colab
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] in allowed
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("optim", "step", "zero_grad"), "a training loop belongs in toys"
            if isinstance(node, (ast.For, ast.While)):
                inner = ast.dump(node)
                assert "'log_softmax'" not in inner, "a loss belongs in apo_edu"


AXES = {
    "subplots",
    "plot",
    "semilogy",
    "bar",
    "barh",
    "imshow",
    "errorbar",
    "fill_between",
    "axhline",
    "axvline",
    "legend",
}
AXES |= {"set_title", "suptitle", "set_xlabel", "set_ylabel", "set_xticks", "set_visible", "set_data", "colorbar"}


@pytest.mark.parametrize("name", [name for name in BOOKS if name[:2] >= "05"])
def test_from_lesson_05_on_no_cell_draws(name):
    """Cells compute and name a picture; how it is drawn stands in toys/pictures, toys/risk, toys/stale, toys/microscope.py."""
    for cell in code(BOOKS[name])[1:]:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef):
                assert node.name not in ("setup", "update", "describe")
                assert not {arg.arg for arg in node.args.args} & {"committed", "said", "picture", "artists"}
            if isinstance(node, ast.Attribute):
                assert node.attr not in AXES, node.attr
                assert ast.unparse(node) != "plotting.figure"


@each_lesson
def test_self_tests_have_three_explained_answers(name):
    assert any(f'self_test("{name[:2]}")' in cell.source for cell in BOOKS[name].cells)
    pairs = questions_of(name).SELF_TEST
    assert len(pairs) == 3
    assert all(len(answer.split()) >= 8 and question.endswith(("?", ".")) for question, answer in pairs)


@pytest.mark.notebooks
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name)
def test_runs_from_top_to_bottom(path):
    slow = path.name.startswith("08")  # it trains the language model
    book = execute(path, timeout=400 if slow else 120)
    assert not [o for cell in code(book) for o in cell.outputs if o.output_type == "error"]


def test_the_committed_run_is_a_real_one():
    folder = LESSONS[0].parent / "data" / "run-08"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    assert [row["step"] for row in rows] == list(range(1, summary["steps"] + 1))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 700_000
