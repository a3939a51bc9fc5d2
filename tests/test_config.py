"""The options: precedence, the paper's defaults, checks in Python, and one clear line for everything that is wrong."""

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from apo_edu import GroupBatch, schedules
from apo_edu.objectives import OBJECTIVES
from apo_edu.schedules import SCHEDULES
from full.config import (
    FIELDS,
    FORMAT,
    TrainConfig,
    explain_option,
    is_read,
    names_of_core,
    parse_config,
    read_options,
    readers,
    solved_reward,
)
from full.data.tasks import TASKS
from full.engines import ENGINES
from full.errors import UserError
from full.options import Range, above, between, kinds
from full.other_names import ANSWERS
from full.trainer.batches import BatchPlan

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "full" / "configs"


def differences(file: str, base: TrainConfig) -> dict:
    """What a shipped configuration says otherwise."""
    config, _ = parse_config(["--config", str(CONFIGS / file)])
    return {name: value for name, value in vars(config).items() if value != getattr(base, name)}


def test_the_papers_file_restates_the_defaults_but_for_one():
    # Under reward noise E[max(0, noise)] > 0 (the gate stands at 0.23 on noise alone, lesson 05), so the file asks for a margin
    # of one standard error, as every shipped configuration does; the default stays the paper's 0.
    assert differences("qwen3_1.7b_math_l3.yaml", TrainConfig()) == {"noise_guard": 1.0}


def test_the_files_for_gpus_change_what_their_memory_asks_for_and_nothing_else():
    paper, _ = parse_config(["--config", str(CONFIGS / "qwen3_1.7b_math_l3.yaml")])
    assert differences("gpu_80gb.yaml", paper) == differences("gpu_48gb.yaml", paper) == {}
    assert differences("gpu_24gb.yaml", paper) == {"lora_rank": 16, "lr": 1e-5}
    assert differences("gpu_80gb_vllm.yaml", paper) == {"engine": "vllm"}
    config, _ = parse_config(["--config", str(CONFIGS / "gpu_15gb.yaml")])
    assert (config.model, config.lora_rank, config.noise_guard) == ("Qwen/Qwen3-0.6B", 16, 1.0)


def test_a_shipped_file_is_chosen_with_a_word(tmp_path, monkeypatch):
    for name in ("gpu_15gb", "gpu_24gb", "gpu_48gb", "gpu_80gb", "qwen3_1.7b_math_l3"):
        words = [name, str(CONFIGS / f"{name}.yaml")]
        by_name, by_path = (parse_config(["--config", word, "--seed", "3"])[0] for word in words)
        assert by_name == by_path and by_name.seed == 3
    # A file of that name where one stands is what is meant.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpu_24gb").write_text("steps: 7\n")
    assert parse_config(["--config", "gpu_24gb"])[0] == TrainConfig(steps=7)


def test_the_cell_for_colab_names_what_there_is():
    (cell,) = re.findall(r"```python\n(!git clone.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    *_, install, launch = cell.splitlines()
    extra = re.fullmatch(r"%pip install -q -e \.\[(\w+)\]", install)[1]
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    command, script, *words = launch.split()[1:]
    assert (launch[0], launch.split()[0], command) == ("!", "!accelerate", "launch") and (ROOT / script).is_file()
    config, resume = parse_config([str(ROOT / word) if word.endswith(".yaml") else word for word in words])
    assert (config.model, config.output_dir, config.save_every, resume) == ("Qwen/Qwen3-0.6B", "run", 20, None)


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


def test_the_command_line_wins_over_the_file_and_the_file_over_its_base(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "ground.yaml").write_text("lr: 1.0e-2\nseed: 2\nepochs: 5\nepsilon: 0.3\nobjective: grpo\n")
    (tmp_path / "folder" / "base.yaml").write_text("base: ../ground.yaml\nseed: 7\nsteps: 9\nepsilon: null\n")
    file = tmp_path / "folder" / "a.yaml"
    file.write_text("base: base.yaml\nlr: 1.0e-3\nreward: [accuracy, format]\nseed: 3\n")
    config, resume = parse_config(["--config", str(file), "--seed", "4", "--alpha_min=0.3"])
    assert (config.lr, config.reward, config.seed, config.alpha_min, resume) == (
        1e-3,
        ["accuracy", "format"],
        4,
        0.3,
        None,
    )
    assert (config.epochs, config.steps, config.epsilon, config.objective) == (5, 9, None, "grpo")
    (tmp_path / "ground.yaml").write_text("base: folder/a.yaml\n")
    with pytest.raises(UserError, match=r"a\.yaml is its own base, by way of .*ground\.yaml; expected"):
        parse_config(["--config", str(file)])
    file.write_text("base: nowhere.yaml\n")
    with pytest.raises(UserError, match=r"nowhere\.yaml cannot be read.*give an existing"):
        parse_config(["--config", str(file)])


def test_a_saved_configuration_reads_back_as_itself(tmp_path):
    config = TrainConfig(
        lr=3e-4, reward=["format"], reward_weights=[0.5], level="all", truncated="mask", schedule="fixed",
        schedule_options={"alpha": 0.25},
    )  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml() + "provenance: {data: x}\n")
    assert parse_config(["--config", str(file)])[0] == config


def test_values_are_read_alike_from_words_and_from_files(tmp_path):
    words = (
        "--lr 1e-3 --level 2 --name 7 --merge_lora true --lora_rank 4 --reward accuracy format --reward_weights 1 -0.5"
    )
    words += " --thinking --epsilon none --objective_options scale=group"
    file = tmp_path / "a.yaml"
    file.write_text(
        "lr: 1e-3\nlevel: 2\nname: 7\nmerge_lora: true\nlora_rank: 4\nreward: [accuracy, format]\n"  # 1e-3: a text to YAML
        "reward_weights: [1, -0.5]\nthinking: yes\nepsilon: none\nobjective_options: {scale: group}\n"
    )
    expected = TrainConfig(
        lr=1e-3, level="2", name="7", merge_lora=True, lora_rank=4, reward=["accuracy", "format"], thinking=True,
        reward_weights=[1.0, -0.5], objective_options={"scale": "group"},
    )  # fmt: skip
    assert parse_config(words.split())[0] == parse_config(["--config", str(file)])[0] == expected
    assert parse_config(["--group-size", "4", "--merge-lora", "false"])[0] == TrainConfig(group_size=4)
    file.write_text("reward: format\nreward_weights: 2\n")
    assert parse_config(["--config", str(file)])[0] == TrainConfig(reward=["format"], reward_weights=[2.0])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lrr", "1"], r"'lrr' in the command line is no option.*Did you mean lr\?"),
        (["--strength", "2"], "'strength' in the command line is no option.*--objective_options or .*, as strength=VALUE"),
        (["--learning_rate", "1"], "'learning_rate' in the command line is called lr here"),
        (["--lr", "fast"], "lr is 'fast'; expected a number"),
        (["--steps", "1.5"], "steps is '1.5'; expected an integer"),
        (["--thinking", "maybe"], "thinking is 'maybe'; expected true or false"),
        (["--objective", "ppo"], "objective is 'ppo'; expected one of apo"),
        (["--group_size", "1"], "group_size is 1; expected at least 2, since .*e.g. 6 or 8"),
        (["--mini_batch_prompts", "7"], "prompts_per_batch is 48 and mini_batch_prompts 7; expected a multiple"),
        (["--alpha_min", "0.95"], "alpha_min is 0.95 and alpha_max is 0.9; expected alpha_min <= alpha_max"),
        (["--tau_anc", "0"], "tau_anc is 0.0; expected a finite number > 0"),
        (["--beta_r", "nan"], "beta_r is nan; expected a finite number > 0"),
        (["--temperature", "-1"], "temperature is -1.0; expected"),
        (["--reward_weights", "1", "2"], "reward_weights has 2 weights for 1 rewards"),
        (["--steps", "0"], "steps is 0; expected at least 1"),
        (["--epsilon", "-0.1", "--objective", "grpo"], "epsilon is -0.1; expected a finite number > 0, e.g. 0.2"),
        (["--rho", "1"], "rho is 1.0; expected 0 <= rho < 1"),
        (["--lr"], "argument --lr: expected one argument"),
        (["--objective_options", "5"], "objective_options has '5'; expected name=value"),
        (["trainer.lr=1"], "'trainer.lr=1' belongs to no option; options are written --name value. trainer.lr is called lr"),
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--config", "gpu_24"], r"--config is 'gpu_24', which is no file here; expected .*gpu_48gb.*Did you mean gpu_24gb\?"),
        (["--resume", "nowhere"], "nowhere/config.yaml cannot be read.*no run to resume"),
    ],
)  # fmt: skip
def test_bad_options_get_one_line(argv, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_config(argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpha_mim: 0.3", "'alpha_mim' in .* is no option.*Did you mean alpha_min"),
        ("beta: 0.04", "'beta' in .*a.yaml is no option here: there is no KL term"),
        ("lr: fast", r"lr is 'fast'; expected a number. \(in .*a.yaml\)"),
        ("lr:", "lr is None, a NoneType; expected a number"),
        ("steps: 2.5", "steps is 2.5, a float; expected an integer"),
        ("doctor: true", "doctor in .* is for the command line alone"),
        ("schedule: {name: guarded}", "schedule is nested; expected a plain value"),
        ("format: 9", "has format 9; this version reads format 1.*another version"),
        ("- lr", "holds list; expected 'option: value' lines"),
        ("lr: [", "is no valid YAML"),
    ],
)
def test_bad_files_get_one_line(tmp_path, text, message):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        parse_config(["--config", str(file)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "nonsense"}, "schedule is 'nonsense'; expected one of guarded, fixed, linear, ess, or module:class"),
        ({"engine": "vlm"}, r"engine is 'vlm'; expected one of hf, vllm\. Did you mean vllm\?"),
        ({"truncated": "drop"}, "truncated is 'drop'; expected one of keep, mask"),
        ({"lr_schedule": "cosin"}, r"lr_schedule is 'cosin'; expected one of constant, .* Did you mean cosine\?"),
        ({"confidence_from": "answer"}, r"confidence_from is 'answer'.* Did you mean answers\?"),
        ({"weights": "bfloat16"}, "weights is 'bfloat16'; expected one of float32, float64"),
        ({"objective": "grppo"}, r"objective is 'grppo'; expected one of apo.* Did you mean 'grpo'\?"),
        ({"objective": "nowhere:f"}, "nowhere cannot be imported.*PYTHONPATH"),
        ({"objective_options": {"tau_ank": 1}}, "objective_options has 'tau_ank', and apo has no such.*mean tau_anc"),
        ({"schedule_options": {"k": 1}}, "schedule_options has 'k', and guarded has no such keyword"),
        ({"objective": "grpo", "off_policy": "clip"}, "off_policy is 'clip' for grpo, which has a ratio and a clip"),
        ({"reward": "accuracy"}, "reward is 'accuracy'; expected a list"),
        ({"reward": []}, "reward is empty"),
        ({"lr": "1e-3"}, "lr is '1e-3', a str; expected a number"),
        ({"seed": True}, "seed is True, a bool; expected an integer"),
        ({"adam_beta2": 1}, "adam_beta2 is 1.0; expected 0 <= adam_beta2 < 1"),
        ({"ess_fraction": 0.0}, "ess_fraction is 0.0; expected 0 < ess_fraction <= 1"),
        ({"importance_cap": 0.5}, "importance_cap is 0.5; expected a finite number >= 1"),
        ({"lora_rank": -1}, "lora_rank is -1; expected 0 or more, e.g. 16"),
        ({"merge_lora": True}, "merge_lora is true without adapters"),
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_built_in_python_is_checked(options, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**options)


def test_ranges_hold_what_they_say():
    assert 0.5 in between(0, 1) and 0 in between(0, 1) and 1 in between(0, 1)
    assert 0 not in above(0) and float("inf") not in above(0) and float("nan") not in Range()
    assert 1 not in between(0, 1, open_high=True) and 0 not in between(0, 1, open_low=True)
    assert between(0, 1, open_low=True).words("x") == "0 < x <= 1" and above(0).words() == "> 0"


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


def test_a_run_without_a_format_is_read_but_does_not_go_on(tmp_path):
    assert yaml.safe_load(TrainConfig().to_yaml())["format"] == FORMAT == 1
    (tmp_path / "config.yaml").write_text("seed: 5\n")
    assert read_options(tmp_path / "config.yaml") == {"seed": 5}
    with pytest.raises(UserError, match=r"has no format, so its run was started by a version before 0\.2\.0.*--config"):
        parse_config(["--resume", str(tmp_path)])


def help_text() -> str:
    """What `full/train.py --help` prints; fails if a library that is slow to import was loaded for it."""
    code = (
        "import runpy, sys; sys.argv = ['full/train.py', '--help']\n"
        "try: runpy.run_path('full/train.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "slow = {'torch', 'transformers', 'datasets', 'accelerate', 'numpy'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_option_once_under_its_heading_and_loads_nothing_slow():
    out = help_text()
    flat = " ".join(out.split())
    for name, field in FIELDS.items():
        assert len(re.findall(rf"^  --{name}\b", out, re.M)) == 1
        assert f"\n{field.metadata['group']}:\n" in out
    assert out.count("\n  --") == len(FIELDS) + 3  # and --config, --resume, --doctor
    assert re.search(r"--tau_anc X Anchor temperature .* \[nats per token; > 0; paper: 0\.5; default: 0\.5\]", flat)
    for record in (*OBJECTIVES.values(), *SCHEDULES.values()):
        assert f"{record.name}: {record.summary}" in flat
    for name in (*ENGINES, *TASKS):
        assert re.search(rf"\b{name}\b", flat)
    assert names_of_core("objectives") == {name: record.summary for name, record in OBJECTIVES.items()}


def test_help_texts_stand_alone():
    for name, field in FIELDS.items():
        text = field.metadata["help"]
        assert re.match(r"[A-Z]", text) and text.rstrip().endswith((".", "}")), name
        assert not text.startswith(("Of ", "Likewise", "The same")), name
        assert field.default is dataclasses.MISSING or field.metadata["range"] is None or field.default is None or (
            field.default in field.metadata["range"]
        )  # fmt: skip


def test_choices_are_those_of_the_core():
    assert kinds(TrainConfig)["confidence_from"].choices == schedules.CONFIDENCE_SOURCES


# Names of TRL 1.16's GRPOConfig and ModelConfig, transformers' TrainingArguments and verl's ppo_trainer.yaml that users
# bring, and what they get: an option, or words of the sentence on what does not exist.
BROUGHT = {
    "learning_rate": "lr", "num_generations": "group_size", "max_steps": "steps", "save_steps": "save_every",
    "eval_steps": "eval_every", "save_total_limit": "keep_checkpoints", "resume_from_checkpoint": "resume",
    "report_to": "tracker", "run_name": "name", "overwrite_output_dir": "overwrite", "lora_r": "lora_rank",
    "max_completion_length": "max_completion_tokens", "max_prompt_length": "max_prompt_tokens", "loss_type": "objective",
    "dataset_name": "data", "reward_funcs": "reward", "num_iterations": "epochs", "scale_rewards": "advantage_scale",
    "train_batch_size": "prompts_per_batch", "ppo_mini_batch_size": "mini_batch_prompts", "ppo_epochs": "epochs",
    "clip_ratio": "epsilon", "clip_ratio_high": "epsilon_high", "adv_estimator": "objective", "grad_clip": "max_grad_norm",
    "rollout_n": "group_size", "model_name_or_path": "model", "lr_scheduler_type": "lr_schedule",
    "beta": "no KL term", "kl_coef": "no KL term", "use_kl_loss": "no KL term", "use_peft": "lora_rank above 0",
    "lora_alpha": "alpha twice lora_rank", "lora_dropout": "no dropout", "hub_token": "keeps the token",
    "hub_model_id": "push_to_hub", "top_p": "softmax(logits / temperature)", "top_k": "softmax(logits / temperature)",
    "per_device_train_batch_size": "all processes together", "gradient_accumulation_steps": "micro_batch_tokens decides",
    "num_train_epochs": "length of a run is steps", "warmup_ratio": "warm-up is warmup_steps",
    "logging_steps": "every optimiser step",
    "bf16": "bfloat16", "optim": "AdamW", "adam_beta1": "beta1 0.9", "use_vllm": "engine vllm",
    "eval_strategy": "eval_every count optimiser steps",
    "deepspeed": "accelerate launch", "num_processes": "accelerate launch", "device": "CUDA_VISIBLE_DEVICES",
    "entropy_coeff": "no entropy bonus", "ref_model": "anchor is the policy that sampled", "delta": "epsilon and epsilon_high",
    "torch_dtype": "bfloat16", "load_in_4bit": "not quantised", "reward_model": "no reward model",
}  # fmt: skip


@pytest.mark.parametrize("name", BROUGHT)
def test_names_of_other_trainers_get_the_right_answer(name):
    with pytest.raises(UserError) as caught:
        parse_config([f"--{name}", "1"])
    told = str(caught.value)
    option = BROUGHT[name]
    if option in FIELDS or option == "resume":
        assert told == f"'{name}' in the command line is called {option} here."
    else:
        assert told.startswith(f"'{name}' in the command line is no option here: ") and option in told
        assert "Did you mean" not in told


def test_no_answer_hides_an_option_or_points_nowhere():
    known = {*FIELDS, "config", "resume", "doctor"}
    assert not set(ANSWERS) & known
    for name, found in ANSWERS.items():
        # A sentence has several words; one word is an option, and its every mention of one is spelled right.
        assert " " in found or found in known, name
        assert all(word in known for word in re.findall(r"\b[a-z]+_[a-z_0-9]*[a-z]\b", found) if word not in (
            "num_processes", "config_file", "scaled_dot_product_attention",
        )), name  # fmt: skip


def test_the_tiny_file_is_valid_and_small():
    config, _ = parse_config(["--config", str(CONFIGS / "tiny.yaml")])
    assert config.model == "tiny"
    assert set(yaml.safe_load((CONFIGS / "tiny.yaml").read_text())) <= {f.name for f in dataclasses.fields(TrainConfig)}


def test_dr_grpo_is_run_as_published():
    objective = TrainConfig(objective="dr_grpo", max_completion_tokens=9).make_objective()
    assert objective.keywords == {"max_tokens": 9, "scale": "none"}


OWN = """
from apo_edu import GuardedAlpha, objectives, schedules

def pushed(batch, *, alpha, tau_anc, strength):
    loss, stats = objectives.apo(batch, alpha=alpha, tau_anc=tau_anc, beta_r=0.3)
    return strength * loss, stats

class Half(schedules.Schedule):
    def __init__(self, alpha_max, factor=0.5):
        self.alpha = factor * alpha_max
    def update(self, signals):
        return self.alpha
    def state_dict(self):
        return {"alpha": self.alpha}
    def load_state_dict(self, state):
        self.alpha = state["alpha"]
"""


@pytest.fixture
def own_rules(tmp_path, monkeypatch):
    """A user's module with an objective and a schedule, each with an option of its own."""
    (tmp_path / "own_rules_of_config.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_rules_of_config"
    sys.modules.pop("own_rules_of_config", None)


def test_an_objective_and_a_schedule_of_ones_own_with_options(own_rules):
    words = (
        f"--objective {own_rules}:pushed --objective_options strength=2e0 --tau_anc 0.25 --schedule {own_rules}:Half"
    )
    config, _ = parse_config([*words.split(), "--schedule_options", "factor=0.25", "--alpha_max", "0.8"])
    assert config.make_objective().keywords == {"tau_anc": 0.25, "strength": 2.0}
    assert config.make_schedule().alpha == 0.2
    assert config.run_dir == Path("runs/own_rules_of_config.pushed-own_rules_of_config.Half-s0")
    with pytest.raises(UserError, match="needs a value for strength.*--objective_options strength=VALUE"):
        TrainConfig(objective=f"{own_rules}:pushed")
    with pytest.raises(UserError, match=r"objective_options has 'strenght'.* Did you mean strength\?"):
        TrainConfig(objective=f"{own_rules}:pushed", objective_options={"strenght": 1})
    assert config.unread() == []


def test_a_keyword_may_be_given_by_its_own_name():
    config = TrainConfig(objective="dr_grpo", objective_options={"scale": "group"}, max_completion_tokens=9)
    assert config.make_objective().keywords == {"max_tokens": 9, "scale": "group"}
    assert TrainConfig(schedule="linear", schedule_options={"num_steps": 3}, steps=9).make_schedule().num_steps == 3


def test_who_reads_an_option_is_read_off_the_records():
    assert readers("epsilon_high") == ["dapo", "gspo"]
    assert readers("off_policy_epsilon") == readers("off_policy") == ["apo", "adpo"]
    assert readers("rho") == ["guarded"] and readers("alpha") == ["fixed"] and readers("steps") == []
    assert readers("tau_anc") == ["apo", "adpo", "ess"]  # the schedule by way of its signals
    assert explain_option("rho").endswith("Read by guarded.") and explain_option("nonsense") == ""
    guarded = vars(TrainConfig())
    assert is_read("rho", guarded) and not is_read("alpha", guarded) and is_read("steps", guarded)
    assert not is_read("off_policy_epsilon", guarded) and is_read(
        "off_policy_epsilon", guarded | {"off_policy": "clip"}
    )
    grpo = guarded | {"objective": "grpo"}
    assert not is_read("rho", grpo) and not is_read("schedule", grpo) and is_read("epsilon", grpo)
    assert is_read("rho", guarded | {"schedule": "gone:Rule"}) and is_read("epsilon", guarded | {"objective": "gone:f"})
    changed = TrainConfig(objective="grpo", tau_anc=0.7, epsilon_high=0.3, epsilon=0.1, alpha_max=0.8, steps=9)
    assert changed.unread() == ["tau_anc", "epsilon_high", "alpha_max"]


def test_off_policy_reaches_the_coefficients():
    from apo_edu.objectives import coefficients

    config = TrainConfig(off_policy="clip", off_policy_epsilon=0.1)
    old = -torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    batch = GroupBatch(old + 0.2, old, torch.ones_like(old), rewards)  # every ratio is exp(0.2) = 1.22
    plain, *_ = coefficients(config.make_objective(), batch, alpha=0.6)
    clipped, _, stats = coefficients(config.make_objective(), batch, alpha=0.6, **config.off_policy_options)
    # Pushes up have gone far enough; those down are multiplied by the ratio.
    expected = torch.where(plain < 0, torch.zeros_like(plain), plain * torch.tensor(0.2, dtype=torch.float64).exp())
    torch.testing.assert_close(clipped, expected)
    assert stats["clip_fraction"].item() == (plain < 0).double().mean().item() > 0


def test_learning_rate_by_hand():
    def factors(schedule):
        config = TrainConfig(steps=6, warmup_steps=2, lr_schedule=schedule)
        return [config.lr_factor(step) for step in range(6)]

    assert factors("constant") == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    assert factors("linear") == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4])  # no step is without effect
    assert factors("cosine") == pytest.approx([1 / 3, 2 / 3, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


@pytest.mark.parametrize(
    ("encoding", "text"), [("utf-16", "seed: 1"), ("latin-1", "name: caf\xe9"), ("utf-16-le", "seed: 1")]
)
def test_a_file_in_another_encoding_is_one_line(tmp_path, encoding, text):
    (tmp_path / "a.yaml").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match="is not UTF-8 .*expected UTF-8. Save it so|is no valid YAML") as caught:
        parse_config(["--config", str(tmp_path / "a.yaml")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["-1e-05", "-1.0e-5", "-.5e1", "-3"])
def test_negative_numbers_are_values(tmp_path, word):
    expected = [float(word), 2.0]
    assert parse_config(["--reward", "accuracy", "format", "--reward_weights", word, "2"])[0].reward_weights == expected
    (tmp_path / "a.yaml").write_text(f"reward: [accuracy, format]\nreward_weights: [{word}, 2]\n")
    assert parse_config(["--config", str(tmp_path / "a.yaml")])[0].reward_weights == expected


def test_a_seed_is_one_that_every_library_takes():
    assert TrainConfig(seed=2**32 - 1).seed == 2**32 - 1
    for seed in (2**32, 2**64):
        with pytest.raises(UserError, match=f"seed is {seed}; expected less than 2..32, numpy's limit"):
            TrainConfig(seed=seed)


def test_home_is_found_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("output_dir: ~/run\n")
    (tmp_path / "a.yaml").write_text("base: ~/base.yaml\n")
    assert parse_config(["--config", "~/a.yaml"])[0].run_dir == tmp_path / "run"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.9),
        ({"reward": ["accuracy", "format"], "reward_weights": [1.0, 0.1]}, 0.99),
        ({"reward": ["accuracy", "repetition"]}, 0.9),  # a penalty ends at 0
        ({"reward": ["accuracy", "my_rewards:score"]}, None),
    ],
)
def test_where_the_monitor_takes_a_run_for_solved(options, expected):
    assert solved_reward(vars(TrainConfig(**options))) == (expected and pytest.approx(expected))
