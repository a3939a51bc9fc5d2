"""The site: every lesson, result and module is a page; sliders and questions work from a file, without network or kernel."""

import html
import importlib.util
import inspect
import io
import itertools
import re
import runpy
import urllib.parse
from types import FunctionType, ModuleType

import pytest
from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.parsers.rst import Parser
from docutils.transforms.references import Substitutions
from docutils.utils import new_document
from sphinx.ext.napoleon import Config, GoogleDocstring

from full.report.glossary import METRICS
from tests import browser
from toys.glossary import WORDS
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
            page.transformer.add_transform(Substitutions)  # |x|, where no x was defined
            page.transformer.apply_transforms()
            said = [*page.findall(nodes.system_message), *page.transform_messages]
            found = [fault for fault in said if fault["level"] >= 2]
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


def test_links_lead_to_pages_and_to_places_on_them(site):
    texts = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    places = {path: set(re.findall(r' id="([^"]+)"', text)) for path, text in texts.items()}
    for path, text in texts.items():
        for target, place in re.findall(r'<a [^>]*href="([^"#?:]*)(?:#([^"]+))?"', text):
            page = (path.parent / urllib.parse.unquote(target)).resolve() if target else path
            assert page.exists(), (path.name, target)
            assert not place or urllib.parse.unquote(place) in places.get(page, {place}), (path.name, target, place)


def test_an_experiment_is_a_link_to_its_section_and_no_page_is_called_by_its_file(site):
    claims, settings = (
        (site / "results" / f"{name}.html").read_text(encoding="utf-8") for name in ("index", "SETTINGS")
    )
    for page in (claims, settings):
        assert not re.search(r">\w+\.(md|csv)<|>table<", page)
    rows = re.findall(r"<tr.*?</tr>", claims, re.DOTALL)[1:]
    where = [re.search(r'href="\.\./lessons/12_results\.html#([\w-]+)"', row.rpartition("<td>")[2]) for row in rows]
    assert len(rows) > 20 and all(where) and where[0][1] == "sanity"
    assert 'href="../lessons/12_results.html#when-alpha-matters"' in settings
    assert 'href="../_static/results/sanity.csv"' in (site / "lessons" / "12_results.html").read_text(encoding="utf-8")


def test_one_glossary_has_the_words_and_the_numbers_of_a_run(site):
    page = (site / "glossary.html").read_text(encoding="utf-8")
    terms = re.findall(r'<dt id="term-[^"]+">(.*?)<a', page)
    assert set(map(html.unescape, terms)) == {*WORDS, *METRICS} and len(terms) == len(WORDS) + len(METRICS)
    assert page.count('href="lessons/') >= len(WORDS) and "|log q/p|" in page and "``" not in page
    for name in ("index", "map"):
        assert 'href="glossary.html"' in (site / f"{name}.html").read_text(encoding="utf-8").split("<article")[1]
    assert "certainty equivalent" not in (site / "map.html").read_text(encoding="utf-8")


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
        page.get_by_role("button", name="Skip all on this page").first.click()
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
def test_what_follows_a_question_is_folded_until_one_commits_or_skips(site):
    address = f"file://{site}/lessons/01_divergences.html"
    with browser.browser() as page:
        page.goto(address)
        rest = page.locator(".apo-rest").first
        shown = "document.querySelector('.apo-rest .apo-strip').checkVisibility()"
        assert page.evaluate(shown) is False and page.locator(".apo-rest").count() == 2
        assert page.locator(".apo-question").nth(1).is_visible()  # the next section's
        page.locator(".apo-question").first.get_by_role("button", name="Commit").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip, and read on"
        assert page.evaluate("document.activeElement.getAttribute('aria-controls')") == rest.get_attribute("id")
        page.keyboard.press("Enter")
        assert page.evaluate(shown) is True and page.evaluate("document.activeElement.ariaExpanded") == "true"
        assert page.locator(".apo-rest").nth(1).get_attribute("hidden") == "until-found"  # of the other question
        page.reload()  # skipping is kept
        assert page.evaluate(shown) is True
        page.get_by_role("button", name="Fold what follows").click()
        assert page.evaluate(shown) is False
        question = page.locator(".apo-question").first
        question.get_by_label("both").check()
        question.get_by_role("button", name="Commit").click()
        assert page.evaluate(shown) is True and not page.locator(".apo-gate").first.is_visible()
        question.get_by_role("button", name="Ask me again").click()
        assert page.evaluate(shown) is False
        page.emulate_media(media="print")
        assert page.evaluate(shown) is True and not page.locator(".apo-gate").first.is_visible()
        page.emulate_media(media="screen")
        page.evaluate("document.querySelector('.apo-rest').children[0].id = 'inside'; location.hash = 'inside'")
        page.wait_for_function(shown)  # a link into it
        closed = "document.querySelectorAll('article details:not([open])').length"
        before = page.evaluate(closed)
        assert page.evaluate(f"dispatchEvent(new Event('beforeprint')), {closed}") == 0 < before
        assert page.evaluate(f"dispatchEvent(new Event('afterprint')), {closed}") == before
        page.goto(f"file://{site}/lessons/12_results.html")  # its questions are answered by the next section's table
        assert page.locator(".apo-question:visible").count() == 3 and page.locator(".apo-gate").count() == 1
        assert page.evaluate("document.querySelector('.apo-rest > .tag_answers').checkVisibility()") is False
        assert page.errors == []
    with browser.browser(scripts=False) as page:
        page.goto(address)
        assert page.locator(".apo-gate").count() == 0 and page.get_by_text("Read it from left to right").is_visible()


@needs_browser
@pytest.mark.browser
def test_on_a_phone_wide_tables_stack_and_wide_pictures_scroll(site):
    with browser.browser(width=390) as page:
        page.goto(f"file://{site}/results/index.html")
        row = page.get_by_role("row").nth(1)
        assert row.get_by_role("cell").count() == 7 and row.bounding_box()["width"] <= 390
        places = [cell.bounding_box() for cell in row.get_by_role("cell").all()]
        assert all(above["y"] + above["height"] <= below["y"] + 1 for above, below in itertools.pairwise(places))
        assert "verdict: " in row.get_by_role("cell").nth(2).evaluate(
            "cell => getComputedStyle(cell, '::before').content"
        )
        page.goto(f"file://{site}/lessons/05_the_guarded_schedule.html")
        box = page.locator(".apo-picture:not(.apo-question *)").nth(1)
        assert box.locator("img").bounding_box()["width"] > 700  # of 941
        assert (
            box.get_attribute("tabindex") == "0" and box.get_attribute("aria-label") == "Picture, wider than the screen"
        )
        box.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.activeElement.scrollLeft > 0")
        page.goto(f"file://{site}/index.html")
        stage, larger = page.locator(".apo-strip-stage"), page.get_by_role("button", name="Larger picture")
        assert stage.locator("img").bounding_box()["width"] < 390 and stage.get_attribute("tabindex") is None
        larger.click()
        page.wait_for_function("document.querySelector('.apo-strip-stage').tabIndex === 0")
        assert stage.locator("img").bounding_box()["width"] > 570 and larger.get_attribute("aria-pressed") == "true"
        page.set_viewport_size({"width": 1280, "height": 800})
        assert not larger.is_visible()
        page.go_back()
        box.focus()
        page.wait_for_function("!document.activeElement.hasAttribute('tabindex')")
        assert box.get_attribute("role") is None


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
            for question in page.locator(".apo-question").all():
                if question.get_by_role("radio").count():
                    question.get_by_role("radio").first.click()
                else:
                    question.get_by_role("slider").press("ArrowRight")
                question.get_by_role("button", name="Commit").click()
                assert "You said" in question.inner_text(), path.name
            assert page.locator(".apo-rest[hidden]").count() == 0, path.name
            for strip in page.locator("[data-film-strip]").all():
                strip.locator("input").first.focus()
                before = strip.locator(".apo-strip-stage").get_attribute("data-index")
                page.keyboard.press("End" if strip.locator("input").first.input_value() == "0" else "Home")
                assert strip.locator(".apo-strip-stage").get_attribute("data-index") != before, path.name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
            assert page.outside == [] and page.errors == [], path.name
            found = Axe().run(page).response["violations"]
            serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
            faults = [(fault["id"], [node["html"][:150] for node in fault["nodes"]][:3]) for fault in serious]
            assert faults == [], path.name
