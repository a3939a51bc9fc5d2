"""What lesson 08 says about its two committed runs is in them."""

import json
import statistics
from pathlib import Path

import nbformat
import pytest

from toys.course.lessons import load
from toys.questions.lesson_08 import QUESTIONS

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SAID = "\n".join(
    cell.source
    for cell in nbformat.read(NOTEBOOKS / "08_from_bandit_to_language_model.ipynb", as_version=4).cells
    if cell.cell_type == "markdown"
)


def run(name):
    folder = NOTEBOOKS / "data" / name
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "summary.json").read_text())


APO, GRPO = run("run-08"), run("run-08-grpo")


def mean(rows, key):
    return statistics.mean(row[key] for row in rows)


def test_the_six_curves():
    rows, _ = APO
    assert f"in {sum(row['alpha'] < 0.9 - 1e-9 for row in rows)} of 150 steps here" in SAID
    assert f"median ({statistics.median(row['grad_norm'] for row in rows):.0f} here)" in SAID
    first, last = (mean(part, "groups_with_signal") for part in (rows[:30], rows[-30:]))
    assert f"{first:.2f} of them in the first thirty steps, {last:.2f} in the last" in SAID
    assert f"at most {max(row['truncated_fraction'] for row in rows):.1%} here".replace("%", " %") in SAID
    assert mean(rows[-30:], "token_entropy") < mean(rows[:30], "token_entropy")
    on_policy = [row for row in rows if row["kl_old"] == 0.0]
    assert (
        len(on_policy) == 75 and f"{mean(on_policy, 'grad_norm'):.1f}" in QUESTIONS["at_the_anchor"].choices["zero too"]
    )


def test_both_accuracies_rose_and_grpo_ends_with_more_sampled_and_as_much_greedy():
    before, after, other = APO[1]["eval_before"], APO[1]["eval_after"], GRPO[1]["eval_after"]
    greedy = QUESTIONS["greedy"].choices["rose as well"]
    assert f"from {before['greedy']:.2f} to {after['greedy']:.2f}" in greedy
    assert f"{before['pass@1']:.2f} to {after['pass@1']:.2f}" in QUESTIONS["greedy"].alt
    beside = QUESTIONS["beside_grpo"].choices[QUESTIONS["beside_grpo"].answer]
    assert f"{other['pass@1']:.2f} against {after['pass@1']:.2f} sampled, {after['greedy']:.2f} both greedy" in beside
    assert f"{other['greedy']:.2f}" == f"{after['greedy']:.2f}"
    assert mean(GRPO[0], "token_entropy") < mean(APO[0], "token_entropy")
    assert GRPO[1]["eval_before"]["pass@1"] == before["pass@1"]  # the same start


@pytest.mark.parametrize("name", ["run-08", "run-08-grpo"])
def test_a_committed_run_names_no_path_of_the_machine_it_ran_on(name):
    for path in (NOTEBOOKS / "data" / name).iterdir():
        assert path.suffix == ".png" or not any(
            line.lstrip().startswith("output_dir: /") for line in path.read_text().splitlines()
        )


def test_what_the_exercise_says_of_the_first_step():
    config = (NOTEBOOKS / "data" / "run-08" / "config.yaml").read_text()
    assert "group_size: 8\n" in config and "mini_batch_prompts: 32\n" in config  # 256 completions a step
    row = APO[0][0]
    independent = (row["reward_mean"] * (1 - row["reward_mean"]) / 256) ** 0.5
    said = load("08")["08.standard_error"].after
    assert f"it is {row['reward_se']:.3f}" in said and f"claim {independent:.3f}." in said
