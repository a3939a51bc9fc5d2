"""Every experiment runs, keeps its key figure, is judged, drawn, written and read back; and what they stand on."""

import math
import re
from dataclasses import replace

import pytest
import torch

from toys import experiments, plotting
from toys.bandits import Loop, equal_arms, lucky, run
from toys.experiments.__main__ import RESULTS, main, perform, words
from toys.experiments.experiment import PAR, Experiment, Verdict, on_a_par
from toys.experiments.rules import TrendGuard, VarianceCap, Yoked
from toys.experiments.table import Row, Table

ALL = experiments.load()
BANDITS = [name for name, experiment in ALL.items() if experiment.kind == "bandit"]


@pytest.mark.parametrize("name", BANDITS)
def test_a_quick_run_holds_the_key_figure(name, tmp_path):
    experiment = ALL[name]
    table = perform(experiment, experiment.quick_seeds, quick=True)
    found = experiment.key.read(table)
    assert found == pytest.approx(experiment.key.expected, abs=experiment.key.tolerance)
    made, caption = experiment.draw(table)
    made.canvas.draw()
    assert caption.endswith(".") and all(ax.get_xlabel() for ax in made.axes)
    table.write(tmp_path / "table.csv")
    again = Table.read(tmp_path / "table.csv")
    assert again.about == table.about and len(again.rows) == len(table.rows)
    assert experiment.judge(again).answer == experiment.judge(table).answer
    assert {"command", "commit", "machine", "seconds", "verdict"} <= table.about.keys()


@pytest.mark.parametrize("name", ALL)
def test_an_experiment_says_what_it_predicts(name):
    experiment = ALL[name]
    for field in ("question", "paper", "theory", "settings", "controls", "rule"):
        assert len(getattr(experiment, field).split()) >= 5, field
    assert experiment.question.endswith("?")
    assert experiment.kind == "trainer" or experiment.key is not None


def test_the_predicted_switch_is_the_exact_sum_over_groups():
    # Groups of 3 by hand: n draws of the risky arm of which w pay, each with its binomial weight.
    from toys.experiments.risk_attitude import BETA_R, CHANCE, PAIRS, SAFE, predicted_switch

    def push(alpha, group=4):
        total = 0.0
        for n in range(group + 1):
            for wins in range(n + 1):
                weight = math.comb(group, n) / 2**group * math.comb(n, wins) * CHANCE**wins * (1 - CHANCE) ** (n - wins)
                rewards = torch.tensor([SAFE] * (group - n) + [1.0] * wins + [0.0] * (n - wins), dtype=torch.float64)
                z = torch.softmax(rewards / BETA_R, 0) ** alpha
                total += weight * float((z - z.mean())[group - n :].sum())
        return total

    found = predicted_switch(PAIRS["gamble"], 4)
    assert push(found - 0.03) < 0 < push(found + 0.03)


def test_yoked_replays_and_the_trend_guard_ignores_one_lucky_step():
    trace = torch.tensor([[0.3, 0.4], [0.5, 0.6]])
    loop = Loop(num_steps=2, schedule=lambda: Yoked(trace))
    assert run(equal_arms(), loop, seeds=2).alpha.tolist() == trace.double().tolist()
    noisy = equal_arms(noise=1.0)
    late = {
        name: run(noisy, Loop(schedule=schedule, closed_form=True), seeds=10).improvement[200:].mean()
        for name, schedule in {"step": experiments.rules.GuardedAlpha, "trend": TrendGuard}.items()
    }
    assert 0 < late["trend"] < 0.8 * late["step"]
    # Constant rewards r, then r + g: fast moves by 1 - rho_fast = 0.3 of g, slow by nothing before it is compared.
    guard, signals = TrendGuard(rho_fast=0.7), experiments.rules.Signals
    guard.update(signals(reward=0.5, confidence=1.0))
    guard.update(signals(reward=0.6, confidence=1.0))
    assert guard.improvement == pytest.approx(math.tanh(0.3 * 0.1 / guard.gain_scale))
    assert float(guard.reward_ema) == pytest.approx(0.9 * 0.5 + 0.1 * 0.6)
    with pytest.raises(ValueError, match="rho_fast is 0.95"):
        TrendGuard(rho_fast=0.95)


def test_the_variance_cap_reads_duplicates_only():
    rule = VarianceCap(decay=0.0, delta=0.05, beta_r=0.3)

    def alpha(arms, rewards):
        signals = experiments.rules.ArmSignals(
            reward=0.0, arms=torch.tensor([[arms]]), rewards=torch.tensor([[rewards]], dtype=torch.float64)
        )
        return float(rule.update(signals))

    assert alpha([0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0]) == 0.9  # no duplicates: nothing is known
    # Arm 0 paid 0 and 2, variance 2; arm 1 paid 1, 1, 1: variance 0. 2 * 0.3 * 0.05 / 2 by hand.
    assert alpha([0, 0, 1, 1, 1], [0.0, 2.0, 1.0, 1.0, 1.0]) == pytest.approx(0.015)
    assert alpha([4, 5, 6, 7, 8], [9.0] * 5) == pytest.approx(0.015)  # kept while there is nothing to read
    history = run(lucky(), Loop(schedule=VarianceCap, num_steps=60), seeds=5)
    assert 0.03 < history.alpha[30:].median() < 0.3
    with pytest.raises(ValueError, match="hold no arms"):
        rule.update(experiments.rules.Signals(reward=0.0))


def test_a_table_finds_one_row_and_says_what_is_missing():
    table = Table()
    row = table.add("part", "apo", "reward", [0.0, 1.0, 2.0, 3.0], alpha=0.35)
    assert (row.seeds, row.mean, row.median) == (4, 1.5, 1.5) and row.low < 1.5 < row.high
    assert table.one(part="part", alpha=0.35) is row and table.where(x=math.nan) == [row]
    table.add("part", "apo", "reward", [0.0, 1.0], alpha=0.9)
    with pytest.raises(ValueError, match="2 rows have .*'rule': 'apo'.*expected one"):
        table.one(rule="apo")
    found = table.add_statistic(
        "part", "ratio", "x", torch.tensor([[2.0, 2.0], [4.0, 4.0]]), lambda v: v[:, 1].mean(-1) / v[:, 0].mean(-1)
    )
    assert (found.mean, found.low, found.high, found.seeds) == (2.0, 2.0, 2.0, 2)


def test_a_table_says_how_many_seeds_are_behind_a_sentence():
    table = Table()
    few = table.add("part", "apo", "reward", [0.0, 1.0, 2.0, 3.0])
    many = table.add("part", "apo", "loss", [0.1, 0.2, 0.3, 0.4, 0.6])
    table.add_number("part", "predicted", "reward", 7.0)
    assert table.behind(f"first {few.interval}, then {many.interval}") == [4, 5]
    assert table.behind(f"{-few.mean:.3f} [{few.low:.3f}, {few.high:.3f}], 7.000 [7.000, 7.000], 0.32") == []
    less = table.add("part", "apo", "gap", [-0.04, -0.03, -0.02])
    signed = f"{less.mean:+.2f} [{less.low:+.2f}, {less.high:+.2f}]"
    assert table.behind(signed) == table.behind(signed.replace("-", "\N{MINUS SIGN}")) == [3]


@pytest.mark.parametrize(
    ("low", "high", "par"), [(-0.02, 0.029, True), (-0.02, 0.031, None), (0.001, 0.02, False), (-0.2, -0.001, False)]
)
def test_a_par_is_a_difference_that_holds_0_and_stays_within_the_mark(low, high, par):
    row = replace(Table().add("after", "grpo", "pass@1 minus apo", [0.0, 0.0]), low=low, high=high)
    assert on_a_par(row) is par and on_a_par(None) is None and PAR == 0.03


def test_a_prediction_that_an_interval_leaves_open_is_not_told_as_refuted():
    experiment, table = ALL["when_alpha_matters"], Table()
    table.add_number("exact", "matched", "spread of the policies over rules", 0.0)
    for name, predicted, values in (
        ("came out", 1, [0.1, 0.2, 0.15]), ("turned", 1, [-0.1, -0.2, -0.15]), ("open", 1, [-0.1, 0.2, 0.1]),
        ("null", 0, [0.001, -0.001, 0.0]), ("no null", 0, [0.1, 0.2, 0.15]), ("wide null", 0, [0.1, -0.1, 0.0]),
    ):  # fmt: skip
        table.add(name, "own best lr", "alpha 0.9 minus 0", values, x=predicted)
    said = experiment.judge(table).sentence
    assert said.startswith("2 of 6 predictions made beforehand came out; the opposite of: turned ")
    assert re.search(r"; no null \S+ \[[^]]+\]; the interval does not tell: open [^;]+; wide null [^;]+\. Where", said)


def test_the_furthest_switch_and_the_one_that_was_not_reached_are_told():
    experiment, table = ALL["risk_attitude"], Table()
    for group, predicted, shares in ((4, 1.2, [math.nan] * 2), (8, 0.4, [0.42, 0.42]), (64, 0.25, [0.25, 0.25])):
        row = table.add_number("switch, gamble", "predicted", "alpha", predicted, x=group)
        measured = {"mean": shares[0], "low": shares[0], "high": shares[1], "rule": "measured"}
        table.rows.append(replace(row, **measured))
    table.add("lucky arms, own best lr", "apo", "alpha 0.9 minus alpha 0", [-0.2, -0.2])
    verdict = experiment.judge(table)
    assert verdict.answer == "holds"
    assert (
        "of 2 switches the furthest from its prediction is gamble, P 8: 0.420 [0.420, 0.420] for 0.400"
        in verdict.sentence
    )
    assert "not seen there: gamble, P 4: predicted 1.200" in verdict.sentence
    table.rows[3] = replace(table.rows[3], mean=0.44, low=0.44, high=0.44)
    assert experiment.judge(table).answer == "holds with a condition"


def test_angles_are_read_along_training_and_are_0_where_theory_says_so():
    from toys.experiments.when_alpha_matters import REGIMES, WINDOWS, angles

    table = Table()
    regimes = {regime.name: regime for regime in REGIMES}
    for name in ("C good arms replaced twice", "null: sparse 0/1 rewards", "null: graded, noise, 1 update"):
        angles(table, regimes[name], list(range(4)))
        assert len(WINDOWS) - 1 <= len(
            table.where(part=name, rule="angle along training")
        )  # the first may have no signal
        means = [row.mean for row in table.where(part=name)]
        assert min(means) > 10 if "graded" in name else max(means) < 1e-3


SWEPT = """arm,seed,pass@1 before,pass@1 after,seconds
apo,0,0.1,0.5,60
apo,1,0.1,0.6,60
grpo,1,0.1,0.9,70
grpo,0,0.1,0.7,70
"""


def test_a_trainer_experiment_is_judged_from_its_runs(capsys, monkeypatch, tmp_path):
    def judge(table):
        row = table.one(part="after", rule="grpo", metric="pass@1 minus apo")
        return Verdict("holds" if row.low > 0 else "cannot be told", "weak", f"GRPO minus APO: {row.interval}.")

    def draw(table):
        return plotting.figure()[0], "A caption."

    monkeypatch.chdir(tmp_path)
    words = dict.fromkeys(("title", "question", "paper", "theory", "settings", "controls", "rule"), "words of the file")
    trainer = Experiment(number=4, name="x", sweep="full/configs/experiments/x.yaml", judge=judge, draw=draw, **words)
    assert trainer.kind == "trainer"
    monkeypatch.setattr("toys.experiments.__main__.load", lambda: {"x": trainer})
    assert main(["x", "--out", "results"]) == 0
    assert "run it first: python full/sweep.py full/configs/experiments/x.yaml" in capsys.readouterr().out
    trainer.runs.parent.mkdir(parents=True)
    trainer.runs.write_text(SWEPT)
    assert main(["x", "--out", "results"]) == 0
    table = Table.read(tmp_path / "results" / "x.csv")
    # By hand, in pairs of seeds: 0.7 - 0.5 and 0.9 - 0.6; Student's t of two is 12.706, half the interval t x 0.05.
    row = table.one(part="after", rule="grpo", metric="pass@1 minus apo")
    assert (row.mean, row.low, row.high) == pytest.approx((0.25, 0.25 - 0.6353, 0.25 + 0.6353), abs=1e-3)
    assert table.one(part="before", rule="apo", metric="pass@1").seeds == 2
    assert table.about["verdict"] == "cannot be told (evidence: weak)" and table.about["seconds"] == "260"
    monkeypatch.setattr(
        "toys.experiments.__main__.load",
        lambda: {"x": replace(trainer, judge=lambda _: Verdict("holds", "strong", "New."))},
    )
    assert main(["x", "--out", "results", "--redraw"]) == 0
    again = Table.read(tmp_path / "results" / "x.csv")
    assert (again.about["verdict"], again.about["commit"]) == ("holds (evidence: strong)", table.about["commit"])
    assert again.about["in words"] == "New." and len(again.rows) == len(table.rows)
    with pytest.raises(ValueError, match="neither run and sweep"):
        Experiment(number=4, name="x", judge=judge, draw=None, **words)
    with pytest.raises(ValueError, match="answer is 'yes'; expected one of holds"):
        Verdict("yes", "weak", "")


def runs_of(path, arms, column="pass@1 after"):
    """A results.csv from {arm: value of each seed}."""
    lines = [f"{arm},{seed},{value},1" for arm, values in arms.items() for seed, value in enumerate(values)]
    path.write_text("\n".join([f"arm,seed,{column},seconds", *lines]) + "\n")
    return path


def test_differences_of_a_sweep_are_the_pairs_that_were_asked_for(tmp_path):
    path = runs_of(
        tmp_path / "r.csv", {"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 6.0], "c": [0.0, 1.0]}, "rank tokens first"
    )
    table = Table.from_runs(path, pairs=(("b", "a"), ("c", "b"), ("d", "a")))
    assert {row.metric for row in table} == {"rank tokens", "rank tokens minus a", "rank tokens minus b"}
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), and Student's t of two degrees of freedom is 4.303.
    row = table.one(part="first", rule="b", metric="rank tokens minus a")
    assert (row.mean, row.low) == (2.0, pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3))
    assert table.one(part="first", rule="c", metric="rank tokens minus b").seeds == 2


@pytest.mark.parametrize(
    ("gains", "answer"),
    [
        ({"": (0.05, 0.04)}, "holds"),
        ({"": (0.05, 0.01)}, "does not hold"),  # ratio and clip close a fifth
        ({"": (0.0, 0.0)}, "does not hold"),  # no gap
        ({"": (0.01, 0.0), "-4": (0.05, 0.04)}, "holds with a condition"),
    ],
)
def test_the_verdict_on_the_stale_update_follows_its_rule(tmp_path, gains, answer):
    base, noise = 0.7, (0.001, -0.001, 0.0, 0.002, -0.002)
    arms = {}
    for kind, (grpo, mended) in gains.items():
        arms |= {f"apo{kind}": [base] * 5}
        arms |= {
            f"{arm}{kind}": [base + gain + one for one in noise] for arm, gain in (("grpo", grpo), ("apo-clip", mended))
        }
    experiment = ALL["stale_update"]
    table = Table.from_runs(runs_of(tmp_path / "r.csv", arms), experiment.pairs)
    assert experiment.judge(table).answer == answer


def test_too_few_seeds_cannot_tell_about_the_stale_update(tmp_path):
    arms = {"apo": [0.70, 0.75], "grpo": [0.78, 0.76], "apo-clip": [0.79, 0.75]}
    experiment = ALL["stale_update"]
    verdict = experiment.judge(Table.from_runs(runs_of(tmp_path / "r.csv", arms), experiment.pairs))
    assert (verdict.answer, verdict.evidence) == ("cannot be told", "weak")


@pytest.mark.parametrize(
    ("gains", "answer"),
    [
        ({"": 0.01, "-1": 0.0}, "holds"),
        ({"": 0.05, "-1": 0.01}, "holds with a condition"),
        ({"": 0.05, "-1": -0.05}, "does not hold"),
        ({"": 0.05}, "cannot be told"),  # nothing is known of one update
    ],
)
def test_a_par_of_the_baselines_follows_its_rule(tmp_path, gains, answer):
    noise = (0.01, -0.01, 0.0, 0.015, -0.015)
    arms = {f"apo{kind}": [0.7] * 5 for kind in gains}
    arms |= {f"grpo{kind}": [0.7 + gain + one for one in noise] for kind, gain in gains.items()}
    experiment = ALL["baselines"]
    table = Table.from_runs(runs_of(tmp_path / "r.csv", arms), experiment.pairs)
    assert experiment.judge(table).answer == answer
    # An interval that holds 0 and reaches beyond 0.03 tells nothing.
    wide = {arm: [value + 3 * one for value, one in zip(values, noise, strict=True)] for arm, values in arms.items()}
    wide |= {f"apo{kind}": [0.7] * 5 for kind in gains}
    verdict = experiment.judge(Table.from_runs(runs_of(tmp_path / "w.csv", wide), experiment.pairs))
    assert answer != "holds" or (verdict.answer, verdict.evidence) == ("cannot be told", "weak")


def test_a_rate_is_the_best_of_a_grid_that_was_run_beyond_its_best_end(tmp_path):
    from toys.experiments.baselines_lr import ARMS, GRID, best_rate

    experiment = ALL["baselines_lr"]

    def table(**chosen):
        """Each arm is best at 3e-4 or at what is chosen; the rate beyond an end is there for "dapo-4" alone."""
        arms = {}
        for arm in ARMS:
            rates = (*GRID, 0.003) if arm == "dapo-4" else GRID
            best = chosen.get(arm.replace("-", "_"), 0.0003)
            arms |= {
                f"{arm}-lr{rate}": [0.6 + 0.1 * (rate == best), 0.6 + 0.02 * (rate == best), 0.62] for rate in rates
            }
        return Table.from_runs(runs_of(tmp_path / "r.csv", arms), experiment.pairs)

    found = experiment.judge(table())
    assert (found.answer, found.evidence) == ("holds", "weak") and "APO 0.0003" in found.sentence
    apart = table(dapo_4=0.001)
    assert best_rate(apart, "dapo-4") == 0.001 and best_rate(apart, "grpo") == 0.0003
    found = experiment.judge(apart)  # a gain of 0.1, 0.02 and 0 on three seeds: its interval holds 0
    assert found.answer == "cannot be told" and "DAPO with four updates +0.040 [-" in found.sentence
    assert best_rate(table(grpo=0.001), "grpo") is None  # nothing is known beyond
    found = experiment.judge(table(grpo=0.001))
    assert found.answer == "cannot be told" and "no rate chosen for grpo." in found.sentence
    sure = {f"{arm}-lr{rate}": [0.6, 0.61, 0.62] for arm in ARMS for rate in GRID}
    sure |= {f"dapo-4-lr{rate}": [0.6 + 100 * (rate == 0.001), 0.61 + 101 * (rate == 0.001), 0.62 + 99 * (rate == 0.001)]
             for rate in (*GRID, 0.003)}  # fmt: skip
    sure |= {f"{arm}-lr0.0003": [0.7, 0.7, 0.7] for arm in ARMS if arm != "dapo-4"}
    assert (
        experiment.judge(Table.from_runs(runs_of(tmp_path / "s.csv", sure), experiment.pairs)).answer == "does not hold"
    )


@pytest.mark.parametrize(
    ("answers", "tokens", "default"),
    [
        ((0.5, 0.6), (0.5, 0.9), "tokens"),
        ((0.8, 0.6), (0.5, 0.9), "answers"),  # above it at every stage
        ((0.5, 0.6), (-0.1, 0.9), "answers"),  # tokens does not rank problems
        ((0.5, 0.08), (-0.1, 0.9), "tokens"),  # neither qualifies: alpha would move by 0.55 x 0.08 = 0.044
        ((0.5, 0.1), (-0.1, 0.9), "answers"),  # by 0.055
    ],
)
def test_the_default_confidence_follows_its_rule(answers, tokens, default):
    from toys.experiments.confidence import READINGS, TRAINED, best

    table, noise = Table(), torch.tensor([0.01, -0.01, 0.02, -0.02, 0.0])
    for stage in TRAINED:
        for name in READINGS:
            rank, mean = {"answers": answers, "tokens": tokens}.get(name, (0.0, 0.5))
            table.add(stage, "guarded", f"rank {name}", rank + noise)
            table.add(stage, "guarded", f"lead {name}", rank - tokens[0] + noise)
            table.add(stage, "guarded", f"mean {name}", mean + noise)
    assert best(table) == default


def test_graded_model_needs_both_more_risk_and_less_mean(tmp_path):
    experiment, noise = ALL["graded_model"], (0.001, -0.001, 0.0, 0.002, -0.002)

    def answer(digits, closeness):
        table = Table()
        for task, (mean, risk) in (("digits", digits), ("closeness", closeness)):
            for metric, gap in (("reward", mean), ("risk", risk), ("sd", 0.0), ("right", 0.0)):
                table.add("last", f"{task}-0.9", f"{metric} minus {task}-0.0", [gap + one for one in noise])
        return experiment.judge(table).answer

    assert answer((-0.1, 0.1), (-0.1, 0.1)) == "holds"
    assert answer((-0.1, 0.1), (0.1, 0.1)) == "holds with a condition"
    assert answer((0.1, 0.1), (0.1, -0.1)) == "does not hold"
    assert answer((-0.1, 0.0), (0.1, 0.1)) == "cannot be told"


def test_graded_smollm2_judges_its_one_task_and_says_what_grpo_did():
    experiment, noise = ALL["graded_smollm2"], (0.001, -0.001, 0.0)

    def verdict(mean, risk, grpo=None):
        table = Table()
        for metric, gap in (("reward", mean), ("risk", risk), ("sd", 0.0), ("right", 0.0)):
            table.add("last", "spell-0.9", f"{metric} minus spell-0.0", [gap + one for one in noise])
            if grpo is not None:
                table.add("last", "spell-grpo", f"{metric} minus spell-0.0", [grpo + one for one in noise])
        return experiment.judge(table)

    assert (verdict(-0.1, 0.1).answer, verdict(0.1, 0.1).answer) == ("holds", "does not hold")
    assert verdict(0.0, 0.1).answer == verdict(-0.1, 0.0).answer == "cannot be told"
    assert "GRPO" not in verdict(0.0, 0.1).sentence
    assert "GRPO minus alpha 0: spell: reward +0.050" in verdict(0.0, 0.1, grpo=0.05).sentence


def test_the_command_line_lists_and_refuses(capsys):
    assert main([]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == list(ALL)
    assert main(["risk"]) == 2
    assert "did you mean 'risk_attitude'" in capsys.readouterr().err
    assert main(["sanity", "--seeds", "1"]) == 2
    assert "expected at least 4" in capsys.readouterr().err


def test_rows_know_their_columns():
    assert list(Row.__dataclass_fields__)[:4] == ["part", "rule", "metric", "seeds"]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.csv")), ids=lambda path: path.stem)
def test_a_committed_table_says_what_its_rule_says(path):
    table = Table.read(path)
    experiment = ALL[path.stem]
    assert {name: table.about[name] for name in ("verdict", "in words")} == words(experiment.judge(table))
    assert not table.about["commit"].endswith("+"), "made from a changed tree"
    assert path.stem in table.about["command"] and "--quick" not in table.about["command"]
    experiment.draw(table)[0].canvas.draw()
