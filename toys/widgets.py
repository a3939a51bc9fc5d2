"""What a lesson shows and asks: film strips, live canvases, questions to commit to, self-tests and figures.

Two kinds of explorer. A `FilmStrip` draws every picture beforehand and sends them once; its slider then works in the
browser alone, with or without a kernel. A `LiveCanvas` redraws in the kernel; it is for more knobs than can be drawn
beforehand. Each also has a still picture and a sentence for places without widgets.
"""

import base64
import html
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import matplotlib
import matplotlib.font_manager
import numpy as np
import traitlets
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from apo_edu import palette

MAX_STRIP_BYTES = 3_000_000
CSS_DPI = 96  # a figure of 8 inches is shown 768 CSS pixels wide, whatever its resolution
_SCRIPT = Path(__file__).parent / "strip.js"
_SHEET = Path(__file__).parent / "strip.css"


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One slider of a film strip.

    Args:
        label: its visible name, which a screen reader also says.
        values: the numbers it stops at, in the order of the slider; at least 2.
        unit: written after the value.
        form: how a value is written, for `str.format`.
        ends: what the two ends mean, written under the slider, e.g. ("mode seeking", "mode covering").
        start: the value shown first (one of `values`); the first value if None.
        alpha_colors: paint the slider with the colours of alpha; for sliders whose values are alpha.
    """

    label: str
    values: Sequence[float]
    unit: str = ""
    form: str = "{:.2f}"
    ends: tuple[str, str] = ("", "")
    start: float | None = None
    alpha_colors: bool = False

    def __post_init__(self):
        object.__setattr__(self, "values", [float(value) for value in self.values])
        if not self.label.strip():
            raise ValueError("label is empty; expected the slider's name. It is what a screen reader says.")
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise ValueError(
                f"values of {self.label!r} has {len(self.values)} numbers, {len(set(self.values))} of them different; "
                "expected at least 2, all different. Use e.g. numpy.linspace(0, 1, 41)."
            )
        if not all(math.isfinite(value) for value in self.values):
            raise ValueError(f"values of {self.label!r} are not all finite; expected finite numbers. Leave those out.")
        if self.start is not None:
            self.index(self.start)

    def index(self, value: float) -> int:
        """Where `value` is among the values; raises ValueError if it is none of them."""
        nearest = min(range(len(self.values)), key=lambda i: abs(self.values[i] - value))
        if not math.isclose(self.values[nearest], value, rel_tol=1e-6, abs_tol=1e-9):
            raise ValueError(
                f"{self.label} is {value}; expected one of its {len(self.values)} values. The nearest is "
                f"{self.values[nearest]:g}."
            )
        return nearest

    def text(self, value: float) -> str:
        """The value as written beside the slider."""
        return f"{self.form.format(value)} {self.unit}".rstrip()

    def _data(self) -> dict[str, Any]:
        track = f"linear-gradient(to right, {', '.join(map(palette.alpha_color, self.values))})"
        return {
            "label": self.label,
            "texts": [self.text(value) for value in self.values],
            "ends": list(self.ends),
            "track": track if self.alpha_colors else "",
        }


class _Stage:
    """A figure whose axes stay and whose returned artists move, drawn by blitting onto a kept background."""

    def __init__(self, setup: Callable[[Figure], Any], figsize: tuple[float, float], dpi: int):
        with matplotlib.rc_context(palette.STYLE):
            self.figure = Figure(figsize=figsize, dpi=dpi)
            self.canvas = FigureCanvasAgg(self.figure)
            self.artists = setup(self.figure)
        self.moving = sorted(_flatten(self.artists), key=lambda artist: artist.get_zorder())
        if not self.moving:
            raise ValueError(
                f"setup returned {type(self.artists).__name__} without any artist; expected the artists that `update` "
                "changes (an artist, or a list or dict of artists). Return them from setup, e.g. {'line': line}."
            )
        for axes in self.figure.axes:
            axes.set_autoscale_on(False)
        self.background = None

    def draw_background(self) -> None:
        """A full draw: layout, axes and all that does not move. Needed again after a change of limits or ticks."""
        with matplotlib.rc_context(palette.STYLE):
            self.canvas.draw()  # the moving artists take part in the layout
            self.figure.set_layout_engine("none")
            for artist in self.moving:
                artist.set_animated(True)
            self.canvas.draw()
            for artist in self.moving:
                artist.set_animated(False)
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)

    def draw(self) -> Image.Image:
        """The picture with the moving artists as they are now."""
        if self.background is None:
            self.draw_background()
        self.canvas.restore_region(self.background)
        for artist in self.moving:
            self.figure.draw_artist(artist)
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3].copy())


def _flatten(artists: Any) -> list[Artist]:
    if isinstance(artists, Artist):
        return [artists]
    if isinstance(artists, Mapping):
        artists = artists.values()
    elif hasattr(artists, "__dict__") and not hasattr(artists, "__iter__"):
        artists = vars(artists).values()
    elif isinstance(artists, np.ndarray):
        artists = artists.ravel()
    elif isinstance(artists, str) or not hasattr(artists, "__iter__"):
        return []
    return [artist for member in artists for artist in _flatten(member)]


def _palette_png(picture: Image.Image) -> bytes:
    """A PNG of 128 colours: a third of the size, and no colour of a line drawing moves by more than a few levels."""
    file = io.BytesIO()
    picture.quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, format="PNG")
    return file.getvalue()


def _contact_sheet(pictures: Sequence[Image.Image], titles: Sequence[str], columns: int = 2) -> bytes:
    """Small multiples: the pictures side by side under their titles, as one PNG."""
    width = 620 if len(pictures) > 1 else min(pictures[0].width, 1000)
    columns = min(columns, len(pictures))
    height, bar = round(width * pictures[0].height / pictures[0].width), 30
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + bar)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(matplotlib.font_manager.findfont("DejaVu Sans:bold"), 17)
    for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left, top = (i % columns) * width, (i // columns) * (height + bar)
        pen.text((left + 12, top + 6), title, fill="black", font=font)
        sheet.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, top + bar))
    return _palette_png(sheet)


def _still(png: bytes, text: str, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of an output that need no widgets: a PNG that knows its alt text, and words."""
    data = {"image/png": base64.b64encode(png).decode(), "text/plain": text}
    return data, {"image/png": {"alt": alt}}


def _widget_view(widget: ipywidgets.Widget) -> dict[str, Any]:
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def _require_words(**texts: str) -> None:
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} is {text!r}; expected a sentence. Say in words what the picture shows.")


class FilmStrip(anywidget.AnyWidget):
    """Pictures over one slider (or a small grid of two), all drawn beforehand; the slider works without a kernel.

    `setup(figure)` draws the axes, with fixed limits, and returns the artists that will move (one, or a list or dict of
    them, nested as you like). `update(artists, value)` sets their data for one value; with a second knob,
    `update(artists, value, second_value)`. Titles, ticks and limits do not move: put a changing number into
    `describe(value)`, the sentence under the picture, or into a returned `axes.text`.

        def setup(figure):
            axes = figure.subplots()
            axes.set(xlim=(-3, 3), ylim=(-2, 6), xlabel="log w (nats)")
            return axes.plot([], [])[0]

        def update(line, alpha):
            line.set_data(x, box_cox(x, alpha))

        FilmStrip(setup, update, np.linspace(0, 1, 41), label="alpha", ends=("mode seeking", "mode covering"),
                  describe=lambda alpha: f"At alpha = {alpha:.2f} ...", caption="...", alt="...")

    In Python: `index` and `second_index` (shared with the browser: set them and the picture follows), `value`,
    `second_value`, `text` (the sentence), `picture` (PNG bytes). `to_html()` is the strip without a notebook. Where
    there are no widgets, the notebook shows small multiples over the first knob, and their sentences.

    Args:
        setup, update: see above.
        values, label, unit, form, ends, start: the first knob, see `Knob`. It is painted in the colours of alpha if
            `alpha_colors` is true, by default when the label is "alpha" or the Greek letter.
        describe: from the value (or both values) to one sentence that says what to see; it should hold the numbers.
        caption: one sentence for the whole strip, printed under it.
        alt: what the pictures show, for those who cannot see them (the sentence tells the rest).
        second: a second `Knob`, or None. Frames multiply: 21 x 7 is as much as fits.
        figsize: inches; 8 inches are 768 pixels on the page.
        dpi: resolution; 144 is sharp on fine screens. Lower it, or pass fewer values, for pictures full of ink.
        fps: pictures a second while playing.
        still: how many pictures the small multiples have.

    Raises:
        ValueError: on bad knobs or texts, on a setup that returns no artist, and if the strip exceeds 3 MB.
    """

    _esm = _SCRIPT
    _css = _SHEET
    film = traitlets.Bytes().tag(sync=True)
    data = traitlets.Dict().tag(sync=True)
    index = traitlets.Int(0).tag(sync=True)
    second_index = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        setup: Callable[[Figure], Any],
        update: Callable[..., None],
        values: Sequence[float],
        *,
        label: str,
        describe: Callable[..., str],
        caption: str,
        alt: str,
        unit: str = "",
        form: str = "{:.2f}",
        ends: tuple[str, str] = ("", ""),
        start: float | None = None,
        alpha_colors: bool | None = None,
        second: Knob | None = None,
        figsize: tuple[float, float] = (8.0, 3.4),
        dpi: int = 144,
        fps: float = 12.0,
        still: int = 6,
    ):
        _require_words(caption=caption, alt=alt)
        if alpha_colors is None:
            alpha_colors = label in ("alpha", "\u03b1")
        knob = Knob(label=label, values=values, unit=unit, form=form, ends=ends, start=start, alpha_colors=alpha_colors)
        self.knobs = (knob,) if second is None else (knob, second)
        if not fps > 0 or not 1 <= still <= len(knob.values):
            raise ValueError(
                f"fps is {fps}, still is {still}; expected fps > 0 and still from 1 to {len(knob.values)}. "
                "Leave them out for 12 and 6."
            )
        self.caption, self.alt = caption, alt
        grid = [(a,) if second is None else (a, b) for b in (second.values if second else [None]) for a in knob.values]
        self._starts = [k.values.index(k.values[0]) if k.start is None else k.index(k.start) for k in self.knobs]
        row = self._starts[1] * len(knob.values) if second else 0
        count = len(knob.values)
        self._chosen = [row + round(i * (count - 1) / max(still - 1, 1)) for i in range(still)]

        stage = _Stage(setup, figsize, dpi)
        update(stage.artists, *grid[row + self._starts[0]])
        frames, sentences, kept, total = [], [], {}, 0
        for at, point in enumerate(grid):
            update(stage.artists, *point)
            picture = stage.draw()
            frames.append(_palette_png(picture))
            sentences.append(_sentence(describe(*point)))
            if at in self._chosen:
                kept[at] = picture
            total += len(frames[-1])
            if total > MAX_STRIP_BYTES:
                each = total / (at + 1)
                raise ValueError(
                    f"the strip has {len(grid)} pictures of about {each / 1e3:.0f} kB, "
                    f"{each * len(grid) / 1e6:.1f} MB in all; expected at most {MAX_STRIP_BYTES / 1e6:.0f} MB. "
                    f"Pass fewer values, a smaller figsize, or a dpi below {dpi}."
                )
        self._still_png = _contact_sheet(
            [kept[at] for at in self._chosen], [f"{label} = {knob.text(grid[at][0])}" for at in self._chosen]
        )
        data = {
            "knobs": [k._data() for k in self.knobs],
            "sentences": sentences,
            "sizes": [len(frame) for frame in frames],
            "width": round(figsize[0] * CSS_DPI),
            "height": round(figsize[1] * CSS_DPI),
            "alt": alt,
            "caption": caption,
            "fps": fps,
        }
        self._frames = frames
        positions = dict(zip(("index", "second_index"), self._starts, strict=False))
        super().__init__(film=b"".join(frames), data=data, **positions)

    @traitlets.validate("index", "second_index")
    def _check_index(self, proposal):
        name, index = proposal["trait"].name, proposal["value"]
        which = 0 if name == "index" else 1
        count = len(self.knobs[which].values) if which < len(self.knobs) else 1
        if not 0 <= index < count:
            raise ValueError(f"{name} is {index}; expected 0 to {count - 1}. There are {count} values.")
        return index

    @property
    def value(self) -> float:
        """The first knob's value; it may be set to any of the knob's values."""
        return self.knobs[0].values[self.index]

    @value.setter
    def value(self, value: float) -> None:
        self.index = self.knobs[0].index(value)

    @property
    def second_value(self) -> float | None:
        """The second knob's value, or None where there is one knob; it may be set."""
        return self.knobs[1].values[self.second_index] if len(self.knobs) > 1 else None

    @second_value.setter
    def second_value(self, value: float) -> None:
        if len(self.knobs) < 2:
            raise ValueError(f"second_value is {value}, but this strip has one knob. Pass `second=Knob(...)`.")
        self.second_index = self.knobs[1].index(value)

    @property
    def _at(self) -> int:
        return self.index + len(self.knobs[0].values) * self.second_index

    @property
    def text(self) -> str:
        """The sentence under the present picture."""
        return self.data["sentences"][self._at]

    @property
    def picture(self) -> bytes:
        """The present picture, as PNG."""
        return self._frames[self._at]

    @property
    def still(self) -> bytes:
        """The small multiples shown where there are no widgets, as PNG."""
        return self._still_png

    def _repr_mimebundle_(self, **kwargs):
        sentences = [self.data["sentences"][at] for at in self._chosen]
        data, metadata = _still(self._still_png, "\n".join([self.caption, *sentences]), self.alt)
        return data | _widget_view(self), metadata

    def to_html(self) -> str:
        """The strip as a piece of HTML: pictures, style and script inside; neither network nor kernel is needed."""
        encoded = ["data:image/png;base64," + base64.b64encode(frame).decode() for frame in self._frames]
        # "<" is escaped, so that no sentence can end the script element.
        data = json.dumps({**self.data, "frames": encoded, "start": self._starts}).replace("<", "\\u003c")
        script = _SCRIPT.read_text(encoding="utf-8").replace("export default { render };", _MOUNT_ALL)
        still = base64.b64encode(self._still_png).decode()
        return (
            f"<style>{_SHEET.read_text(encoding='utf-8')}</style>\n<div data-film-strip>\n"
            f'<noscript><img src="data:image/png;base64,{still}" alt="{html.escape(self.alt)}">'
            f"<p>{html.escape(self.caption)}</p></noscript>\n"
            f'<script type="application/json">{data}</script>\n</div>\n<script>(() => {{\n{script}\n}})();</script>\n'
        )


_MOUNT_ALL = """
for (const root of document.querySelectorAll("[data-film-strip]:not(.apo-strip)")) {
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  mount(root, data, data.start);
}"""


def _sentence(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"describe returned {text!r}; expected a sentence. Return a str that says what to see.")
    return text.strip()


class LiveCanvas(ipywidgets.VBox):
    """A picture that the kernel redraws as its sliders move; for more knobs than a `FilmStrip` can hold.

    `setup(figure)` is as for a `FilmStrip`. `update(artists, **values)` gets every control's value by name; it should
    look up, or compute in one batched call: at most 40 ms, so that the picture follows the hand.

        LiveCanvas(setup, update, {"alpha": ("alpha", 0.0, 1.0, 0.02, 0.5), "s": ("separation", 0.5, 4.0, 0.1, 2.0)},
                   describe=lambda alpha, s: f"...", caption="...", alt="...")

    In Python: `controls["alpha"].value = 0.3` changes `picture` (PNG bytes) and `text`.

    Args:
        controls: from the name in `update` to (label, low, high, step, start), or to any ipywidgets control that has a
            `value` and a `description`.
        describe: from the values, by name, to one sentence.
        caption, alt, figsize: as for a `FilmStrip`. dpi: lower is faster.
        full_draw: names of controls whose move changes limits or ticks; those need a full draw, five times as slow.
        still: settings (dicts, the rest as at the start) of the small multiples shown where there are no widgets.

    Raises:
        ValueError: on bad controls or texts, and on a setup that returns no artist.
    """

    def __init__(
        self,
        setup: Callable[[Figure], Any],
        update: Callable[..., None],
        controls: Mapping[str, Any],
        *,
        describe: Callable[..., str],
        caption: str,
        alt: str,
        figsize: tuple[float, float] = (8.0, 3.4),
        dpi: int = 100,
        full_draw: Sequence[str] = (),
        still: Sequence[Mapping[str, Any]] = ({},),
    ):
        _require_words(caption=caption, alt=alt)
        if not controls:
            raise ValueError("controls is empty; expected at least one. For a still picture use `figure`.")
        self.controls = {name: _control(name, control) for name, control in controls.items()}
        for name in [*full_draw, *(name for setting in still for name in setting)]:
            if name not in self.controls:
                raise ValueError(
                    f"{name!r} is no control; expected one of {sorted(self.controls)}. Check the spelling."
                )
        self.caption, self.alt = caption, alt
        self._update, self._describe, self._full_draw = update, describe, frozenset(full_draw)
        self._stage = _Stage(setup, figsize, dpi)
        start = self.values
        pictures, titles, self._sentences = [], [], []
        for setting in still:
            pictures.append(self._draw(start | dict(setting), full=True))
            written = [f"{self.controls[name].description} = {value:g}" for name, value in setting.items()]
            titles.append(", ".join(written))
            self._sentences.append(_sentence(describe(**start | dict(setting))))
        self._still_png = _contact_sheet(pictures, titles)

        layout = {"width": f"{round(figsize[0] * CSS_DPI)}px", "max_width": "100%"}
        height = f"{round(figsize[1] * CSS_DPI)}px"
        self._image = ipywidgets.Image(format="png", layout={**layout, "height": height, "object_fit": "contain"})
        # An ipywidgets Image has no alt text, and with a tooltip (8.1.9) it fails to show: so the words are beside it.
        self._said = ipywidgets.HTML(layout={**layout, "min_height": "3em"})
        below = ipywidgets.HTML(f"<em>{html.escape(caption)}</em>{_in_words(alt)}", layout=layout)
        self._show(full=True)
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._show(full=name in self._full_draw), names="value")
        super().__init__([self._image, self._said, *self.controls.values(), below])

    @property
    def values(self) -> dict[str, Any]:
        """The controls' present values."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def picture(self) -> bytes:
        """The present picture, as PNG."""
        return self._image.value

    @property
    def text(self) -> str:
        """The sentence under the present picture."""
        return self._text

    @property
    def still(self) -> bytes:
        """The small multiples shown where there are no widgets, as PNG."""
        return self._still_png

    def _draw(self, values: dict[str, Any], full: bool) -> Image.Image:
        self._update(self._stage.artists, **values)
        if full:
            self._stage.draw_background()
        return self._stage.draw()

    def _show(self, full: bool) -> None:
        file = io.BytesIO()
        self._draw(self.values, full).save(file, format="PNG", compress_level=1)  # speed before size: it is sent once
        self._image.value = file.getvalue()
        self._text = _sentence(self._describe(**self.values))
        self._said.value = f'<div role="status" style="line-height: 1.45">{html.escape(self._text)}</div>'

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = _still(self._still_png, "\n".join([self.caption, *self._sentences]), self.alt)
        return data | _widget_view(self), metadata


def _in_words(alt: str) -> str:
    return f"<details><summary>The picture in words</summary>{html.escape(alt)}</details>"


def _control(name: str, control: Any) -> ipywidgets.Widget:
    if isinstance(control, ipywidgets.Widget):
        if not hasattr(control, "value") or not getattr(control, "description", "").strip():
            raise ValueError(
                f"control {name!r} is a {type(control).__name__} without a value or a description; expected both. Give "
                "it description='...', which is its visible label."
            )
        return control
    try:
        label, low, high, step, start = control
    except (TypeError, ValueError):
        raise ValueError(
            f"control {name!r} is {control!r}; expected (label, low, high, step, start) or an ipywidgets control, e.g. "
            "('alpha', 0.0, 1.0, 0.02, 0.5)."
        ) from None
    if not (low < high and step > 0 and low <= start <= high):
        raise ValueError(
            f"control {name!r} has low {low}, high {high}, step {step}, start {start}; expected low < high, step > 0 "
            "and the start between them. Check the order: (label, low, high, step, start)."
        )
    whole = all(isinstance(number, int) for number in (low, high, step, start))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(
        value=start,
        min=low,
        max=high,
        step=step,
        description=label,
        style={"description_width": "9em"},
        layout={"width": "560px", "max_width": "100%"},
    )


class Predict(ipywidgets.VBox):
    """A question to commit to before the result is shown: predict, commit, run, compare.

    With choices (text: why it is right or wrong), or with a number to set on a slider:

        Predict("Which KL covers both modes?",
                {"KL(q || p)": "Right: it is infinite where q > 0 and p = 0.",
                 "KL(p || q)": "This one pays only where p has mass, so it may drop a mode."},
                answer="KL(q || p)", reveal=lambda committed: draw(committed))

        Predict("At which alpha does the fit first lock onto a mode?", (0.0, 1.0, 0.05), answer=0.55, tolerance=0.1,
                label="alpha", explain={"low": "...", "right": "...", "high": "..."}, reveal=draw)

    In Python: set `choice.value`, call `commit()`; then `committed`, `correct`, `text` and `picture` are set. Where
    there are no widgets it is a question in Markdown with a fold-out answer.

    Args:
        question: plain text.
        choices: a dict of at least 2 choices, in order, each with its explanation; or (low, high, step) of a slider.
        answer: one of the choices; or the number.
        tolerance: how far a number may be off and still count as right.
        label, explain: for a number only: the slider's label; what to say for "low", "right" and "high" answers.
        reveal: from the committed answer to a figure (or PNG bytes) with that answer drawn into it; None for none.
        alt: what the revealed picture shows.

    Raises:
        ValueError: on an answer that is no choice or out of range, and on missing explanations.
    """

    def __init__(
        self,
        question: str,
        choices: Mapping[str, str] | tuple[float, float, float],
        *,
        answer: Any,
        tolerance: float = 0.0,
        label: str = "your answer",
        explain: Mapping[str, str] | None = None,
        reveal: Callable[[Any], Figure | bytes] | None = None,
        alt: str = "The result, with your answer drawn in.",
    ):
        _require_words(question=question, alt=alt)
        self.question, self.answer, self._tolerance, self._reveal = question, answer, tolerance, reveal
        self.committed: Any = None
        self.correct: bool | None = None
        self.text, self.picture = "", b""
        wide = {"width": "720px", "max_width": "100%"}
        if isinstance(choices, Mapping):
            if len(choices) < 2 or answer not in choices or not all(why.strip() for why in choices.values()):
                raise ValueError(
                    f"choices are {list(choices)} with answer {answer!r}; expected at least 2 choices, each with an "
                    "explanation, the answer among them. Pass {choice: why it is right or wrong, ...}."
                )
            self._why = dict(choices)
            self.choice = ipywidgets.RadioButtons(options=list(choices), value=None, layout={"width": "max-content"})
        else:
            self._why = dict(explain or {})
            if {"low", "right", "high"} - self._why.keys():
                raise ValueError(
                    f"explain has {sorted(self._why)}; expected 'low', 'right' and 'high'. Say why each is so."
                )
            low, high, step = choices
            if not low <= answer <= high or tolerance < 0:
                raise ValueError(
                    f"answer is {answer} with tolerance {tolerance}; expected {low} to {high} and a tolerance >= 0. "
                    "Widen the slider."
                )
            self.choice = _control("choices", (label, low, high, step, low))
        self._numeric = not isinstance(choices, Mapping)
        asked = ipywidgets.HTMLMath(f"<strong>Predict.</strong> {html.escape(question)}", layout=wide)
        self.button = ipywidgets.Button(description="Commit", tooltip="Commit to this answer, then see the result")
        self.button.on_click(lambda _: self.commit())
        self._said = ipywidgets.HTMLMath(layout=wide)
        self._image = ipywidgets.Image(format="png", layout={"display": "none"})
        self._words = ipywidgets.HTML(_in_words(alt), layout={"display": "none"})
        # Long choices wrap instead of being cut off.
        wrap = ipywidgets.HTML(
            "<style>.apo-predict .widget-radio-box {height: auto; max-width: 720px}"
            " .apo-predict .widget-radio-box label {height: auto; white-space: normal; line-height: 1.4; margin: 3px 0}"
            " .apo-predict .widget-html-content, .apo-predict .widget-htmlmath-content {line-height: 1.45}</style>",
            layout={"display": "none"},
        )
        super().__init__([wrap, asked, self.choice, self.button, self._said, self._image, self._words])
        self.add_class("apo-predict")

    def commit(self) -> None:
        """Commit to the present choice: it can no longer be changed, and the result is shown."""
        if self.choice.value is None:
            self._said.value = '<div role="alert">Choose an answer first.</div>'
            return
        self.committed = self.choice.value
        self.choice.disabled = self.button.disabled = True
        if self._numeric:
            off = self.committed - self.answer
            self.correct = abs(off) <= self._tolerance + 1e-9
            why = [self._why["right" if self.correct else "low" if off < 0 else "high"]]
            answer = f"{self.answer:g}"
        else:
            self.correct = self.committed == self.answer
            why, answer = [self._why[self.committed]], self.answer
        verdict = "Right." if self.correct else f"Not so: the answer is {answer}."
        if not self.correct:
            why.append(self._why["right" if self._numeric else self.answer])
        said = f"{self.committed:g}" if self._numeric else self.committed
        self.text = " ".join([f"You said: {said}.", verdict, *why])
        color = palette.GREEN if self.correct else palette.WARNING
        parts = "".join(f"<p>{html.escape(part)}</p>" for part in why)
        mark = "\u2713" if self.correct else "\u2717"
        others = ""
        if not self._numeric:
            rest = [choice for choice in self._why if choice not in (self.committed, self.answer)]
            items = "".join(f"<li>{html.escape(c)}: {html.escape(self._why[c])}</li>" for c in rest)
            others = f"<details><summary>The other choices</summary><ul>{items}</ul></details>" if rest else ""
        self._said.value = (
            f'<div role="alert" style="border-left: 4px solid {color}; padding-left: 12px">'
            f"<p><strong>{mark} {html.escape(verdict)}</strong></p>{parts}{others}</div>"
        )
        if self._reveal is not None:
            self.picture, width = _as_png(self._reveal(self.committed))
            self._image.value = self.picture
            self._image.layout = {"width": f"{width}px", "max_width": "100%"}
            self._words.layout = {}

    def _repr_mimebundle_(self, **kwargs):
        low, high = (self.choice.min, self.choice.max) if self._numeric else (None, None)
        if self._numeric:
            asked = f"Choose {self.choice.description} between {low:g} and {high:g}."
            folded = [f"**{self.answer:g}.** {self._why['right']}"]
            folded += [f"Below: {self._why['low']}", f"Above: {self._why['high']}"]
        else:
            asked = "\n".join(f"- {choice}" for choice in self._why)
            folded = [f"**{self.answer}.** {self._why[self.answer]}"]
            folded += [f"*{choice}*: {why}" for choice, why in self._why.items() if choice != self.answer]
        markdown = f"**Predict.** {self.question}\n\n{asked}\n\n" + _details("Answer", "\n\n".join(folded))
        return {"text/markdown": markdown, "text/plain": f"Predict. {self.question}\n{asked}"} | _widget_view(self), {}


def _as_png(picture: Figure | bytes) -> tuple[bytes, int]:
    """A palette PNG and the width it is to be shown at, in CSS pixels."""
    if isinstance(picture, bytes):
        return picture, Image.open(io.BytesIO(picture)).width
    if not isinstance(picture, Figure):
        raise ValueError(f"got a {type(picture).__name__}; expected a matplotlib Figure or PNG bytes. Return `figure`.")
    file = io.BytesIO()
    with matplotlib.rc_context(palette.STYLE):
        picture.savefig(file, format="png", dpi=144)
    return _palette_png(Image.open(file).convert("RGB")), round(picture.get_size_inches()[0] * CSS_DPI)


def _details(summary: str, body: str) -> str:
    """A fold-out; the empty lines let Markdown inside it work in JupyterLab, on GitHub and in nbconvert."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>\n"


class SelfTest:
    """Three questions with fold-out explained answers, as Markdown: it needs no widgets and no kernel.

        SelfTest([("Why is D_0 mode seeking?", "It is KL(p || q), which pays only where p has mass."), ..., ...])

    Args:
        questions: three (question, explained answer) pairs; Markdown and $...$ work in both.

    Raises:
        ValueError: if there are not three pairs, or one of them is empty.
    """

    def __init__(self, questions: Sequence[tuple[str, str]]):
        self.questions = [(str(question), str(answer)) for question, answer in questions]
        if len(self.questions) != 3 or not all(part.strip() for pair in self.questions for part in pair):
            raise ValueError(
                f"questions has {len(self.questions)} pairs; expected three (question, explained answer) pairs, none "
                "empty. Every lesson ends with three."
            )

    def _repr_markdown_(self) -> str:
        parts = [f"**{i}.** {q}\n\n{_details('Answer', a)}" for i, (q, a) in enumerate(self.questions, start=1)]
        return "**Test yourself.** Answer aloud, then open the answer.\n\n" + "\n".join(parts)

    def __repr__(self) -> str:
        return "\n".join(f"{i}. {question}" for i, (question, _) in enumerate(self.questions, start=1))


def figure(picture: Figure | bytes, caption: str, alt: str) -> None:
    """Show a picture with its caption printed as text, and with words for those who cannot see it.

    The output is `image/png` with its alt text in the output's metadata, the place that Jupyter has for it. Of its
    readers, nbconvert 7.17 uses it in its classic template only; its lab template, JupyterLab 4.6 and GitHub drop it.
    An HTML image would carry it, but is not sure to show on GitHub. So the same words also follow the caption, folded,
    where everybody can read them.

        figure(fig, "Forward KL covers both modes.", "Target with modes at -2 and 2; a fit with sd 2.05 over both.")

    Args:
        picture: a matplotlib Figure, or PNG bytes.
        caption: one sentence.
        alt: what can be seen, in words.
    """
    _require_words(caption=caption, alt=alt)
    png, width = _as_png(picture)
    data, metadata = _still(png, alt, alt)
    metadata["image/png"]["width"] = width
    display(data, raw=True, metadata=metadata)
    words = f"*{caption}*\n\n{_details('The picture in words', alt)}"
    display({"text/markdown": words, "text/plain": caption}, raw=True)
