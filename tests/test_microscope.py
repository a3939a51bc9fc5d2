"""Lesson 13's groups: the callback writes them, and what is drawn is the trainer's gradient."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from apo_edu import GroupBatch, objectives
from full import train
from full.trainer import microscope as callback
from tests.helpers import save_small_model, small_run
from toys import microscope

DATA = Path(__file__).parents[1] / "notebooks" / "data" / "groups"
KNOBS = {"alpha": 0.6, "beta_r": 0.3, "tau_anc": 0.5}


def test_the_push_is_the_gradient_with_respect_to_the_token_s_logit():
    group = microscope.load(DATA / "tiny.jsonl")[0]
    for later in (False, True):
        logps = (group.later if later else group.logps)[0, :1].clone()
        # A softmax over the token and everything else, whose logits give it that log-probability.
        logit = (logps - torch.log1p(-logps.exp())).requires_grad_()
        others = group.batch(later=later)
        moved = others.logps.clone()
        moved[0, 0, :1] = torch.nn.functional.logsigmoid(logit)
        loss, _ = objectives.apo(GroupBatch(moved, others.old_logps, others.mask, others.rewards), **KNOBS)
        (slope,) = torch.autograd.grad(loss, logit)
        found = microscope.anatomy(group, **KNOBS, later=later)
        assert -slope.item() == pytest.approx(found.push[0, 0].item(), rel=1e-9)
        weights = found.coef * group.mask.sum(-1)  # a group's weights add up to 0
        assert weights.sum().item() == pytest.approx(0.0, abs=1e-9) and weights.abs().max() > 0.01


def test_the_coefficient_shown_is_that_of_every_token():
    """Also of completions that fill the whole width: two of them in SmolLM2's group, all in the tiny model's."""
    for name in ("tiny", "smollm2"):
        group = microscope.load(DATA / f"{name}.jsonl")[0]
        coef, _, _ = objectives.coefficients(objectives.apo, group.batch(), **KNOBS)
        found = microscope.anatomy(group, **KNOBS).coef
        torch.testing.assert_close(found[:, None] * group.mask, coef[0], rtol=1e-9, atol=1e-15)
        assert bool(group.mask.all(-1).any()) and bool(group.mask.all()) == (name == "tiny")


def test_what_the_lesson_says_of_its_groups():
    groups = microscope.load(DATA / "tiny.jsonl")
    group = next(group for group in groups if group.problem == "Compute $44+89$.")
    assert group.rewards.sum() == 2 and len(group.rewards) == 8 and group.step == 1
    right = int(group.rewards.argmax())
    assert group.tokens[right] == ("\\boxed{", "1", "3", "3", "}", "<end>")
    assert group.logps[right].exp().tolist() == pytest.approx([0.9999, 0.997, 0.45, 0.71, 1.0, 0.9998], abs=0.01)
    pushes = {alpha: microscope.anatomy(group, **{**KNOBS, "alpha": alpha}).push for alpha in (0.0, 0.9)}
    shares = [push / push.abs().max() for push in pushes.values()]
    assert torch.allclose(*shares, atol=1e-9) and not torch.allclose(*pushes.values())
    assert int(pushes[0.9][right].argmax()) == 2  # the tens digit
    flat = [group for group in groups if group.rewards.max() == group.rewards.min()][1]
    now, later = (microscope.anatomy(flat, **KNOBS, later=later) for later in (False, True))
    assert now.coef.abs().max() < 1e-12 < 0.1 < later.coef.abs().max()
    assert torch.equal(torch.argsort(later.coef, stable=True), torch.argsort(later.p, stable=True))


def test_six_right_of_eight_the_wrong_ones_are_heard_three_times_as_loud():
    groups = microscope.load(DATA / "tiny.jsonl")
    group = next(group for group in groups if group.rewards.sum() == 6 and group.step == 1)
    coef = microscope.anatomy(group, **KNOBS).coef
    assert coef[group.rewards == 0][0] / -coef[group.rewards == 1][0] == pytest.approx(3.0, rel=1e-6)
    half = microscope.anatomy(group, **{**KNOBS, "tau_anc": 1.0})
    assert torch.allclose(half.coef, coef / 2)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "groups.jsonl"
    path.write_text('{"problem": "x"}\n')
    with pytest.raises(ValueError, match=r"groups.jsonl, line 1: KeyError\('completions'\)"):
        microscope.load(path)


def test_the_callback_writes_groups_and_leaves_the_run_as_it_is(tmp_path):
    model = save_small_model(tmp_path / "model")
    train.main(small_run(model, tmp_path / "plain", steps=6, save_every=0))
    watch = "full.trainer.microscope:groups"
    train.main(small_run(model, tmp_path / "watched", steps=6, save_every=0, callback=watch))
    rows = [json.loads(line) for line in (tmp_path / "watched" / "groups.jsonl").read_text().splitlines()]
    assert {(row["step"], row["step_later"]) for row in rows} == {(1, 5)} and len(rows) == 8
    for one in (one for row in rows for one in row["completions"]):
        assert len(one["tokens"]) == len(one["logps"]) == len(one["later"]) and max(one["logps"]) <= 0
        assert one["logps"] != one["later"]
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "watched")
    ]
    assert losses[0] == losses[1]
    assert len(microscope.load(tmp_path / "watched" / "groups.jsonl")) == 8


def test_the_middle_of_a_short_run_both_samples_and_scores_again(tmp_path, monkeypatch):
    done = []
    run = SimpleNamespace(path=tmp_path)
    trainer = SimpleNamespace(config=SimpleNamespace(steps=10), run=run)
    (tmp_path / "groups-1.sampled").write_text("{}")
    monkeypatch.setattr("full.trainer.microscope._sample", lambda trainer, step: done.append(("sample", step)))
    monkeypatch.setattr(
        "full.trainer.microscope._score_again", lambda trainer, step, path: done.append(("score", step))
    )
    callback.groups(trainer, {"step": 5})
    assert done == [("sample", 5), ("score", 5)]
