"""Two runs never share a folder, and only a run is ever deleted."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from full import claims, train
from full.claims import Claim
from full.config import TrainConfig
from full.errors import UserError
from full.trainer import state
from tests.helpers import save_small_model, small_run
from tests.processes import FORK, finish, lines, log_of, same, start, wait_for


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A run of two steps with everything that a run can hold, tensorboard's events included."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train.main(small_run(model, run, steps=2, tracker="tensorboard"))
    (run / "eval.json").write_text("{}")
    (run / "failed-batch-0.pt").write_text("")
    return run


def claim(folder: Path, *, resume: bool = False, **options) -> Claim:
    return Claim(TrainConfig(output_dir=str(folder), **options), resume=resume)


def refusal(folder: Path, **options) -> str:
    """Why a folder may not be used."""
    with pytest.raises(UserError) as caught:
        claim(folder, **options).take()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# One process


def hold(folder: str) -> None:
    held = claim(Path(folder))
    held.take()
    time.sleep(60)


def test_a_folder_is_held_by_one_process_which_is_named_until_it_is_killed(tmp_path):
    process = FORK.Process(target=hold, args=(str(tmp_path / "run"),))
    process.start()
    wait_for(lambda: (tmp_path / "run" / claims.HOLDER).exists() and (tmp_path / "run" / claims.HOLDER).read_text())
    for resume in (False, True):
        told = refusal(tmp_path / "run", resume=resume)
        assert f"is in use by process {process.pid} on {os.uname().nodename} since 20" in told
        assert f"stop it (kill {process.pid}), or choose another --name" in told
    # Through a link it is the same folder.
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert "is in use by process" in refusal(tmp_path / "link")
    process.kill()
    process.join()
    assert (tmp_path / "run" / claims.LOCK).exists()  # left behind, and no hindrance
    again = claim(tmp_path / "run")
    again.take()
    again.release()


def test_a_holder_that_has_not_signed_yet_is_another_process(tmp_path):
    first = claim(tmp_path / "run")
    first.take()
    for text in ("", "[1]", '{"pid": 1}', "\x00"):
        (tmp_path / "run" / claims.HOLDER).write_text(text)
        assert "is in use by another process" in refusal(tmp_path / "run")
    first.release()


def test_what_a_kill_before_the_first_configuration_leaves_is_no_hindrance(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml.writing").write_text("objec")
    claim(tmp_path / "run").take()
    (tmp_path / "run" / "checkpoints" / "thesis.tex").touch()
    assert "holds checkpoints and no run" in refusal(tmp_path / "run", resume=False)


def test_a_claim_given_up_leaves_nothing(tmp_path):
    folder = tmp_path / "a" / "b" / "run"
    held = claim(folder)
    held.take()
    held.release()
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_cannot_join_a_run(model, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10))
    wait_for(lambda: lines(run) >= 1)
    for arguments in (small_run(model, run, steps=10), ["--resume", str(run)]):
        with pytest.raises(UserError, match=f"is in use by process {process.pid} on"):
            train.main(arguments)
    process.join()
    assert process.exitcode == 0
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [*range(1, 11)]
    assert not (run / claims.LOCK).exists()
    assert not (run / claims.HOLDER).exists()


# What may be deleted


def test_overwrite_deletes_the_files_of_a_run_and_no_other(model, finished, tmp_path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    whole = set(content(run)) - {"config.yaml"}
    assert any(name.startswith("apo_edu/") for name in whole)
    known = {str(path.relative_to(run)) for path in claims.run_files(run)}
    assert whole <= known
    theirs = {
        "thesis.tex": b"1", "data.jsonl": b"2", "metrics.jsonl.bak": b"3", "notes/summary.json": b"4",
        "checkpoints/step-2/notes.txt": b"5", "checkpoints/step-2 (copy)/model.safetensors": b"6", "checkpoints/step-8": b"7",
        "checkpoints/keep.pt": b"8", "model/model-old.safetensors": b"9", "model/sub/config.json": b"10",
        "apo_edu/plan.md": b"11", "checkpoints/step-2/backup/model.safetensors": b"12",
    }  # fmt: skip
    for name, text in theirs.items():
        (run / name).parent.mkdir(exist_ok=True, parents=True)
        (run / name).write_bytes(text)
    (run / "checkpoints" / "step-1" / "manifest.json").write_text("damaged")  # its files are known by their kind
    held = claim(run, overwrite=True)
    held.take()
    claims.delete_run(run)
    held.release()
    assert set(content(run)) == theirs.keys() | {"config.yaml"}
    assert {name: content(run)[name] for name in theirs} == theirs
    assert not (run / "checkpoints" / "step-1").exists()
    train.main([*small_run(model, run, steps=1, save_every=0), "--overwrite", "true"])
    assert {name: content(run)[name] for name in theirs} == theirs
    assert lines(run) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.tex", "years of work"),
        ("config.yaml", "model: tiny\nobjective: apo\ndata: arithmetic\nsteps: 3\n"),  # somebody's own, for --config
        ("config.yaml", "[1, 2"),
        ("config.yaml", "- a list"),
        ("config.yaml", "provenance: {}\nname: another tool's"),
        ("config.yaml", "provenance: 3\nobjective: apo"),
        ("metrics.jsonl", '{"step": 1}\n'),
    ],
)
def test_a_folder_without_a_run_is_neither_used_nor_deleted(tmp_path, name, text):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).write_text(text)
    for overwrite in (False, True):
        told = refusal(folder, overwrite=overwrite)
        assert f"{folder} holds {name} and no run; expected a new or an empty folder" in told
    assert content(folder) == {name: text.encode()}


def test_overwrite_stops_before_a_link_inside_a_run_and_follows_one_to_it(model, finished, tmp_path):
    disk = tmp_path / "disk"
    run = Path(shutil.copytree(finished, disk / "run"))
    (tmp_path / "link").symlink_to(run)
    for inside in ("model", "checkpoints", "checkpoints/step-1", "summary.json"):
        other = tmp_path / "other" / inside
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(run / inside, other)
        (run / inside).symlink_to(other)
        before = content(tmp_path)
        assert f"{run / inside} is a link; --overwrite true deletes nothing behind a link" in refusal(
            run, overwrite=True
        )
        assert content(tmp_path) == before
        (run / inside).unlink()
        shutil.move(other, run / inside)
    train.main([*small_run(model, tmp_path / "link", steps=1), "--overwrite", "true"])
    assert (tmp_path / "link").is_symlink()
    assert lines(run) == 1  # the run behind the link was replaced
    assert not (run / "eval.json").exists()


def test_an_old_checkpoint_goes_file_by_file(model, tmp_path):
    run = tmp_path / "run"
    process = start(small_run(model, run, steps=10, keep_checkpoints=1))
    wait_for(lambda: lines(run) >= 3)
    process.kill()
    process.join()
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    (newest / "notes.txt").write_text("kept")
    finish(run)
    assert [path.name for path in newest.iterdir()] == ["notes.txt"]


# Names and places


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/../../x", "/tmp/x", "a/.."])
def test_a_name_cannot_climb(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="--name is '.*'; expected a folder below runs/"):
            Claim(TrainConfig(name=name, overwrite=overwrite), resume=False).take()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["", " ", "a\x1b[31m", "a\nb", "a\x00", "a‮b"])
@pytest.mark.parametrize("option", ["name", "output_dir"])
def test_a_name_holds_nothing_that_a_terminal_would_obey(tmp_path, monkeypatch, option, value):
    monkeypatch.chdir(tmp_path)
    if option == "output_dir" and not value:
        return  # the default
    with pytest.raises(UserError, match=f"--{option} is '.*'; expected a name of printable characters") as caught:
        Claim(TrainConfig(**{option: value}), resume=False).take()
    assert "\x1b" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_plain_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "sweep/lr 1e-3", "größe", "..a", "a..b"):
        held = Claim(TrainConfig(name=name), resume=False)
        held.take()
        assert (tmp_path / "runs" / name / claims.LOCK).exists()
        held.release()


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_loaded(model, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "load_tokenizer", lambda *args: pytest.fail("the model was looked for first"))
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "run")
    for folder in ("file", "file/run", "dangling", "x" * 300, "/proc/run"):
        with pytest.raises(UserError, match=r"cannot be written \(.+\); expected a folder for the run.*--output_dir"):
            train.main(small_run(model, tmp_path / folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


def test_nothing_is_left_of_a_run_that_was_refused(model, tmp_path):
    with pytest.raises(UserError, match="512 positions"):
        train.main(small_run(model, tmp_path / "run", max_completion_tokens=600))
    assert list(tmp_path.iterdir()) == []


def test_two_new_runs_of_one_name_write_one(model, tmp_path):
    run = tmp_path / "run"
    first = start(small_run(model, run, steps=6))
    wait_for(lambda: (run / claims.LOCK).exists())
    second = FORK.Process(target=train.run_and_report, args=(small_run(model, run, steps=6),))
    second.start()
    second.join(60)
    first.join(60)
    assert (first.exitcode, second.exitcode) == (0, 2)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [*range(1, 7)]
    assert "Traceback" not in log_of(run).read_text()
    alone = tmp_path / "alone"
    train.main(small_run(model, alone, steps=6))
    same(run, alone)
