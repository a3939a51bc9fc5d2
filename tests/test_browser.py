"""The lessons' sliders in a real browser: a film strip in JupyterLab, the page from a file, a notebook as an app.

Skipped where Chromium, Playwright, JupyterLab or Voila is missing. `APO_EDU_SHOTS=DIR` keeps screenshots.
"""

import os
from pathlib import Path

import pytest

from tests import browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing())),
]

STRIP = "from toys.strips import weight_strip\nstrip = weight_strip()\nstrip"
EXPLORE = (
    "from toys.widgets import DensityExplorer\nexplorer = DensityExplorer(means=(-2.5, 2.5), follow=True)\nexplorer"
)
LIVE = """
from toys.widgets import LiveCanvas, Predict
def setup(figure):
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return axes.plot([], [], lw=3)[0]
LiveCanvas(setup, lambda line, slope: line.set_data([0, 1], [0, slope]), {"slope": ("slope", 0.0, 1.0, 0.05, 0.5)},
           describe=lambda slope: f"The slope is {slope:.2f}.", caption="A line.", alt="A line from the origin.")
"""
ASK = """
def reveal(committed):
    from matplotlib.figure import Figure
    figure = Figure(figsize=(4, 2))
    figure.subplots().set_title(committed)
    return figure
forward = "KL(q || p), because a mode of q that p misses costs without bound"
choices = {forward: "It covers.", "KL(p || q)": "It may drop a mode: it pays only where p has mass."}
Predict("Which KL covers both modes?", choices, answer=forward, reveal=reveal)
"""


def shoot(page, name):
    if folder := os.environ.get("APO_EDU_SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def state(page, strip):
    """(address of the picture, the sentence, what a screen reader says of the slider) of a film strip."""
    slider = strip.locator("input[type=range]")
    picture = strip.locator(".apo-strip-stage img")
    assert picture.count() == 1 and picture.evaluate("(image) => image.complete && image.naturalWidth > 0")
    assert picture.get_attribute("alt")
    return picture.get_attribute("src"), strip.locator("output").inner_text(), slider.get_attribute("aria-valuetext")


def work_by_keyboard(page, strip):
    """Every key does what it should, and picture, sentence and spoken value change together without a jump."""
    slider = strip.locator("input[type=range]")
    slider.wait_for()
    assert slider.get_attribute("aria-label") == "alpha" and strip.get_by_text("alpha", exact=True).first.is_visible()
    height = strip.bounding_box()["height"]
    slider.focus()
    seen = []
    for key, value in [("Home", "0.000"), ("ArrowRight", "0.025"), ("ArrowUp", "0.050"), ("ArrowLeft", "0.025"),
                       ("End", "1.000")]:  # fmt: skip
        page.keyboard.press(key)
        strip.locator(f"input[aria-valuetext='{value}']").wait_for(timeout=2_000)  # a busy machine may need a while
        seen.append(state(page, strip))
        assert seen[-1][2] == value and f"alpha = {value}" in seen[-1][1]
    assert seen[1] == seen[3] and len(set(seen)) == 4 and len({picture for picture, _, _ in seen}) == 4
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # the play button
    page.wait_for_timeout(700)
    page.keyboard.press("Space")
    assert 0.0 < float(state(page, strip)[2]) < 1.0
    assert strip.bounding_box()["height"] == height


def drag_a_mode(page):
    """Drag the right mode to the left, then move it by keys: the kernel answers both, and the optimiser ends where it says."""
    mode = page.get_by_role("slider", name="Place of the right mode")
    x, y = browser.centre(mode)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y, steps=6)
    page.mouse.up()
    page.keyboard.press("ArrowLeft")
    place = mode.get_attribute("aria-valuetext")
    assert float(mode.get_attribute("aria-valuenow")) < 1.5
    apart = place.removeprefix(mode.get_attribute("aria-valuenow")).split()[-2]
    page.wait_for_function("document.querySelector('.apo-explorer').dataset.rest === 'true'")
    said = page.locator(".apo-explorer output")
    page.wait_for_function(
        "(apart) => document.querySelector('.apo-explorer output').textContent.includes(apart)", arg=apart
    )
    assert f"Modes {apart} apart, alpha = 0.2" in said.inner_text() and "the optimiser" in said.inner_text()


def quiet(page):
    assert page.outside == []
    assert page.errors == []


def test_film_strip_in_jupyterlab(tmp_path):
    browser.write_notebook(tmp_path / "strip.ipynb", STRIP, EXPLORE)
    with browser.serve("lab", tmp_path) as (base, token), browser.browser() as page:
        browser.open_in_lab(page, base, token, "strip.ipynb")
        strip = page.locator(".apo-strip")
        work_by_keyboard(page, strip)
        shoot(page, "lab_strip")
        drag_a_mode(page)
        shoot(page, "lab_explorer")
        page.wait_for_timeout(400)
        # The kernel hears where the slider came to rest.
        value = state(page, strip)[2]
        page.evaluate("""async () => {
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const future = kernel.requestExecute({ code: "print(f'{strip.value:.3f}')" });
            future.onIOPub = ({ header, content }) => {
              if (header.msg_type === "stream") window.heard = content.text; };
            await future.done; }""")
        assert page.evaluate("window.heard").strip() == value
        quiet(page)
        # Without a kernel the strip goes on working; the widget manager alone complains.
        page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.wait_for_timeout(500)
        page.locator(".apo-strip input").focus()
        page.keyboard.press("Home")
        page.wait_for_timeout(300)
        assert state(page, strip)[2] == "0.000"
        assert all("Could not send widget sync message" in error for error in page.errors)


def test_page_from_a_file_without_network(tmp_path):
    from toys import strips as ready

    strips = {"Weights": ready.weight_strip, "Divergences": ready.divergence_strip}
    out = tmp_path / "page.html"
    out.write_text(ready.page(strips), encoding="utf-8")
    with browser.browser() as page:
        page.context.set_offline(True)
        page.goto(out.as_uri())
        for i in range(len(strips)):
            work_by_keyboard(page, page.locator(".apo-strip").nth(i))
        shoot(page, "page")
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390  # fits a telephone
        shoot(page, "page_narrow")
        quiet(page)


def test_notebook_as_an_app_in_voila(tmp_path):
    browser.write_notebook(tmp_path / "app.ipynb", STRIP, LIVE, ASK, EXPLORE)
    with browser.serve("voila", tmp_path, "app.ipynb") as (base, _), browser.browser() as page:
        page.goto(base, timeout=60_000)
        work_by_keyboard(page, page.locator(".apo-strip"))

        picture, said = page.locator("img.widget-image").first, page.get_by_text("The slope is")
        before = picture.get_attribute("src"), said.inner_text()
        page.locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("(old) => document.querySelector('img.widget-image').src !== old", arg=before[0])
        page.get_by_text("The slope is 0.55.").wait_for()

        page.locator(".apo-predict input[type=radio]").first.focus()
        page.keyboard.press("ArrowDown")  # the second, wrong choice
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_text("Not so: the answer is").wait_for()
        assert page.get_by_text("It may drop a mode").is_visible()
        page.wait_for_function("document.querySelectorAll('img.widget-image')[1].naturalWidth > 0")
        page.get_by_text("The picture in words").last.evaluate("(words) => words.scrollIntoView()")
        shoot(page, "voila")
        drag_a_mode(page)
        # Voila 0.5's own template asks for an icon font on the web; it was refused, and nothing of ours needs it.
        page.outside = [address for address in page.outside if "fontawesome" not in address]
        page.errors = [error for error in page.errors if "Failed to load resource: net::ERR_FAILED" not in error]
        quiet(page)
