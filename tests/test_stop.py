"""Requests to stop, and what happens around `accelerate launch`: nothing is lost, and nobody is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from full.claims import LOCK
from full.trainer import launch, stop
from full.trainer.checkpoints import checkpoints
from tests.helpers import save_small_model, small_run
from tests.processes import finish, lines, log_of, same, slow_evaluation, slow_loading, start, wait_for

ROOT = Path(__file__).parents[1]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    """Evaluated along the way, too."""
    run = tmp_path_factory.mktemp("reference") / "run"
    start(small_run(model, run, steps=6, eval_every=3)).join()
    return run


def pause(trainer, metrics) -> None:
    """A callback: a step takes at least half a second."""
    time.sleep(0.5)


def stopped_promptly(process, run: Path, marker: Path, number: int) -> str:
    """Ask a run to stop when the marker is there; return what it said."""
    wait_for(marker.exists)
    asked = time.monotonic()
    os.kill(process.pid, number)
    process.join(60)
    assert time.monotonic() - asked < 30  # what it was doing would have taken a minute
    assert process.exitcode == 128 + number
    said = log_of(run).read_text()
    assert "Traceback" not in said
    assert "stopping now; once more to quit at once" in said
    assert not (run / LOCK).exists()
    return said.strip().splitlines()[-1]


# What a request does depends on what would be lost


def test_a_stop_while_loading_leaves_nothing(model, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run), partial(slow_loading, tmp_path / "marker"))
    said = stopped_promptly(process, run, tmp_path / "marker", signal.SIGTERM)
    assert said == "stopped before the first step; nothing was written"
    assert not run.exists()


def test_a_stop_in_the_first_evaluation_does_not_wait_for_it(model, reference, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=6, eval_every=3), partial(slow_evaluation, 1, tmp_path / "marker"))
    said = stopped_promptly(process, run, tmp_path / "marker", signal.SIGINT)
    assert said == f"stopped before the first step; go on with --resume {run}"
    assert not (run / "metrics.jsonl").exists()
    finish(run)
    same(run, reference)


@pytest.mark.parametrize("save_every", [0, 2])
def test_a_stop_in_an_evaluation_between_steps_keeps_its_step(model, reference, tmp_path, save_every):
    run = tmp_path / "run"
    arguments = small_run(model, run, steps=6, eval_every=3, save_every=save_every)
    said = stopped_promptly(
        start(arguments, partial(slow_evaluation, 2, tmp_path / "marker")), run, tmp_path / "marker", signal.SIGTERM
    )
    assert said == f"stopped after step 3; go on with --resume {run}"
    assert lines(run) == 2  # the third is logged with its evaluation
    assert checkpoints(run / "checkpoints")[-1].name == "step-3"
    finish(run)
    same(run, reference)


def test_a_stop_in_the_last_evaluation_is_obeyed(model, reference, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=6, eval_every=3), partial(slow_evaluation, 3, tmp_path / "marker"))
    said = stopped_promptly(process, run, tmp_path / "marker", signal.SIGINT)
    assert said == f"stopped after the last step, before its evaluation; go on with --resume {run}"
    assert not (run / "summary.json").exists()
    finish(run)
    same(run, reference)


def test_a_request_is_one_however_often_it_arrives_at_once_and_two_a_while_later(monkeypatch):
    killed = []
    monkeypatch.setattr(stop.os, "kill", lambda pid, number: killed.append(number))
    request = stop.StopRequest()
    try:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a launcher that passes its own on
        assert request.signal == signal.SIGINT and killed == []
        monkeypatch.setattr(stop, "SAME_REQUEST", -1.0)
        signal.raise_signal(signal.SIGTERM)
        assert killed == [signal.SIGTERM]
    finally:
        request.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # as it was found


def test_output_that_nobody_reads_any_more_does_not_end_the_run(model, reference, tmp_path):
    # As with `| tee log` after Ctrl-C, which ends tee as well.
    run = tmp_path / "run"
    slow = "tests.test_stop:pause"  # six steps take less than a busy machine may need to send the signal
    command = [sys.executable, "full/train.py", *small_run(model, run, steps=6, eval_every=3, callback=slow)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(lambda: lines(run) >= 1)
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert checkpoints(run / "checkpoints")
    finish(run)
    same(run, reference)


# The launcher


def test_a_trainer_ends_when_its_launcher_is_killed(model, tmp_path):
    run = tmp_path / "run"
    arguments = small_run(model, run, steps=60, save_every=0)
    with open(tmp_path / "log", "w") as log:
        command = [*LAUNCH, "full/train.py", *arguments]
        launcher = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)
        wait_for(lambda: lines(run) >= 1, 120)
        (trainer,) = psutil.Process(launcher.pid).children()
        launcher.kill()
        launcher.wait()
        again = start(["--resume", str(run)])  # at once
        trainer.wait(60)
        again.join(120)
    said = (tmp_path / "log").read_text()
    assert f"the launcher (process {launcher.pid}) is gone: stopping after this step and saving a checkpoint" in said
    assert said.strip().splitlines()[-1].startswith("stopped after step ")
    if again.exitcode != 0:  # the trainer was still there
        assert again.exitcode == 2
        assert f"is in use by process {trainer.pid} on" in log_of(run).read_text()
        assert lines(run) == int(checkpoints(run / "checkpoints")[-1].name.removeprefix("step-")) < 60
        finish(run)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [*range(1, 61)]


def test_a_launcher_is_told_from_a_path_that_looks_like_one():
    accelerate = launch._is_accelerate
    assert accelerate(["/v/bin/python", "/v/bin/accelerate", "launch", "full/train.py"])
    assert accelerate(["/v/bin/python3", "-u", "-X", "dev", "/v/bin/accelerate", "launch", "full/train.py"])
    assert accelerate(["/v/bin/python", "/v/bin/accelerate-launch", "full/train.py"])
    assert accelerate(["python", "-m", "accelerate.commands.launch", "full/train.py"])
    assert accelerate(["python", "-m", "accelerate.commands.accelerate_cli", "launch", "full/train.py"])
    for words in (
        [],
        ["bash", "/home/me/accelerate/launch.sh"],
        ["bash", "-c", "accelerate launch full/train.py"],
        ["python", "/home/me/accelerate launch/run_all.py"],
        ["python", "launch_with_accelerate.py", "launch"],
        ["python", "-m", "my.accelerate.launch"],
        ["/v/bin/python", "/v/bin/accelerate", "test"],
        ["python", "full/train.py", "--name", "accelerate launch"],
    ):
        assert not accelerate(words), words


def test_whoever_takes_in_orphans_is_no_launcher(monkeypatch):
    # torchrun may be any program, so its own variable tells it; killed, it leaves the variable and another parent.
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(launch, "FIRST_PARENT", os.getppid())
    assert launch.find_launcher().pid == os.getppid()
    monkeypatch.setattr(launch, "FIRST_PARENT", -1)
    assert launch.find_launcher() is None


@pytest.mark.parametrize("ended_early", [True, False])  # before or after the module was imported
def test_a_launcher_that_ended_during_the_imports_is_a_request_to_stop(monkeypatch, ended_early):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(launch, "FIRST_PARENT", os.getppid() if ended_early else -1)
    request = stop.StopRequest(started_by=2**22 + 1)
    try:
        assert request.signal == signal.SIGTERM
    finally:
        request.close()


BAD = ["full/train.py", "--lr", "fast"]


@pytest.mark.parametrize("shell", [True, False])
def test_a_user_error_never_ends_the_script_that_started_the_trainer(tmp_path, shell):
    folder = tmp_path / "accelerate launch"
    folder.mkdir()
    if shell:
        script = folder / "accelerate-launch.sh"
        script.write_text(f"cd '{ROOT}'\n{sys.executable} {' '.join(BAD)}\necho ended with $?\n")
        command = ["bash", str(script)]
    else:
        script = folder / "accelerate_launch.py"
        script.write_text(
            f"import subprocess\nprint('ended with', subprocess.run({[sys.executable, *BAD]}, cwd={str(ROOT)!r}).returncode)"
        )
        command = [sys.executable, str(script), "launch"]
    out = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0
    assert out.stdout.strip().endswith("ended with 2")
    assert out.stderr.count("error: lr is 'fast'; expected a number.") == 1
    assert "Traceback" not in out.stderr


TWO = ["--config_file", "full/configs/accelerate/cpu.yaml", "--num_processes", "2"]


@pytest.mark.parametrize("words", [[], ["--quiet"], TWO])
def test_a_user_error_through_a_launcher_ends_in_one_line(words):
    out = subprocess.run(
        [*LAUNCH, *words, *BAD], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert out.returncode == 1  # accelerate's own, not killed
    told = [line for line in out.stderr.strip().splitlines() if line.startswith("error: ")]
    assert told[-1] == out.stderr.strip().splitlines()[-1] == "error: lr is 'fast'; expected a number."
    if words == ["--quiet"]:
        assert len(told) == 1
        assert "Traceback" not in out.stderr
