"""Probes of a run: their numbers by hand, what they write, and that a run does not notice them."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from apo_edu import GroupBatch
from full import sweep, train
from full.errors import UserError
from full.trainer import probes
from tests.helpers import save_small_model, small_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


def test_readings_of_two_problems_by_hand():
    # The first problem's two completions are of 2 tokens and 1 and box different answers, the second's box the same.
    logps = torch.tensor([[[-1.0, -3.0], [-2.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]], dtype=torch.float64)
    mask = torch.tensor([[[1, 1], [1, 0]], [[1, 1], [1, 1]]])
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    entropies = torch.tensor([[[0.2, 0.4], [0.6, 9.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    options = {"tau_anc": 0.5, "beta_r": 0.3, "logp_reduction": "mean", "scale": "none"}
    trainer = SimpleNamespace(
        config=SimpleNamespace(distribution_options=options),
        model=SimpleNamespace(config=SimpleNamespace(vocab_size=100)),
    )
    found = probes.read_confidence(
        GroupBatch(logps, logps, mask, rewards), entropies, torch.tensor([[5, 6], [7, 7]]), trainer
    )
    log_v, two = math.log(100), math.log(2)

    def certainty(odds):
        share = odds / (1 + odds)
        return 1 + (share * math.log(share) + (1 - share) * math.log(1 - share)) / two

    expected = {
        "tokens": (1 - 0.4 / log_v, 1.0),
        "answers": (0.0, 1.0),
        "candidates": (0.0, 0.0),  # both means are -2
        "candidates summed": (certainty(math.exp(2)), 0.0),  # -4 and -2
        "target": (certainty(math.exp(1 / 0.3)), 0.0),  # advantages 1/2 and -1/2
        "likelihood": (1 - 2 / log_v, 1 - 1 / log_v),
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].tolist() == pytest.approx(values, abs=1e-9), name


def test_spread_tells_all_or_nothing_from_a_worse_policy():
    gamble = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 3)
    found = probes.spread_of(gamble)
    assert (found["reward"], found["sd"], found["risk"], found["right"]) == pytest.approx(
        (0.25, 0.1875**0.5, 1.0, 0.25)
    )
    assert probes.spread_of(torch.tensor([[0.5, 0.5, 0.5, 0.5]]))["risk"] == 0.0
    assert probes.spread_of(torch.ones(2, 3))["risk"] == 0.0  # nothing is possible: not 0 / 0


def test_a_run_does_not_notice_its_probes(model, tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "PROBLEMS", 6)
    monkeypatch.setattr(probes, "TRUTH", 3)
    monkeypatch.setattr(probes, "SPREAD_SAMPLES", 3)
    both = "full.trainer.probes:confidence full.trainer.probes:spread"
    train.main(small_run(model, tmp_path / "with", callback=both, steps=3, eval_problems=6))
    train.main(small_run(model, tmp_path / "without", steps=3, eval_problems=6))

    def rows(run):
        lines = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if "second" not in k} for line in lines]

    assert rows("with") == rows("without")
    lines = [json.loads(line) for line in (tmp_path / "with" / "probes.jsonl").read_text().splitlines()]
    assert [(line["step"], line["stage"]) for line in lines] == [(1, "quarter"), (3, "last"), (3, "last")]
    columns = sweep.probed(tmp_path / "with")
    assert {"success last", "rank tokens quarter", "lead answers last", "risk last"} <= columns.keys()
    assert all(math.isfinite(value) for value in columns.values()) and sweep.probed(tmp_path / "nowhere") == {}


@pytest.mark.slow
def test_token_entropy_ranks_problems_and_the_candidate_set_does_not(tmp_path):
    # Experiment 8's first stage on one seed: tokens +0.58 [0.44, 0.72], candidates +0.02 [-0.13, 0.17], one rank's error 0.1.
    sweep_file = yaml.safe_load((ROOT / "full" / "configs" / "experiments" / "confidence.yaml").read_text())
    options = {**sweep_file["options"], "steps": 4, "eval_problems": 100, "seed": 10, "output_dir": tmp_path / "run"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    train.main(["--config", str(ROOT / sweep_file["base"]), *words])
    first = sweep.probed(tmp_path / "run")
    assert first["rank tokens quarter"] == pytest.approx(0.58, abs=0.4)
    assert first["rank candidates quarter"] == pytest.approx(0.02, abs=0.4) and first["mean candidates quarter"] < 0.03
    assert 0.25 < first["success quarter"] < 0.5


def test_a_probe_of_several_processes_is_refused():
    trainer = SimpleNamespace(accelerator=SimpleNamespace(num_processes=2))
    with pytest.raises(UserError, match="runs on one process"):
        probes.draw(trainer, 2)
