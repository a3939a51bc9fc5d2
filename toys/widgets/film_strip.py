"""A film strip: every picture is drawn beforehand and sent once; its slider works in the browser alone."""

import base64
import html
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from apo_edu import palette

from .pictures import CSS_DPI, Stage, as_sentence, contact_sheet, palette_png, require_words, still_twin, widget_view

MAX_STRIP_BYTES = 3_000_000
_SCRIPT = Path(__file__).parent / "strip.js"
_SHEET = Path(__file__).parent / "strip.css"
_MOUNT_ALL = """
for (const root of document.querySelectorAll("[data-film-strip]:not(.apo-strip)")) {
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  mount(root, data, data.start);
}"""


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
        values: Iterable[float],
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
        require_words(caption=caption, alt=alt)
        if alpha_colors is None:
            alpha_colors = label in ("alpha", "\u03b1")
        knob = Knob(
            label=label, values=list(values), unit=unit, form=form, ends=ends, start=start, alpha_colors=alpha_colors
        )
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

        stage = Stage(setup, figsize, dpi)
        update(stage.artists, *grid[row + self._starts[0]])
        frames, sentences, kept, total = [], [], {}, 0
        for at, point in enumerate(grid):
            update(stage.artists, *point)
            picture = stage.draw()
            frames.append(palette_png(picture))
            sentences.append(as_sentence(describe(*point)))
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
        self._still_png = contact_sheet(
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
        data, metadata = still_twin(self._still_png, "\n".join([self.caption, *sentences]), self.alt)
        if os.environ.get("APO_EDU_STRIPS") == "page":  # the site runs the lessons with this
            data["text/html"] = self.to_html(alone=False)
        return data | widget_view(self), metadata

    def to_html(self, *, alone: bool = True) -> str:
        """The strip as a piece of HTML: neither network nor kernel is needed.

        Args:
            alone: whether style and script come with it. A page of several strips takes `page_style()` and
                `page_script()` once (the script at its end, or deferred), and each strip with `alone=False`.
        """
        encoded = ["data:image/webp;base64," + base64.b64encode(_as_webp(frame)).decode() for frame in self._frames]
        # "<" is escaped, so that no sentence can end the script element.
        data = json.dumps({**self.data, "frames": encoded, "start": self._starts}).replace("<", "\\u003c")
        still = base64.b64encode(_as_webp(self._still_png)).decode()
        strip = (
            "<div data-film-strip>\n"
            f'<noscript><img src="data:image/webp;base64,{still}" alt="{html.escape(self.alt)}">'
            f"<p>{html.escape(self.caption)}</p></noscript>\n"
            f'<script type="application/json">{data}</script>\n</div>\n'
        )
        return f"<style>{page_style()}</style>\n{strip}<script>{page_script()}</script>\n" if alone else strip


def page_style() -> str:
    """The style sheet that every strip of a page shares."""
    return _SHEET.read_text(encoding="utf-8")


def page_script() -> str:
    """The script that brings every strip of a page to life; it may run again and leaves running strips alone."""
    script = _SCRIPT.read_text(encoding="utf-8").replace("export default { render };", _MOUNT_ALL)
    return f"(() => {{\n{script}\n}})();"


def _as_webp(frame: bytes) -> bytes:
    """The same pixels, a quarter smaller."""
    file = io.BytesIO()
    Image.open(io.BytesIO(frame)).convert("RGB").save(file, format="WEBP", lossless=True, quality=100, method=4)
    return file.getvalue()
