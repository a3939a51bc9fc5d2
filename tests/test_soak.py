"""Thirty-three disturbances at random moments, of five kinds: every run ends as the one that nobody touched."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from full.claims import HOLDER
from tests.helpers import metrics_without_times, save_small_model, small_run
from tests.processes import FORK, child, finish, lines, log_of, same, start, wait_for

ROOT = Path(__file__).parents[1]
STEPS = 16
# How often each befalls a run that is under way; one that comes too late, after the run's end, does not count.
DISTURBANCES = {"kill": 10, "stop": 7, "worker": 6, "second": 6, "launcher": 4}
# Counters of what befell the workers, the only figures that a disturbance may change.
COUNTERS = ("verify_deaths", "verify_timeouts")


def arguments(model: Path, run: Path) -> list[str]:
    # Saved every other step: half of the moments lie between a line of the log and its checkpoint.
    return small_run(model, run, steps=STEPS, save_every=2, reward="tests.helpers:verified")


def next_words(model: Path, run: Path) -> list[str]:
    """What a user would type: go on with what has begun, or begin."""
    return ["--resume", str(run)] if (run / "config.yaml").exists() else arguments(model, run)


def workers_of(pid: int) -> list[psutil.Process]:
    """The verifying workers of a trainer."""
    with contextlib.suppress(psutil.Error):
        return [
            p for p in psutil.Process(pid).children() if any(word.endswith("rewards/worker.py") for word in p.cmdline())
        ]
    return []


def holder_is(run: Path, pid: int) -> bool:
    with contextlib.suppress(OSError):
        return f'"pid": {pid},' in (run / HOLDER).read_text()
    return False


def ended_well(process, run: Path) -> None:
    process.join(120)
    assert process.exitcode == 0, log_of(run).read_text()


def a_second_process(model: Path, run: Path, words: list[str], holder: int) -> bool:
    """Start a second process in a run's folder. Whether it was refused; it is not where the first has just ended.

    It must name the process that holds the folder.
    """
    log = run.with_suffix(".second")
    second = FORK.Process(target=child, args=(words, str(log), None))
    second.start()
    second.join(120)
    said = log.read_text()
    if "is in use by process" not in said:
        assert second.exitcode == 0 or "already holds a run" in said, said
        assert not psutil.pid_exists(holder) or not holder_is(run, holder), said
        return False
    assert second.exitcode == 2, said
    assert f"{run} is in use by process {holder} on " in said
    assert "Traceback" not in said
    return True


def disturbed(what: str, model: Path, run: Path, process, rng: random.Random) -> bool:
    """Do it to a run under way; whether it came in time."""
    if what in ("kill", "stop"):
        if not process.is_alive():
            return False
        process.kill() if what == "kill" else process.terminate()
        process.join(120)
        # A stop before the trainer listens ends it at once; one while the report is written lets it end.
        assert process.exitcode in ((-signal.SIGKILL, 0) if what == "kill" else (143, -signal.SIGTERM, 0))
        return process.exitcode != 0
    if what == "worker":
        deadline = time.monotonic() + 20
        while not (workers := workers_of(process.pid)) and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        for one in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        return bool(workers)
    with contextlib.suppress(AssertionError):
        wait_for(lambda: holder_is(run, process.pid) or not process.is_alive(), 20)
    if not process.is_alive():
        return False
    words = ["--resume", str(run)] if (run / "config.yaml").exists() and rng.random() < 0.5 else arguments(model, run)
    return a_second_process(model, run, words, process.pid)


def launcher_killed(model: Path, run: Path, rng: random.Random) -> bool:
    """Start a run by `accelerate launch` and kill that; the trainer ends by itself. Whether there was one."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "full/train.py", *next_words(model, run)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log_of(run), "w") as log:
        launcher = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        # From when there is a trainer to when it trains: it may still be importing, loading, or at a step.
        wait_for(lambda: psutil.Process(launcher.pid).children(), 120)
        (trainer,) = psutil.Process(launcher.pid).children()
        if rng.random() < 0.75:
            wait_for(lambda: holder_is(run, trainer.pid) or launcher.poll() is not None, 120)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(rng.uniform(0.0, 5.0))
        if launcher.poll() is not None:
            return False
        launcher.kill()
        launcher.wait()
        if (
            holder_is(run, trainer.pid) and rng.random() < 0.75
        ):  # at once: refused, or the trainer has ended and it goes on
            a_second_process(model, run, next_words(model, run), trainer.pid)
        trainer.wait(60)
    return True


@pytest.mark.slow
def test_thirty_three_disturbances_at_random_moments(model, reference, tmp_path):
    rng = random.Random(10)
    todo = [what for what, count in DISTURBANCES.items() for _ in range(count)]
    rng.shuffle(todo)
    done, seen, run, process = Counter(), set(), tmp_path / "run0", None

    def finished() -> bool:
        if process is not None or not (run / "summary.json").exists():
            return False
        same(run, reference, apart_from=COUNTERS)
        assert [row["step"] for row in metrics_without_times(run)] == [*range(1, STEPS + 1)]
        return True

    number = 0
    while todo:
        what = todo[-1]
        if what == "launcher":
            if process is not None:
                process.kill()
                process.join()
                process = None
            came = launcher_killed(model, run, rng)
        else:
            process = process or start(next_words(model, run))
            process.join(rng.uniform(0.5, 6.0))
            seen |= set(workers_of(process.pid))
            came = disturbed(what, model, run, process, rng)
            if not process.is_alive():
                process.join()
                if what in ("worker", "second") or not came:
                    assert process.exitcode == 0, log_of(run).read_text()
                process = None
        if came:
            done[todo.pop()] += 1
            print(f"{what} at step {lines(run)} of {run.name}", flush=True)
        if finished():
            number += 1
            run = tmp_path / f"run{number}"
    if process is not None:
        ended_well(process, run)
        process = None
    elif (run / "config.yaml").exists():
        finish(run)
    else:
        ended_well(start(arguments(model, run)), run)
    assert finished()
    assert done == DISTURBANCES
    # What a killed trainer leaves behind ends by itself.
    assert psutil.wait_procs(seen, timeout=60)[1] == []


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    run = tmp_path_factory.mktemp("reference") / "run"
    ended_well(start(arguments(model, run)), run)
    return run
