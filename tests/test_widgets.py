"""The lesson widgets without a browser: moving a slider changes picture and text, and there is always a still twin."""

import base64
import io
import json
import re

import ipywidgets
import nbformat
import numpy as np
import pytest
import torch

pytest.importorskip("anywidget")
pytest.importorskip("matplotlib")

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from PIL import Image

from apo_edu import box_cox, palette
from toys import strips
from toys.plotting import style
from toys.widgets import FilmStrip, Knob, LiveCanvas, Predict, SelfTest, figure, film_strip, pictures
from toys.widgets.pictures import as_png
from toys.worked_example import BETA_R

LOG_W = np.linspace(-3.0, 2.0, 101)
WORDS = {"caption": "The weight bends.", "alt": "One curve through the origin."}
VIEW = "application/vnd.jupyter.widget-view+json"


def setup(figure):
    axes = figure.subplots()
    axes.set(xlim=(-3, 2), ylim=(-3, 6))
    return {"curves": axes.plot([], [])}


def update(artists, alpha, shift=0.0):
    artists["curves"][0].set_data(LOG_W, box_cox(torch.from_numpy(LOG_W - shift), alpha).numpy())


def describe(alpha, shift=0.0):
    return f"At alpha = {alpha:.2f}, shift {shift:.1f}."


def strip(**changes):
    options = {"label": "alpha", "describe": describe, **WORDS, "figsize": (4, 2), "dpi": 80, "still": 3, **changes}
    return FilmStrip(setup, update, options.pop("values", np.linspace(0, 1, 5)), **options)


def live(**changes):
    controls = {"alpha": ("alpha", 0.0, 1.0, 0.1, 0.0), "shift": ("shift", -1.0, 1.0, 0.5, 0.0)}
    options = {"controls": controls, "describe": describe, **WORDS, "figsize": (4, 2), "dpi": 80, **changes}
    return LiveCanvas(setup, update, options.pop("controls"), **options)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_moving_a_strip_changes_picture_and_text():
    film = strip()
    seen = set()
    for film.index in range(5):
        seen.add((film.picture, film.text))
        assert film.text == f"At alpha = {film.value:.2f}, shift 0.0."
    assert len({picture for picture, _ in seen}) == len({text for _, text in seen}) == 5
    film.value = 0.25
    assert film.index == 1


def test_a_frame_is_what_a_full_draw_gives():
    # Blitting must not lose or displace anything: compared with drawing the whole figure afresh.
    film = strip(dpi=100)
    film.value = 0.75
    with style():
        whole = Figure(figsize=(4, 2), dpi=100)
        update(setup_result := setup(whole), 0.75)
        file = io.BytesIO()
        whole.savefig(file, format="png", dpi=100)
    assert setup_result
    difference = np.abs(pixels(film.picture) - pixels(file.getvalue())).max(-1)
    assert (difference > 32).mean() < 1e-3  # the palette moves colours by a few levels, and no line is elsewhere


def test_a_palette_png_keeps_the_colours_of_fills_and_moves_no_other_by_much():
    # 128 colours by Pillow's maximum coverage turned #dddddd into #dcd7e5, and other fills by up to 15 levels.
    fills = ["#dddddd", "#e6e6e6", "#0072B2", "#2a0a5e", "#f39239"]
    made = Figure(figsize=(4, 2), dpi=100)
    axes = made.subplots()
    for i, color in enumerate(fills):
        axes.fill_between([i, i + 1], 1, color=color)
    for alpha in np.linspace(0, 1, 30):  # soft edges in some thousand colours
        axes.plot([0, 5], [alpha, 1 - alpha**2], color=palette.alpha_color(alpha), lw=0.7)
    file = io.BytesIO()
    made.savefig(file, format="png")
    before = Image.open(file).convert("RGB")
    after = pixels(pictures.palette_png(before))
    moved = np.abs(after - pixels(file.getvalue())).max(-1)
    for color in fills:
        level = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        (places,) = np.nonzero((pixels(file.getvalue()) == level).all(-1).ravel())
        assert len(places) > 1000 and not moved.ravel()[places].any(), color
    assert moved.max() <= 16 and moved.mean() < 1.5  # thousands of soft colours: 15 and 1.07


def test_a_wide_picture_has_no_more_pixels_than_a_page_shows_and_keeps_its_width():
    narrow, wide = (Figure(figsize=(width, 2)) for width in (8, 14))
    for made, pixels_across in ((narrow, 8 * 144), (wide, 1600)):
        made.subplots().plot([0, 1])
        png, width = as_png(made)
        drawn = Image.open(io.BytesIO(png))
        assert abs(drawn.width - pixels_across) <= 1 and width == round(made.get_size_inches()[0] * 96)
        assert len(png) < len(pictures.palette_png(drawn.convert("RGB")))  # optimised


def test_the_browser_gets_every_frame_once():
    film = strip(second=Knob(label="shift", values=[0.0, 1.0], start=1.0))
    sizes = film.data["sizes"]
    assert len(sizes) == len(film.data["sentences"]) == 10 and sum(sizes) == len(film.film)
    assert (film.value, film.second_value, film.index, film.second_index) == (0.0, 1.0, 0, 1)
    first = sum(sizes[:5])
    assert film.film[first : first + sizes[5]] == film.picture
    assert film.text == "At alpha = 0.00, shift 1.0."
    assert film.data["knobs"][0]["texts"][1] == "0.25"
    film.second_value = 0.0
    assert film.text == "At alpha = 0.00, shift 0.0."


@pytest.mark.parametrize(("build", "sentence"), [(strip, "At alpha = 0.50, shift 0.0."), (live, "alpha = 0.00")])
def test_twins_for_places_without_widgets(build, sentence):
    data, metadata = build()._repr_mimebundle_()
    assert set(data) == {VIEW, "image/png", "text/plain"}
    assert pixels(base64.b64decode(data["image/png"])).std() > 1
    assert WORDS["caption"] in data["text/plain"] and sentence in data["text/plain"]
    assert metadata == {"image/png": {"alt": WORDS["alt"]}}


def test_to_html_asks_for_nothing():
    film = strip(describe=lambda alpha: f"</script> alpha = {alpha}")
    text = film.to_html()
    assert not re.search(r"https?:|src=['\"](?!data:)|\bimport\b|export default", text)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.S)[1])
    assert data["sentences"][2] == "</script> alpha = 0.5"
    assert len(data["frames"]) == 5 and all(frame.startswith("data:image/webp;base64,") for frame in data["frames"])
    assert text.count("mount(root, data, data.start)") == text.count("<style>") == 1
    film.index = 3
    shown = pixels(base64.b64decode(data["frames"][3].split(",")[1]))
    assert np.array_equal(shown, pixels(film.picture))  # smaller, and no pixel differs
    assert "<style>" not in film.to_html(alone=False) and "mount(" not in film.to_html(alone=False)


def test_a_page_of_lessons_gets_the_strip_in_the_output(monkeypatch):
    monkeypatch.setenv("APO_EDU_STRIPS", "page")
    data, _ = strip()._repr_mimebundle_()
    assert data["text/html"].startswith("<div data-film-strip>") and "image/png" in data


def test_page_is_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(strips, "STRIPS", {"A < B": strip, "Second": strip})
    out = tmp_path / "new" / "page.html"
    monkeypatch.setattr("sys.argv", ["page", str(out)])
    strips.main()
    text = out.read_text(encoding="utf-8")
    assert "<h2>A &lt; B</h2>" in text and text.count("<div data-film-strip>") == 2
    assert text.count("mount(root, data, data.start)") == 1  # one script for all
    assert not re.search(r"https?:", text)


def test_the_density_strip_tells_of_the_jump():
    film = strips.density_strip()
    told = {}
    for alpha in (0.2, 0.3, 0.6):
        film.value = alpha
        told[alpha] = film.text
    assert "sits on one mode" in told[0.2] and "covers both modes" in told[0.3]
    assert "There are 3 minima." in told[0.3] and "It is the only minimum." in told[0.6]


def test_the_flow_strip_shows_every_alpha_at_once_and_alpha_1_first_ahead_then_behind():
    film = strips.flow_strip()
    q = np.exp(np.array([1.0, 0.5, 0.0]) / BETA_R)
    q /= q.sum()
    logits = np.log([0.06, 0.24, 0.7])
    for _ in range(8):  # at alpha = 1 the gradient over the logits is p - q
        p = np.exp(logits) / np.exp(logits).sum()
        logits -= 0.5 * (p - q)
    p = np.exp(logits) / np.exp(logits).sum()
    film.value = 8
    assert (
        f"{np.abs(p - q).sum() / 2:.0%} at alpha = 1;" in film.text
        and f"and {p[0]:.2f}, on the way to {q[0]:.2f}" in film.text
    )
    left = {}
    for film.index in (0, 8, 40):
        left[film.index] = [int(share) for share in re.findall(r"(\d+)% at alpha", film.text)]
    assert left == {0: [70, 70, 70], 8: [39, 30, 20], 40: [1, 1, 2]}


def test_a_strip_over_the_limit_says_how_to_shrink(monkeypatch):
    monkeypatch.setattr(film_strip, "MAX_STRIP_BYTES", 5_000)
    with pytest.raises(ValueError, match=r"5 pictures of about .* expected at most .*Pass fewer values"):
        strip()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": [0.5]}, "has 1 numbers.*at least 2"),
        ({"values": [0.5, 0.5]}, "1 of them different"),
        ({"values": [0.0, float("nan")]}, "not all finite"),
        ({"label": " "}, "label is empty"),
        ({"start": 0.3}, "alpha is 0.3; expected one of its 5 values.*nearest is 0.25"),
        ({"caption": ""}, "caption is ''; expected a sentence"),
        ({"describe": lambda alpha: None}, "describe returned None"),
        ({"fps": 0}, "fps is 0"),
        ({"still": 9}, "still is 9"),
    ],
)
def test_bad_strips_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        strip(**changes)


def test_moves_out_of_range_are_refused():
    film = strip()
    with pytest.raises(ValueError, match="index is 5; expected 0 to 4"):
        film.index = 5
    with pytest.raises(ValueError, match="second_index is 1; expected 0 to 0"):
        film.second_index = 1
    with pytest.raises(ValueError, match="one knob"):
        film.second_value = 0.0
    with pytest.raises(ValueError, match="expected the artists"):
        FilmStrip(lambda figure: None, update, [0, 1], label="alpha", describe=describe, still=2, **WORDS)


def test_live_canvas_follows_every_control():
    canvas = live()
    for name, value in (("alpha", 0.5), ("shift", 1.0)):
        before = canvas.picture, canvas.text
        canvas.controls[name].value = value
        assert canvas.picture != before[0] and canvas.text != before[1]
    assert canvas.text == "At alpha = 0.50, shift 1.0."
    canvas.controls["alpha"].value, canvas.controls["shift"].value = 0.0, 0.0
    assert canvas.picture == live().picture  # nothing of the former pictures is left


def test_live_canvas_redraws_limits_where_asked():
    def rescale(artists, alpha, shift):
        update(artists, alpha)
        artists["curves"][0].axes.set_ylim(-3, 6 + shift)

    options = {"describe": describe, **WORDS, "figsize": (4, 2), "dpi": 80}
    controls = {"alpha": ("alpha", 0.0, 1.0, 0.1, 0.5), "shift": ("range", 0, 9, 1, 0)}
    canvas = LiveCanvas(setup, rescale, controls, full_draw=["shift"], **options)
    before = pixels(canvas.picture)
    canvas.controls["shift"].value = 9
    changed = (pixels(canvas.picture) != before).any(-1)
    assert changed[:, :25].any()  # the tick labels at the left


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": {}}, "controls is empty"),
        ({"controls": {"alpha": (0, 1)}}, r"expected \(label, low, high, step, start\)"),
        ({"controls": {"alpha": ("alpha", 1.0, 0.0, 0.1, 0.5)}}, "low < high"),
        ({"controls": {"alpha": ipywidgets.FloatSlider()}}, "without a value or a description"),
        ({"full_draw": ["beta"]}, "'beta' is no control"),
        ({"still": [{"beta": 1}]}, "'beta' is no control"),
    ],
)
def test_bad_live_canvases_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        live(**changes)


CHOICES = {"forward": "Yes: it must cover.", "reverse": "It may drop a mode.", "both": "One of them may drop a mode."}


def reveal(committed):
    figure = Figure(figsize=(3, 2))
    figure.subplots().set_title(str(committed))
    return figure


def test_predict_commits_once_and_explains():
    asked = Predict("Which KL covers?", CHOICES, answer="forward", reveal=reveal)
    asked.commit()
    assert asked.committed is None  # nothing was chosen yet
    asked.choice.value = "reverse"
    asked.button.click()
    assert (asked.committed, asked.correct) == ("reverse", False)
    assert "It may drop a mode." in asked.text and "Yes: it must cover." in asked.text
    assert asked.choice.disabled and asked.button.disabled
    other = Predict("Which KL covers?", CHOICES, answer="forward", reveal=reveal)
    other.choice.value = "forward"
    other.commit()
    assert other.correct and other.picture != asked.picture and len(asked.picture) > 1000


@pytest.mark.parametrize(
    ("guess", "correct", "said"), [(0.4, False, "too low"), (0.6, True, "yes"), (0.9, False, "high")]
)
def test_predict_a_number(guess, correct, said):
    explain = {"low": "that is too low", "right": "yes, here", "high": "that is too high"}
    asked = Predict("Where?", (0.0, 1.0, 0.05), answer=0.55, tolerance=0.1, label="alpha", explain=explain)
    asked.choice.value = guess
    asked.commit()
    assert asked.correct is correct and said in asked.text
    page = asked._repr_mimebundle_()[0]["text/html"]
    assert "Choose alpha between 0 and 1." in page and "Above.</strong> that is too high" in page
    assert 'data-answer="0.55" data-tolerance="0.1" data-label="alpha" data-low="0.0" data-high="1.0"' in page


def test_predict_degrades_to_a_question_with_a_folded_answer():
    data, _ = Predict(
        "Which KL covers?", CHOICES, answer="forward", reveal=reveal, alt="A <title>."
    )._repr_mimebundle_()
    question, answer = data["text/html"].split("<details>", 1)
    assert "<li>reverse</li>" in question and "Yes" not in question
    assert all(why in answer for why in CHOICES.values())
    assert as_png(reveal("forward"))[0] == base64.b64decode(re.search(r"base64,([^\"]+)", answer)[1])
    assert 'alt="A &lt;title&gt;."' in answer and answer.count("<details>") == 1  # the words, inside the answer
    assert VIEW in data and "Which KL covers?" in data["text/plain"]


@pytest.mark.parametrize("before", ["", "The guard (paper). "])
def test_nobody_has_said_the_answer_of_a_saved_picture(before):
    made = reveal("x")
    made.suptitle(f"{before}You said: forward")
    other = reveal("x")
    other.suptitle(f"{before}The answer: forward")
    page = Predict("Which?", CHOICES, answer="forward", reveal=lambda said: made)._repr_mimebundle_()[0]["text/html"]
    assert as_png(other)[0] == base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])


def test_bad_questions_are_refused():
    with pytest.raises(ValueError, match="the answer among them"):
        Predict("Which?", CHOICES, answer="neither")
    with pytest.raises(ValueError, match="'low', 'right' and 'high'"):
        Predict("Where?", (0.0, 1.0, 0.1), answer=0.5)
    with pytest.raises(ValueError, match="answer is 2"):
        Predict("Where?", (0.0, 1.0, 0.1), answer=2, explain={"low": "a", "right": "b", "high": "c"})
    with pytest.raises(ValueError, match="has 1 pairs; expected three"):
        SelfTest([("Why?", "Because.")])


def test_self_test_hides_its_answers():
    markdown = SelfTest([(f"Question {i}?", f"Answer {i}.") for i in range(3)])._repr_markdown_()
    assert markdown.count("<details>") == markdown.count("</details>") == 3
    assert re.search(r"Question 2\?\s+<details>\n<summary>Answer</summary>\n\nAnswer 2\.\n\n</details>", markdown)


def test_figure_prints_caption_and_words_and_nbconvert_finds_the_alt_text():
    InteractiveShell.instance()
    with capture_output() as captured:
        figure(reveal("one"), "A caption.", "A title saying one.")
    picture, words = captured.outputs
    assert picture.metadata["image/png"]["alt"] == "A title saying one."
    assert "*A caption.*" in words.data["text/markdown"] and "saying" in words.data["text/markdown"]
    exporter = pytest.importorskip("nbconvert").HTMLExporter(template_name="classic")
    output = nbformat.v4.new_output("display_data", picture.data, metadata=picture.metadata)
    cell = nbformat.v4.new_code_cell("", outputs=[output])
    exported, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert 'alt="A title saying one."' in exported
    with pytest.raises(ValueError, match="expected a matplotlib Figure"):
        figure("picture.png", "A caption.", "Words.")
