"""A stranger's objective and schedule, by import path: every tool works with them, and nothing in the repository names them."""

import json
import shutil
import sys

import pytest

from apo_edu.objectives import find_objective
from apo_edu.schedules import find_schedule
from full import compare, train
from full.errors import UserError
from full.report import html
from full.report.html import write_report
from full.trainer.state import LOGGED
from tests.helpers import metrics_without_times, save_small_model, small_run
from toys.bandits import Loop, equal_arms, run

MODULE = "rules_of_a_stranger"
RULES = """
from apo_edu import objectives, palette, schedules

@objectives.describe(
    summary="apo, louder", first_loss="strength times that of apo", color="#123456",
)
def louder(batch, *, alpha, tau_anc, beta_r, strength=2.0):
    loss, stats = objectives.apo(batch, alpha=alpha, tau_anc=tau_anc, beta_r=beta_r)
    return strength * loss, stats

def plain(batch, *, strength):
    advantages = batch.rewards - batch.rewards.mean(-1, keepdim=True)
    return -strength * (advantages[..., None] * batch.logps * batch.mask).mean(), {}

def half(batch, *, alpha):
    return batch.logps.mean()

def loud(batch):
    return batch.logps.sum(), {"total": 3}

def nowhere(batch):
    return (batch.logps / 0.0).sum(), {}

def taken(batch):
    return batch.logps.sum(), {"step": batch.rewards.mean(), "mine": batch.rewards.mean(), "loss": batch.rewards.mean()}

@schedules.describe(rule="alpha = {alpha_max:g} x {factor}^step", note="Alpha shrinks by {factor} a step, to {last}")
class Shrinking(schedules.Schedule):
    def __init__(self, alpha_max=0.9, *, factor):
        self.alpha, self.factor = alpha_max, factor
    def update(self, signals):
        self.alpha *= self.factor
        return self.alpha
    def traces(self):
        return {"shrunk_by": self.factor}
    def state_dict(self):
        return {"alpha": self.alpha}
    def load_state_dict(self, state):
        self.alpha = state["alpha"]
"""


@pytest.fixture(scope="module", autouse=True)
def rules(tmp_path_factory):
    """The stranger's module, on the path."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / f"{MODULE}.py").write_text(RULES)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


def own(model, run, *, seed=0, **changes) -> list[str]:
    options = {"objective": f"{MODULE}:louder", "objective_options": "strength=4", "schedule": f"{MODULE}:Shrinking"}
    options |= {"schedule_options": "factor=0.5", "steps": 2, "seed": seed}
    return small_run(model, run, **options | changes)


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """A run of the stranger's rules, and one of apo."""
    folder = tmp_path_factory.mktemp("runs")
    train.main(own(model, folder / "own0"))
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        train.main(small_run(model, folder / "apo", steps=2, schedule="fixed", alpha=0.45))
    return folder


def without_pictures(patch) -> None:
    """Drawing takes most of the time of such a run, and is looked at once, in the stranger's own."""
    patch.setattr(train, "draw_curves", lambda *args: None)
    patch.setattr(train, "write_report", lambda *args: None)


def test_two_steps_of_the_trainer(runs):
    rows, apo = (metrics_without_times(runs / name) for name in ("own0", "apo"))
    assert [row["alpha"] for row in rows] == [0.45, 0.225]
    assert [row["shrunk_by"] for row in rows] == [0.5, 0.5]
    # The first step is apo's at alpha 0.45, four times as long.
    assert rows[0]["loss"] == pytest.approx(4 * apo[0]["loss"]) and apo[0]["loss"] > 0
    assert rows[0]["grad_norm"] == pytest.approx(4 * apo[0]["grad_norm"], rel=1e-5)
    summary = json.loads((runs / "own0" / "summary.json").read_text())
    assert (summary["objective"], summary["schedule"]) == (f"{MODULE}:louder", f"{MODULE}:Shrinking")


def test_it_goes_on_where_it_was_stopped(model, tmp_path, monkeypatch):
    without_pictures(monkeypatch)
    run = tmp_path / "run"
    train.main(own(model, run, steps=3, save_every=1))
    (run / "summary.json").unlink()  # as if it had been killed in its third step
    shutil.rmtree(run / "checkpoints" / "step-3")
    train.main(["--resume", str(run)])
    assert [row["alpha"] for row in metrics_without_times(run)] == [0.45, 0.225, 0.1125]


def test_the_report(runs):
    text = write_report(runs / "own0").read_text()
    assert "Alpha shrinks by 0.5 a step, to 0.225" in text
    assert f"{MODULE}:louder" in text and "strength" in text and "shrunk_by" in text.replace("<wbr>", "")
    assert (runs / "own0" / "curves.png").stat().st_size > 20_000


def test_compare(runs, capsys):
    compare.main([*(str(runs / name) for name in ("own0", "apo")), "--out", str(runs / "c.png")])
    out = "".join(capsys.readouterr().out.split())
    assert f"{MODULE}:louder{MODULE}:Shrinking" in out and "apofixed" in out


def test_the_doctor(model, runs, tmp_path, capsys):
    train.main([*own(model, tmp_path / "run"), "--doctor"])
    out = " ".join(capsys.readouterr().out.split())
    assert "a constant on the first update: strength times that of apo" in out
    assert f"{MODULE}:Shrinking: alpha = 0.9 x 0.5^step" in out
    assert "nothing is clipped" in out


def test_an_objective_that_is_nothing_but_a_function(model, tmp_path, capsys, monkeypatch):
    without_pictures(monkeypatch)
    options = {"objective": f"{MODULE}:plain", "objective_options": "strength=2", "steps": 2, "alpha_max": 0.8}
    train.main(small_run(model, tmp_path / "run", **options))
    out = " ".join(capsys.readouterr().out.split())
    assert f"note: alpha_max is set and has no effect: {MODULE}:plain and its schedule do not read it" in out
    rows = metrics_without_times(tmp_path / "run")
    assert rows[0]["grad_norm"] > 0 and rows[0]["clip_fraction"] == rows[0]["kl_old"] == 0 and rows[1]["kl_old"] > 0
    train.main([*small_run(model, tmp_path / "doctor", **options), "--doctor"])
    assert f"none: {MODULE}:plain has no alpha" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_run_is_found_before_the_model_is_loaded(tmp_path):
    with pytest.raises(UserError, match="schedule_options has 'wrong'"):
        train.main(own(tmp_path / "no-model", tmp_path / "run", schedule_options="wrong=1"))
    for name, reason in (
        ("half", "TypeError|ValueError"),
        ("loud", "AttributeError.*'int' object has no attribute 'item'"),
        ("nowhere", "a loss of -inf, or a gradient, that is not finite"),
    ):
        with pytest.raises(
            UserError, match=f"objective {MODULE}:{name} cannot be used.*({reason}).*expected .loss, stats"
        ):
            train.main(small_run(tmp_path / "no-model", tmp_path / "run", objective=f"{MODULE}:{name}"))


def test_a_stat_is_not_called_as_a_metric_of_the_trainer(model, tmp_path):
    with pytest.raises(
        UserError, match=f"objective {MODULE}:taken has stats called loss, step, as .*e.g. loss_of_mine"
    ):
        train.main(small_run(model, tmp_path / "run", objective=f"{MODULE}:taken"))


def test_what_every_run_logs_is_its_own(runs):
    rows = metrics_without_times(runs / "apo")
    # Beside them only what the objective and the schedule say.
    assert set().union(*rows) - LOGGED == {
        "clip_fraction",
        "kl_old",
        "ess",
        "log_ratio_max",
        "confidence",
        "improvement",
    }
    assert {name for name in LOGGED if "second" not in name} <= set().union(*rows)


def test_a_run_whose_rules_are_gone_still_has_its_tools(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "stranger" not in entry])
    monkeypatch.delitem(sys.modules, MODULE)
    monkeypatch.setattr(html, "curves", lambda record: [])  # drawn above; what names them is asked for here too
    assert f"{MODULE}:louder" in write_report(runs / "own0").read_text()
    compare.main([str(runs / "own0"), str(runs / "apo"), "--out", str(tmp_path / "c.png")])


def test_the_bandit():
    record, schedule = find_objective(f"{MODULE}:louder"), find_schedule(f"{MODULE}:Shrinking")
    loop = Loop(
        objective=record.function, options={"strength": 4.0}, num_steps=3,
        schedule=lambda: schedule.make({"alpha_max": 0.9, "factor": 0.5}),
    )  # fmt: skip
    history = run(equal_arms(4, 1), loop, seeds=[0])
    assert history.alpha.flatten().tolist() == pytest.approx([0.45, 0.225, 0.1125])
