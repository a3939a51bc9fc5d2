"""Feedback, summary and hand-outs in a real browser: nothing loaded from elsewhere, and no serious fault found by axe-core."""

import importlib.util

import pytest

from tests import browser
from tests.course_samples import blank
from toys.course import load
from toys.course.grading import Item, Result, Submission
from toys.course.pages import feedback_page, mistakes, summary_page, summary_picture

A1 = load("a1")
needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("axe_playwright_python") is None or browser.chromium() is None,
    reason="no axe-core for Playwright or no Chromium",
)


def result(student, *, wrong=(), note="", trouble=""):
    """A made-up result: all right but for the checks named in `wrong`."""
    items = []
    for exercise in A1.exercises:
        for check in exercise.checks:
            name = f"{exercise.name}.{check.name}"
            bad = name in wrong
            mistake = exercise.mistakes[0] if exercise.mistakes else None
            said = f"Not yet: {mistake.says if mistake else '<b>no</b>'}" if bad else ""
            score = 0.0 if bad else check.points
            items.append(Item(name, check.title, check.points, score, said, mistake.name if bad and mistake else ""))
    for number, part in enumerate(p for p in A1.items if p not in A1.exercises):
        score = None if number % 2 else part.points
        items.append(Item(part.name, part.title, part.points, score, "Fine. <script>alert(1)</script>", "", "my words"))
    order = [part.name for part in A1.items]
    items.sort(key=lambda item: order.index(item.exercise))
    given = {"time, memory, file size": True, "network": True, "files": False}
    return Result(
        Submission(student, None, f"{student}@x.edu", student.title()),
        "a1",
        items,
        [note] * bool(note),
        [trouble] * bool(trouble),
        given,
        1.5,
    )


CLASS = [
    result("ada"),
    result(
        "bob",
        wrong=("alpha_divergence.values", "alpha_divergence.limits", "box_cox.limit"),
        trouble="Code cell 3 (`1 / 0`) raised.",
    ),
    result("eve", wrong=("alpha_divergence.values",), note="The id in the notebook is 'ada'."),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Paths of a feedback page, a summary, and a hand-out as HTML."""
    import nbconvert

    folder = tmp_path_factory.mktemp("pages")
    (folder / "feedback.html").write_text(feedback_page(CLASS[1], A1))
    summary_picture(CLASS, A1, folder / "summary.png")
    (folder / "summary.html").write_text(summary_page(CLASS, A1, folder / "summary.png"))
    exporter = nbconvert.HTMLExporter(template_name="lab", mathjax_url="", require_js_url="")
    (folder / "handout.html").write_text(exporter.from_notebook_node(blank(A1, "ada"))[0])
    return folder


def test_texts_of_students_cannot_become_markup():
    page = feedback_page(CLASS[0], A1)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_a_diagnosis_is_said_once_with_the_checks_it_explains():
    page = feedback_page(CLASS[1], A1)
    says = A1["alpha_divergence"].mistakes[0].says[1:]
    assert page.count(says) == 1
    assert "27 of 40" not in page  # written answers that wait are not counted
    assert f"{CLASS[1].score:g} of 40" in page


def test_mistakes_are_counted_by_students_not_by_checks():
    rows = {(row["part"].name, row["name"]): row["count"] for row in mistakes(CLASS, A1)}
    first = A1["alpha_divergence"].mistakes[0].name
    assert rows == {("alpha_divergence", first): 2, ("box_cox", A1["box_cox"].mistakes[0].name): 1}


def test_the_summary_says_what_was_not_confined(pages):
    text = (pages / "summary.html").read_text()
    assert "Not confined on this system: files." in text
    assert "eve: The id in the notebook is" in text


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["feedback", "summary", "handout"])
def test_axe_finds_no_serious_fault(pages, name, scheme):
    from axe_playwright_python.sync_playwright import Axe

    with browser.browser(width=1000) as page:
        page.emulate_media(color_scheme=scheme)
        page.goto(f"file://{pages}/{name}.html")
        # The colours of code and prompts in a hand-out are nbconvert's template's.
        theirs = {"exclude": [[".highlight"], [".jp-InputPrompt"]]} if name == "handout" else None
        found = Axe().run(page, context=theirs).response["violations"]
        serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
        faults = [(fault["id"], [node["html"][:120] for node in fault["nodes"]][:3]) for fault in serious]
        assert faults == []
        if name != "handout":
            assert page.outside == [] and page.errors == []
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 1000
            page.set_viewport_size({"width": 380, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= 380
