"""What a run has done survives: kills at any moment, damaged checkpoints, full disks, and requests to stop."""

import json
import os
import random
import signal
import time
from functools import partial
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from full import train
from full.errors import UserError
from full.trainer.checkpoints import Progress, checkpoints, load_checkpoint, save_checkpoint
from tests.helpers import save_small_model, small_run
from tests.processes import fill_the_disk, finish, lines, log_of, same, start, wait_for


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    run = tmp_path_factory.mktemp("reference") / "run"
    start(small_run(model, run, steps=10)).join()
    return run


@pytest.mark.parametrize("kill_after", [3, 6])
def test_a_kill_in_the_middle_of_a_batch_of_samples(model, reference, tmp_path, kill_after):
    # Four updates a batch: after 3 and 6 steps a batch is in use, off policy.
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10))
    wait_for(lambda: lines(run) >= kill_after)
    process.kill()
    process.join()
    assert lines(run) < 10
    finish(run)
    same(run, reference)


@pytest.mark.slow
def test_twelve_kills_at_random_moments(model, reference, tmp_path):
    rng = random.Random(0)
    run = tmp_path / "run"
    arguments = small_run(model, run, steps=10)
    kills = 0
    while kills < 12:
        process = start(["--resume", str(run)] if (run / "config.yaml").exists() else arguments)
        # Runs take a few seconds; a third of the kills come while a checkpoint is being written.
        if rng.random() < 0.33:
            seen = {path.name for path in (run / "checkpoints").glob("writing-*")}
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and process.is_alive():
                new = {path.name for path in (run / "checkpoints").glob("writing-*")} - seen
                if new:
                    time.sleep(rng.uniform(0.0, 0.02))
                    break
        else:
            process.join(rng.uniform(0.5, 6.0))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        if (run / "summary.json").exists():  # it got through: start again, with fresh luck
            same(run, reference)
            run = tmp_path / f"run{kills}"
            arguments = small_run(model, run, steps=10)
    if (run / "config.yaml").exists():
        finish(run)
    else:
        start(arguments).join()
    same(run, reference)


def test_a_kill_while_a_checkpoint_is_written(model, reference, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10))
    wait_for(lambda: (run / "checkpoints" / "writing-step-5").exists())
    process.kill()
    process.join()
    finish(run)
    same(run, reference)
    assert not list((run / "checkpoints").glob("writing-*"))


def test_a_kill_before_the_first_checkpoint_starts_again(model, reference, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10))
    wait_for(lambda: (run / "config.yaml").exists())
    process.kill()
    process.join()
    finish(run)
    same(run, reference)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(model, reference, tmp_path, damage):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10, save_every=2))
    wait_for(lambda: lines(run) >= 7)
    process.kill()
    process.join()
    newest = checkpoints(run / "checkpoints")[-1]
    target = newest / ("manifest.json" if damage == "manifest" else "optimizer.bin")
    if damage == "remove":
        target.unlink()
    elif damage == "flip":
        content = bytearray(target.read_bytes())
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
    else:
        target.write_bytes(target.read_bytes()[:100])
    said = finish(run)
    assert f"checkpoint {newest} is damaged" in said
    assert "falling back to the one before it" in said
    same(run, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_leaves_a_resumable_run(model, reference, tmp_path, number):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10, save_every=0))
    wait_for(lambda: lines(run) >= 2)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    assert f"go on with --resume {run}" in log_of(run).read_text()
    assert len(checkpoints(run / "checkpoints")) == 1
    finish(run)
    same(run, reference)


def test_a_full_disk_leaves_the_last_checkpoint(model, reference, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10), partial(fill_the_disk, 20_000))
    process.join(60)
    # The run went on without checkpoints, and ended where model/ did not fit either.
    assert process.exitcode == 1
    said = log_of(run).read_text()
    assert "Traceback" not in said
    for step in range(4, 11):
        assert f"warning: the checkpoint of step {step} could not be written (" in said
    assert f"the run goes on, and the last checkpoint is {run / 'checkpoints' / 'step-3'}" in said
    assert f"{run / 'model'} could not be written" in said and f"--resume {run}" in said
    assert [path.name for path in (run / "checkpoints").iterdir()] in (["step-2", "step-3"], ["step-3", "step-2"])
    finish(run)
    same(run, reference)


def test_a_disk_that_is_full_for_a_while_costs_some_checkpoints_and_nothing_else(model, reference, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10, keep_checkpoints=1), partial(fill_the_disk, 20_000, 4, 7))
    process.join(60)
    assert process.exitcode == 0, log_of(run).read_text()
    assert log_of(run).read_text().count("could not be written") == 3
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-10"]
    same(run, reference)


def test_a_run_without_any_checkpoint_stops_when_the_first_cannot_be_written(model, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10), partial(fill_the_disk, 20_000, 1))
    process.join(60)
    assert process.exitcode == 1
    said = log_of(run).read_text()
    assert "error: the checkpoint of step 1 could not be written" in said and "Traceback" not in said
    assert f"Make room and go on with --resume {run}" in said and lines(run) == 1


@pytest.mark.parametrize(
    ("version", "message"), [(9, "format 9; this version reads format 1"), (None, "has no format")]
)
def test_a_checkpoint_of_another_format_is_refused(tmp_path, version, message):
    (tmp_path / "step-1").mkdir()
    manifest = {"processes": 1, "files": {}} | ({} if version is None else {"format": version})
    (tmp_path / "step-1" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path, SimpleNamespace(num_processes=1))


def test_resume_with_another_number_of_processes_is_refused(model, tmp_path):
    run = tmp_path / "run"
    start(small_run(model, run, steps=2)).join()
    for path in checkpoints(run / "checkpoints"):
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "processes": 2}))
    with pytest.raises(UserError, match="was written by 2 processes; 1 are running.*--num_processes 2"):
        train.main(["--resume", str(run)])


def test_resuming_a_finished_run_repeats_its_end(model, reference, tmp_path):
    run = tmp_path / "run"
    start(small_run(model, run, steps=10)).join()
    seconds = json.loads((run / "summary.json").read_text())["seconds"]
    finish(run)
    same(run, reference)
    assert json.loads((run / "summary.json").read_text())["seconds"] == pytest.approx(seconds, abs=0.05)


def test_a_damaged_checkpoint_pushes_no_good_one_out(tmp_path):
    accelerator, folder = Accelerator(cpu=True), tmp_path / "checkpoints"
    for step in (20, 40):
        save_checkpoint(folder, accelerator, Progress(step=step), keep=2)
    (folder / "step-40" / "manifest.json").unlink()
    progress, messages = load_checkpoint(folder, accelerator)
    assert progress.step == 20
    assert "step-40 is damaged" in messages[0]
    save_checkpoint(folder, accelerator, Progress(step=25), keep=1)
    assert [path.name for path in checkpoints(folder)] == ["step-25"]


def test_only_the_newest_checkpoints_are_kept(reference):
    assert [path.name for path in checkpoints(reference / "checkpoints")] == ["step-9", "step-10"]
