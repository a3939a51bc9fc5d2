"""Every option of the trainer, once: name, unit, range, default, source; and the one way to read them.

Defaults are the paper's set-up (arXiv 2512.22953: Qwen3-1.7B on MATH level 3) where it names one. A configuration file
holds the same names and may name another one as its `base`; the command line wins over the file, the file over its base,
and that over the defaults. This module imports no torch, so that --help is quick; what needs the core imports it.
"""

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from full.errors import UserError
from full.options import (
    Parser,
    above,
    add_options,
    at_least,
    between,
    checked,
    default_of,
    explain,
    from_words,
    from_yaml,
    kinds,
    option,
    suggestion,
)
from full.other_names import answer

if TYPE_CHECKING:
    from apo_edu.objectives import Objective, ObjectiveRecord
    from apo_edu.records import Record
    from apo_edu.schedules import Schedule, ScheduleRecord

# The configurations that come with the trainer; --config takes their names too.
CONFIGS = Path(__file__).parent / "configs"

# What config.yaml and a checkpoint's manifest are written in. Raise it when an older reader would misread a newer file.
FORMAT = 1


def names_of_core(module: str) -> dict[str, str]:
    """Name -> summary of the records in a module of the core, read from its text: to import it would load torch (1 s)."""
    spec = importlib.util.find_spec("apo_edu")
    assert spec is not None and spec.submodule_search_locations
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / f"{module}.py").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "describe":
                words = {k.arg: str(k.value.value) for k in call.keywords if isinstance(k.value, ast.Constant)}
                found[words["name"]] = words["summary"]
    return found


def names_of_engines() -> dict[str, str]:
    """Name -> help of the engines' records."""
    return {name: record.help for name, record in _engines().ENGINES.items()}


def names_of_tasks() -> dict[str, str]:
    """The names of the generated tasks: those of their files."""
    files = (Path(__file__).parent / "data" / "tasks").glob("*.py")
    return {path.stem: "" for path in sorted(files) if path.stem not in ("__init__", "task")}


def _engines() -> Any:
    # By its path, as an engine's record names its module: an import would close a circle, since an engine reads models
    # and these read the configuration.
    return importlib.import_module("full.engines")


RUN, POLICY, DATA, SAMPLING, REWARD = "The run", "The policy", "The data", "Sampling", "The reward"
OBJECTIVE, SCHEDULE, OPTIMISER, FILES = (
    "The objective",
    "The schedule of alpha",
    "The optimiser",
    "Evaluation and files",
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The resolved configuration of a run; frozen, saved as config.yaml, compared on resume.

    Raises:
        UserError: a value of another type, out of its range or not among the known ones; options that do not go together.
    """

    name: str | None = option(
        None,
        "Name of the run; it is written to runs/NAME. Default: OBJECTIVE-SCHEDULE-sSEED.",
        group=RUN,
        free_on_resume=True,
    )
    output_dir: str | None = option(None, "Folder of the run, instead of runs/NAME.", group=RUN, free_on_resume=True)
    overwrite: bool = option(
        False,
        "Start afresh in a folder that already holds a run; the old run is deleted.",
        group=RUN,
        free_on_resume=True,
    )
    seed: int = option(
        0,
        "Seed of everything random: data order, sampling, the embedded model. Same seed, same run.",
        group=RUN,
        range=at_least(0),
    )
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = option(
        "none",
        "Send the metrics to a tracker too, through accelerate; its package must be installed.",
        group=RUN,
        free_on_resume=True,
    )
    project: str = option("apo_edu", "Project that the tracker files the run under.", group=RUN, free_on_resume=True)
    callback: list[str] = option(
        [],
        "Functions of your own, module:function, called as f(trainer, metrics) on every process after each optimiser step.",
        group=RUN,
        free_on_resume=True,
    )
    allow_cpu: bool = option(
        False,
        "Train on the CPU also with a large model, or beside a GPU that torch cannot use; without it such a run stops.",
        group=RUN,
        free_on_resume=True,
    )
    cpu_threads: int = option(
        0, "Threads of each process on a CPU; 0 shares the cores among the processes.", group=RUN, range=at_least(0)
    )

    model: str = option(
        "Qwen/Qwen3-1.7B",
        "Hub id, local folder, or an embedded model: 'tiny' or 'smollm2'.",
        group=POLICY,
        source="paper: Qwen3-1.7B",
    )
    thinking: bool = option(
        False, "Let a thinking model think: its completions rarely fit under 1,280 tokens.", group=POLICY
    )
    weights: Literal["float32", "float64"] = option(
        "float32", "Type of the weights; float64 is for tests of exactness.", group=POLICY
    )
    lora_rank: int = option(
        0,
        "Train adapters of this rank on all linear layers (peft) instead of the weights; 0 trains the weights.",
        group=POLICY,
        range=at_least(0),
        example=16,
    )
    merge_lora: bool = option(
        False,
        "Write model/ with the adapters merged into the weights, loadable without peft.",
        group=POLICY,
        free_on_resume=True,
    )
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, a third slower.", group=POLICY
    )
    warm_start_pass_at_1: float = option(
        0.35,
        "Sampled pass@1 at which the warm start of the embedded model 'tiny' stops; other models do not read it.",
        group=POLICY,
        range=between(0, 1, open_low=True, open_high=True),
        source="ours",
    )

    data: str = option(
        "math",
        "Problems: 'math' (the hub sources in turn), a hub id (ID:CONFIGURATION), a .jsonl/.json/.csv/.parquet file or folder, "
        "a generated task ({names}), or reasoning_gym:NAME?key=value (an extra).",
        group=DATA,
        source="paper: MATH",
        names=names_of_tasks,
    )
    level: str = option("3", "Keep problems of this level only, or 'all'.", group=DATA, source="paper: 3")
    columns: dict[str, Any] = option(
        {},
        "What the data call the columns problem, answer, solution, level or prompt, e.g. problem=question,answer=gold; a dot "
        "goes into an object. GSM8K's names are known.",
        group=DATA,
    )
    system_prompt: str | None = option(
        None, "System message before every prompt; the chat template must have room for one.", group=DATA
    )
    max_prompt_tokens: int = option(
        1024, "Longest prompt; see long_prompts.", group=DATA, unit="tokens", range=at_least(1), source="paper: 1024"
    )
    long_prompts: Literal["error", "drop"] = option(
        "error", "What happens to longer prompts: 'error' stops, 'drop' leaves them out and says how many.", group=DATA
    )

    group_size: int = option(
        6,
        "Completions per prompt.",
        group=SAMPLING,
        range=at_least(2),
        example="6 or 8",
        reason="a completion is compared with the others of its prompt",
        source="paper: 6",
    )
    prompts_per_batch: int = option(
        48, "Prompts per batch of samples, over all processes.", group=SAMPLING, range=at_least(1), source="paper: 48"
    )
    mini_batch_prompts: int = option(
        24, "Prompts per optimiser step, over all processes.", group=SAMPLING, range=at_least(1), source="paper: 24"
    )
    epochs: int = option(1, "Passes over each batch of samples.", group=SAMPLING, range=at_least(1), source="paper: 1")
    temperature: float = option(
        1.0, "Temperature of sampling and of scoring.", group=SAMPLING, range=above(0), source="paper: 1"
    )
    max_completion_tokens: int = option(
        1280,
        "Longest completion; longer ones are truncated.",
        group=SAMPLING,
        unit="tokens",
        range=at_least(1),
        source="paper: 1280",
    )
    truncated: Literal["keep", "mask"] = option(
        "keep",
        "What happens to truncated completions: 'keep' trains on them as they are, 'mask' leaves them out of their group.",
        group=SAMPLING,
    )
    engine: str = option("hf", "What samples. {names}", group=SAMPLING, names=names_of_engines)
    vllm_memory: float = option(
        0.3,
        "Share of a GPU's memory (of the machine's, on a CPU) for vLLM's weights and cache; on a GPU it lets go of it during "
        "updates.",
        group=SAMPLING,
        range=between(0, 1, open_low=True),
        free_on_resume=True,
    )
    cuda_graphs: bool = option(
        True,
        "Sample a token of all rows as one CUDA graph, where GPU and model allow it: several times faster, the same but for "
        "rounding.",
        group=SAMPLING,
        free_on_resume=True,
    )
    importance_cap: float = option(
        2.0,
        "Cap of the importance weights that correct an engine whose probabilities differ from the policy's.",
        group=SAMPLING,
        range=at_least(1),
        source="ours",
    )
    generation_rows: int = option(
        0,
        "Completions sampled at once on each process, 0 what fits: decides the memory used, the result but for rounding not.",
        group=SAMPLING,
        range=at_least(0),
        free_on_resume=True,
    )

    reward: list[str] = option(
        ["accuracy_or_repetition"],
        "Built-in rewards (accuracy, accuracy_or_repetition, repetition, format, and for numbers digits: share of right "
        "ones, closeness: exp(-|error|); reasoning_gym for its data) or module:function of your own, separated by spaces.",
        group=REWARD,
        source="paper: 1 if verified, else at most 0 by repetition",
    )
    reward_weights: list[float] | None = option(
        None, "One weight per reward, 1 each where none are given; the weighted sum counts.", group=REWARD
    )
    verify_seconds: float = option(
        5.0, "Hard limit for the verification of one answer.", group=REWARD, unit="CPU seconds", range=above(0)
    )

    objective: str = option(
        "apo",
        "What is minimised: module:function of your own, or one of these. {names}",
        group=OBJECTIVE,
        source="paper: apo",
        names=partial(names_of_core, "objectives"),
    )
    objective_options: dict[str, Any] = option(
        {},
        "Keywords of the objective that are no options here, e.g. strength=0.5 for an objective of your own.",
        group=OBJECTIVE,
    )
    tau_anc: float = option(
        0.5,
        "Anchor temperature of the anchored objectives.",
        group=OBJECTIVE,
        unit="nats per token",
        range=above(0),
        source="paper: 0.5",
    )
    beta_r: float = option(
        0.3,
        "Reward temperature of the Boltzmann target; alpha / beta_r is the risk attitude.",
        group=OBJECTIVE,
        unit="the reward's",
        range=above(0),
        source="paper: 0.3",
    )
    logp_reduction: Literal["mean", "sum"] = option(
        "mean",
        "How the anchored objectives make a completion's log-probability of those of its tokens.",
        group=OBJECTIVE,
        source="paper's author: mean",
    )
    advantage_scale: Literal["none", "group", "batch"] = option(
        "none",
        "Standard deviation that advantages are divided by, for the objectives that leave it open.",
        group=OBJECTIVE,
        source="paper: none",
    )
    off_policy: Literal["none", "ratio", "clip"] = option(
        "none",
        "What the objectives without an importance ratio do from the second update of a batch on: nothing, multiply each "
        "token's coefficient by pi/pi_old, or that and PPO's clip. With several updates a batch clip is the better one on the "
        "tiny model (experiment 4).",
        group=OBJECTIVE,
        source="paper: none",
    )
    off_policy_epsilon: float = option(
        0.2,
        "Clip range of off_policy clip.",
        group=OBJECTIVE,
        range=between(0, 1, open_low=True, open_high=True),
        source="ours, PPO's value",
    )
    epsilon: float | None = option(
        None,
        "Clip range of the clipped objectives, the lower one where they have two; none leaves each its own.",
        group=OBJECTIVE,
        range=above(0),
        example=0.2,
        source="each objective's paper",
    )
    epsilon_high: float | None = option(
        None,
        "Upper clip range of the objectives that have two; none leaves each its own.",
        group=OBJECTIVE,
        range=above(0),
        example=0.28,
        source="each objective's paper",
    )

    schedule: str = option(
        "guarded",
        "How alpha comes about: module:class of your own, or one of these. {names}",
        group=SCHEDULE,
        source="paper: guarded",
        names=partial(names_of_core, "schedules"),
    )
    schedule_options: dict[str, Any] = option(
        {},
        "Arguments of the schedule that are no options here, e.g. factor=0.5 for a schedule of your own.",
        group=SCHEDULE,
    )
    alpha: float = option(
        0.6, "The order alpha that a fixed schedule holds.", group=SCHEDULE, source="paper's fixed variant: 0.6"
    )
    alpha_max: float = option(
        0.9, "Upper end of alpha, where moving schedules start.", group=SCHEDULE, source="paper: 0.9"
    )
    alpha_min: float = option(0.35, "Lower end of alpha.", group=SCHEDULE, source="paper: 0.35")
    rho: float = option(
        0.9,
        "Decay of the reward's moving average, with which the guard compares a step's reward.",
        group=SCHEDULE,
        range=between(0, 1, open_high=True),
        source="the paper names it; the value is ours",
    )
    gain_scale: float = option(
        0.1,
        "Gain of the reward at which the guard's improvement gate is 3/4 open.",
        group=SCHEDULE,
        unit="the reward's",
        range=above(0),
        source="ours",
    )
    noise_guard: float = option(
        0.0,
        "Standard errors of the mean reward that a gain must exceed to count; 1 to 2 keep noise out.",
        group=SCHEDULE,
        range=at_least(0),
        source="paper: 0",
    )
    confidence_from: Literal["tokens", "answers", "candidates", "anchored", "target"] = option(
        "tokens",
        "Whose entropy is the guard's confidence: the policy's at each token, the distinct answers of a group, or as "
        "apo_edu.group_signals says.",
        group=SCHEDULE,
        source="paper: the candidate set; the default is ours, by experiment 8",
    )
    ess_fraction: float = option(
        0.5,
        "Effective sample size that schedule ess holds, as a fraction of the group.",
        group=SCHEDULE,
        range=between(0, 1, open_low=True),
        source="ours",
    )

    steps: int = option(200, "Optimiser steps in all.", group=OPTIMISER, range=at_least(1))
    lr: float = option(
        1e-6, "Peak learning rate of AdamW.", group=OPTIMISER, range=above(0), source="paper: 1e-6 to 2e-6"
    )
    lr_schedule: Literal["constant", "linear", "cosine"] = option(
        "constant", "What the learning rate does after the warm-up: stay, or fall to 0.", group=OPTIMISER
    )
    warmup_steps: int = option(
        5,
        "Length of the linear warm-up of the learning rate.",
        group=OPTIMISER,
        unit="optimiser steps",
        range=at_least(0),
    )
    weight_decay: float = option(0.0, "Weight decay of AdamW.", group=OPTIMISER, range=at_least(0))
    adam_beta2: float = option(
        0.95, "Second beta of AdamW; its first is 0.9.", group=OPTIMISER, range=between(0, 1, open_high=True)
    )
    max_grad_norm: float = option(1.0, "Norm to which a longer gradient is clipped.", group=OPTIMISER, range=above(0))
    micro_batch_tokens: int = option(
        0,
        "Tokens, padding included, of one forward and backward pass, 0 what fits: decides the memory used, the result but "
        "for rounding not.",
        group=OPTIMISER,
        range=at_least(0),
        free_on_resume=True,
    )

    eval_every: int = option(
        50, "Optimiser steps between evaluations; 0 evaluates before and after only.", group=FILES, range=at_least(0)
    )
    eval_problems: int = option(500, "Held-out problems evaluated, at most.", group=FILES, range=at_least(1))
    eval_samples: int = option(
        1,
        "Sampled completions per held-out problem beside a greedy one, k; above 1 also gives pass@k and maj@k.",
        group=FILES,
        range=at_least(1),
    )
    save_every: int = option(
        20,
        "Optimiser steps between checkpoints; 0 writes one only at the end or when stopped.",
        group=FILES,
        range=at_least(0),
        free_on_resume=True,
    )
    keep_checkpoints: int = option(
        2, "Checkpoints kept; older ones are deleted.", group=FILES, range=at_least(1), free_on_resume=True
    )
    push_to_hub: str | None = option(
        None,
        "Hub id, OWNER/NAME, that model/ is uploaded to after the run, as a private repository; nothing is uploaded without.",
        group=FILES,
        free_on_resume=True,
    )
    model_dtype: Literal["same", "bfloat16"] = option(
        "same",
        "Type of the weights in model/: as they were trained, or bfloat16, half the size; adapters stay as they are.",
        group=FILES,
        free_on_resume=True,
    )
    log_completions: int = option(
        8, "Completions written to completions.jsonl per batch of samples.", group=FILES, range=at_least(0)
    )

    def __post_init__(self) -> None:
        kind_of = kinds(TrainConfig)
        for field in dataclasses.fields(self):
            value = checked(field, kind_of[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for message in self._conflicts():
            raise UserError(message)
        _engines().find_engine(self.engine)
        try:
            self.make_objective()
            self.make_schedule()
        except ValueError as error:
            raise UserError(str(error)) from None

    def _conflicts(self) -> list[str]:
        """What does not go together, each as one line: what was given, what is expected, the remedy."""
        found = []
        if self.merge_lora and not self.lora_rank:
            found.append("merge_lora is true without adapters; expected lora_rank > 0, e.g. 16, or merge_lora false.")
        if self.prompts_per_batch % self.mini_batch_prompts:
            found.append(
                f"prompts_per_batch is {self.prompts_per_batch} and mini_batch_prompts {self.mini_batch_prompts}; "
                f"expected a multiple. Try prompts_per_batch {self.mini_batch_prompts * 2}."
            )
        if self.seed >= 2**32:
            found.append(f"seed is {self.seed}; expected less than 2**32, numpy's limit, e.g. {self.seed % 2**32}.")
        if not self.reward:
            found.append("reward is empty; expected at least one, e.g. accuracy.")
        if self.reward_weights is not None and len(self.reward_weights) != len(self.reward):
            found.append(
                f"reward_weights has {len(self.reward_weights)} weights for {len(self.reward)} rewards; expected one each."
            )
        return found

    @property
    def run_dir(self) -> Path:
        """The folder of the run."""
        if self.output_dir:
            return Path(self.output_dir).expanduser()
        return Path("runs") / (self.name or f"{self.objective}-{self.schedule}-s{self.seed}".replace(":", "."))

    @property
    def objective_record(self) -> "ObjectiveRecord":
        """All that tools know of the objective."""
        from apo_edu.objectives import find_objective

        return find_objective(self.objective)

    @property
    def schedule_record(self) -> "ScheduleRecord":
        """All that tools know of the schedule."""
        from apo_edu.schedules import find_schedule

        return find_schedule(self.schedule)

    def make_objective(self) -> "Objective":
        """The objective with its options bound."""
        record = self.objective_record
        if self.off_policy != "none" and record.clips:
            raise ValueError(
                f"off_policy is {self.off_policy!r} for {self.objective}, which has a ratio and a clip of its own; expected "
                "'none'."
            )
        return partial(record.function, **_bound(record, "objective_options", self.objective_options, vars(self)))

    def make_schedule(self) -> "Schedule":
        """The schedule of alpha, at its start."""
        record = self.schedule_record
        return record.factory(**_bound(record, "schedule_options", self.schedule_options, vars(self)))

    @property
    def distribution_options(self) -> dict[str, Any]:
        """What turns a batch into log_q and log_p: shared by the objective and by the schedule's signals."""
        return {
            "tau_anc": self.tau_anc,
            "beta_r": self.beta_r,
            "logp_reduction": self.logp_reduction,
            "scale": self.advantage_scale,
        }

    @property
    def problem_options(self) -> dict[str, Any]:
        """Which problems of the data, and how they become prompts, as `full.data.load_problems` takes it."""
        return {"level": self.level, "system_prompt": self.system_prompt, "columns": self.columns}

    @property
    def off_policy_options(self) -> dict[str, Any]:
        """How stale updates are corrected, as `apo_edu.objectives.coefficients` takes it."""
        return {"off_policy": self.off_policy, "off_policy_epsilon": self.off_policy_epsilon}

    def lr_factor(self, step: int) -> float:
        """The learning rate of a step (from 0) as a fraction of its peak; never 0, so that no step is without effect."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        left = max(self.steps - step, 0) / max(self.steps - self.warmup_steps, 1)
        if self.lr_schedule == "linear":
            return left
        return 0.5 * (1.0 - math.cos(math.pi * left)) if self.lr_schedule == "cosine" else 1.0

    def unread(self) -> list[str]:
        """Options that were changed from their defaults and that this run does not read."""
        options = vars(self)
        changed = [f.name for f in dataclasses.fields(self) if options[f.name] != default_of(f)]
        return [name for name in changed if not is_read(name, options)]

    def to_yaml(self) -> str:
        """The whole configuration, as --config reads it."""
        return yaml.safe_dump({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=False)


FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}
# What may differ on resume: where things are and how they are cut up, never what is computed.
FREE_ON_RESUME = tuple(name for name, field in FIELDS.items() if field.metadata["free_on_resume"])
# What may lie elsewhere when a run is resumed; the run tells by its content whether it is the same.
MOVABLE = ("data", "model")


def _bound(record: "Record", option_name: str, given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of an objective or a schedule: those given by name, the others from the options of the trainer."""
    for name in given:
        if name not in record.options:
            raise ValueError(
                f"{option_name} has {name!r}, and {record.name} has no such keyword; expected one of "
                f"{', '.join(record.options) or 'none'}.{suggestion(name, record.options)}"
            )
    free = {keyword: source for keyword, source in record.options.items() if keyword not in given}
    parameters = inspect.signature(record.target).parameters
    for keyword, source in free.items():
        required = keyword in parameters and parameters[keyword].default is inspect.Parameter.empty
        if required and source not in values:
            raise ValueError(
                f"{record.name} needs a value for {keyword}, which is no option of the trainer; expected --{option_name} "
                f"{keyword}=VALUE, or a default in its signature."
            )
    return {**dataclasses.replace(record, options=free).bind(values), **given}


def is_read(option: str, options: Mapping[str, Any]) -> bool:
    """Whether an option changes what a run with these options computes, as the records of its objective and schedule say.

    Args:
        options: of any run, also one whose objective or schedule is not known here: that one counts as reading everything.
    """
    from apo_edu.objectives import find_objective
    from apo_edu.schedules import find_schedule

    objective = find_objective(options["objective"], strict=False)
    schedule = find_schedule(options["schedule"], strict=False)
    if option == "off_policy_epsilon":
        return objective.reads("off_policy") and options.get("off_policy", "clip") == "clip"
    group = FIELDS[option].metadata["group"] if option in FIELDS else ""
    if group not in (OBJECTIVE, SCHEDULE) or option in ("objective", "objective_options"):
        return True
    if option in ("schedule", "schedule_options"):
        return objective.reads_alpha
    return objective.reads(option) or (objective.reads_alpha and schedule.reads(option))


def reads_alpha(options: Mapping[str, Any]) -> bool:
    """Whether the objective of a run with these options reads alpha; otherwise its schedule is logged and has no effect."""
    from apo_edu.objectives import find_objective

    return find_objective(options["objective"], strict=False).reads_alpha


def resting_alpha(options: Mapping[str, Any]) -> float | None:
    """The alpha at which the schedule of a run with these options stays while nothing happens; None where it moves anyway."""
    from apo_edu.schedules import find_schedule

    given = options.get("schedule_options") or {}
    return (
        given.get("alpha_max", options["alpha_max"])
        if find_schedule(options["schedule"], strict=False).rests_at_max
        else None
    )


def solved_reward(options: Mapping[str, Any]) -> float | None:
    """The mean reward above which a run with these options has little left to gain; None where the best reward is unknown.

    Built-in rewards end at 1 (repetition, a penalty, at 0), so it is their weighted sum times `Limits.solved`. A reward of
    the user's own can end anywhere.
    """
    from apo_edu.diagnostics import LIMITS

    names, weights = options["reward"], options["reward_weights"] or [1.0] * len(options["reward"])
    if LIMITS.solved is None or any(":" in name for name in names):
        return None
    best = sum(max(weight, 0.0) for name, weight in zip(names, weights, strict=True) if name != "repetition")
    return LIMITS.solved * best


def filled(text: str, options: Mapping[str, Any], **more: Any) -> str:
    """A record's sentence with the values of a run's options in it, and those of the options of a user's own."""
    own = {**(options.get("objective_options") or {}), **(options.get("schedule_options") or {})}
    try:
        return text.format(**{**options, **own, **more})
    except (KeyError, IndexError, ValueError):  # a user's sentence, or a run of another version
        return text


def readers(option: str) -> list[str]:
    """The built-in objectives and schedules that read an option; none for an option that every run reads."""
    from apo_edu.objectives import OBJECTIVES
    from apo_edu.schedules import SCHEDULES

    if option not in FIELDS or FIELDS[option].metadata["group"] not in (OBJECTIVE, SCHEDULE):
        return []
    option = "off_policy" if option == "off_policy_epsilon" else option
    return [name for name, record in (*OBJECTIVES.items(), *SCHEDULES.items()) if record.reads(option)]


def parse_config(argv: list[str] | None = None) -> tuple[TrainConfig, str | None]:
    """Read the command line and the file it names; return the configuration and the folder to resume, if any.

    Raises:
        UserError: an unknown option (with the nearest known one), a bad value, an impossible combination.
    """
    words = [_spelled(word) for word in (sys.argv[1:] if argv is None else argv)]
    parser = make_parser()
    for word in words:
        if word.startswith("--"):
            _require_known(word[2:].partition("=")[0], where="the command line")
    given = vars(_parse(parser, words))
    file, folder = (
        path and os.path.expanduser(path) for path in (given.pop("config", None), given.pop("resume", None))
    )
    given.pop("doctor", None)
    if folder and file:
        raise UserError("--resume and --config were both given; expected one. A resumed run keeps its own config.yaml.")
    source = os.path.join(folder, "config.yaml") if folder else file and file_named(file)
    values = read_options(source, resume=bool(folder)) if source else {}
    kind_of = kinds(TrainConfig)
    changes = {name: from_words(name, kind_of[name], _words(text)) for name, text in given.items()}
    config = TrainConfig(**{**values, **changes})
    if folder:
        saved = TrainConfig(**values)
        for name in changes:
            new, old = getattr(config, name), getattr(saved, name)
            if new != old and name not in (*FREE_ON_RESUME, *MOVABLE):
                raise UserError(
                    f"--{name} is {new} but the run in {folder} has {old}; a resumed run must compute the same. Leave "
                    f"--{name} out, or start a new run."
                )
        config = dataclasses.replace(config, output_dir=folder)
    return config, folder


def lasting(config: TrainConfig) -> dict[str, Any]:
    """The options that a run must keep to its end; its checkpoints record them."""
    return {n: v for n, v in dataclasses.asdict(config).items() if n not in (*FREE_ON_RESUME, *MOVABLE)}


def make_parser() -> Parser:
    """The command line of the trainer: every option once, under its heading."""
    parser = Parser(
        prog="accelerate launch full/train.py",
        usage="accelerate launch full/train.py [--config FILE] [--OPTION VALUE ...] [--doctor]",
        description="Train a language model with APO or a peer on verifiable problems. Without arguments: Qwen3-1.7B on "
        "MATH level 3. Without a GPU or a network: --config full/configs/tiny.yaml. In brackets: unit, range, source and "
        "default of a value.",
        allow_abbrev=False,
    )
    start = parser.add_argument_group("How to start")
    start.add_argument(
        "--config",
        metavar="FILE",
        help="A .yaml file with any of these options, or one of full/configs by its name, e.g. gpu_24gb; `base: FILE` in it "
        "names one to build on.",
    )
    start.add_argument("--resume", metavar="DIR", help="Go on with the run in DIR from its last good checkpoint.")
    start.add_argument(
        "--doctor", action="store_true", help="Examine the set-up in under a minute instead of training."
    )
    add_options(parser, TrainConfig)
    return parser


def file_named(given: str) -> str:
    """The file that --config means: a path, or the name of one in full/configs, e.g. gpu_24gb.

    Raises:
        UserError: a word that is neither.
    """
    if Path(given).is_file() or given.endswith((".yaml", ".yml")) or Path(given).name != given:
        return given
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if given not in known:
        raise UserError(
            f"--config is {given!r}, which is no file here; expected a .yaml file, or one of full/configs by its name: "
            f"{', '.join(known)}.{suggestion(given, known)}"
        )
    return str(CONFIGS / f"{given}.yaml")


def _parse(parser: Parser, words: list[str]) -> Any:
    found, rest = parser.parse_known_args(words)
    if rest:
        name = rest[0].lstrip("+").partition("=")[0]
        foreign = answer(name, set(FIELDS))
        hint = f" {name} {foreign}." if foreign else ""
        raise UserError(f"{rest[0]!r} belongs to no option; options are written --name value.{hint}")
    return found


def _spelled(word: str) -> str:
    """An option's name with underscores; --group-size is --group_size."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def _words(given: str | list[str]) -> list[str]:
    return given if isinstance(given, list) else [given]


def read_options(path: str | os.PathLike[str], *, resume: bool = False) -> dict[str, Any]:
    """The options that a YAML file gives, over those of the file that it names as its base.

    Args:
        path: a file that a person or a run wrote.
        resume: whether the run that wrote it is to go on, so that the file must be of this format.

    Raises:
        UserError: no such file, not YAML, another format, an unknown option or a value of another type.
    """
    return _read_options(Path(path), resume=resume, above=())


def _read_options(path: Path, *, resume: bool, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise UserError(
            f"{path} is its own base, by way of {above[-1]}; expected files that end in one without a base."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        remedy = "it holds no run to resume" if resume else "give an existing .yaml file"
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}.") from None
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise UserError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}); expected UTF-8. Save it so, e.g. iconv -f {encoding} "
            "-t UTF-8."
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}; expected 'option: value' lines.")
    content.pop("provenance", None)  # what a run records beside its options
    require_format(content.pop("format", None), path, resume=resume)
    base = content.pop("base", None)
    values = {}
    if base is not None:
        values = _read_options(path.parent / Path(str(base)).expanduser(), resume=False, above=(*above, path.resolve()))
    kind_of = kinds(TrainConfig)
    for name, value in content.items():
        _require_known(str(name), where=str(path))
        try:
            values[name] = from_yaml(name, kind_of[name], value)
        except KeyError:
            raise UserError(f"{name} in {path} is for the command line alone; leave it out of the file.") from None
        except UserError as error:
            raise UserError(f"{error} (in {path})") from None
    return values


def require_format(found: Any, path: Path, *, resume: bool) -> None:
    """Raise unless a file that a run wrote can be read here.

    A file without a format is of a version before 0.2.0 or written by hand. It can be read, but its run cannot go on: some
    objectives have been corrected since, so the rest of it would be another run.
    """
    if found not in (None, FORMAT):
        raise UserError(
            f"{path} has format {found}; this version reads format {FORMAT}. It was written by another version of apo_edu: "
            "use that one."
        )
    if found is None and resume:
        raise UserError(
            f"{path} has no format, so its run was started by a version before 0.2.0, which computes some steps otherwise; "
            f"expected format {FORMAT}. Go on with that version, or start a new run: --config {path} --output_dir DIR"
        )


def _require_known(name: str, *, where: str) -> None:
    known = [*FIELDS, "config", "resume", "doctor", "help"]
    if name in known:
        return
    foreign = answer(name, set(known))
    if foreign:
        raise UserError(f"{name!r} in {where} {foreign}.")
    near = suggestion(name, known) or (
        " See --help for all options; a keyword of an objective or a schedule of your own goes into --objective_options or "
        f"--schedule_options, as {name}=VALUE."
    )
    raise UserError(f"{name!r} in {where} is no option of the trainer.{near}")


def explain_option(name: str) -> str:
    """An option's help with its range, unit, source, and who reads it where not every run does; "" of an unknown one."""
    if name not in FIELDS:
        return ""
    read_by = readers(name)
    return explain(FIELDS[name], kinds(TrainConfig)[name]) + (f" Read by {', '.join(read_by)}." if read_by else "")
