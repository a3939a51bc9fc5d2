"""Helpers that put the lessons in front of a real browser: JupyterLab, Voila or a file in headless Chromium.

Nothing is downloaded: the browser is the system's Chromium, driven by Playwright for Python. Every request that leaves
the loopback interface is refused and remembered in `page.outside`.
"""

import base64
import contextlib
import importlib.util
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
_FLAGS += ("--disable-quic", "--disable-component-update")
_NEAR = ("http://127.0.0.1", "http://localhost", "file:", "data:", "blob:")


def chromium() -> str | None:
    """Where the system's Chromium is, or None."""
    names = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def missing() -> str | None:
    """What the browser tests lack here, in words; None if they can run."""
    lacking = [name for name in ("playwright", "jupyterlab", "voila") if importlib.util.find_spec(name) is None]
    lacking += [] if chromium() else ["chromium"]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook of code cells, with fixed cell ids."""
    made = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel}), path)


def centre(handle) -> tuple[float, float]:
    """The middle of what a finger or the mouse takes hold of at one of the explorer's handles, CSS pixels."""
    handle.scroll_into_view_if_needed()
    box = handle.locator(".apo-explorer-reach").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@contextlib.contextmanager
def serve(kind: str, folder: Path, notebook: str = "") -> Iterator[tuple[str, str]]:
    """Run JupyterLab (`kind` "lab") on a folder, or Voila ("voila") on one notebook of it; yields (address, token)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, private = secrets.token_hex(16), Path(tempfile.mkdtemp(prefix="apo-edu-jupyter-"))
    base = f"http://127.0.0.1:{port}"
    if kind == "lab":
        _write_settings(private / "settings")
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": port,
            "ServerApp.port_retries": 0,
            "ServerApp.root_dir": folder,
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
            "IdentityProvider.token": token,
            "LabApp.user_settings_dir": private / "settings",
            "LabApp.workspaces_dir": private / "workspaces",
            "LabApp.expose_app_in_browser": True,
            # Neither updates nor news nor the list of extensions are looked up.
            "LabApp.check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
            "LabApp.extension_manager": "readonly",
        }
        command, alive = ["jupyterlab"], f"{base}/api/status?token={token}"
    else:
        options = {"Voila.ip": "127.0.0.1", "Voila.port": port, "Voila.open_browser": False, "Voila.root_dir": folder}
        command, alive = ["voila", str(folder / notebook)], f"{base}/voila/static/voila.js"
    command = [sys.executable, "-m", *command, *(f"--{name}={value}" for name, value in options.items())]
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": python_path, "JUPYTER_PREFER_ENV_PATH": "1"}
    log = private / "server.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(command, cwd=folder, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_until_alive(server, alive, log)
            yield base, token
        finally:
            server.terminate()  # the server then ends its kernels itself
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            shutil.rmtree(private, ignore_errors=True)


def _write_settings(settings: Path) -> None:
    # Without this a question about news covers the corner of the page.
    notification = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notification.parent.mkdir(parents=True)
    notification.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))


def _wait_until_alive(server: subprocess.Popen, address: str, log: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}:\n{log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # an answer, if not a friendly one
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the server did not answer within {seconds:.0f} s:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def browser(width: int = 1200, height: int = 860, scripts: bool = True) -> Iterator:
    """A page in headless Chromium; `page.outside` lists refused requests, `page.errors` the console's errors."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium(), headless=True, args=list(_FLAGS))
        try:
            page = chrome.new_page(viewport={"width": width, "height": height}, java_script_enabled=scripts)
            page.outside, page.errors = [], []
            page.on("console", lambda said: said.type == "error" and page.errors.append(said.text[:300]))
            page.on("pageerror", lambda error: page.errors.append(str(error)[:300]))

            def gate(route):
                if route.request.url.startswith(_NEAR):
                    route.continue_()
                else:
                    page.outside.append(route.request.url)
                    route.abort()

            page.route("**/*", gate)
            yield page
        finally:
            chrome.close()


def open_in_lab(page, base: str, token: str, notebook: str, timeout: float = 60_000) -> None:
    """Open a notebook of the served folder without side bars, and run all its cells."""
    page.goto(f"{base}/doc/tree/{notebook}?token={token}&reset", timeout=timeout)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=timeout)
    # JupyterLab 4.6 drops "run all cells" without a word until the kernel's session is there.
    page.wait_for_function(
        """async () => {
          const panel = window.jupyterapp.shell.currentWidget;
          await panel.context.ready; await panel.sessionContext.ready;
          return panel.sessionContext.session?.kernel?.status === "idle"; }""",
        timeout=timeout,
    )
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(
        """() => { const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputArea-prompt")];
          return prompts.length && prompts.every((prompt) => /\\[\\d+\\]/.test(prompt.textContent)); }""",
        timeout=timeout,
    )


# From start to stop, notes each key, each change of the picture (`changed`: it is in the document and loaded) and each
# frame that was painted with a new picture (`painted`), and all heights that the box had.
WATCH = r"""
window.watch = (pictureSelector, boxSelector) => {
  const log = { keys: [], changed: [], painted: [], heights: new Set() };
  const box = document.querySelector(boxSelector);
  let inDocument = null, onScreen = null, on = true;
  const ready = () => {
    const picture = box.querySelector(pictureSelector);
    return picture && picture.complete && picture.naturalWidth ? picture.src : null;
  };
  const look = () => {
    const source = ready();
    if (source && source !== inDocument) { inDocument = source; log.changed.push(performance.now()); }
  };
  const frame = () => {
    if (!on) return;
    const source = ready();
    log.heights.add(Math.round(box.getBoundingClientRect().height));
    if (source && source !== onScreen) {
      onScreen = source;
      const after = new MessageChannel(); // its message comes when this frame has been painted
      after.port1.onmessage = () => log.painted.push(performance.now());
      after.port2.postMessage(0);
    }
    requestAnimationFrame(frame);
  };
  const key = (event) => { if (event.key.startsWith("Arrow")) log.keys.push(performance.now()); };
  document.addEventListener("keydown", key, true);
  const changes = new MutationObserver(look);
  changes.observe(box, { subtree: true, childList: true, attributes: true, attributeFilter: ["src"] });
  box.addEventListener("load", look, true);
  inDocument = onScreen = ready();
  requestAnimationFrame(frame);
  return () => {
    on = false;
    changes.disconnect();
    document.removeEventListener("keydown", key, true);
    return { ...log, heights: [...log.heights] };
  };
};
0;
"""


class Screencast:
    """The frames that the browser really showed between start and stop, each with its picture cut out."""

    def __init__(self, page, selector: str):
        self.box = page.locator(selector).first.bounding_box()
        self.client, self.frames = page.context.new_cdp_session(page), []
        self.client.on("Page.screencastFrame", self._keep)
        self.client.send("Page.startScreencast", {"format": "jpeg", "quality": 60})

    def _keep(self, event):
        self.frames.append(event["data"])
        self.client.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    def stop(self) -> tuple[int, int]:
        """(frames, blank frames): blank is where the picture's place is all of one colour."""
        self.client.send("Page.stopScreencast")
        edges = [self.box["x"], self.box["y"]]
        edges += [edges[0] + self.box["width"], edges[1] + self.box["height"]]
        cuts = [Image.open(io.BytesIO(base64.b64decode(frame))).convert("L").crop(edges) for frame in self.frames]
        return len(cuts), sum(low > high - 40 for low, high in (cut.getextrema() for cut in cuts))
