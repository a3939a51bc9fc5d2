"""Pictures and the words beside them: drawing by blitting, palette PNGs, contact sheets, alt texts, still twins."""

import base64
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.font_manager
import numpy as np
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ..plotting import style

CSS_DPI = 96  # a figure of 8 inches is shown 768 CSS pixels wide, whatever its resolution
MAX_PIXELS = 1600  # across: a page is rarely 1000 CSS pixels wide, and a wider picture is scaled down to it


class Stage:
    """A figure whose axes stay and whose returned artists move, drawn by blitting onto a kept background."""

    def __init__(self, setup: Callable[[Figure], Any], figsize: tuple[float, float], dpi: int):
        with style():
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
        with style():
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


def palette_png(picture: Image.Image, *, optimize: bool = False) -> bytes:
    """A PNG of 256 colours, a third of the size: the 64 commonest colours are exact, the others are off by a few levels.

    Pillow's quantisers moved the fills of our figures (#dddddd by up to 15 levels, to a violet grey). A line drawing has about
    a thousand colours, nearly all of them on the soft edges of lines: the palette takes the common ones as they are and
    spreads the rest, each next one the farthest from those already taken. `optimize` saves 8 % more in 30 ms a picture: for
    those that are kept in a notebook, not for the frames of a strip.
    """
    rgb = np.asarray(picture.convert("RGB")).astype(np.uint32)
    codes, where, counts = np.unique(
        rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], return_inverse=True, return_counts=True
    )
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1).astype(np.int64)
    kept = list(np.argsort(-counts, kind="stable")[:64])
    away = ((colors[:, None] - colors[kept]) ** 2).sum(-1)
    nearest, least = away.argmin(-1), away.min(-1)
    while len(kept) < 256 and least.max() > 0:
        kept.append(int(least.argmax()))
        away = ((colors - colors[kept[-1]]) ** 2).sum(-1)
        nearest, least = np.where(away < least, len(kept) - 1, nearest), np.minimum(away, least)
    drawn = Image.fromarray(nearest.astype(np.uint8)[where.reshape(rgb.shape[:2])])
    drawn.putpalette(colors[kept].astype(np.uint8).tobytes())
    file = io.BytesIO()
    drawn.save(file, format="PNG", optimize=optimize)
    return file.getvalue()


def contact_sheet(pictures: Sequence[Image.Image], titles: Sequence[str], columns: int = 2) -> bytes:
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
    return palette_png(sheet, optimize=True)


def still_twin(png: bytes, text: str, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of an output that need no widgets: a PNG that knows its alt text, and words."""
    data = {"image/png": base64.b64encode(png).decode(), "text/plain": text}
    return data, {"image/png": {"alt": alt}}


def widget_view(widget: ipywidgets.Widget) -> dict[str, Any]:
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return {"application/vnd.jupyter.widget-view+json": view}


def as_png(picture: Figure | bytes, dpi: int = 144) -> tuple[bytes, int]:
    """A palette PNG and the width it is to be shown at, in CSS pixels."""
    if isinstance(picture, bytes):
        return picture, Image.open(io.BytesIO(picture)).width
    if not isinstance(picture, Figure):
        raise ValueError(f"got a {type(picture).__name__}; expected a matplotlib Figure or PNG bytes. Return `figure`.")
    file, inches = io.BytesIO(), picture.get_size_inches()[0]
    with style():
        picture.savefig(file, format="png", dpi=min(dpi, MAX_PIXELS / inches))
    return palette_png(Image.open(file).convert("RGB"), optimize=True), round(inches * CSS_DPI)


def require_words(**texts: str) -> None:
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} is {text!r}; expected a sentence. Say in words what the picture shows.")


def as_sentence(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"describe returned {text!r}; expected a sentence. Return a str that says what to see.")
    return text.strip()


def folded_words(alt: str) -> str:
    return f"<details><summary>The picture in words</summary>{html.escape(alt)}</details>"


def fold_out(summary: str, body: str) -> str:
    """A fold-out; the empty lines let Markdown inside it work in JupyterLab, on GitHub and in nbconvert."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>\n"


def figure(picture: Figure | bytes, caption: str, alt: str, *, dpi: int = 144) -> None:
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
        dpi: of a Figure, pixels an inch; fewer where a page has many pictures.
    """
    require_words(caption=caption, alt=alt)
    png, width = as_png(picture, dpi)
    data, metadata = still_twin(png, alt, alt)
    metadata["image/png"]["width"] = width
    display(data, raw=True, metadata=metadata)
    words = f"*{caption}*\n\n{fold_out('The picture in words', alt)}"
    display({"text/markdown": words, "text/plain": caption}, raw=True)
