"""The glossary knows every number that a run writes, and real runs stay inside the ranges it gives."""

import math
import re
from pathlib import Path

import pytest

from apo_edu import LIMITS
from full import train
from full.report import glossary
from full.report.html import read_run
from tests.helpers import save_small_model, small_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two small runs with evaluations of several samples: one that is anchored and one that clips."""
    folder = tmp_path_factory.mktemp("runs")
    model = save_small_model(folder / "model")
    options = {"eval_every": 2, "eval_samples": 2, "reward": "accuracy tests.helpers:letters"}
    # Large steps, so that later updates are far from the policy that sampled.
    train.main(small_run(model, folder / "apo", **options, lr=3e-2))
    train.main(small_run(model, folder / "gspo", **options, lr=3e-2, objective="gspo", schedule="linear"))
    return [read_run(folder / name) for name in ("apo", "gspo")]


def numbers(value) -> list[float]:
    """The numbers in a logged value: itself, or the ends of an interval."""
    return [float(v) for v in (value if isinstance(value, list) else [value])]


def test_every_key_of_a_run_is_explained_and_every_value_lies_in_its_range(runs):
    for run in runs:
        seen = {(name, number) for row in run.rows for name, value in row.items() for number in numbers(value)}
        for when in ("eval_before", "eval_after"):
            seen |= {(f"eval_{name}", n) for name, value in run.summary[when].items() for n in numbers(value)}
        assert len({name for name, _ in seen}) > 30
        for name, value in seen:
            found = glossary.entry(name)
            assert found is not None, f"{name} is not in full/glossary.py"
            assert math.isfinite(value) and not glossary.outside([value], *glossary.bounds(found, run.options)), (
                name,
                value,
            )
        assert all(glossary.entry(name) for name in run.summary)


def test_the_runs_were_worth_looking_at(runs):
    """What the glossary says is 0 on the first update of a batch is 0 there, and not everywhere."""
    apo, gspo = ([row for row in run.rows if row["step"] > 1] for run in runs)
    assert runs[0].rows[0]["kl_old"] == runs[1].rows[0]["kl_old"] == runs[1].rows[0]["clip_fraction"] == 0.0
    assert max(row["kl_old"] for row in apo) > 0 and max(row["clip_fraction"] for row in gspo) > 0
    assert {row["clip_fraction"] for row in apo} == {0.0}  # it clips nothing
    # On policy the loss of gspo is 0, and the gradient is not.
    assert abs(runs[1].rows[0]["loss"]) < 1e-6 and runs[1].rows[0]["grad_norm"] > 0


def test_nothing_is_explained_that_no_run_writes(runs):
    written = {name for run in runs for row in run.rows for name in row}
    written = {name.replace("@2", "@k") for name in written}
    assert set(glossary.METRICS) <= written
    assert set(glossary.SUMMARY) == set(runs[0].summary)


def test_the_entries_are_whole():
    for name, found in {**glossary.METRICS, **glossary.SUMMARY}.items():
        assert found.meaning.endswith("."), name
        assert not found.normal or found.normal.endswith("."), name
    # Fractions and probabilities are bounded on both sides, so that a test of their range can fail.
    for name in glossary.METRICS:
        if "fraction" in name or name in (
            "confidence",
            "improvement",
            "eval_pass@1",
            "eval_greedy",
            "rows_with_gradient",
        ):
            assert (glossary.METRICS[name].low, glossary.METRICS[name].high) == (0, 1), name


def test_limits_are_quoted_not_restated():
    for name, limit in (
        ("groups_with_signal", LIMITS.with_signal), ("truncated_fraction", LIMITS.truncated), ("grad_norm", LIMITS.spike),
        ("clip_fraction", LIMITS.clipped), ("kl_old", LIMITS.kl_old), ("ess", LIMITS.ess), ("log_ratio_max", LIMITS.log_ratio),
        ("mismatch_mean", LIMITS.mismatch), ("eval_truncated_fraction", LIMITS.truncated),
    ):  # fmt: skip
        assert f"{limit:g}" in glossary.METRICS[name].normal, name
    source = Path(glossary.__file__).read_text()
    entries = source[source.index("METRICS = {") : source.index("def entry")]
    for found in re.findall(r"[Bb]elow \d[\d.e-]*|[Aa]bove [1-9][\d.]*|\d+ times", entries):
        pytest.fail(f"{found!r} is written out; quote apo_edu.LIMITS")


def test_keys_with_a_number_and_their_errors_are_found_by_rule():
    assert glossary.entry("eval_pass@8") == glossary.METRICS["eval_pass@k"]
    assert glossary.entry("eval_pass@1") == glossary.METRICS["eval_pass@1"]
    assert glossary.entry("eval_maj@16_se").meaning == "Standard error of eval_maj@16, over problems."
    assert "95 % interval of eval_greedy" in glossary.entry("eval_greedy_ci").meaning
    for unknown in ("no_such_metric", "no_such_se", "pass@8"):
        assert glossary.entry(unknown) is None


def test_a_bound_may_be_an_option_and_rounding_is_forgiven():
    low, high = glossary.bounds(glossary.METRICS["ess"], {"group_size": 6})
    assert (low, high) == (1.0, 6.0)
    assert glossary.outside([0.9, 1.0, 6.0, 6.00001, 6.1, math.nan, math.inf], low, high) == [0.9, 6.1]
    assert glossary.outside([-1e30], -math.inf, math.inf) == []
