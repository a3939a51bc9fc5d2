"""A resumed run is the run that began: same data, same options, its own rows, and nothing executed from its folder."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator

from full import train
from full.data.tasks.arithmetic import arithmetic_rows
from full.errors import UserError
from full.models.origin import model_origin
from full.runs import RunFolder, origin, read_run, scan_lines
from full.trainer.checkpoints import Progress, checkpoints, load_checkpoint, save_checkpoint
from tests.helpers import metrics_without_times, save_small_model, small_run
from tests.processes import same


def write_problems(path: Path, *, seed: int = 0) -> Path:
    rows = arithmetic_rows(1)
    path.write_text(
        "".join(json.dumps({"problem": row["problem"], "answer": row["solution"]}) + "\n" for row in rows[seed:])
    )
    return path


def arguments(folder: Path, **changes) -> list[str]:
    return small_run(folder / "model", folder / "run", data=folder / "problems.jsonl", steps=4, save_every=2, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps, its data and its model side by side."""
    folder = tmp_path_factory.mktemp("finished")
    save_small_model(folder / "model")
    write_problems(folder / "problems.jsonl")
    train.main(arguments(folder))
    return folder


@pytest.fixture
def half(finished, tmp_path):
    """The same, killed after step 3: the checkpoint of step 2 is the last."""
    folder = Path(shutil.copytree(finished, tmp_path / "half"))
    run = folder / "run"
    shutil.rmtree(run / "checkpoints" / "step-4")
    shutil.rmtree(run / "model")
    (run / "summary.json").unlink()
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:3]))
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    recorded |= {"data": str(folder / "problems.jsonl"), "model": str(folder / "model")}
    (run / "config.yaml").write_text(yaml.safe_dump(recorded, sort_keys=False))
    return folder


def refused(folder: Path, *words: str) -> str:
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        train.main(["--resume", str(folder / "run"), *words])
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == before
    return str(caught.value)


# What it began with


def test_a_copied_run_goes_on_with_its_own_files_and_equals_the_first(half, finished):
    train.main(["--resume", str(half / "run")])
    same(half / "run", finished / "run")


def test_changed_data_are_refused_with_both_hashes(half):
    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    then = digest(half / "problems.jsonl")
    now = digest(write_problems(half / "problems.jsonl", seed=1))
    told = refused(half)
    assert f"train is not what this run began with: {half / 'problems.jsonl'} (file sha256 {now})" in told
    assert f"has sha256 {now}, but {half / 'run' / 'config.yaml'} records sha256 {then}" in told


@pytest.mark.parametrize(
    ("option", "value"), [("lr", 0.5), ("steps", 3), ("reward", ["format"]), ("seed", 1), ("data", "word_sums")]
)
def test_an_edited_configuration_is_refused_with_both_values(half, option, value):
    path = half / "run" / "config.yaml"
    recorded = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(recorded | {option: value}))
    told = refused(half)
    if option == "data":
        assert (
            "word_sums (generated), level all" in told
            and "has word_sums (generated), but" in told
            and "records sha256" in told
        )
    else:
        assert (
            f"{option} is {value} in {path} but was {recorded[option]} when {half / 'run'}/checkpoints/step-2 was written"
            in told
        )
        assert f"Write {option}: {recorded[option]} back, or start a new run" in told


def test_another_model_is_refused(half):
    save_small_model(half / "model", seed=1)
    assert f"model is not what this run began with: {half / 'model'} (files sha256 " in refused(half)


def test_provenance_is_written_once(half, monkeypatch):
    before = yaml.safe_load((half / "run" / "config.yaml").read_text())["provenance"]
    monkeypatch.setattr("full.runs.version", lambda name: "0.0" if name == "torch" else before[name])
    train.main(["--resume", str(half / "run"), "--micro_batch_tokens", "64"])
    after = yaml.safe_load((half / "run" / "config.yaml").read_text())["provenance"]
    (resumed,) = after.pop("resumed")
    assert after == before
    assert resumed["torch"] == "0.0" and resumed["datasets"] == before["datasets"]


def test_a_moved_run_finds_what_was_moved_along_or_is_given_it_anew(half, finished, tmp_path):
    path = half / "run" / "config.yaml"
    recorded = yaml.safe_load(path.read_text()) | {"data": "/nowhere/problems.jsonl", "model": "/nowhere/model"}
    assert recorded["provenance"]["places"] == {"data": "../problems.jsonl", "model": "../model"}
    path.write_text(yaml.safe_dump(recorded))
    again = Path(shutil.copytree(half, tmp_path / "again"))
    train.main(["--resume", str(half / "run")])  # they lie beside it, as they did
    same(half / "run", finished / "run")
    data, model, run = again / "problems.jsonl", again / "model", tmp_path / "a" / "b" / "run"
    run.parent.mkdir(parents=True)
    shutil.move(again / "run", run)
    with pytest.raises(UserError, match="/nowhere/"):
        train.main(["--resume", str(run)])
    train.main(["--resume", str(run), "--data", str(data), "--model", str(model)])
    same(run, finished / "run")
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    assert recorded["data"] == str(data)
    assert recorded["provenance"]["places"] == {"data": "../problems.jsonl", "model": "../model"}  # as it began


def test_other_data_given_anew_are_refused(half, tmp_path):
    told = refused(half, "--data", str(write_problems(tmp_path / "other.jsonl", seed=2)))
    assert "train is not what this run began with" in told


def test_where_something_is_from():
    assert origin("/a (b)/c.jsonl (file sha256 0123abcd), level 3, split train") == "sha256 0123abcd"
    assert origin("d (folder of 2 files, sha256 0123abcd), level 3") == "sha256 0123abcd"
    assert (
        origin("math (EleutherAI/hendrycks_math at revision 21a5), level 3")
        == "(EleutherAI/hendrycks_math at revision 21a5"
    )
    assert origin("math (EleutherAI/hendrycks_math at revision unknown (offline)), level 3") == ""
    assert origin("arithmetic (generated), level all") == "arithmetic (generated)"
    assert origin("") == ""


def test_what_cannot_be_checked_is_said(tmp_path):
    class Folder(RunFolder):
        def __init__(self, then):
            self.then, self.resume, self.path = then, True, tmp_path

        def provenance(self):
            return self.then

    now = {"train": "x (y at revision 2), level 3"}
    assert Folder({"train": "x (y at revision 2), level 3, other words"}).require_same_origin(now) == []
    (told,) = Folder({"train": "x (y at revision unknown (offline)), level 3"}).require_same_origin(now)
    assert told.startswith("warning: whether train is what this run began with cannot be checked")
    assert len(Folder({}).require_same_origin(now)) == 1
    with pytest.raises(UserError, match="has .*revision 2, but .* records .*revision 1"):
        Folder({"train": "x (y at revision 1), level 3"}).require_same_origin(now)


def test_a_model_is_told_by_its_files(tmp_path):
    folder = save_small_model(tmp_path / "model")
    first = model_origin(str(folder))
    (folder / "notes.md").write_text("not a part of it")
    assert model_origin(str(folder)) == first
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"rope_theta": 5.0}))
    assert origin(model_origin(str(folder))) not in ("", origin(first))
    assert model_origin("tiny") == "tiny (embedded)"
    assert model_origin("Qwen/Qwen3-1.7B") == origin("Qwen/Qwen3-1.7B (on the hub)")


# Its rows


def test_a_damaged_line_loses_itself_alone_and_is_kept(half, finished, capsys):
    path = half / "run" / "metrics.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text('{"step": 1, "alp\n' + rows[1] + rows[2] + '{"step": 4, "al')  # the last was cut off by the kill
    damaged = path.read_bytes()
    train.main(["--resume", str(half / "run")])
    said = capsys.readouterr().out
    assert "warning: metrics.jsonl: line 1 is damaged; left out, and kept as it was in metrics.jsonl.damaged-1" in said
    assert "warning: metrics.jsonl has no line for step 1; the run goes on" in said
    assert (half / "run" / "metrics.jsonl.damaged-1").read_bytes() == damaged
    assert metrics_without_times(half / "run") == metrics_without_times(finished / "run")[1:]


def test_a_step_that_is_there_twice_counts_once(half, finished, capsys):
    path = half / "run" / "metrics.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text(rows[0] + rows[1].replace('"step": 2', '"step": 1') + rows[0] + rows[1])
    train.main(["--resume", str(half / "run")])
    assert "step 1 is there twice; left out, and kept as it was in metrics.jsonl.damaged-1" in capsys.readouterr().out
    assert metrics_without_times(half / "run") == metrics_without_times(finished / "run")


def test_lines_that_are_no_rows(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"step": 1}\n\n[1]\n{"step": "2"}\n{"step": true}\n{"a": 1}\nnull\n' + "[" * 10**5 + '\n{"step": 2}\n{"step"'
    )
    assert scan_lines(path) == ([{"step": 1}, {"step": 2}], [3, 4, 5, 6, 7, 8])
    assert scan_lines(tmp_path / "none") == ([], [])


# Its checkpoints


def test_what_is_no_checkpoint_is_passed_over_and_kept(half, finished):
    folder = half / "run" / "checkpoints"
    for name in ("step-6.bak", "step-6 (copy)", "step-02", "step--1", "step-", "step-3x"):
        shutil.copytree(folder / "step-2", folder / name)
    (folder / "step-8").write_text("a file")
    (folder / "step-4").write_text("another, in the way")
    (folder / "latest").symlink_to(folder / "step-2")
    assert [path.name for path in checkpoints(folder)] == ["step-2"]
    train.main(["--resume", str(half / "run")])
    same(half / "run", finished / "run")
    left = {path.name for path in folder.iterdir()}
    assert {"step-6.bak", "step-6 (copy)", "step-02", "step--1", "step-", "step-3x", "step-8", "latest"} <= left
    assert (folder / "step-4.set-aside-1").read_text() == "another, in the way"
    assert [path.name for path in checkpoints(folder)] == ["step-2", "step-4"]


def manifest_of(path: Path, **changes) -> None:
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"files": {}}, "is not in its manifest"),
        ({"files": []}, "its manifest is missing or unreadable"),
        ({"files": None}, "its manifest is missing or unreadable"),
        ({"processes": "1"}, "its manifest is missing or unreadable"),
        ("[]", "its manifest is missing or unreadable"),
        ("3", "its manifest is missing or unreadable"),
        ("[" * 10**5, "its manifest is missing or unreadable"),
        ("weights", "model.safetensors is not in its manifest"),
    ],
)
def test_a_manifest_that_vouches_for_nothing_is_damage(tmp_path, changes, told):
    accelerator, folder = Accelerator(cpu=True), tmp_path / "checkpoints"
    for step in (1, 2):
        save_checkpoint(folder, accelerator, Progress(step=step), keep=2)
    newest = folder / "step-2"
    (newest / "model.safetensors").write_bytes(b"damaged") if changes == "weights" else None
    if isinstance(changes, dict):
        manifest_of(newest, **changes)
    elif changes != "weights":
        (newest / "manifest.json").write_text(changes)
    progress, messages = load_checkpoint(folder, accelerator)
    assert progress.step == 1
    assert told in messages[0] and "falling back to the one before it" in messages[0]


class Writes:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "name", ["progress-0.pt", "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "optimizer.bin"]
)
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_nothing_in_a_strangers_checkpoint_is_executed(half, tmp_path, name, form):
    marker, path = tmp_path / "executed", half / "run" / "checkpoints" / "step-2"
    if form == "torch":
        torch.save({"step": 2, "x": Writes(marker)}, path / name)
    else:
        (path / name).write_bytes(pickle.dumps(Writes(marker)))
    files = json.loads((path / "manifest.json").read_text())["files"]
    manifest_of(path, files=files | {name: hashlib.sha256((path / name).read_bytes()).hexdigest()})
    told = refused(half)
    assert "holds Python objects that run code when they are loaded, so it was not loaded" in told
    assert not marker.exists()
    pickle.loads(pickle.dumps(Writes(marker)))  # it would have been
    assert marker.exists()


def test_a_strangers_run_is_read_without_executing_it(half, tmp_path):
    marker = tmp_path / "executed"
    text = f"!!python/object/apply:builtins.open ['{marker}', 'w']"
    (half / "run" / "config.yaml").write_text(f"objective: apo\nname: {text}\n")
    for read in (lambda: read_run(half / "run"), lambda: train.main(["--resume", str(half / "run")])):
        with pytest.raises(UserError):
            read()
    assert not marker.exists()
