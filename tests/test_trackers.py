"""Metrics reach a tracker through accelerate: what TensorBoard and trackio hold is what metrics.jsonl says."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from full import train
from full.errors import UserError
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
    command = [sys.executable, "full/train.py", *small_run(model, run, tracker="trackio", steps=2)]
    out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr[-2000:]
    with sqlite3.connect(store / "apo_edu.db") as connection:
        found = connection.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert [(name, step) for name, step, _ in found] == [("my-run", 1), ("my-run", 2)]
    for (_, _, logged), row in zip(found, metrics_without_times(run), strict=True):
        assert {name: json.loads(logged)[name] for name in ("alpha", "reward_mean", "loss")} == {
            name: row[name] for name in ("alpha", "reward_mean", "loss")
        }


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
