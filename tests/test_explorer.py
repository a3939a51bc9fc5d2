"""The density explorer: what the kernel answers, and its handles in a real browser, without Jupyter in between."""

import base64
import html
import importlib.util
import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("anywidget")

from tests import browser
from toys.mixtures import divergence, stationary_fits, two_modes
from toys.widgets import DensityExplorer
from toys.widgets.density_explorer import X

needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("axe_playwright_python") is None or browser.chromium() is None,
    reason="no axe-core for Playwright or no Chromium",
)


def array(sent, columns):
    return np.frombuffer(sent, dtype=np.float32).reshape(-1, columns)


@pytest.fixture
def explorer():
    return DensityExplorer(means=(-2.5, 2.5), alpha=0.2, start=(-3.4, 1.5))


@pytest.fixture(scope="module")
def untouched():
    return DensityExplorer()


def test_the_answer_holds_the_lessons_fits_and_a_path_to_one_of_them(explorer):
    table = stationary_fits(two_modes(2.5), 0.2)
    torch.testing.assert_close(explorer.minima.theta, table.where(table.stable).theta, rtol=0, atol=1e-6)
    sent = explorer.answer
    densities, path = array(sent["densities"], len(X)), array(sent["path"], 2)
    assert path[0].tolist() == pytest.approx([-3.4, math.log(1.5)]) and len(densities) == 3 + len(path)
    np.testing.assert_allclose(path[-1], explorer.minima.theta[explorer.end], atol=1e-6)
    assert [found["best"] for found in sent["minima"]] == [True, True, False]
    # By hand: N(x; mean, sd) for the covering fit, and the mixture itself.
    mean, sd = sent["minima"][2]["mean"], sent["minima"][2]["sd"]
    by_hand = np.exp(-0.5 * ((X - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(densities[2], by_hand, atol=1e-6)
    bumps = [np.exp(-0.5 * ((X - m) / 0.6) ** 2) / (0.6 * math.sqrt(2 * math.pi)) for m in (-2.5, 2.5)]
    np.testing.assert_allclose(array(sent["target"], 1)[:, 0], sum(bumps) / 2, atol=1e-6)
    assert "sits on one mode, either of them (sd 0.60)" in explorer.text and "there are 3 minima" in explorer.text
    assert f"After {len(path) - 1} steps the optimiser sits on the left mode" in explorer.text


def test_the_landscape_is_the_library_s_and_its_bands_cover_it(explorer):
    means, log_sds, loss = explorer.landscape()
    theta = torch.tensor([means[9], log_sds[20]], dtype=torch.float64)
    assert loss[20, 9].item() == pytest.approx(divergence(theta, two_modes(2.5), 0.2).item(), rel=1e-6)
    area = 0.0
    for band in explorer.answer["bands"]:
        for ring in band.split("Z")[:-1]:
            x, y = np.array([point.split() for point in ring[1:].split("L")], dtype=float).T
            area += 0.5 * (x * np.roll(y, -1) - y * np.roll(x, -1)).sum()  # holes run the other way
    assert area == pytest.approx(9.0 * math.log(3.5 / 0.3), rel=1e-3)


def test_a_hand_at_work_is_answered_with_the_minima_of_the_whole_search(explorer):
    for id_, (distance, alpha, weight) in enumerate(
        [(4.6, 0.2, 0.5), (3.7, 0.2, 0.5), (3.0, 0.2, 0.7), (4.4, 0.6, 0.3)]
    ):
        wish = {"means": [-distance / 2, distance / 2], "alpha": alpha, "weight": weight, "id": id_ + 1}
        explorer.setting = explorer.setting | wish | {"rest": False}
        assert "bands" not in explorer.answer and explorer.answer["id"] == id_ + 1
        moving = explorer.minima.theta
        explorer.setting = explorer.setting | {"rest": True}
        assert "bands" in explorer.answer
        torch.testing.assert_close(moving, explorer.minima.theta, rtol=0, atol=1e-4)
    explorer.move(means=(-2.0, 2.0), sds=(0.5, 0.9))
    assert explorer.target.sds.tolist() == [0.5, 0.9] and explorer.setting["id"] == 5


def test_a_fit_that_follows_keeps_to_its_mode_until_the_valley_ends(explorer):
    explorer.move(follow=True)
    assert "optimiser sits on the left mode" in explorer.text
    explorer.move(means=(-1.6, 1.6))
    assert (
        "best fit covers both" in explorer.text and "the left mode (sd 0.68): that is not the best fit" in explorer.text
    )
    # Live moves add up to one path, and a rest in the same place adds no step.
    begin = explorer.path[-1]
    for half in (1.58, 1.56, 1.5):
        explorer.setting = explorer.setting | {"means": [-half, half], "rest": False, "placed": False}
    steps, path = explorer.steps, explorer.path
    explorer.setting = explorer.setting | {"rest": True}
    torch.testing.assert_close(explorer.path[0], begin)
    torch.testing.assert_close(explorer.path, path, rtol=0, atol=1e-4)
    assert explorer.steps == steps and "After" in explorer.text and "covers both modes (sd 1.49)" in explorer.text
    torch.testing.assert_close(explorer.path[-1], explorer.minima.theta[explorer.end], rtol=0, atol=1e-9)
    explorer.move(means=(-2.5, 2.5))
    assert "optimiser covers both" in explorer.text  # it does not split again
    explorer.move(start=(2.4, 0.6))
    assert "optimiser sits on the right mode" in explorer.text  # but a hand can put it there


def test_twins_for_places_without_widgets(monkeypatch):
    made = DensityExplorer(still=[{"means": (-2.0, 2.0)}, {"means": (-1.2, 1.2), "alpha": 0.6}])
    data, metadata = made._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert (
        "Modes 4.00 apart, alpha = 0.2" in data["text/plain"] and "Modes 2.40 apart, alpha = 0.6" in data["text/plain"]
    )
    assert metadata["image/png"]["alt"].startswith("Left: a target with two modes")
    assert "Modes 4.00 apart" in made.text  # the stills leave the setting alone
    monkeypatch.setenv("APO_EDU_STRIPS", "page")
    page = made._repr_mimebundle_()[0]["text/html"]
    assert page.count("<li>Modes") == 2 and html.escape(made.alt) in page and "Bold: the best fit." in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": (-5.0, 2.0)}, r"means is \[-5.0, 2.0\]; expected -4.0 to 4.0 for each of the two modes"),
        ({"means": (2.0, -2.0)}, "expected the left mode first. Swap"),
        ({"sds": (0.6,)}, r"sds is \[0.6\]; expected 0.4 to 1.2"),
        ({"alpha": 1.5}, "alpha is 1.5; expected 0.0 to 1.0"),
        ({"start": (0.0, 9.0)}, r"start is \[0.0, 9.0\]; expected a mean of .* as the landscape shows"),
        ({"colour": 1}, r"\['colour'\] cannot be moved; expected means"),
    ],
)
def test_bad_moves_are_refused_and_change_nothing(untouched, changes, message):
    before, answer = untouched.setting, untouched.answer
    with pytest.raises(ValueError, match=message):
        untouched.move(**changes)
    assert untouched.setting == before and untouched.answer is answer


PAGE = """<!DOCTYPE html><html lang="en"><head><title>Explorer</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><main><h1>Explorer</h1><div id="explorer"></div></main><script>{script}
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const open = (part) => part && typeof part === "object" ? ("bytes" in part ? bytes(part.bytes) :
  Array.isArray(part) ? part.map(open) : Object.fromEntries(Object.entries(part).map(([k, v]) => [k, open(v)]))) : part;
const state = open({state}), heard = [];
const model = {{
  get: (name) => state[name], set: (name, value) => (state[name] = value),
  on: (name, call) => heard.push(call), off: () => {{}},
  save_changes: async () => {{
    state.answer = open(JSON.parse(await window.kernel(JSON.stringify(state.setting))));
    heard.forEach((call) => call());
  }},
}};
render({{ model, el: document.getElementById("explorer") }});
</script></body></html>"""


def packed(part):
    if isinstance(part, bytes):
        return {"bytes": base64.b64encode(part).decode()}
    if isinstance(part, dict):
        return {key: packed(value) for key, value in part.items()}
    return [packed(value) for value in part] if isinstance(part, list) else part


def show(page, explorer, tmp_path):
    """The explorer on a page of its own; the real kernel side answers each move."""

    def kernel(wish):
        explorer.setting = json.loads(wish)
        return json.dumps(packed(explorer.answer))

    page.expose_function("kernel", kernel)
    state = json.dumps(packed({name: getattr(explorer, name) for name in ("data", "setting", "answer")}))
    style = (browser.ROOT / "toys/widgets/density_explorer.css").read_text()
    script = (browser.ROOT / "toys/widgets/density_explorer.js").read_text().replace("export default { render };", "")
    file = tmp_path / "explorer.html"
    file.write_text(PAGE.format(style=style, script=script, state=state.replace("<", "\\u003c")), encoding="utf-8")
    page.goto(file.as_uri())


def settled(page):
    """Wait until the hand's last move has its full answer, and the optimiser has played to its end."""
    page.wait_for_function(
        """() => { const { rest, answered, step } = document.querySelector(".apo-explorer").dataset;
          const walk = [...document.querySelectorAll(".apo-explorer-row input")].at(-1);
          return rest === "true" && Number(answered) > 0 && step === walk.max; }"""
    )


def drag(page, places):
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places:
        page.mouse.move(*place)
    page.mouse.up()


def touch(page, places):
    """A finger; it must not scroll the page, which would take the handle away from it."""
    client = page.context.new_cdp_session(page)
    client.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    for kind, (x, y) in [("touchStart", places[0]), *(("touchMove", place) for place in places)]:
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("width", [1000, 390])
def test_modes_are_dragged_and_moved_by_keys_and_the_optimiser_walks(explorer, width, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    with browser.browser(width=width) as page:
        page.emulate_media(reduced_motion="no-preference" if width < 500 else "reduce")  # then nothing plays by itself
        show(page, explorer, tmp_path)
        handles = page.get_by_role("slider")
        right = page.get_by_role("slider", name="Place of the right mode")
        assert handles.count() == 8 and right.get_attribute("aria-valuenow") == "2.5"
        before = page.locator(".apo-explorer-target").get_attribute("d")

        x, y = browser.centre(right)
        unit = (x - browser.centre(page.get_by_role("slider", name="Place of the left mode"))[0]) / 5  # of x, in pixels
        (touch if width < 500 else drag)(page, [(x - unit * part / 4, y + 20 * (part > 2)) for part in range(9)])
        settled(page)
        assert float(right.get_attribute("aria-valuenow")) == pytest.approx(0.5, abs=0.05)
        assert "the modes are 3.0" in right.get_attribute("aria-valuetext")
        assert page.locator(".apo-explorer-target").get_attribute("d") != before
        assert explorer.setting["means"][1] == float(right.get_attribute("aria-valuenow"))
        assert page.locator("output").inner_text() == explorer.text and "covers both modes" in explorer.text
        steps = page.get_by_role("slider", name="optimiser's step")
        assert steps.get_attribute("aria-valuetext") == f"{explorer.steps} of {explorer.steps}"
        assert page.locator(".apo-explorer-dot").count() == explorer.steps + 1

        assert right.evaluate("(handle) => handle === document.activeElement")
        for key, value in [("ArrowLeft", -0.1), ("ArrowRight", 0.1), ("PageUp", 0.5), ("End", None)]:
            now = float(right.get_attribute("aria-valuenow"))
            page.keyboard.press(key)
            assert float(right.get_attribute("aria-valuenow")) == pytest.approx(4.0 if value is None else now + value)
        settled(page)
        assert explorer.setting["means"][1] == 4.0 and page.locator(".apo-explorer-star").count() == 2
        page.get_by_role("slider", name="Standard deviation of the left mode").press("ArrowUp")
        start = page.get_by_role("slider", name="Where the optimiser starts")
        start.press("Shift+ArrowRight")
        start.press("ArrowDown")
        page.wait_for_timeout(300)
        settled(page)
        assert explorer.setting["sds"] == [0.65, 0.6]
        assert explorer.setting["start"] == pytest.approx([-2.9, 1.36], abs=0.01)
        assert explorer.path[0].exp()[1].item() == pytest.approx(1.36, abs=0.01)

        steps.press("Home")
        assert page.locator(".apo-explorer-dot").count() == 1
        steps.press("ArrowRight")
        assert page.locator(".apo-explorer-dot").count() == 2
        page.get_by_role("button", name="Play").click()
        settled(page)
        assert page.locator(".apo-explorer-dot").count() == explorer.steps + 1

        page.get_by_role("checkbox").check()  # follow
        right.press("ArrowLeft")
        page.wait_for_timeout(300)
        settled(page)
        assert explorer.setting["follow"] and explorer.steps < 5 and "left mode" in explorer.text
        end = explorer.path[0].tolist()  # the ring is where the path begins
        assert start.get_attribute("aria-valuetext") == f"mean {end[0]:.2f}, standard deviation {math.exp(end[1]):.2f}"

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.errors == [] and page.outside == []
        found = Axe().run(page).response["violations"]
        faults = [(fault["id"], [node["html"][:150] for node in fault["nodes"]][:3]) for fault in found]
        assert faults == []
