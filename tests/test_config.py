"""The options: precedence, the paper's defaults, and one clear line for everything that is wrong."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from full.config import TrainConfig, parse_config
from full.errors import UserError
from full.trainer.batches import BatchPlan

CONFIGS = Path(__file__).parents[1] / "full" / "configs"


def test_the_papers_file_restates_the_defaults():
    config, _ = parse_config(["--config", str(CONFIGS / "qwen3_1.7b_math_l3.yaml")])
    assert config == TrainConfig()


def test_paper_set_up():
    # DESIGN of the experiment: group 6, 48 prompts in 2 mini-batches of 24, one epoch.
    config = TrainConfig()
    assert (config.model, config.level, config.group_size) == ("Qwen/Qwen3-1.7B", "3", 6)
    assert (config.prompts_per_batch, config.mini_batch_prompts, BatchPlan(config).updates) == (48, 24, 2)
    assert (config.tau_anc, config.beta_r, config.alpha_max, config.alpha_min, config.alpha) == (
        0.5,
        0.3,
        0.9,
        0.35,
        0.6,
    )


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("lr: 1.0e-3\nreward: [accuracy, format]\nseed: 3\n")
    config, resume = parse_config(["--config", str(file), "--seed", "4", "--alpha_min=0.3"])
    assert (config.lr, config.reward, config.seed, config.alpha_min, resume) == (
        1e-3,
        ["accuracy", "format"],
        4,
        0.3,
        None,
    )


def test_a_saved_configuration_reads_back_as_itself(tmp_path):
    config = TrainConfig(lr=3e-4, reward=["format"], reward_weights=[0.5], level="all", truncated="mask")
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml() + "provenance: {data: x}\n")
    assert parse_config(["--config", str(file)])[0] == config


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lrr", "1"], r"'lrr' in the command line is no option.*Did you mean lr\?"),
        (["--learning_rate", "1"], "'learning_rate' in the command line is called lr here"),
        (["--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["--objective", "ppo"], "argument --objective: invalid choice: 'ppo'.*apo"),
        (["--group_size", "1"], "group_size is 1; expected at least 2.*Try 6 or 8"),
        (["--mini_batch_prompts", "7"], "prompts_per_batch is 48 and mini_batch_prompts 7; expected a multiple"),
        (["--alpha_min", "0.95"], "alpha_min is 0.95 and alpha_max is 0.9; expected alpha_min <= alpha_max"),
        (["--tau_anc", "0"], "tau_anc is 0.0; expected a finite number > 0"),
        (["--beta_r", "nan"], "beta_r is nan; expected a finite number > 0"),
        (["--temperature", "-1"], "temperature is -1.0; expected"),
        (["--reward_weights", "1", "2"], "reward_weights has 2 weights for 1 rewards"),
        (["--steps", "0"], "steps is 0; expected at least 1"),
        (["--epsilon", "-0.1", "--objective", "grpo"], "epsilon is -0.1; expected > 0"),
        (["--rho", "1"], "rho is 1.0; expected 0 <= rho < 1"),
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--resume", "nowhere"], "nowhere/config.yaml cannot be read.*no run to resume"),
    ],
)
def test_bad_options_get_one_line(argv, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_config(argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpha_mim: 0.3", "'alpha_mim' in .* is no option.*Did you mean alpha_min"),
        ("lr: fast", "invalid float value: 'fast'"),
        ("schedule: {name: guarded}", "schedule in .* is nested"),
        ("- lr", "holds list; expected 'option: value' lines"),
        ("lr: [", "is no valid YAML"),
    ],
)
def test_bad_files_get_one_line(tmp_path, text, message):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        parse_config(["--config", str(file)])


def test_resume_keeps_what_is_computed(tmp_path):
    (tmp_path / "config.yaml").write_text(TrainConfig(seed=5).to_yaml())
    config, resume = parse_config(["--resume", str(tmp_path), "--micro_batch_tokens", "64"])
    assert (config.seed, config.micro_batch_tokens, config.output_dir, resume) == (5, 64, str(tmp_path), str(tmp_path))
    with pytest.raises(
        UserError, match=r"--lr is 0.1 but the run in .* has 1e-06; a resumed run must compute the same"
    ):
        parse_config(["--resume", str(tmp_path), "--lr", "0.1"])
    with pytest.raises(UserError, match="--resume and --config were both given"):
        parse_config(["--resume", str(tmp_path), "--config", "x.yaml"])


def test_every_option_has_help_and_there_are_few():
    fields = dataclasses.fields(TrainConfig)
    assert len(fields) < 60
    out = subprocess.run(
        [sys.executable, "full/train.py", "--help"], capture_output=True, text=True, cwd=CONFIGS.parents[1]
    )
    assert out.returncode == 0
    for field in fields:
        assert f"--{field.name}" in out.stdout
        assert len(field.metadata["help"]) > 5
    assert re.search(r"--tau_anc.*\n?.*nats per token.*\n?.*default: 0\.5", out.stdout)


def test_the_tiny_file_is_valid_and_small():
    config, _ = parse_config(["--config", str(CONFIGS / "tiny.yaml")])
    assert config.model == "tiny"
    assert set(yaml.safe_load((CONFIGS / "tiny.yaml").read_text())) <= {f.name for f in dataclasses.fields(TrainConfig)}


def test_dr_grpo_is_run_as_published():
    objective = TrainConfig(objective="dr_grpo", max_completion_tokens=9).make_objective()
    assert objective.keywords == {"max_tokens": 9, "scale": "none"}


def test_learning_rate_by_hand():
    def factors(schedule):
        config = TrainConfig(steps=6, warmup_steps=2, lr_schedule=schedule)
        return [config.lr_factor(step) for step in range(6)]

    assert factors("constant") == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    assert factors("linear") == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4])  # no step is without effect
    assert factors("cosine") == pytest.approx([1 / 3, 2 / 3, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
