"""Feedback, summary and hand-outs in a real browser: nothing loaded from elsewhere, and no serious fault found by axe-core."""

import importlib.util

import pytest

from tests import browser
from tests.course_samples import blank
from toys.course import ASSIGNMENTS, load
from toys.course.grading import Item, Result, Submission
from toys.course.pages import feedback_page, mistakes, summary_page, summary_picture

A1 = load("a1")
needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("axe_playwright_python") is None or browser.chromium() is None,
    reason="no axe-core for Playwright or no Chromium",
)


def result(student, *, assignment=A1, wrong=(), note="", trouble=""):
    """A made-up result: all right but for the checks named in `wrong`."""
    items = []
    for exercise in assignment.exercises:
        for check in exercise.checks:
            name = f"{exercise.name}.{check.name}"
            bad = name in wrong
            mistake = exercise.mistakes[0] if exercise.mistakes else None
            said = f"Not yet: {mistake.says if mistake else '<b>no</b>'}" if bad else ""
            score = 0.0 if bad else check.points
            items.append(Item(name, check.title, check.points, score, said, mistake.name if bad and mistake else ""))
    for number, part in enumerate(p for p in assignment.items if p not in assignment.exercises):
        score = None if number % 2 else part.points
        items.append(Item(part.name, part.title, part.points, score, "Fine. <script>alert(1)</script>", "", "my words"))
    order = [part.name for part in assignment.items]
    items.sort(key=lambda item: order.index(item.exercise))
    given = {"time, memory, file size": True, "network": True, "files": False}
    return Result(
        Submission(student, None, f"{student}@x.edu", student.title()),
        assignment.name,
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


def a_class(assignment):
    """Three students of an assignment; the second has something wrong in every exercise, the third in a half of them."""
    firsts = [f"{exercise.name}.{exercise.checks[0].name}" for exercise in assignment.exercises]
    return [
        result("ada", assignment=assignment),
        result("bob", assignment=assignment, wrong=firsts, trouble="Code cell 3 (`1 / 0`) raised."),
        result("eve", assignment=assignment, wrong=firsts[::2], note="The id in the notebook is 'ada'."),
    ]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Paths of a feedback page, a summary, and a hand-out as HTML, for each assignment."""
    import nbconvert

    folder = tmp_path_factory.mktemp("pages")
    exporter = nbconvert.HTMLExporter(template_name="lab", mathjax_url="", require_js_url="")
    for name in ASSIGNMENTS:
        assignment = load(name)
        students = CLASS if assignment is A1 else a_class(assignment)
        (folder / f"{name}-feedback.html").write_text(feedback_page(students[1], assignment))
        summary_picture(students, assignment, folder / "summary.png")
        (folder / f"{name}-summary.html").write_text(summary_page(students, assignment, folder / "summary.png"))
        (folder / f"{name}-handout.html").write_text(exporter.from_notebook_node(blank(assignment, "ada"))[0])
    return folder


def test_texts_of_students_cannot_become_markup():
    page = feedback_page(CLASS[0], A1)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_backticks_become_code_and_nothing_else_becomes_markup():
    page = feedback_page(result("bob", trouble="Code cell 3 (`x = '<b>'`) raised."), A1)
    assert "(<code>x = &#39;&lt;b&gt;&#39;</code>) raised." in page


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
    text = (pages / "a1-summary.html").read_text()
    assert "Not confined on this system: files." in text
    assert "eve: The id in the notebook is" in text


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", [f"{name}-{kind}" for name in ASSIGNMENTS for kind in ("feedback", "summary", "handout")]
)
def test_axe_finds_no_serious_fault(pages, name, scheme):
    if name.endswith("handout") and scheme == "dark":
        pytest.skip("the template of a hand-out has one scheme")
    from axe_playwright_python.sync_playwright import Axe

    with browser.browser(width=1000) as page:
        page.emulate_media(color_scheme=scheme)
        page.goto(f"file://{pages}/{name}.html")
        # The colours of code and prompts in a hand-out are nbconvert's template's.
        theirs = {"exclude": [[".highlight"], [".jp-InputPrompt"]]} if name.endswith("handout") else None
        found = Axe().run(page, context=theirs).response["violations"]
        serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
        faults = [(fault["id"], [node["html"][:120] for node in fault["nodes"]][:3]) for fault in serious]
        assert faults == []
        if not name.endswith("handout"):
            assert page.outside == [] and page.errors == []
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 1000
            page.set_viewport_size({"width": 380, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= 380
            # A table that is too wide for a phone scrolls; it does not squeeze its sentences into columns of a word.
            narrowest = page.evaluate(
                "Math.min(1000, ...[...document.querySelectorAll('.words')].map(e => e.offsetWidth))"
            )
            assert narrowest >= 250
