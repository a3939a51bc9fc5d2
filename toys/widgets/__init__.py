"""What a lesson shows and asks: film strips, live canvases, questions to commit to, self-tests and figures.

Two kinds of explorer. A `FilmStrip` draws every picture beforehand and sends them once; its slider then works in the
browser alone, with or without a kernel. A `LiveCanvas` redraws in the kernel; it is for more knobs than can be drawn
beforehand. Each also has a still picture and a sentence for places without widgets.
"""

from .density_explorer import DensityExplorer
from .film_strip import FilmStrip, Knob
from .live_canvas import LiveCanvas
from .pictures import figure
from .questions import Predict, SelfTest

__all__ = ["DensityExplorer", "FilmStrip", "Knob", "LiveCanvas", "Predict", "SelfTest", "figure"]
