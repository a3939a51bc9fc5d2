"""The site: every lesson, result and module is a page; sliders and questions work from a file, without network or kernel."""

import importlib.util
import inspect
import io
import re
import runpy
import urllib.parse
from types import FunctionType, ModuleType

import pytest
from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.parsers.rst import Parser
from docutils.utils import new_document
from sphinx.ext.napoleon import Config, GoogleDocstring

from tests import browser
from toys.questions import read

ROOT = browser.ROOT
needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("axe_playwright_python") is None or browser.chromium() is None,
    reason="no axe-core for Playwright or no Chromium",
)

PAGES = ("index", "lessons/01_divergences", "results/index", "api/apo_edu.divergences", "assignments/a1")


@pytest.fixture(scope="module")
def built():
    """notebooks/site/build.py as a module."""
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "notebooks" / "site" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(built, tmp_path_factory):
    """The site from the committed outputs, with lesson 01 run for its strips."""
    out = tmp_path_factory.mktemp("site") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APO_EDU_STRIPS", "")
        patch.setattr(built, "PACKAGES", ("apo_edu",))  # the other packages' pages take as long as all the rest
        assert built.main([str(out), "--only", "01"]) == 0
    return out


def test_every_lesson_result_and_assignment_is_a_page(site):
    names = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
    pages = {str(path.relative_to(site).with_suffix("")) for path in site.rglob("*.html")}
    assert {f"lessons/{name}" for name in names} <= pages
    assert {"index", "results/index", "results/NEGATIVE", "assignments/a1", "assignments/a3", "glossary"} <= pages
    assert {"map", "api/apo_edu.divergences", "api/apo_edu.schedules"} <= pages


def test_a_page_of_lessons_is_small_and_every_picture_has_words(site):
    for path in sorted((site / "lessons").glob("*.html")):
        text = path.read_text(encoding="utf-8")
        pictures = {ROOT.name: 0}
        for source in re.findall(r'<img[^>]*src="(\.\./_static/lessons/[^"]+)"', text):
            pictures[source] = (path.parent / source).stat().st_size
        assert path.stat().st_size + sum(pictures.values()) < 3_000_000, path.name
        for tag in re.findall(r"<img[^>]*>", text):
            assert re.search(r'alt="[^"]{15,}"', tag), (path.name, tag[:150])


def test_docstrings_are_pages_with_places_to_link_to(site):
    page = (site / "api" / "apo_edu.divergences.html").read_text(encoding="utf-8")
    assert 'id="apo_edu.divergences.alpha_divergence"' in page and ".. py:" not in page and ":param" not in page
    home = (site / "index.html").read_text(encoding="utf-8")
    for name in ("divergences.alpha_divergence", "targets.boltzmann_log_target", "schedules.GuardedAlpha"):
        assert f'#apo_edu.{name}"' in home


def test_every_docstring_is_restructured_text_once_its_page_is_written(built):
    """The quick site has one package's pages; here are the docstrings of all, each read by docutils alone."""
    conf = runpy.run_path(str(ROOT / "notebooks" / "site" / "conf.py"))
    settings = Config(napoleon_custom_sections=conf["napoleon_custom_sections"], napoleon_use_ivar=True)
    parser, options = Parser(), get_default_settings(Parser)
    options.report_level, options.warning_stream = 2, io.StringIO()
    faults, seen = [], 0
    for name in (module for package in built.PACKAGES for module in built.modules(package)):
        module = importlib.import_module(name)
        own = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == name]
        own += [method for thing in own if isinstance(thing, type) for method in vars(thing).values()]
        for thing in [module, *(getattr(thing, "__func__", thing) for thing in own)]:
            words = thing.__doc__ or ""
            told = isinstance(thing, (FunctionType, ModuleType, property, type))
            if not told or not re.search(r"[|`*_\n]", words):
                continue  # no code of ours, or a line of plain words
            what = "class" if isinstance(thing, type) else "module" if thing is module else "function"
            lines = inspect.cleandoc(words).splitlines()
            conf["as_restructured_text"](None, what, name, thing, None, lines)
            page = new_document(name, options)
            parser.parse(f"{GoogleDocstring(lines, settings)}\n", page)
            found = [fault for fault in page.findall(nodes.system_message) if fault["level"] >= 2]
            faults += [(name, words[:60], fault.astext()) for fault in found]
            seen += 1
    assert faults == [] and seen > 300


def test_a_lesson_s_page_leaves_out_what_needs_a_kernel(site):
    page = (site / "lessons" / "01_divergences.html").read_text(encoding="utf-8")
    assert "not yet: write" not in page and "Write it: " in page and "<summary>Solution</summary>" in page
    assert '<a download href="../_static/notebooks/01_divergences.ipynb">' in page
    assert "which mistakes of a policy" in (site / "lessons" / "index.html").read_text(encoding="utf-8")


def test_pages_ask_nothing_of_another_machine(site):
    for path in [*site.rglob("*.html"), *(site / "_static").glob("*.js"), *(site / "_static").glob("*.css")]:
        text = path.read_text(encoding="utf-8")
        loads = re.findall(r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="(https?:[^"]+)"', text)
        assert not loads, (path.name, loads)


def test_links_lead_to_pages(site):
    for path in site.rglob("*.html"):
        for target in re.findall(r'<a [^>]*href="([^"#?:]+)(?:#[^"]*)?"', path.read_text(encoding="utf-8")):
            assert (path.parent / urllib.parse.unquote(target)).exists(), (path.name, target)


def test_relative_links_without_a_page_become_words_or_lead_to_the_repository(built, tmp_path, monkeypatch):
    text = "See [the trainer](../full/train.py#L3), [02](02_x.ipynb) and [the paper](https://arxiv.org/abs/2512.22953)."
    here, pages = ROOT / "notebooks" / "01_x.ipynb", {ROOT / "notebooks" / "02_x.ipynb"}
    monkeypatch.setattr(built, "REPOSITORY", "")
    assert built.settle_links(text, here, pages) == text.replace("[the trainer](../full/train.py#L3)", "the trainer")
    monkeypatch.setattr(built, "REPOSITORY", "https://example.org/r")
    assert "(https://example.org/r/blob/main/full/train.py#L3)" in built.settle_links(text, here, pages)


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_strips_and_questions_work_from_a_file(site, width, tmp_path):
    with browser.browser(width=width) as page:
        page.goto(f"file://{site}/lessons/01_divergences.html")
        page.locator(".apo-strip input").first.focus()
        page.evaluate(browser.WATCH)
        page.evaluate("window.stop_watching = watch('.apo-strip-stage img', '.apo-strip'); 0")
        page.keyboard.press("Home")
        for _ in range(40):
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(40)
        log = page.evaluate("stop_watching()")
        assert len(log["changed"]) == 41 and len(log["heights"]) == 1  # one to the left end, forty to the right
        assert page.locator(".apo-strip input").first.get_attribute("aria-valuetext") == "1.000"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        label, slider = (
            page.locator(f".apo-strip {part}").first.bounding_box() for part in (".apo-strip-label", "input")
        )
        apart = label["x"] + label["width"] <= slider["x"] or label["y"] + label["height"] <= slider["y"]
        assert apart  # the slider does not cover its name

        question = page.locator(".apo-question").first
        assert not question.locator("details").first.is_visible() and not question.locator("img").is_visible()
        question.get_by_role("button", name="Commit").click()
        assert "Choose an answer first" in question.inner_text()
        question.get_by_label("both").check()
        question.get_by_role("button", name="Commit").click()
        said = question.locator(".apo-verdict").inner_text()
        assert "Not so: the answer is forward KL(q || p)." in said and "the reverse KL stays finite" in said
        assert question.locator("img").is_visible() and question.get_by_label("both").is_disabled()

        page.reload()  # it is kept
        assert "You said" in page.locator(".apo-question").first.inner_text()
        link = page.get_by_role("link", name="save them to a file").get_attribute("href")
        file = tmp_path / "predictions.jsonl"
        file.write_text(urllib.parse.unquote(link.partition(",")[2]), encoding="utf-8")
        (row,) = read(file)
        assert (row["question"], row["answer"], row["right"]) == ("01.coins", "both", False)
        page.locator(".apo-question").first.get_by_role("button", name="Ask me again").click()
        page.locator(".apo-question").first.get_by_label("forward KL").check()
        page.locator(".apo-question").first.get_by_role("button", name="Commit").click()
        assert "Right." in page.locator(".apo-question").first.inner_text()
        assert page.outside == [] and page.errors == []


@needs_browser
@pytest.mark.browser
def test_a_question_with_a_number_works_from_a_file(site, tmp_path):
    from toys.widgets import Predict

    explain = {"low": "that is too low", "right": "yes, here", "high": "that is too high"}
    asked = Predict("Where?", (0.0, 1.0, 0.05), answer=0.55, tolerance=0.1, label="alpha", explain=explain, name="t.n")
    script = (site / "_static" / "questions.js").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(f"<article>{asked._as_html()}</article><script>{script}</script>")
    with browser.browser() as page:
        page.goto(f"file://{tmp_path}/page.html")
        page.get_by_role("button", name="Commit").click()
        assert "Move the slider first" in page.locator(".apo-verdict").inner_text()
        page.get_by_role("slider", name="alpha").fill("0.3")
        page.get_by_role("button", name="Commit").click()
        said = page.locator(".apo-verdict").inner_text()
        assert "that is too low" in said and "yes, here" in said and "too high" not in said
        page.get_by_role("button", name="Ask me again").click()
        page.get_by_role("slider", name="alpha").fill("0.6")
        page.get_by_role("button", name="Commit").click()
        assert "Right." in page.locator(".apo-verdict").inner_text() and page.errors == []


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["index", "lessons/01_divergences", "results/index", "api/apo_edu.divergences", "assignments/a1"]
)
def test_axe_finds_no_serious_fault(site, name, scheme):
    from axe_playwright_python.sync_playwright import Axe

    with browser.browser(width=1280) as page:
        page.emulate_media(color_scheme=scheme)
        page.goto(f"file://{site}/{name}.html")
        if page.locator("script[src*=mathjax]").count():  # only where there are formulas
            page.wait_for_function("window.MathJax?.startup?.promise !== undefined")
            page.evaluate("MathJax.startup.promise")
        assert page.outside == [] and page.errors == []  # before axe, which looks for style sheets in its own way
        found = Axe().run(page).response["violations"]
        serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
        assert [(fault["id"], [node["html"][:150] for node in fault["nodes"]][:3]) for fault in serious] == []
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.fixture(scope="module")
def whole_site(built, tmp_path_factory):
    """Every lesson run for its strips, every package's pages: some minutes."""
    out = tmp_path_factory.mktemp("whole") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APO_EDU_STRIPS", "")
        assert built.main([str(out)]) == 0
    return out


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_every_lesson_s_page_is_alive_small_and_accessible(whole_site, width):
    from axe_playwright_python.sync_playwright import Axe

    for path in sorted((whole_site / "lessons").glob("*_*.html")):
        assert path.stat().st_size < 3_000_000, path.name
        with browser.browser(width=width) as page:
            page.emulate_media(color_scheme="dark" if width < 500 else "light")
            page.goto(f"file://{path}")
            for strip in page.locator("[data-film-strip]").all():
                strip.locator("input").first.focus()
                before = strip.locator(".apo-strip-stage").get_attribute("data-index")
                page.keyboard.press("End" if strip.locator("input").first.input_value() == "0" else "Home")
                assert strip.locator(".apo-strip-stage").get_attribute("data-index") != before, path.name
            for question in page.locator(".apo-question").all():
                if question.get_by_role("radio").count():
                    question.get_by_role("radio").first.click()
                else:
                    question.get_by_role("slider").press("ArrowRight")
                question.get_by_role("button", name="Commit").click()
                assert "You said" in question.inner_text(), path.name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
            assert page.outside == [] and page.errors == [], path.name
            found = Axe().run(page).response["violations"]
            serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
            faults = [(fault["id"], [node["html"][:150] for node in fault["nodes"]][:3]) for fault in serious]
            assert faults == [], path.name
