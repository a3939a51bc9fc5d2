"""What the environment says: what would change the result is refused or set aside, what changes the speed is respected."""

import ctypes
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import huggingface_hub
import pytest

from full import train
from full.errors import UserError
from full.models import loading
from full.trainer import launch
from tests.helpers import save_small_model, small_run

ROOT = Path(__file__).parents[1]


def test_gradient_accumulation_from_outside_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UserError, match="ACCELERATE_GRADIENT_ACCUMULATION_STEPS is 4; expected 1 or none. Unset it"):
        launch.start_accelerator(1)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    assert launch.start_accelerator(1).gradient_accumulation_steps == 1


@pytest.mark.parametrize(
    ("module", "given", "then"),
    [
        ("full.train", {}, "expandable_segments:True"),
        ("full.eval", {}, "expandable_segments:True"),
        ("full.train", {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ("full.train", {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, None),  # its newer name: the user's choice
    ],
)
def test_a_gpus_memory_grows_in_segments_unless_the_user_says_otherwise(module, given, then):
    # Without torch the import ends where torch would be loaded: the setting must be there by then.
    script = (
        f"import os, sys; sys.modules['torch'] = None\ntry: import {module}\nexcept ImportError as e: print(e.name)\n"
    )
    script += "print(os.environ.get('PYTORCH_CUDA_ALLOC_CONF'))"
    environment = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name} | given
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert out.stdout.splitlines() == ["torch", str(then)], out.stderr[-2000:]


@pytest.mark.parametrize("name", ["train.py", "eval.py"])
def test_modules_of_ones_own_are_found_where_one_works_behind_all_others(name, tmp_path):
    script = "import runpy, sys; sys.modules['torch'] = None\n"  # the import ends where torch would be loaded
    script += f"try: runpy.run_path({str(ROOT / 'full' / name)!r}, run_name='__main__')\n"
    script += "except ImportError: print(*sys.path, sep='\\n')"
    out = subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    path = out.stdout.splitlines()
    assert path[-1] == str(tmp_path) and path.count(str(tmp_path)) == 1, out.stderr[-2000:]


def test_on_a_cpu_freed_memory_is_kept_for_the_next_tensor(monkeypatch):
    # In a process of its own a hundred tensors of a megabyte take 25,700 page faults by default, and under 1,000 like this.
    # Here that depends on what earlier tests have freed, so what malloc is told is looked at.
    told, loads = {}, ctypes.CDLL
    c_library = SimpleNamespace(mallopt=lambda name, value: told.update({name: value}))
    monkeypatch.setattr(launch.ctypes, "CDLL", lambda name, *more: c_library if name is None else loads(name, *more))
    launch.start_accelerator(1)
    # From glibc's malloc.h: M_MMAP_THRESHOLD is -3, and 32 MiB the most it takes on 64 bits; M_TRIM_THRESHOLD is -1.
    assert told == {-3: 4 * 1024 * 1024 * 8, -1: 2**30}


class Launcher:
    """Stands for accelerate: what it was started with, and where."""

    pid = 1

    def __init__(self, words: list[str], **environment: str) -> None:
        self.cmdline, self.environ = lambda: ["accelerate", "launch", *words], lambda: environment


def test_threads_are_those_that_the_user_allows(monkeypatch):
    monkeypatch.setattr(launch.psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(launch, "find_launcher", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [launch.threads_here(processes) for processes in (1, 2, 16)] == [6, 3, 1]
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda pid: {3})  # taskset -c 3
    assert launch.threads_here(1) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert launch.threads_here(2) == 4
    # A launcher sets the variable for its processes; what counts is what it was started with.
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(launch, "find_launcher", lambda: Launcher([]))
    assert launch.threads_here(2) == 3
    monkeypatch.setattr(launch, "find_launcher", lambda: Launcher([], OMP_NUM_THREADS="5"))
    assert launch.threads_here(2) == 5
    for words in (["--num_cpu_threads_per_process", "2"], ["--num-cpu-threads-per-process=2"]):
        monkeypatch.setattr(launch, "find_launcher", lambda words=words: Launcher(words, OMP_NUM_THREADS="5"))
        assert launch.threads_here(1) == 2


class Proxy(http.server.BaseHTTPRequestHandler):
    """Answers for http://hub.invalid; to https it refuses a tunnel, since it is no hub."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def do_CONNECT(self):
        self.asked.append(self.path)
        self.send_error(502)

    def log_message(self, *words):
        pass


@pytest.fixture
def proxy(monkeypatch):
    """The address of a proxy, in a process that knows none and takes the hub for reachable."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading.datasets.config, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    huggingface_hub.utils.close_session()
    Proxy.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    huggingface_hub.utils.close_session()


@pytest.mark.parametrize("through", [True, False])
def test_the_hub_is_looked_for_through_the_proxy(monkeypatch, proxy, through):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://hub.invalid")
    if through:
        monkeypatch.setenv("HTTP_PROXY", proxy)
    loading.go_offline_if_unreachable()
    assert huggingface_hub.constants.HF_HUB_OFFLINE is not through
    assert [path.rstrip("/") for path in Proxy.asked] == ["http://hub.invalid"] * through


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        (["HTTPS_PROXY"], True),
        (["https_proxy"], True),
        (["HTTP_PROXY"], False),  # is not for https
        (["HTTPS_PROXY", "NO_PROXY"], False),
    ],
)
def test_a_hub_with_https_is_looked_for_through_the_proxy_for_it(monkeypatch, proxy, variables, asked):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.invalid")
    for name in variables:
        monkeypatch.setenv(name, "hub.invalid" if name == "NO_PROXY" else proxy)
    loading.go_offline_if_unreachable()
    assert Proxy.asked == ["hub.invalid:443"] * asked  # a tunnel, so that the proxy reads nothing
    assert huggingface_hub.constants.HF_HUB_OFFLINE and loading.datasets.config.HF_HUB_OFFLINE  # it gave none


def test_a_notebooks_backend_is_no_hindrance_and_the_models_generation_is_kept(tmp_path):
    model = save_small_model(tmp_path / "model")
    own = json.loads((model / "generation_config.json").read_text()) | {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
    }
    (model / "generation_config.json").write_text(json.dumps(own))
    train.main(small_run(model, tmp_path / "run", steps=1))
    written = json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())
    assert written == own
    environment = os.environ | {"MPLBACKEND": "widget"}  # of ipympl, which is not here
    command = [sys.executable, "full/page.py", str(tmp_path / "run")]
    out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
