"""How well the sliders follow the hand: `python tests/benchmarks/bench_sliders.py [--rounds 3] [--json FILE]`.

In a real JupyterLab in headless Chromium, the right arrow is pressed 40 times, 30 ms apart, on a film strip and on a
live canvas. Printed for each: pictures painted of 40, milliseconds from a key to its picture (in the document, and
painted: up to a frame of 17 ms later), milliseconds from the last key to the last picture, heights that the output had
(more than one is a layout jump), and frames painted blank.
Goals: a strip shows 40 of 40 in under 20 ms each; a live canvas shows at least 15, the last under 200 ms after the
last key.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests import browser

KEYS, PAUSE = 40, 0.030

STRIP = """
from toys.strips import weight_strip
strip = weight_strip()
strip.value = 0.0
strip
"""

LIVE = """
import numpy as np, torch
from apo_edu import box_cox, palette
from toys.widgets import LiveCanvas
x = np.linspace(-3, 2, 400)

def setup(figure):
    left, right = figure.subplots(1, 2)
    left.set(xlim=(-3, 2), ylim=(-3.2, 6.6), xlabel="log w (nats)", ylabel="weight")
    right.set(xlim=(-0.5, 5.5), ylim=(-3, 6), xlabel="sample", ylabel="weight")
    left.plot(x, x, ":", color="0.5")
    return {"line": left.plot([], [])[0], "bars": list(right.bar(range(6), [0] * 6))}

def update(artists, alpha, shift):
    weights = box_cox(torch.from_numpy(x - shift), alpha).numpy()
    artists["line"].set_data(x, weights)
    for i, bar in enumerate(artists["bars"]):
        bar.set_height(weights[i * 60])
        bar.set_color(palette.alpha_color(alpha))

LiveCanvas(setup, update, {"alpha": ("alpha", 0.0, 1.0, 0.02, 0.0), "shift": ("shift", -1.0, 1.0, 0.1, 0.0)},
           describe=lambda alpha, shift: f"At alpha = {alpha:.2f} and shift {shift:.1f} the weight moves.",
           caption="The weight curve, shifted.", alt="A curve and six bars.")
"""

# name: (cell, what takes the keys, the picture, the box whose height must not change, pictures wanted, ms wanted)
CASES = {
    "film strip": (STRIP, ".apo-strip input", "img", ".apo-strip", 40, 20),
    "live canvas": (LIVE, ".noUi-handle", "img.widget-image", ".widget-vbox", 15, 200),
}


def measure(page, handle: str, picture: str, box: str) -> dict:
    """Press the keys and compare what was pressed with what was seen."""
    page.locator(handle).first.focus()
    for key in ("ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        page.wait_for_timeout(600)
    # Blank frames are looked for in what the screen showed, in a pass of its own, since recording slows the browser.
    film = browser.Screencast(page, f"{box} {picture}")
    _press(page)
    page.wait_for_timeout(1000)
    frames, blank = film.stop()
    page.keyboard.press("Home")
    page.wait_for_timeout(1000)
    page.evaluate(browser.WATCH)
    page.evaluate(f"window.stopWatch = window.watch({picture!r}, {box!r}); 0")
    _press(page)
    page.wait_for_timeout(2500)
    log = page.evaluate("window.stopWatch()")
    keys = log["keys"]
    to_change, to_paint = sorted(_waits(keys, log["changed"])), sorted(_waits(keys, log["painted"]))
    return {
        "keys": len(keys),
        "pictures": len(log["painted"]),
        "pause_ms": round((keys[-1] - keys[0]) / (len(keys) - 1), 1),
        "median_ms": round(statistics.median(to_change), 1),
        "p95_ms": round(to_change[math.ceil(0.95 * len(to_change)) - 1], 1),
        "painted_median_ms": round(statistics.median(to_paint), 1),
        "painted_p95_ms": round(to_paint[math.ceil(0.95 * len(to_paint)) - 1], 1),
        "last_ms": round(log["painted"][-1] - keys[-1], 1),
        "heights": log["heights"],
        "frames": frames,
        "blank": blank,
    }


def _press(page) -> None:
    for _ in range(KEYS):
        begun = time.monotonic()
        page.keyboard.press("ArrowRight")
        time.sleep(max(0.0, PAUSE - (time.monotonic() - begun)))


def _waits(keys: list[float], pictures: list[float]) -> list[float]:
    """From each key to the first new picture after it, in ms. Where pictures lag or are skipped, this is too kind: the
    count of pictures and the wait after the last key tell."""
    firsts = ((key, next((at for at in pictures if at >= key), None)) for key in keys)
    return [at - key for key, at in firsts if at is not None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured in a fresh page")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    args = parser.parse_args()
    if browser.missing():
        print(f"cannot measure: {browser.missing()}")
        return 2
    rows, good = [], True
    with tempfile.TemporaryDirectory() as folder, browser.serve("lab", Path(folder)) as (base, token):
        for name, (cell, handle, picture, box, wanted, limit) in CASES.items():
            notebook = name.replace(" ", "_") + ".ipynb"
            browser.write_notebook(Path(folder) / notebook, cell)
            for turn in range(args.rounds):
                with browser.browser() as page:
                    browser.open_in_lab(page, base, token, notebook)
                    page.locator(f"{box} {picture}").first.wait_for()
                    page.wait_for_timeout(1500)
                    row = {"case": name, "round": turn, **measure(page, handle, picture, box)}
                    if args.shots:
                        args.shots.mkdir(parents=True, exist_ok=True)
                        page.screenshot(path=args.shots / f"{name.replace(' ', '_')}_{turn}.png")
                reached = row["pictures"] >= wanted and row["last_ms"] < limit
                if name == "film strip":
                    reached = reached and row["p95_ms"] < limit
                row["ok"] = reached and len(row["heights"]) == 1 and row["blank"] == 0
                good = good and row["ok"]
                rows.append(row)
                print(
                    f"{name:11s} {row['pictures']:2d} of {row['keys']} painted, a key every {row['pause_ms']} ms; "
                    f"key to picture: median {row['median_ms']}, p95 {row['p95_ms']} ms (painted: "
                    f"{row['painted_median_ms']}, {row['painted_p95_ms']} ms); last painted {row['last_ms']} ms "
                    f"after the last key; heights {row['heights']}; blank {row['blank']} of {row['frames']} frames: "
                    f"{'ok' if row['ok'] else 'MISSED'}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
