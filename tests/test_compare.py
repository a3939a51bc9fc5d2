"""Comparing runs: grouping, paired differences by hand, what is not comparable, broken folders, and the figure."""

import csv
import json
import math
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
import yaml

from full import compare
from full.config import TrainConfig
from full.errors import UserError
from full.report import comparison, statistics


def write_run(folder, *, seed=0, before=0.3, after=0.6, steps=5, provenance=None, evaluation=None, **options):
    """A finished run's folder, as full/train.py leaves it."""
    config = asdict(TrainConfig(seed=seed, steps=steps, output_dir=str(folder), **options))
    record = {"test": f"{config['data']} (at revision 1), level {config['level']}, split test"} | (provenance or {})
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "provenance": record}))
    rows = [
        {"step": step, "reward_mean": 0.1 * step + 0.01 * seed, "alpha": 0.9 - 0.1 * step, "token_entropy": 1.0 / step}
        for step in range(1, steps + 1)
    ]
    rows[1] |= {f"eval_{name}": value for name, value in accuracy(0.5).items()}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"eval_before": accuracy(before), "eval_after": accuracy(after), "steps": steps, "seed": seed}
    summary |= {"objective": config["objective"], "schedule": config["schedule"]}
    (folder / "summary.json").write_text(json.dumps(summary))
    if evaluation:
        (folder / "eval.json").write_text(json.dumps(evaluation))
    return folder


def accuracy(value):
    return {"pass@1": value, "pass@1_se": 0.03, "greedy": value + 0.1, "greedy_se": 0.04, "n": 100, "k": 1}


def groups_of(*folders):
    groups, repeated = comparison.group_runs([comparison.read_finished_run(folder) for folder in folders])
    return {group.label: group for group in groups}, repeated


@pytest.fixture
def two_groups(tmp_path):
    """apo on seeds 0, 1, 2 and grpo on 1, 2, 3; gains .30 .35 .40 and .30 .25 .10."""
    folders = [write_run(tmp_path / f"apo{s}", seed=s, after=0.6 + 0.05 * s) for s in range(3)]
    gains = {1: 0.30, 2: 0.25, 3: 0.10}
    return folders + [write_run(tmp_path / f"g{s}", objective="grpo", seed=s, after=0.3 + g) for s, g in gains.items()]


def test_paired_difference_by_hand(two_groups):
    groups, _ = groups_of(*two_groups)
    assert list(groups) == ["apo guarded", "grpo"]
    assert sorted(groups["apo guarded"].runs) == [0, 1, 2] and sorted(groups["grpo"].runs) == [1, 2, 3]
    row, greedy = comparison.pair_rows(*groups.values())
    # Shared seeds 1 and 2: .35 - .30 = .05 and .40 - .25 = .15; mean .10, deviation .0707, error .05, t = 12.706.
    assert row["difference"] == pytest.approx(0.10)
    assert (row["low"], row["high"]) == pytest.approx((0.10 - 12.7062 * 0.05, 0.10 + 12.7062 * 0.05), abs=1e-5)
    assert (row["metric"], row["over"], row["pairs"], row["won"], row["lost"]) == ("gain in pass@1", "seeds", 2, 2, 0)
    assert greedy["metric"] == "gain in greedy"
    assert greedy["difference"] == pytest.approx(0.10)


def test_means_over_seeds_and_over_problems(two_groups, tmp_path):
    groups, _ = groups_of(*two_groups, write_run(tmp_path / "gspo", objective="gspo", after=0.7))
    apo, _, _, _, gspo, _ = (row for group in groups.values() for row in comparison.gain_rows(group))
    assert (apo["seeds"], apo["error_over"]) == (3, "seeds")
    assert (apo["before"], apo["before_se"], apo["after"], apo["gain"]) == pytest.approx((0.3, 0.0, 0.65, 0.35))
    assert apo["gain_se"] == pytest.approx(0.05 / math.sqrt(3))
    assert (gspo["seeds"], gspo["error_over"], gspo["before_se"]) == (1, "problems", 0.03)
    assert gspo["gain_se"] == pytest.approx(0.03 * math.sqrt(2))


def test_students_quantiles():
    # From the printed tables.
    for freedom, value in ((1, 12.706), (2, 4.303), (3, 3.182), (10, 2.228), (1000, 1.962)):
        assert statistics.t_quantile(freedom) == pytest.approx(value, abs=6e-4)
    assert statistics.t_interval([0.1]) == (None, None)


def test_intervals_over_three_seeds_cover():
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.1 <= high for low, high in map(statistics.t_interval, rng.normal(0.1, 0.02, (2000, 3)).tolist())
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_groups_are_told_apart_by_what_their_objective_reads(tmp_path):
    groups, repeated = groups_of(
        write_run(tmp_path / "a", alpha=0.3, schedule="fixed"),
        write_run(tmp_path / "b", alpha=0.7, schedule="fixed", seed=1),
        write_run(tmp_path / "c", objective="grpo", alpha=0.3, epsilon=0.1),
        write_run(tmp_path / "d", objective="grpo", alpha=0.7, schedule="fixed", seed=1, epsilon=0.1, save_every=3),
        write_run(tmp_path / "e", objective="grpo", tau_anc=0.1),
    )
    assert {label: sorted(group.runs) for label, group in groups.items()} == {
        "apo fixed, alpha 0.3": [0],
        "apo fixed, alpha 0.7": [1],
        "grpo, epsilon 0.1": [0, 1],  # alpha, its schedule and how often it was saved mean nothing to grpo
        "grpo, epsilon default": [0],
    }
    assert repeated == []


def add_mismatch(folder):
    rows = [json.loads(line) | {"mismatch_max": 0.01} for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("engine", ["hf", "vllm"])
def test_the_importance_cap_counts_where_the_engine_differed_from_the_policy(tmp_path, engine):
    folders = [
        write_run(tmp_path / f"{cap}", importance_cap=cap, seed=seed, engine=engine)
        for seed, cap in enumerate((2.0, 3.0))
    ]
    assert sorted(groups_of(*folders)[0]["apo guarded"].runs) == [0, 1]  # no weight was anything but 1
    groups, repeated = groups_of(*map(add_mismatch, folders))
    assert sorted(groups) == ["apo guarded, importance_cap 2.0", "apo guarded, importance_cap 3.0"] and repeated == []


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"off_policy": "clip"}, ["apo guarded, off_policy none", "apo guarded, off_policy clip"]),
        ({"off_policy_epsilon": 0.1}, ["apo guarded"]),  # not read without off_policy clip
        ({"ess_fraction": 0.9}, ["apo guarded"]),
        ({"objective": "adpo", "schedule": "fixed", "rho": 0.5}, ["apo guarded", "adpo"]),
        ({"schedule": "ess", "tau_anc": 0.1}, ["apo guarded, tau_anc 0.5", "apo ess, tau_anc 0.1"]),
        ({"schedule_options": {"rho": 0.5}}, ["apo guarded, schedule_options none", "apo guarded, schedule_options rho=0.5"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_tells_groups_apart_is_read_off_the_records(tmp_path, options, labels):
    groups, _ = groups_of(write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1, **options))
    assert list(groups) == labels


def test_an_option_of_another_version_tells_groups_apart(tmp_path):
    folders = [write_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    for value, folder in enumerate(folders):
        with open(folder / "config.yaml", "a") as file:
            file.write(f"future_option: {value}\n")
    assert sorted(groups_of(*folders)[0]) == ["apo guarded, future_option 0", "apo guarded, future_option 1"]


def test_a_seed_counts_once(tmp_path):
    groups, repeated = groups_of(write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    assert len(groups["apo guarded"].runs) == 1
    assert repeated == [f"{tmp_path / 'b'} repeats seed 0 of apo guarded ({tmp_path / 'a'})."]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"steps": 6}, "steps 5 / 6"),
        ({"model": "other"}, "model Qwen/Qwen3-1.7B / other"),
        ({"data": "arithmetic", "level": "all"}, "data math, level 3 / arithmetic, level all"),
        ({"provenance": {"test": "math (at revision 2), level 3, split test"}}, "data math, level 3 in two versions"),
        ({"temperature": 0.7}, "temperature 1.0 / 0.7"),
        ({"seed": 9}, "no seed in common"),
    ],
    ids=str,
)
def test_runs_of_different_things_are_not_compared(tmp_path, change, reason):
    groups, _ = groups_of(write_run(tmp_path / "a"), write_run(tmp_path / "b", objective="grpo", **change))
    (row,) = comparison.pair_rows(*groups.values())
    assert row["not_comparable"] == reason
    assert row["difference"] is None


def test_a_moved_file_is_the_same_data(tmp_path):
    folders = [
        write_run(tmp_path / name, objective=name, data=data, provenance={"test": f"{data} (file sha256 ab), level 3"})
        for name, data in (("apo", "a/p.jsonl"), ("grpo", "b/p.jsonl"))
    ]
    groups, _ = groups_of(*folders)
    assert all(not row["not_comparable"] for row in comparison.pair_rows(*groups.values()))


def test_problem_by_problem_where_both_were_evaluated_alike(tmp_path):
    def evaluation(*right, k=4):
        problems = [{"problem": f"p{i}", "right": r} for i, r in enumerate(right)]
        return {
            "data": "d",
            "temperature": 1.0,
            "max_completion_tokens": 9,
            "thinking": False,
            "k": k,
            "problems": problems,
        }

    def rows(name, one, other):
        folders = [
            write_run(tmp_path / name / objective, objective=objective, evaluation=record)
            for objective, record in (("apo", one), ("grpo", other))
        ]
        return comparison.pair_rows(*groups_of(*folders)[0].values())

    *_, row = rows("alike", evaluation(4, 2, 0), evaluation(3, 2, 2, 4))
    assert (row["metric"], row["over"], row["pairs"], row["won"], row["lost"]) == ("pass@1 after", "problems", 3, 1, 1)
    assert row["difference"] == pytest.approx((1 / 4 + 0 - 2 / 4) / 3)
    assert -0.5 <= row["low"] < row["difference"] < row["high"] <= 0.25
    assert all(row["over"] == "seeds" for row in rows("other", evaluation(4), evaluation(3, k=8)))
    assert all(row["over"] == "seeds" for row in rows("missing", evaluation(4), None))


# --- the command


def test_tables_csv_and_figure(two_groups, tmp_path, capsys):
    other = write_run(tmp_path / "other", objective="dapo", steps=4)
    arguments = [*map(str, [*two_groups, other]), "--csv", str(tmp_path / "t.csv"), "--out", str(tmp_path / "c.png")]
    compare.main(arguments)
    out = capsys.readouterr().out
    assert "0.300 ± 0.000" in out and "+0.350 ± 0.029" in out and "not comparable: steps 5 / 4" in out
    assert "-0.535 to +0.735" in out
    with open(tmp_path / "t.csv") as file:
        table = list(csv.DictReader(file))
    assert [(row["group"].split(",")[0], row["metric"], row["seeds"]) for row in table[::2]] == [
        ("apo guarded", "pass@1", "3"), ("grpo", "pass@1", "3"), ("dapo", "pass@1", "1")
    ]  # fmt: skip
    with open(tmp_path / "t-pairs.csv") as file:
        pairs = list(csv.DictReader(file))
    assert float(pairs[0]["difference"]) == pytest.approx(0.10)
    assert {row["not_comparable"] for row in pairs} == {"", "steps 5 / 4"}
    assert (tmp_path / "c.png").stat().st_size > 20_000


def test_curves_are_medians_and_told_apart_by_more_than_colour(two_groups, tmp_path):
    from matplotlib.figure import Figure

    more = [write_run(tmp_path / f"o{o}", objective=o) for o in ("gspo", "adpo", "dr_grpo")]
    groups = list(groups_of(*two_groups, *more)[0].values())
    for draw in (comparison.draw_reward, comparison.draw_accuracy, comparison.draw_alpha, comparison.draw_entropy):
        ax = Figure().subplots()
        assert draw(ax, groups) is ax and ax.get_ylabel() and ax.get_title()
    ax = Figure().subplots()
    lines = comparison.draw_reward(ax, groups).get_lines()
    assert [line.get_label() for line in lines[:3]] == [
        "A: apo guarded (3 seeds)",
        "B: grpo (3 seeds)",
        "C: gspo (1 seed)",
    ]
    for a, b in combinations(lines, 2):
        assert a.get_color() != b.get_color()
        assert (a.get_linestyle(), a._unscaled_dash_pattern) != (b.get_linestyle(), b._unscaled_dash_pattern)
    # Seeds 0, 1, 2 of a linear reward: the first point is 0.1 + 0.01 seed, its median that of seed 1.
    assert lines[0].get_ydata()[0] == pytest.approx(0.11)
    alphas = comparison.draw_alpha(Figure().subplots(), groups).get_lines()
    assert len(alphas) == 1  # only apo reads alpha


def test_accuracy_is_drawn_before_during_and_after(two_groups):
    from matplotlib.figure import Figure

    groups = list(groups_of(*two_groups)[0].values())
    (apo, _) = comparison.draw_accuracy(Figure().subplots(), groups).get_lines()
    assert apo.get_xdata().tolist() == [0, 2, 5]
    assert apo.get_ydata().tolist() == pytest.approx([0.3, 0.5, 0.65])


def test_one_seed_and_another_start_are_said(tmp_path, capsys):
    write_run(tmp_path / "a", before=0.3)
    write_run(tmp_path / "b", objective="grpo", before=0.4)
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.png")])
    out = " ".join(capsys.readouterr().out.split())
    assert "none: one seed" in out and "one shared seed says nothing of other seeds" in out
    assert "warning: seed 0 starts at 0.300 in A and at 0.400 in B" in out


def test_folders_that_cannot_be_compared_get_a_line_each(tmp_path, capsys):
    good = write_run(tmp_path / "good")
    write_run(tmp_path / "unfinished").joinpath("summary.json").unlink()
    write_run(tmp_path / "cut").joinpath("summary.json").write_text('{"eval_before": {')
    write_run(tmp_path / "started").joinpath("metrics.jsonl").unlink()
    write_run(tmp_path / "odd").joinpath("config.yaml").write_text("- a list")
    (tmp_path / "warm-start").mkdir()
    names = ["unfinished", "cut", "started", "odd", "warm-start", "missing"]
    compare.main([*(str(tmp_path / name) for name in names), str(good), str(good)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert len(lines) == len(names)
    assert "unfinished is not finished (step 5 of 5, no summary.json)" in lines[0] and "--resume" in lines[0]
    for line in lines[1:3]:
        assert " is damaged (" in line and line.endswith("; expected a finished run.")
    assert "odd holds no readable config.yaml" in lines[3]
    for line in lines[4:]:
        assert "holds no run (no config.yaml); expected a folder that full/train.py wrote" in line
    assert (tmp_path / "compare.png").exists()  # beside the first folder


def test_errors_are_one_line(tmp_path):
    with pytest.raises(UserError, match="none of the folders holds a finished run"):
        compare.main([str(tmp_path)])
    with pytest.raises(UserError, match="unrecognized arguments: --colour"):
        compare.main([str(tmp_path), "--colour", "red"])
    with pytest.raises(UserError, match="--csv is .* but its folder does not exist"):
        compare.main([str(tmp_path), "--csv", str(tmp_path / "no" / "t.csv")])
