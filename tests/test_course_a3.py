"""Assignment 3: right answers pass in whatever style; each planted fault shows what its diagnosis says; the commands exist."""

import ast
import json
import math
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.course_samples import VARIANT, automatic, other_styles, save, solved
from toys import bandits
from toys.course import Student, Text, check, load
from toys.course.a3 import ALPHAS, FAULTS, HEALTHY, SPECIMENS, TRAIN_CELL, may_train, rows_of, show_guards, t95, task
from toys.course.grading import Submission, grade
from toys.course.judging import judge

A3 = load("a3")
ADA = Student("ada", "test")
style, OTHER_STYLES = other_styles()


@style("Guard")
class ListGuard:
    """Keeps all rewards and computes the average anew."""

    def __init__(self, alpha_max, alpha_min, rho, gain_scale):
        self.settings, self.rewards = (alpha_max, alpha_min, rho, gain_scale), []

    def update(self, reward, confidence):
        high, low, rho, scale = self.settings
        average = self.rewards[0] if self.rewards else reward
        for old in self.rewards[1:]:
            average += (1 - rho) * (old - average)
        self.rewards.append(reward)
        gate = math.tanh((reward - average) / scale) if reward > average else 0
        return high * (1 - confidence * gate) + low * confidence * gate


@style("Guard")
def guard_in_a_closure(alpha_max, alpha_min, rho, gain_scale):
    """Not a class at all, and torch inside."""

    class State:
        ema = None

        def update(self, reward, confidence):
            now = torch.tensor(reward, dtype=torch.float64)
            last = now if self.ema is None else self.ema
            self.ema = torch.lerp(now, last, rho)
            p = torch.tanh(torch.relu(now - last) / gain_scale)
            return alpha_max - (alpha_max - alpha_min) * confidence * p

    return State()


@style("Guard")
class Float32Guard:
    """torch throughout, in its default type; alpha is a 0-dim tensor."""

    def __init__(self, alpha_max, alpha_min, rho, gain_scale):
        self.alpha_max, self.alpha_min, self.rho, self.gain_scale = alpha_max, alpha_min, rho, gain_scale
        self.average = None

    def update(self, reward, confidence):
        reward = torch.tensor(reward)
        average = reward if self.average is None else self.average
        gate = torch.tanh((reward - average).clamp(min=0) / self.gain_scale)
        self.average = self.rho * average + (1 - self.rho) * reward
        return self.alpha_max - (self.alpha_max - self.alpha_min) * confidence * gate


@style("Guard")
class SettingsOfTheClass:
    """Default values as attributes of the class, and of numpy's single precision; each object has its own average."""

    average = None
    count = 0

    def __init__(this, alpha_max, alpha_min, rho, gain_scale):
        this.settings = np.float32([alpha_max, alpha_min, rho, gain_scale])

    def update(this, reward, confidence):
        top, bottom, rho, scale = this.settings
        average = np.float32(reward) if this.average is None else this.average
        this.average = rho * average + (1 - rho) * np.float32(reward)
        return np.array(top - (top - bottom) * confidence * np.tanh(max(np.float32(reward) - average, 0) / scale))


@style("NoiseGuard")
class Float32NoiseGuard(Float32Guard):
    def __init__(self, alpha_max, alpha_min, rho, gain_scale, margin):
        super().__init__(alpha_max, alpha_min, rho, gain_scale)
        self.margin = margin

    def update(self, reward, reward_se, confidence):
        old = self.average
        alpha = super().update(reward, confidence)
        if old is None:
            return alpha
        gain = torch.tensor(reward) - old - self.margin * torch.tensor(reward_se)
        gate = confidence * torch.tanh(torch.relu(gain) / self.gain_scale)
        return self.alpha_max * (1 - gate) + self.alpha_min * gate


@style("NoiseGuard")
class ListNoiseGuard:
    def __init__(self, alpha_max, alpha_min, rho, gain_scale, margin):
        self.settings, self.rewards = (alpha_max, alpha_min, rho, gain_scale, margin), []

    def update(self, reward, reward_se, confidence):
        high, low, rho, scale, margin = self.settings
        average = self.rewards[0] if self.rewards else reward
        for old in self.rewards[1:]:
            average += (1 - rho) * (old - average)
        self.rewards.append(reward)
        excess = (reward - average) - margin * reward_se
        return high - (high - low) * confidence * (math.tanh(excess / scale) if excess > 0 else 0.0)


@style("NoiseGuard")
class NumpyNoiseGuard:
    def __init__(self, alpha_max, alpha_min, rho, gain_scale, margin):
        self.top, self.width, self.rho, self.scale, self.margin = (
            alpha_max,
            alpha_max - alpha_min,
            rho,
            gain_scale,
            margin,
        )
        self.ema = np.nan

    def update(self, reward, reward_se, confidence):
        self.ema = reward if np.isnan(self.ema) else self.ema
        threshold = self.ema + self.margin * reward_se
        self.ema = self.rho * self.ema + (1 - self.rho) * reward
        return self.top - self.width * confidence * np.tanh(np.clip(reward - threshold, 0, None) / self.scale)


@style("expected_gain")
def gain_by_closed_form(noise, rho):
    return noise / math.sqrt(math.pi * (1 + rho))


@style("expected_gain")
def gain_by_integral(noise, rho):
    x = torch.linspace(0, 12, 40001, dtype=torch.float64)
    sd = math.sqrt(noise**2 + noise**2 * (1 - rho) / (1 + rho))
    return sd * torch.trapezoid(x * torch.exp(-x * x / 2), x) / math.sqrt(2 * math.pi)


@style("expected_gain")
def gain_in_float32(noise, rho):
    variance = torch.tensor(noise) ** 2 * (1 + (1 - rho) / (1 + rho))
    return torch.sqrt(variance / (2 * torch.pi))


@style("interval")
def interval_of_tensors(values):
    n = values.shape[0]
    return values.mean(), t95(n - 1) * values.std() / torch.tensor(n).sqrt()


@style("interval")
def interval_by_numpy(values):
    n = len(values)
    return np.mean(values.numpy()), t95(n - 1) * np.std(values.numpy(), ddof=1) / n**0.5


@style("interval")
def interval_looped(values):
    values = values.tolist()
    error = statistics.stdev(values) / len(values) ** 0.5
    return torch.tensor([statistics.fmean(values), t95(len(values) - 1) * error], dtype=torch.float64)


@style("chosen")
def chosen_by_numpy(rewards, reference):
    table = rewards.numpy()
    first, second = np.split(table, 2, axis=1)
    best = np.argmax(first.mean(1))
    return best, *interval_by_numpy(torch.from_numpy(second[best] - second[reference]))


@style("chosen")
def chosen_looped(rewards, reference):
    rows = rewards.tolist()
    half = len(rows[0]) // 2
    best = max(range(len(rows)), key=lambda row: sum(rows[row][:half]))
    leads = [a - b for a, b in zip(rows[best][half:], rows[reference][half:], strict=True)]
    return best, statistics.fmean(leads), t95(half - 1) * statistics.stdev(leads) / math.sqrt(half)


@style("run_facts")
def facts_by_numpy(text):
    rows = [json.loads(line) for line in text.strip().split("\n")]
    table = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    n = len(rows) // 4
    a, b = table["reward_mean"][:n], table["reward_mean"][-n:]
    return {
        "gain": b.mean() - a.mean(),
        "gain_se": np.sqrt(a.var(ddof=1) / n + b.var(ddof=1) / n),
        "on_policy": (table["kl_old"] == 0).mean(),
        "spike": table["grad_norm"].max() / np.median(table["grad_norm"]),
    }


@style("run_facts")
def facts_in_float32(text):
    rows = [json.loads(line) for line in text.split("\n") if line]
    rewards, kl, norms = (torch.tensor([row[key] for row in rows]) for key in ("reward_mean", "kl_old", "grad_norm"))
    n, middle = len(rows) // 4, norms.sort().values[(len(norms) - 1) // 2 : len(norms) // 2 + 1].mean()
    return {
        "gain": rewards[-n:].mean() - rewards[:n].mean(),
        "gain_se": torch.sqrt(rewards[:n].var() / n + rewards[-n:].var() / n),
        "on_policy": (kl == 0).float().mean(),
        "spike": norms.max() / middle,
    }


@style("run_facts")
def facts_by_torch(text):
    rows = list(map(json.loads, text.splitlines()))
    rewards, norms = (
        torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in ("reward_mean", "grad_norm")
    )
    n = len(rows) // 4
    return {
        "spike": norms.max() / norms.quantile(0.5),
        "on_policy": len([row for row in rows if not row["kl_old"]]) / len(rows),
        "gain": rewards[-n:].mean() - rewards[:n].mean(),
        "gain_se": ((rewards[:n].var() + rewards[-n:].var()) / n) ** 0.5,
    }


@pytest.mark.parametrize(("name", "answer"), OTHER_STYLES.values(), ids=OTHER_STYLES)
def test_other_right_styles_pass(name, answer):
    for seed in range(4):
        verdicts = judge(A3[name], answer, ADA, fresh=str(seed))
        assert all(verdict.passed for verdict in verdicts), [v.says for v in verdicts if not v.passed]


def test_every_coded_exercise_has_two_other_styles():
    written = [name for name, _ in OTHER_STYLES.values()]
    for exercise in A3.exercises:
        if not exercise.choices and not exercise.value:
            assert written.count(exercise.name) >= 2, exercise.name


def test_a_stub_is_not_blamed():
    class Empty:
        pass

    class Passes:
        def __init__(self, *settings):
            pass

        def update(self, *signals):
            pass

    for exercise in A3.exercises:
        guard = exercise.name in ("Guard", "NoiseGuard")
        answers = [None] if exercise.value else [Empty, Passes] if guard else [lambda *case: None]
        for answer in answers:
            for verdict in judge(exercise, answer, ADA):
                assert not verdict.passed and "nothing" in verdict.says, (exercise.name, verdict)
                assert verdict.mistake not in {mistake.name for mistake in exercise.mistakes}


# Wrong answers as students write them, with a word of the diagnosis they are given.
def plain(body):
    names = {"math": math, "torch": torch, "json": json, "statistics": statistics, "t95": t95}
    exec(body, names)
    return names["answer"]


GUARD = """
class answer:
    def __init__(self, alpha_max, alpha_min, rho, gain_scale):
        self.alpha_max, self.alpha_min, self.rho, self.gain_scale = alpha_max, alpha_min, rho, gain_scale
        self.average = None

    def update(self, reward, confidence):
        average = reward if self.average is None else self.average
        gain = max(0.0, reward - average)
        self.average = self.rho * average + (1 - self.rho) * reward
        return self.alpha_max - (self.alpha_max - self.alpha_min) * confidence * math.tanh(gain / self.gain_scale)
"""
OF_THE_CLASS = GUARD.replace("        self.average = None\n", "").replace("self.average", "answer.average").replace(
    "class answer:\n", "class answer:\n    average = None\n\n"
)  # fmt: skip
CHOSEN = """
def answer(rewards, reference):
    best = int(rewards[:, FIRST].mean(1).argmax())
    lead = (rewards[best] - rewards[reference])[SECOND]
    return best, lead.mean(), t95(len(lead) - 1) * lead.std() / len(lead) ** 0.5
"""
FACTS = """
def answer(text):
    rows = [json.loads(line) for line in text.splitlines()]
    rewards, n = [row["reward_mean"] for row in rows], len(rows) // 4
    first, last = rewards[:n], rewards[-n:]
    norms = [row["grad_norm"] for row in rows]
    return {
        "gain": statistics.mean(last) - statistics.mean(first),
        "gain_se": ((statistics.variance(first) + statistics.variance(last)) / n) ** 0.5,
        "on_policy": sum(ON_POLICY for row in rows) / len(rows),
        "spike": max(norms) / statistics.median(norms),
    }
"""
GAIN = "def answer(noise, rho):\n    return VALUE"
WRONG = [
    ("Guard", OF_THE_CLASS, {"twins": "shared state"}),
    ("Guard", GUARD.replace("update(self, ", "update("), {"rising": "self missing in update"}),
    ("Guard", GUARD.replace("__init__(self, ", "__init__("), {"rising": "self missing in __init__"}),
    ("Guard", GUARD.replace("(gain / self.gain_scale)", "(gain / gain_scale)"), {"rising": "settings not kept"}),
    ("Guard", GUARD.replace("        self.average = None\n", ""), {"rising": "average not set"}),
    ("run_facts", FACTS.replace("ON_POLICY", "row['kl_old'] < 1e-6"), {"on_policy": "a tolerance for zero"}),
    ("run_facts", FACTS.replace("ON_POLICY", "row['kl_old'] < 1e-3"), {"on_policy": "a tolerance for zero"}),
    ("run_facts", FACTS.replace("ON_POLICY", "round(row['kl_old'], 4) == 0"), {"on_policy": "a tolerance for zero"}),
    ("run_facts", FACTS.replace("ON_POLICY", "math.isclose(row['kl_old'], 0, abs_tol=1e-9)"),
     {"on_policy": "a tolerance for zero"}),
    ("run_facts", FACTS.replace("ON_POLICY", "row['kl_old'] < 1e-12"), {"on_policy": "unnamed"}),
    ("chosen", CHOSEN.replace("FIRST", "::2").replace("SECOND", "1::2"), {"lead": "even and odd seeds"}),
    ("chosen", CHOSEN.replace("FIRST", "1::2").replace("SECOND", "::2"), {"lead": "odd and even seeds"}),
    ("chosen", CHOSEN.replace("FIRST", ":").replace("SECOND", "10:"), {"row": "the reported seeds helped to choose"}),
    ("run_facts", FACTS.replace("len(rows) // 4", "10").replace("ON_POLICY", "row['kl_old'] == 0"),
     {"gain": "ten steps for quarters", "gain_se": "ten steps for quarters"}),
    ("expected_gain", GAIN.replace("VALUE", "noise * math.sqrt((1 - rho) / (1 + rho)) / math.sqrt(2 * math.pi)"),
     {"value": "only the average is noisy", "no_memory": "only the average is noisy"}),
    ("expected_gain", GAIN.replace("VALUE", "noise / math.sqrt(math.pi * (1 + rho)) if rho else 0.0"),
     {"no_memory": "nothing at rho = 0"}),
    ("expected_gain", GAIN.replace("VALUE", "noise / math.sqrt(math.pi * (1 + rho)) if rho else noise / (2 * math.pi) ** 0.5"),
     {"no_memory": "a factor"}),
    ("Guard", GUARD.replace("self.rho * average + (1 - self.rho) * reward", "max(average, reward)"),
     {"noisy": "largest reward for average"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "mistakes"), WRONG)
def test_wrong_answers_as_students_write_them(name, body, mistakes):
    for seed in range(4):
        verdicts = {v.check.name: v for v in judge(A3[name], plain(body), ADA, fresh=str(seed)) if not v.passed}
        assert {check: verdicts[check].mistake for check in mistakes if check in verdicts} == mistakes, verdicts
        assert {verdict.mistake for verdict in verdicts.values()} <= set(mistakes.values()), verdicts


def test_a_class_with_another_method_is_not_taken_for_an_empty_one():
    verdicts = judge(A3["Guard"], plain(GUARD.replace("def update", "def step")), ADA)
    assert verdicts[0].says == "the class has no method `update`; it has step."
    first = "        if self.average is None:\n            self.average = reward\n            return\n"
    silent = GUARD.replace("        average = reward if", first + "        average = reward if")
    assert "update returns nothing in step 1" in judge(A3["Guard"], plain(silent), ADA)[0].says


def test_a_class_attribute_costs_the_check_about_twins_only():
    lost = [verdict.check.name for verdict in judge(A3["Guard"], plain(OF_THE_CLASS), ADA) if not verdict.passed]
    assert lost == ["twins"]
    missing = plain(
        GUARD.replace("update(self, reward, confidence)", "update(self, reward)").replace("confidence * ", "")
    )
    assert "update() takes 2 positional arguments but 3 were given" in judge(A3["Guard"], missing, ADA)[0].says


def test_the_two_names_of_a_diagnosis_cannot_be_guessed_one_by_one(capsys):
    exercise = A3["diagnosis"]
    first, second = exercise.solution(**ADA.numbers(exercise))
    other = next(name for name in FAULTS if name not in (first, second))
    check(exercise, (first, other), student=ADA)
    said = capsys.readouterr().out
    assert said.startswith("diagnosis: not yet: not both are right.") and "points" not in said
    assert FAULTS[first].shows in said and FAULTS[other].shows in said
    check(exercise, (second, first), student=ADA)
    assert "exchanged" not in capsys.readouterr().out
    for malformed in (None, first, (first, "bad luck"), (first, second, first)):
        check(exercise, malformed, student=ADA)
        assert "diagnosis: " in capsys.readouterr().out
    check(exercise, (first, second), student=ADA)
    assert "diagnosis: 6 of 6 points" in capsys.readouterr().out


def test_an_unpaired_error_is_not_taken_for_too_few_digits():
    exercise = A3["sweep_report"]
    scores, alpha, lead, half = exercise.solution(**ADA.numbers(exercise))
    (verdict,) = [v for v in judge(exercise, (scores, alpha, lead, 1.008 * half), ADA) if not v.passed]
    assert "digits" not in verdict.says and "seed by seed" in verdict.says
    (verdict,) = [v for v in judge(exercise, (scores, alpha, round(lead, 3) + 1e-3, half), ADA) if not v.passed]
    assert "digits" not in verdict.says


def test_a_diagnosis_is_judged_name_by_name_when_it_is_graded(monkeypatch, capsys):
    monkeypatch.setenv("APO_EDU_GRADING", "1")
    exercise = A3["diagnosis"]
    first, _ = exercise.solution(**ADA.numbers(exercise))
    assert check(exercise, (first, "nothing wrong"), student=ADA) == 3
    assert "the second run is not healthy" in capsys.readouterr().out


def test_the_picture_of_the_guards_states_its_settings_and_is_quick(capsys):
    started = time.process_time()
    show_guards(A3["Guard"].solution, A3["NoiseGuard"].solution)
    assert time.process_time() - started < 2.5
    said = capsys.readouterr().out
    assert "alpha_max 0.9, alpha_min 0.35, rho 0.9, gain_scale 0.1" in said and "groups of 8" in said
    for line in said.splitlines()[2:4]:
        assert {"alpha", "confidence", "reward"} <= set(line.split())


def test_what_part_three_says_of_the_model_is_measured():
    before = json.loads((SPECIMENS / "healthy" / "summary.json").read_text())["eval_before"]
    assert before["pass@1"] == pytest.approx(2 / 5, abs=0.02) and before["greedy"] == pytest.approx(3 / 5, abs=0.02)
    text = " ".join(part.source for part in A3.parts if isinstance(part, Text))
    assert "two times in five (three in five by its best guess)" in text.replace("\n", " ")


@pytest.mark.parametrize("changed", [1.001, 0.999])
def test_a_guard_with_another_alpha_fails(changed):
    reference = A3["Guard"].solution

    def guard(alpha_max, *rest):
        return reference(changed * alpha_max, *rest)

    assert not any(verdict.passed for verdict in judge(A3["Guard"], guard, ADA))


def test_the_expected_gain_is_what_a_simulation_gives():
    generator = torch.Generator().manual_seed(0)
    for rho in (0.0, 0.5, 0.9):
        rewards = 0.07 * torch.randn(4000, 100, generator=generator, dtype=torch.float64)
        average, gains = torch.zeros(100, dtype=torch.float64), []
        for reward in rewards:
            gains.append((reward - average).clamp(min=0))
            average = rho * average + (1 - rho) * reward
        simulated = torch.stack(gains[200:]).mean()
        assert A3["expected_gain"].solution(0.07, rho) == pytest.approx(float(simulated), rel=0.01)


@pytest.mark.parametrize(
    ("noise", "says", "gate"), [(0.01, "about 0.04", 0.04), (0.07, "about 0.23", 0.23), (0.5, "about 0.45", 0.45)]
)
def test_the_prediction_about_noise(noise, says, gate):
    assert A3["noise_alone"].solution(noise, 0.1, 0.9) == says
    guard, generator = A3["Guard"].solution(1.0, 0.0, 0.9, 0.1), torch.Generator().manual_seed(1)
    rewards = (0.5 + noise * torch.randn(5000, generator=generator, dtype=torch.float64)).tolist()
    gates = [1.0 - guard.update(reward, 1.0) for reward in rewards]
    assert statistics.fmean(gates) == pytest.approx(gate, abs=0.02)


def test_t95_is_students():
    # Two-sided 95 % points, from the distribution itself: integrate the density of t with nu degrees of freedom.
    for nu in (1, 3, 9, 19, 30):
        x = torch.linspace(0, t95(nu), 200001, dtype=torch.float64)
        scale = math.exp(math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2)) / math.sqrt(nu * math.pi)
        inside = 2 * scale * torch.trapezoid((1 + x * x / nu) ** (-(nu + 1) / 2), x)
        assert float(inside) == pytest.approx(0.95, abs=2e-4)
    with pytest.raises(ValueError, match="degrees is 31; expected 1 to 30"):
        t95(31)


def test_which_alpha_wins_on_which_task():
    ends = {}
    for name in ("equal arms", "lucky arms", "flipped"):
        loops = {alpha: bandits.Loop(alpha=alpha, num_steps=150, closed_form=True) for alpha in (0.0, 0.9)}
        low, high = bandits.run_all(task(name), loops, seeds=range(500, 540), snapshots=2).values()
        ends[name] = float((high.expected_reward - low.expected_reward)[75:].mean())
    assert abs(ends["equal arms"]) < 0.02 and ends["lucky arms"] < -0.1 and ends["flipped"] > 0.1
    with pytest.raises(ValueError, match="task is 'x'; expected one of equal arms, lucky arms, flipped"):
        task("x")


def means(code):
    """Mean of each series over the first and the last 16 of 80 steps: {key: (first, last)}."""
    rows = rows_of(SPECIMENS / code)
    assert len(rows) == 80
    return {
        key: tuple(statistics.fmean(row[key] for row in part) for part in (rows[:16], rows[-16:])) for key in rows[0]
    }


def pass_at_1(code):
    summary = json.loads((SPECIMENS / code / "summary.json").read_text())
    return summary["eval_before"]["pass@1"], summary["eval_after"]["pass@1"]


def test_each_fault_shows_what_its_diagnosis_says():
    healthy = means("healthy")
    assert pass_at_1("healthy")[1] > 0.6 and healthy["groups_with_signal"][0] > 0.8
    seen = {name: means(fault.code) for name, fault in FAULTS.items()}
    faulty = {name: rows_of(SPECIMENS / fault.code) for name, fault in FAULTS.items()}
    after = {name: pass_at_1(fault.code)[1] for name, fault in FAULTS.items()}

    name = "learning rate too high"
    assert statistics.fmean(row["reward_mean"] for row in faulty[name][12:]) < 0.01
    assert max(row["kl_old"] for row in faulty[name]) > 1 and seen[name]["truncated_fraction"][1] > 0.95
    name = "judge turned round"
    assert seen[name]["reward_mean"][1] > 0.99 and after[name] < 0.02
    name = "judge blind"
    assert faulty[name][0]["reward_mean"] > 0.98 and max(seen[name]["groups_with_signal"]) < 0.02
    assert after[name] < pass_at_1("healthy")[0] + 0.05
    name = "schedule frozen"
    assert max(row["confidence"] for row in faulty[name]) < 0.01 and after[name] > 0.6
    assert min(row["alpha"] for row in faulty[name]) > 0.89
    name = "sampling too cold"
    assert faulty[name][0]["token_entropy"] < 0.15 * rows_of(SPECIMENS / "healthy")[0]["token_entropy"]
    assert max(seen[name]["groups_with_signal"]) < 0.25 and 0.4 < seen[name]["reward_mean"][0] < 0.9
    name = "samples too old"
    fresh = [row["step"] for row in faulty[name] if row["kl_old"] == 0]
    assert fresh == [1, 17, 33, 49, 65] and max(row["kl_old"] for row in faulty[name]) > 0.2
    assert after[name] < 0.5
    name = "answers cut off"
    assert min(row["truncated_fraction"] for row in faulty[name]) > 0.95
    assert max(row["completion_length"] for row in faulty[name]) <= 4


def test_a_wrong_fault_is_answered_with_what_it_would_show():
    exercise = A3["diagnosis"]
    numbers = ADA.numbers(exercise)
    first, second = exercise.solution(**numbers)
    for name, fault in FAULTS.items():
        verdict = judge(exercise, (name, second), ADA)[0]
        assert verdict.passed == (name == first)
        if name not in (first, second):
            assert fault.shows in verdict.says and "the first run is not" in verdict.says
    assert judge(exercise, (first, "bad luck"), ADA)[1].says == "'bad luck' is none of the names in the list."
    assert HEALTHY not in (first, second)


def test_the_runs_folders_do_not_tell():
    for name, fault in FAULTS.items():
        assert {path.name for path in (SPECIMENS / fault.code).iterdir()} == {
            "metrics.jsonl", "summary.json", "completions.jsonl"
        }  # fmt: skip
        assert not any(word in fault.code for word in name.split())
    assert {path.name for path in SPECIMENS.iterdir()} == {"healthy", *(fault.code for fault in FAULTS.values())}


def test_every_pair_of_faults_can_be_drawn():
    drawn = {tuple(Student(f"s{i}").numbers(A3["diagnosis"]).values()) for i in range(600)}
    assert len(drawn) == 7 * 6


def test_the_trainer_takes_the_command_of_the_notebook(monkeypatch):
    config = pytest.importorskip("full.config")
    cell = ast.parse(TRAIN_CELL)
    command = next(
        node.value
        for node in ast.walk(cell)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "command"
    )
    words = [word.value for word in command.elts[1:]]  # the first is sys.executable
    root = Path(config.__file__).parents[1]
    monkeypatch.chdir(root)
    assert words[0] == "full/train.py" and (root / words[0]).is_file()
    parsed, _ = config.parse_config(words[1:])
    assert parsed.model == "tiny" and parsed.steps == 80 and parsed.output_dir == "runs/a3"


def test_nothing_is_trained_unless_the_student_says_so():
    first = ast.parse(TRAIN_CELL).body[0]
    assert isinstance(first, ast.Assign) and first.targets[0].id == "TRAIN" and first.value.value is False
    assert "if TRAIN and may_train():" in TRAIN_CELL


@pytest.mark.parametrize("variable", ["NBGRADER_EXECUTION", "APO_EDU_GRADING", "APO_EDU_SANDBOX"])
def test_grading_never_trains(monkeypatch, variable):
    assert may_train()
    monkeypatch.setenv(variable, "1")
    assert not may_train()


def test_the_committed_run_has_a_report(tmp_path):
    html = pytest.importorskip("full.report.html")
    folder = tmp_path / "healthy"
    shutil.copytree(SPECIMENS / "healthy", folder)
    assert html.write_report(folder).stat().st_size > 100_000


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "win32", reason="grading needs fork")
def test_a_submission_is_graded_and_does_not_train(tmp_path):
    book = solved(A3, "ada", diagnosis='diagnosis = ("nothing wrong", "nothing wrong")')
    for cell in book.cells:
        cell.source = cell.source.replace("TRAIN = False", "TRAIN = True")
    result = grade(A3, Submission("ada", save(book, tmp_path / "a3.ipynb")), variant=VARIANT)
    assert not result.troubles and result.score == automatic(A3) - 6
    lost = {item.name: item.mistake for item in result.items if item.score is not None and item.score < item.max_score}
    assert lost == dict.fromkeys(("diagnosis.first", "diagnosis.second"), "both taken for healthy")


def test_time_and_points():
    assert 220 <= A3.minutes <= 260
    assert ALPHAS[3] == 0.6
