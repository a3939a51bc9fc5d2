"""A live canvas: the kernel redraws the picture as its sliders move."""

import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
from matplotlib.figure import Figure
from PIL import Image

from .controls import as_control
from .pictures import CSS_DPI, Stage, as_sentence, contact_sheet, folded_words, require_words, still_twin, widget_view


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
        require_words(caption=caption, alt=alt)
        if not controls:
            raise ValueError("controls is empty; expected at least one. For a still picture use `figure`.")
        self.controls = {name: as_control(name, control) for name, control in controls.items()}
        for name in [*full_draw, *(name for setting in still for name in setting)]:
            if name not in self.controls:
                raise ValueError(
                    f"{name!r} is no control; expected one of {sorted(self.controls)}. Check the spelling."
                )
        self.caption, self.alt = caption, alt
        self._update, self._describe, self._full_draw = update, describe, frozenset(full_draw)
        self._stage = Stage(setup, figsize, dpi)
        start = self.values
        pictures, titles, self._sentences = [], [], []
        for setting in still:
            pictures.append(self._draw(start | dict(setting), full=True))
            written = [f"{self.controls[name].description} = {value:g}" for name, value in setting.items()]
            titles.append(", ".join(written))
            self._sentences.append(as_sentence(describe(**start | dict(setting))))
        self._still_png = contact_sheet(pictures, titles)

        layout = {"width": f"{round(figsize[0] * CSS_DPI)}px", "max_width": "100%"}
        height = f"{round(figsize[1] * CSS_DPI)}px"
        self._image = ipywidgets.Image(format="png", layout={**layout, "height": height, "object_fit": "contain"})
        # An ipywidgets Image has no alt text, and with a tooltip (8.1.9) it fails to show: so the words are beside it.
        self._said = ipywidgets.HTML(layout={**layout, "min_height": "3em"})
        below = ipywidgets.HTML(f"<em>{html.escape(caption)}</em>{folded_words(alt)}", layout=layout)
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
        self._text = as_sentence(self._describe(**self.values))
        self._said.value = f'<div role="status" style="line-height: 1.45">{html.escape(self._text)}</div>'

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = still_twin(self._still_png, "\n".join([self.caption, *self._sentences]), self.alt)
        return data | widget_view(self), metadata
