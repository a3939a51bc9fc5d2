"""Runs in processes of their own, to be killed."""

import itertools
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from safetensors.torch import load_file

from full import train
from full.trainer import state
from full.trainer.state import Trainer
from tests.helpers import metrics_without_times

# A server that has imported everything once and forks a fresh process for each run.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["full.train"])


def child(arguments: list[str], log: str, prepare: Callable[[], None] | None) -> None:
    """One run in a process of its own, its output in a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if prepare is not None:
        prepare()
    train.run_and_report(arguments)


def fill_the_disk(file_size: int, first: int = 4, room_again: int = 1000) -> None:
    """Make writes fail half way from a step on, as on a full disk: with its signal ignored, the limit is an error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    original = train.save_checkpoint

    def save(folder, accelerator, progress, **options):
        if progress.step in (first, room_again):
            limit = file_size if progress.step == first else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return original(folder, accelerator, progress, **options)

    train.save_checkpoint = save


def log_of(run: Path) -> Path:
    return run.with_suffix(".log")


def slow_evaluation(number: int, marker: Path) -> None:
    """Make one evaluation take a minute, the first being 1; the marker is there when it has begun."""
    original, count = Trainer.evaluate, itertools.count(1)

    def evaluate(self):
        if next(count) == number:
            marker.touch()
            time.sleep(60)
        return original(self)

    Trainer.evaluate = evaluate


def slow_loading(marker: Path) -> None:
    """Make the loading of the data take a minute, within a library's broad `except Exception`."""

    def load(*args, **options):
        marker.touch()
        try:
            time.sleep(60)
        except Exception as error:
            raise RuntimeError("swallowed") from error

    state.load_splits = load


def start(arguments: list[str], prepare: Callable[[], None] | None = None):
    """Start a run; `prepare` is called first, in its process."""
    folder = arguments[arguments.index("--resume" if "--resume" in arguments else "--output_dir") + 1]
    process = FORK.Process(target=child, args=(arguments, str(log_of(Path(folder))), prepare))
    process.start()
    return process


def finish(run: Path) -> str:
    """Resume until the run is complete; return what it printed."""
    process = start(["--resume", str(run)])
    process.join(120)
    assert process.exitcode == 0, log_of(run).read_text()
    return log_of(run).read_text()


def same(run: Path, reference: Path, *, apart_from: Collection[str] = ()) -> None:
    """Metrics apart from timings (and the names given), samples and final weights are bit-identical."""
    ours, theirs = (
        [
            {name: value for name, value in row.items() if name not in apart_from}
            for row in metrics_without_times(folder)
        ]
        for folder in (run, reference)
    )
    assert ours == theirs
    assert (run / "completions.jsonl").read_text() == (reference / "completions.jsonl").read_text()
    weights, others = (load_file(folder / "model" / "model.safetensors") for folder in (run, reference))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, reference)]
    assert summaries[0]["eval_before"] == summaries[1]["eval_before"]
    assert summaries[0]["eval_after"] == summaries[1]["eval_after"]


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0
