"""Metrics reach a tracker through accelerate: what TensorBoard and trackio hold is what metrics.jsonl says."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import types
from pathlib import Path

import pytest

from full import train
from full.errors import UserError
from full.trainer import trackers
from full.trainer.trackers import load_callbacks
from tests.helpers import metrics_without_times, save_small_model, small_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


def test_tensorboard_holds_the_metrics(model, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    train.main(small_run(model, run, tracker="tensorboard", steps=3))
    (folder,) = {path.parent for path in (run / "apo_edu").glob("events*")}
    read = events.EventAccumulator(str(folder))
    read.Reload()
    for name in ("reward_mean", "alpha", "grad_norm", "token_entropy"):
        seen = [(event.step, event.value) for event in read.Scalars(name)]
        assert seen == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in metrics_without_times(run)]


def test_trackio_holds_the_metrics_without_a_network(model, tmp_path):
    pytest.importorskip("trackio")
    run, store = tmp_path / "my-run", tmp_path / "store"
    # The variable is read when trackio is imported, hence a process of its own.
    environment = os.environ | {"TRACKIO_DIR": str(store), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "full/train.py", *small_run(model, run, tracker="trackio", steps=2, save_every=1)]
    out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr[-2000:]
    with sqlite3.connect(store / "apo_edu.db") as connection:
        found = connection.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [(name, step) for name, step, _ in found] == [("my-run", 1), ("my-run", 2)]
    for (_, _, logged), row in zip(found, metrics_without_times(run), strict=True):
        assert {name: json.loads(logged)[name] for name in ("alpha", "reward_mean", "loss")} == {
            name: row[name] for name in ("alpha", "reward_mean", "loss")
        }

    shutil.rmtree(run / "checkpoints" / "step-2")  # as if it had been killed after the first step
    resume = [*command[:2], "--resume", str(run)]
    out = subprocess.run(resume, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr[-2000:]
    with sqlite3.connect(store / "apo_edu.db") as connection:
        found = connection.execute("select run_name, step from metrics order by step").fetchall()
    assert found == [("my-run", 1), ("my-run", 2), ("my-run", 2)]  # one run, not two


def test_a_tracker_that_is_not_installed_is_named(model, tmp_path, monkeypatch):
    # accelerate itself would go on without it, and without a word.
    find_spec = train.start_accelerator.__globals__["importlib"].util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else find_spec(name))
    with pytest.raises(UserError, match="tracker is wandb but its package is not installed.*pip install wandb"):
        train.main(small_run(model, tmp_path / "run", tracker="wandb"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_wandb_holds_the_metrics_without_a_network(model, tmp_path):
    pytest.importorskip("wandb")
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "full/train.py", *small_run(model, tmp_path / "run", tracker="wandb", steps=2)]
    out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr[-2000:]
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert record.read_bytes().count(b"reward_mean") >= 2


def test_a_callback_sees_every_step(model, tmp_path, monkeypatch):
    (tmp_path / "my_callbacks.py").write_text(
        "seen = []\ndef after_step(trainer, metrics):\n    seen.append((metrics['step'], trainer.config.steps))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    train.main(small_run(model, tmp_path / "run", callback="my_callbacks:after_step", steps=2))
    assert sys.modules["my_callbacks"].seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("after_step", "callback is 'after_step'; expected module:function"),
        ("nowhere_at_all:f", "nowhere_at_all cannot be imported"),
        ("json:loadz", "json has no 'loadz'.*Did you mean"),
        ("sys:path", "callback sys:path is a list; expected a function"),
    ],
)
def test_a_bad_callback_is_one_line(name, message):
    with pytest.raises(UserError, match=message):
        load_callbacks([name])


class FakeHub:
    """The hub's client, as far as it is used."""

    def __init__(self, calls: list, *, known: bool = True, broken: bool = False) -> None:
        self.calls, self.known, self.broken = calls, known, broken

    def whoami(self) -> None:
        if not self.known:
            raise OSError("Invalid user token.")

    def create_repo(self, repository: str, **options) -> None:
        if self.broken:
            raise OSError("no network")
        self.calls.append(("create", repository, options))

    def upload_folder(self, **options) -> None:
        self.calls.append(("upload", options["repo_id"], options["folder_path"]))


def test_the_model_is_uploaded_when_asked(monkeypatch):
    calls: list = []
    monkeypatch.setattr(trackers, "HfApi", lambda: FakeHub(calls))
    trackers.require_hub("me/model")
    assert trackers.push(Path("runs/x/model"), "me/model").startswith("uploaded runs/x/model to me/model")
    assert calls == [
        ("create", "me/model", {"exist_ok": True, "private": True}),
        ("upload", "me/model", "runs/x/model"),
    ]
    monkeypatch.setattr(trackers, "HfApi", lambda: FakeHub(calls, broken=True))
    told = trackers.push(Path("runs/x/model"), "me/model")
    assert told == "warning: runs/x/model was not uploaded (no network). Later: hf upload me/model runs/x/model"


def test_who_cannot_upload_hears_it_before_the_run(monkeypatch):
    monkeypatch.setattr(trackers, "HfApi", lambda: FakeHub([], known=False))
    with pytest.raises(UserError, match=r"the hub does not know this machine \(Invalid user token.\). Log in first"):
        train.main(["--push_to_hub", "me/model"])
    with pytest.raises(UserError, match="push_to_hub is 'model'; expected OWNER/NAME"):
        trackers.require_hub("model")
    trackers.require_hub(None)


def test_wandb_goes_on_with_the_run_it_began(tmp_path):
    started = []

    class FakeAccelerator:
        is_main_process = True

        def init_trackers(self, project, options, init_kwargs):
            started.append((project, init_kwargs["wandb"]))

        def get_tracker(self, name, unwrap):
            return types.SimpleNamespace(url="address of the run")

    words = {"project": "p", "options": {"seed": 0}}
    for resume in (False, True):
        assert (
            trackers.start_tracker(FakeAccelerator(), "wandb", tmp_path, resume=resume, **words) == "address of the run"
        )
    (first, again) = started
    assert first == again and first[1]["resume"] == "allow" and first[1]["name"] == tmp_path.name
    trackers.start_tracker(FakeAccelerator(), "wandb", tmp_path, resume=False, **words)
    assert started[-1][1]["id"] != first[1]["id"]  # a new run in the same folder is another one
