"""The density explorer: drag the modes of a target and watch the optimiser fit one Gaussian to it.

The browser draws and listens; every number in it comes from `toys.mixtures`, asked for with each move.
"""

import html
import io
import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import anywidget
import contourpy
import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor

from apo_edu import palette

from .. import mixtures, plotting
from .pictures import contact_sheet, require_words, still_twin, widget_view

FOLDER = Path(__file__).parent
X = np.linspace(-6.0, 6.0, 161)
MEANS, SDS = (-4.5, 4.5), (0.3, 3.5)  # of the Gaussian, in its landscape
SURFACE = (37, 27)  # points of the landscape: means, log sds
# What can be moved, and how far. Distances of the modes are held to a hundredth, orders to a fortieth.
LIMITS = {"means": (-4.0, 4.0), "sds": (0.4, 1.2), "weight": (0.1, 0.9), "alpha": (0.0, 1.0)}
LIVE_STEP = 0.2  # of the smallest sd: the grid while the hand moves, exact to 1e-6; at rest it is the lessons' own
MOST_STEPS = 80  # of a path: a longer one is thinned
SETTLED = 1e-4  # how far a fit may differ between the two grids
COVERED = 1.959963984540054  # standard deviations to each side: the fit's central 95 %


class DensityExplorer(anywidget.AnyWidget):
    """Two modes that can be dragged, one Gaussian that is fitted to them by D_alpha, and the optimiser at work.

    On the left the target, every minimum that was found (the best one bold) and the optimiser's steps; on the right the
    landscape of D_alpha with the same steps as a path. Modes, their widths and the optimiser's start are handles: with the
    mouse, a finger, or the arrow keys. While a hand moves, the kernel answers with the minima near the last ones; when it
    rests, with the whole search of `stationary_fits`, the landscape and the descent, which then plays.

        explorer = DensityExplorer(means=(-2.5, 2.5), alpha=0.2)

    In Python: `move(means=(-1.5, 1.5))` does what a hand does; then `target`, `minima` (certified, best first), `path`
    ([steps + 1, 2], mean and log sd; thinned beyond 80 `steps`), `end` (the path's row of `minima`, or None) and `text` (the
    sentence) are of that setting. Where there are no widgets, the notebook shows small multiples, and their sentences.

    Args:
        means, sds: of the two modes, left first.
        weight: the left mode's share.
        alpha: the order of the divergence.
        start: mean and sd of the Gaussian that the optimiser begins with.
        follow: begin each descent where the last one ended, instead of at `start`.
        still: settings (such as {"means": (-1, 1)}; the rest as given) of the small multiples.
        caption, alt: as for a `FilmStrip`.

    Raises:
        ValueError: on a setting out of its range.
    """

    _esm = FOLDER / "density_explorer.js"
    _css = FOLDER / "density_explorer.css"
    # The browser's wish, and the kernel's answer to it. The browser knows what it asked for: no echo.
    setting = traitlets.Dict().tag(sync=True, echo_update=False)
    answer = traitlets.Dict().tag(sync=True)
    data = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        *,
        means: tuple[float, float] = (-2.0, 2.0),
        sds: tuple[float, float] = (0.6, 0.6),
        weight: float = 0.5,
        alpha: float = 0.2,
        start: tuple[float, float] = (-0.6, 3.0),
        follow: bool = False,
        still: Sequence[Mapping[str, Any]] = ({},),
        caption: str = "Bold: the best fit. Dashed: other minima. Blue: the optimiser's steps, from the ring to where it "
        "ends.",
        alt: str = "Left: a target with two modes, the Gaussians at the minima of D_alpha, and the optimiser's steps. Right: "
        "the landscape of D_alpha over mean and standard deviation with the path of those steps.",
    ):
        require_words(caption=caption, alt=alt)
        first: dict[str, Any] = {
            "means": list(means), "sds": list(sds), "weight": weight, "alpha": alpha, "start": list(start),
            "follow": follow, "rest": True, "placed": False, "id": 0,
        }  # fmt: skip
        self.caption, self.alt = caption, alt
        self._trail: list[Tensor] = []  # what the optimiser went through since the last rest
        self._known = torch.empty(0, 2, dtype=torch.float64)  # the last minima
        pictures, titles, self._sentences = [], [], []
        for changes in still:
            one = first | {name: _plain(value) for name, value in changes.items()}
            self._solve(one)
            pictures.append(self._draw())
            titles.append(f"alpha = {one['alpha']:g}, modes {one['means'][1] - one['means'][0]:.1f} apart")
            self._sentences.append(self.text)
        self._still_png = contact_sheet(pictures, titles)
        self._trail = []
        data = {
            "x": X.astype(np.float32).tobytes(),
            "limits": {name: list(ends) for name, ends in LIMITS.items()},
            "landscape": {"means": list(MEANS), "sds": list(SDS)},
            "colors": [palette.alpha_color(i / 40) for i in range(41)],
            "policy": palette.POLICY,
            "caption": caption,
            "alt": alt,
        }
        super().__init__(data=data, setting=first, answer=self._answer(first))

    def move(self, **changes: Any) -> None:
        """Change the setting as a hand does: means, sds, weight, alpha, start (mean, sd) or follow.

        Raises:
            ValueError: on another name, and on a value out of its range; nothing is changed then.
        """
        unknown = changes.keys() - {"means", "sds", "weight", "alpha", "start", "follow"}
        if unknown:
            raise ValueError(
                f"{sorted(unknown)} cannot be moved; expected means, sds, weight, alpha, start or follow. Check the spelling."
            )
        given = {name: _plain(value) for name, value in changes.items()}
        self.setting = self.setting | given | {"rest": True, "placed": "start" in given, "id": self.setting["id"] + 1}

    @traitlets.validate("setting")
    def _check(self, proposal):
        _require(proposal["value"])
        return proposal["value"]

    @traitlets.observe("setting")
    def _moved(self, change):
        if change["old"]:
            self.answer = self._answer(change["new"])

    def _solve(self, setting: Mapping[str, Any]) -> None:
        _require(setting)
        rest, alpha = setting["rest"], setting["alpha"]
        self.target = mixtures.mixture(setting["means"], setting["sds"], [setting["weight"], 1.0 - setting["weight"]])
        mean, sd = setting["start"]
        follows = setting["follow"] and not setting["placed"] and len(self._trail) > 0
        begin = self._trail[-1] if follows else torch.tensor([mean, math.log(sd)], dtype=torch.float64)
        narrow = float(self.target.sds.min())
        on = mixtures.grid_around(self.target, begin[None], step=None if rest else LIVE_STEP * narrow)
        others = None if rest else torch.cat([self._known, _corners(self.target)])
        found = mixtures.descend(self.target, alpha, begin, others=others, on=on)
        if not follows:
            self._trail = list(found.path)
        elif len(self._trail) > 1 and float((found.path[-1] - begin).abs().max()) < SETTLED:
            self._trail[-1] = found.path[-1]  # the same fit on the finer grid is no step
        else:
            self._trail = [*self._trail, *found.path[1:]]
        self.steps = len(self._trail) - 1
        thin = max(1, math.ceil(self.steps / MOST_STEPS))
        self.path = torch.stack([*self._trail[:-1][::thin], self._trail[-1]])
        self.minima, self.end, self._known = found.minima, found.end, found.minima.theta
        self._setting = dict(setting)
        if rest:
            self._trail = [self._trail[-1]]  # the next move begins a new path

    def _answer(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        self._solve(setting)
        x = torch.from_numpy(X)[:, None]
        density = mixtures.gaussian_log_density(torch.cat([self.minima.theta, self.path]), x).exp()
        told = {
            "id": setting["id"],
            "rest": setting["rest"],
            "target": _floats(self.target.log_density(x).exp()),
            "densities": _floats(density),
            "minima": [
                {"mean": float(mean), "sd": float(sd), "best": bool(best)}
                for mean, sd, best in zip(self.minima.mean, self.minima.sd, self.minima.best, strict=True)
            ],
            "path": _floats(self.path),
            "text": self.text,
            "color": palette.alpha_color(setting["alpha"]),
        }
        if setting["rest"]:
            told["bands"] = self._bands()
        return told

    def landscape(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means, log sds and D_alpha over them [log sds, means], in nats, for the present setting."""
        means = torch.linspace(*MEANS, SURFACE[0], dtype=torch.float64)
        log_sds = torch.linspace(math.log(SDS[0]), math.log(SDS[1]), SURFACE[1], dtype=torch.float64)
        widest = torch.tensor([[end, math.log(SDS[1])] for end in MEANS], dtype=torch.float64)
        on = mixtures.grid_around(self.target, widest, step=0.25 * float(self.target.sds.min()), room=1.01)
        return means, log_sds, mixtures.landscape(self.target, self._setting["alpha"], means, log_sds, on=on)

    def _bands(self) -> list[str]:
        """The landscape between levels, from low to high, as paths of SVG in (mean, log sd)."""
        means, log_sds, loss = (part.numpy() for part in self.landscape())
        made = contourpy.contour_generator(means, log_sds, loss, fill_type=contourpy.FillType.OuterOffset)
        levels = plotting.landscape_levels(loss)
        bands = []
        for low, high in zip(levels, [*levels[1:], np.inf], strict=True):
            parts = []
            for points, offsets in zip(*made.filled(low, high), strict=True):
                for a, b in pairwise(offsets):
                    parts.append("M" + "L".join(f"{u:.3f} {v:.3f}" for u, v in points[a:b]) + "Z")
            bands.append("".join(parts))
        return bands

    @property
    def text(self) -> str:
        """What is to be seen, in one or two sentences."""
        apart = self._setting["means"][1] - self._setting["means"][0]
        best, count = self.minima.where(self.minima.best), len(self.minima)
        others = "it is the only minimum" if count == 1 else f"there are {count} minima"
        does = "sits on one mode, either of them" if len(best) > 1 else self._does(best.theta[0])
        said = (
            f"Modes {apart:.2f} apart, alpha = {self._setting['alpha']:.3g}: the best fit {does} "
            f"(sd {float(best.sd[0, 0]):.2f}), misses {float(best.mass_missed[0]):.0%} of the target and keeps "
            f"{float(best.mass_in_valley[0]):.0%} of its own mass in the valley; {others}."
        )
        if self.end is None:
            return f"{said} The optimiser has not come to rest."
        last = self.path[-1]
        rank = "that is the best fit" if bool(self.minima.best[self.end]) else "that is not the best fit"
        way = f"{self.steps} step{'s' if self.steps != 1 else ''}"
        return f"{said} After {way} the optimiser {self._does(last)} (sd {float(last[1].exp()):.2f}): {rank}."

    def _does(self, theta: Tensor) -> str:
        mean, sd = float(theta[0]), float(theta[1].exp())
        left, right = (abs(place - mean) <= COVERED * sd for place in self._setting["means"])
        return {
            (True, True): "covers both modes",
            (True, False): "sits on the left mode",
            (False, True): "sits on the right mode",
            (False, False): "sits between the modes",
        }[left, right]

    @property
    def still(self) -> bytes:
        """The small multiples shown where there are no widgets, as PNG."""
        return self._still_png

    def _draw(self) -> Image.Image:
        picture, (left, right) = plotting.figure(1, 2, size=(8.6, 2.9), width_ratios=(4, 3))
        x, alpha, minima = torch.from_numpy(X)[:, None], self._setting["alpha"], self.minima
        fits, steps = (mixtures.gaussian_log_density(theta, x).exp() for theta in (minima.theta, self.path))
        target, best = self.target.log_density(x).exp(), minima.best.tolist()
        plotting.minima_and_steps(left, X, target, list(zip(fits, best, strict=True)), steps, alpha)
        plotting.landscape(right, *self.landscape())
        marks = [(mean, log_sd, found) for (mean, log_sd), found in zip(minima.theta.tolist(), best, strict=True)]
        plotting.descent(right, self.path, marks, alpha)
        file = io.BytesIO()
        with plotting.style():
            picture.savefig(file, format="png", dpi=130)
        return Image.open(file).convert("RGB")

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = still_twin(self._still_png, "\n".join([self.caption, *self._sentences]), self.alt)
        if (
            os.environ.get("APO_EDU_STRIPS") == "page"
        ):  # the site: it has no kernel, so the stills come with their words
            said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self._sentences)
            data["text/html"] = (
                f'<figure><img src="data:image/png;base64,{data["image/png"]}" alt="{html.escape(self.alt)}">'
                f"<figcaption>{html.escape(self.caption)}</figcaption></figure><ul>{said}</ul>"
            )
        return data | widget_view(self), metadata


def _corners(target: mixtures.Mixture) -> Tensor:
    """Starts on each mode and over both, [3, 2]."""
    rows = [[float(mean), math.log(float(sd))] for mean, sd in zip(target.means[:, 0], target.sds, strict=True)]
    rows.append([float(target.mean), 0.5 * math.log(float(target.covariance))])
    return torch.tensor(rows, dtype=torch.float64)


def _plain(value: Any) -> Any:
    return [float(part) for part in value] if isinstance(value, (tuple, list)) else value


def _floats(values: Tensor) -> bytes:
    return values.detach().numpy().astype(np.float32).tobytes()


def _require(setting: Mapping[str, Any]) -> None:
    for name, (low, high) in LIMITS.items():
        value = setting[name]
        values = value if isinstance(value, list) else [value]
        if len(values) != (2 if name in ("means", "sds") else 1) or not all(low <= part <= high for part in values):
            raise ValueError(
                f"{name} is {value}; expected {low} to {high}{' for each of the two modes' * (len(values) > 1)}."
            )
    if setting["means"][0] > setting["means"][1]:
        raise ValueError(f"means are {setting['means']}; expected the left mode first. Swap them, and the sds.")
    mean, sd = setting["start"]
    if not (MEANS[0] <= mean <= MEANS[1] and SDS[0] <= sd <= SDS[1]):
        raise ValueError(
            f"start is {setting['start']}; expected a mean of {MEANS} and an sd of {SDS}, as the landscape shows."
        )
