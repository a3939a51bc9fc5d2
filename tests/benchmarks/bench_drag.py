"""How well the density explorer follows a drag: `python tests/benchmarks/bench_drag.py [--rounds 3] [--server lab|voila]`.

In a real JupyterLab (or Voila) in headless Chromium a mode is dragged in 60 moves, 16 ms apart, by mouse. Each answer of the
kernel that was painted is compared with the moves it answers: milliseconds from the oldest of them to the painted picture,
and from the newest. The load is printed too, since the kernel shares the processors with whatever else runs.
Goal on a quiet machine: a median of at most 50 ms from the oldest.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests import browser

CELL = "from toys.widgets import DensityExplorer\nDensityExplorer(means=(-2.5, 2.5), follow=True)"
WATCH = """
() => {
  const box = document.querySelector(".apo-explorer");
  let seen = box.dataset.answered, moves = [];
  window.waits = [];
  document.addEventListener("pointermove", () => moves.push(performance.now()), true);
  new MutationObserver(() => {
    if (box.dataset.answered === seen) return;
    seen = box.dataset.answered;
    const answered = moves;
    moves = [];
    requestAnimationFrame(() => {
      const painted = new MessageChannel(); // its message comes when this frame has been painted
      painted.port1.onmessage = () => {
        if (answered.length) window.waits.push([performance.now() - answered[0], performance.now() - answered.at(-1)]);
      };
      painted.port2.postMessage(0);
    });
  }).observe(box, { attributes: true, attributeFilter: ["data-answered"] });
}
"""


def measure(page) -> list[list[float]]:
    """[[ms from the oldest move answered, ms from the newest], ...] of one drag to the left and back."""
    handle = page.get_by_role("slider", name="Place of the right mode")
    x, y = browser.centre(handle)
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(WATCH)
    for step in range(60):
        page.mouse.move(x - 4 * min(step, 60 - step), y)
        page.wait_for_timeout(16)
    page.mouse.up()
    page.wait_for_timeout(500)
    return page.evaluate("window.waits")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often, each in a fresh page")
    parser.add_argument("--server", choices=("lab", "voila"), default="lab")
    args = parser.parse_args()
    if browser.missing():
        print(f"cannot measure: {browser.missing()}")
        return 2
    medians = []
    with tempfile.TemporaryDirectory() as folder:
        browser.write_notebook(Path(folder) / "drag.ipynb", CELL)
        with browser.serve(args.server, Path(folder), "drag.ipynb") as (base, token):
            for turn in range(args.rounds):
                with browser.browser() as page:
                    if args.server == "lab":
                        browser.open_in_lab(page, base, token, "drag.ipynb")
                    else:
                        page.goto(base, timeout=60_000)
                    page.locator(".apo-explorer output").wait_for(timeout=60_000)
                    page.wait_for_timeout(1500)
                    oldest, newest = zip(*measure(page), strict=True)
                medians.append(statistics.median(oldest))
                print(
                    f"round {turn}: {len(oldest)} pictures, from the oldest move {medians[-1]:.0f} ms (largest "
                    f"{max(oldest):.0f}), from the newest {statistics.median(newest):.0f} ms, load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    return 0 if min(medians) <= 50 else 1


if __name__ == "__main__":
    sys.exit(main())
