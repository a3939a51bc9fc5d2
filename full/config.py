"""Every option of the trainer, once: name, unit, default, source; and the one way to read them.

Defaults are the paper's set-up (arXiv 2512.22953: Qwen3-1.7B on MATH level 3) where it names one. A configuration file
holds the same names; the command line wins over the file, and the file over the defaults.
"""

import dataclasses
import difflib
import math
import os
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from apo_edu.objectives import Objective, find_objective
from apo_edu.schedules import Schedule, find_schedule
from full.errors import UserError


def option(default: Any, help: str) -> Any:
    """A field with its help text."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The resolved configuration of a run; frozen, saved as config.yaml, compared on resume."""

    # Run
    name: str | None = option(None, "Name of the run; it is written to runs/NAME. Default: OBJECTIVE-SCHEDULE-sSEED.")
    output_dir: str | None = option(None, "Folder of the run, instead of runs/NAME.")
    overwrite: bool = option(False, "Start afresh in a folder that already holds a run; the old run is deleted.")
    seed: int = option(0, "Seed of everything random: data order, sampling, the embedded model. Same seed, same run.")
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = option(
        "none", "Send the metrics to a tracker too, through accelerate; its package must be installed."
    )
    cpu_threads: int = option(0, "Threads of each process on a CPU; 0 shares the cores among the processes.")

    # Policy
    model: str = option(
        "Qwen/Qwen3-1.7B", "Hub id, local folder, or an embedded model: 'tiny' or 'smollm2'. Paper: Qwen3-1.7B."
    )
    thinking: bool = option(False, "Let a thinking model think: rarely fits under 1,280 tokens.")
    weights: Literal["float32", "float64"] = option(
        "float32", "Type of the weights; float64 is for tests of exactness."
    )
    lora_rank: int = option(
        0, "Train adapters of this rank on all linear layers (peft) instead of the weights; 0: none."
    )
    merge_lora: bool = option(False, "Write model/ with the adapters merged into the weights, loadable without peft.")
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass: less memory, 1/3 slower.")
    warm_start_pass_at_1: float = option(0.35, "Only for 'tiny': sampled pass@1 at which its warm start stops, (0, 1).")

    # Data
    data: str = option(
        "math",
        "'math' (the hub sources in turn), a hub id, a .jsonl/.json/.parquet file, or 'arithmetic' or 'word_sums' "
        "(generated). Paper: MATH.",
    )
    level: str = option("3", "Keep problems of this level only, or 'all'. Paper: 3.")
    max_prompt_tokens: int = option(1024, "Longest prompt, tokens; a longer one is an error. Paper: 1024.")

    # Sampling
    group_size: int = option(6, "Completions per prompt, >= 2. Paper: 6.")
    prompts_per_batch: int = option(48, "Prompts per batch of samples, over all processes. Paper: 48.")
    mini_batch_prompts: int = option(24, "Prompts per optimiser step, over all processes. Paper: 24.")
    epochs: int = option(1, "Passes over each batch of samples. Paper: 1.")
    temperature: float = option(1.0, "Of sampling and of scoring, > 0. Paper: 1.")
    max_completion_tokens: int = option(1280, "Longest completion, tokens; longer ones are truncated. Paper: 1280.")
    truncated: Literal["keep", "mask"] = option(
        "keep", "Truncated completions: 'keep' trains on them as they are, 'mask' leaves them out of their group."
    )
    engine: Literal["hf", "vllm"] = option("hf", "What samples: transformers' generate, or vLLM (an extra).")
    importance_cap: float = option(
        2.0, "Cap, >= 1, of the importance weights that correct an engine whose probabilities differ from the policy's."
    )
    generation_rows: int = option(512, "Completions sampled at once on each process: memory, never the result.")

    # Reward
    reward: list[str] = option(
        ["accuracy_or_repetition"],
        "Built-in rewards (accuracy, accuracy_or_repetition, repetition, format) or module:function, separated by "
        "spaces. Paper: 1 if verified, else at most 0 by repetition.",
    )
    reward_weights: list[float] | None = option(
        None, "One weight per reward, default 1 each; their weighted sum counts."
    )
    verify_seconds: float = option(5.0, "Hard limit for the verification of one answer, seconds.")

    # Objective
    objective: Literal["apo", "adpo", "grpo", "dr_grpo", "dapo", "gspo"] = option("apo", "What is minimised.")
    tau_anc: float = option(0.5, "Anchor temperature > 0, in nats per token. Paper: 0.5.")
    beta_r: float = option(0.3, "Reward temperature > 0, in the unit of the reward. Paper: 0.3.")
    logp_reduction: Literal["mean", "sum"] = option("mean", "Of token log-probabilities. Paper's author: mean.")
    advantage_scale: Literal["none", "group", "batch"] = option("none", "APO, ADPO: divide by this std. Paper: none.")
    epsilon: float | None = option(None, "Clip range of grpo and dr_grpo, lower one of dapo and gspo; default: theirs.")
    epsilon_high: float | None = option(None, "Upper clip range of dapo and gspo. Default 0.28 and 4e-4.")

    # Schedule of alpha
    schedule: Literal["guarded", "fixed", "linear", "ess"] = option("guarded", "Of alpha. Paper: guarded.")
    alpha: float = option(0.6, "The alpha of schedule=fixed. Paper's fixed variant: 0.6.")
    alpha_max: float = option(0.9, "Upper end of alpha, and where linear starts. Paper: 0.9.")
    alpha_min: float = option(0.35, "Lower end of alpha, and where linear ends. Paper: 0.35.")
    rho: float = option(0.9, "Decay of the reward's moving average, [0, 1). Paper names it; the value is ours.")
    gain_scale: float = option(0.1, "Reward gain at which the improvement gate is 3/4 open. Ours.")
    noise_guard: float = option(0.0, "Standard errors a gain must exceed to count. Paper: 0; 1 to 2 keep noise out.")
    confidence_from: Literal["candidates", "tokens", "anchored", "target"] = option(
        "tokens", "Whose entropy is the schedule's confidence; see apo_edu.group_signals. Paper: the candidate set."
    )
    ess_fraction: float = option(0.5, "schedule=ess: the effective sample size to hold, as a fraction of the group.")

    # Optimiser
    steps: int = option(200, "Optimiser steps in all.")
    lr: float = option(1e-6, "Peak learning rate of AdamW. Paper: 1e-6 to 2e-6.")
    lr_schedule: Literal["constant", "linear", "cosine"] = option("constant", "After the warm-up.")
    warmup_steps: int = option(5, "Optimiser steps of linear warm-up.")
    weight_decay: float = option(0.0, "Of AdamW.")
    adam_beta2: float = option(0.95, "Of AdamW; the first is 0.9.")
    max_grad_norm: float = option(1.0, "The gradient is clipped to this norm, > 0.")
    micro_batch_tokens: int = option(
        16384, "Tokens, padding included, per forward and backward: memory, not the result."
    )

    # Evaluation and files
    eval_every: int = option(50, "Optimiser steps between evaluations; 0: only before and after.")
    eval_problems: int = option(500, "Held-out problems evaluated, at most.")
    eval_samples: int = option(
        1, "Sampled completions per held-out problem beside a greedy one, k; above 1 also gives pass@k, maj@k."
    )
    save_every: int = option(20, "Optimiser steps between checkpoints; 0: only at the end or when stopped.")
    keep_checkpoints: int = option(2, "Checkpoints kept, >= 1.")
    log_completions: int = option(8, "Completions written to completions.jsonl per batch of samples.")

    def __post_init__(self) -> None:
        for message in self._faults():
            raise UserError(message)
        try:
            self.make_objective()
            self.make_schedule()
        except ValueError as error:
            raise UserError(str(error)) from None

    def _faults(self):
        """Yield what is wrong, each as one line: what was given, what is expected, how to mend it."""
        positive = (
            "prompts_per_batch mini_batch_prompts epochs steps max_prompt_tokens max_completion_tokens generation_rows "
            "micro_batch_tokens eval_problems eval_samples keep_checkpoints"
        )
        for name in positive.split():
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; expected at least 1."
        for name in [
            "eval_every",
            "save_every",
            "warmup_steps",
            "log_completions",
            "weight_decay",
            "noise_guard",
            "seed",
            "cpu_threads",
            "lora_rank",
        ]:
            if getattr(self, name) < 0:
                yield f"{name} is {getattr(self, name)}; expected 0 or more."
        for name in ("temperature", "lr", "max_grad_norm", "tau_anc", "beta_r", "gain_scale", "verify_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                yield f"{name} is {getattr(self, name)}; expected a finite number > 0."
        if not 1 <= self.importance_cap < float("inf"):
            yield f"importance_cap is {self.importance_cap}; expected a finite number >= 1, e.g. 2."
        if self.merge_lora and not self.lora_rank:
            yield "merge_lora is true without adapters; expected lora_rank > 0, e.g. 16, or merge_lora false."
        if self.group_size < 2:
            yield (
                f"group_size is {self.group_size}; expected at least 2, since a completion is compared with the others "
                "of its prompt. Try 6 or 8."
            )
        if self.prompts_per_batch % max(self.mini_batch_prompts, 1):
            yield (
                f"prompts_per_batch is {self.prompts_per_batch} and mini_batch_prompts {self.mini_batch_prompts}; "
                f"expected a multiple. Try prompts_per_batch {self.mini_batch_prompts * 2}."
            )
        if not 0 < self.warm_start_pass_at_1 < 1:
            yield f"warm_start_pass_at_1 is {self.warm_start_pass_at_1}; expected between 0 and 1, e.g. 0.35."
        if self.reward_weights is not None and len(self.reward_weights) != len(self.reward):
            yield (
                f"reward_weights has {len(self.reward_weights)} weights for {len(self.reward)} rewards; expected one "
                "each."
            )
        if not self.reward:
            yield "reward is empty; expected at least one, e.g. accuracy."

    @property
    def run_dir(self) -> Path:
        """The folder of the run."""
        if self.output_dir:
            return Path(self.output_dir)
        return Path("runs") / (self.name or f"{self.objective}-{self.schedule}-s{self.seed}")

    def make_objective(self) -> Objective:
        """The objective with its options bound; the only place that knows one objective from another."""
        record = find_objective(self.objective)
        options = record.bind(vars(self))
        for name, value in options.items():
            if name.startswith("epsilon") and not value > 0:
                raise ValueError(f"{name} is {value}; expected > 0, e.g. 0.2 (gspo: 3e-4).")
        return partial(record.function, **options)

    @property
    def distribution_options(self) -> dict[str, Any]:
        """What turns a batch into log_q and log_p: shared by the objective and by the schedule's signals."""
        return {
            "tau_anc": self.tau_anc,
            "beta_r": self.beta_r,
            "logp_reduction": self.logp_reduction,
            "scale": self.advantage_scale,
        }

    def make_schedule(self) -> Schedule:
        """The schedule of alpha."""
        return find_schedule(self.schedule).make(vars(self))

    def lr_factor(self, step: int) -> float:
        """The learning rate of a step (from 0) as a fraction of its peak; never 0, so that no step is without effect."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        left = max(self.steps - step, 0) / max(self.steps - self.warmup_steps, 1)
        if self.lr_schedule == "linear":
            return left
        return 0.5 * (1.0 - math.cos(math.pi * left)) if self.lr_schedule == "cosine" else 1.0

    def to_yaml(self) -> str:
        """The whole configuration, as --config reads it."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


# What may differ on resume: where things are and how they are cut up, never what is computed.
FREE_ON_RESUME = (
    "micro_batch_tokens", "generation_rows", "save_every", "keep_checkpoints", "output_dir", "name", "overwrite",
    "tracker", "merge_lora",
)  # fmt: skip

# What other trainers call our options.
OTHER_NAMES = {
    "learning_rate": "lr", "num_generations": "group_size", "n": "group_size", "max_steps": "steps", "beta": "tau_anc",
    "max_completion_length": "max_completion_tokens", "max_new_tokens": "max_completion_tokens", "loss_type": "objective",
    "max_prompt_length": "max_prompt_tokens", "epsilon_low": "epsilon", "num_iterations": "epochs", "dataset": "data",
    "reward_funcs": "reward", "scale_rewards": "advantage_scale", "model_name_or_path": "model",
    "mask_truncated_completions": "truncated", "lr_scheduler_type": "lr_schedule", "enable_thinking": "thinking",
}  # fmt: skip


def parse_config(argv: list[str] | None = None) -> tuple[TrainConfig, str | None]:
    """Read the command line and the file it names; return the configuration and the folder to resume, if any.

    Raises:
        UserError: an unknown option (with the nearest known one), a bad value, an impossible combination.
    """
    import argparse

    from transformers import HfArgumentParser  # two seconds: only when a command line is read

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UserError(message)

    argv = list(sys.argv[1:] if argv is None else argv)
    # Options before the first one of the trainer: which file, and which run to go on with.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument("--resume")
    first.add_argument("--doctor", action="store_true")
    chosen, rest = first.parse_known_args(argv)
    parser = Parser(
        TrainConfig,
        prog="accelerate launch full/train.py",
        usage="accelerate launch full/train.py [--config FILE] [--OPTION VALUE ...] [--doctor]",
        description="Train a language model with APO or a peer on verifiable problems. Without arguments: Qwen3-1.7B on "
        "MATH level 3. Without a GPU or a network: --config full/configs/tiny.yaml.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="A .yaml file with any of these options.")
    parser.add_argument("--resume", metavar="DIR", help="Go on with the run in DIR from its last good checkpoint.")
    parser.add_argument(
        "--doctor", action="store_true", help="Examine the set-up in under a minute instead of training."
    )
    if chosen.resume and chosen.config:
        raise UserError("--resume and --config were both given; expected one. A resumed run keeps its own config.yaml.")
    source = os.path.join(chosen.resume, "config.yaml") if chosen.resume else chosen.config
    from_file = _read_file(source, for_resume=bool(chosen.resume)) if source else []
    config = _parse(parser, from_file + rest)
    if chosen.resume:
        saved = dataclasses.asdict(_parse(parser, from_file))
        for name, value in dataclasses.asdict(config).items():
            if value != saved[name] and name not in FREE_ON_RESUME:
                raise UserError(
                    f"--{name} is {value} but the run in {chosen.resume} has {saved[name]}; a resumed run must compute "
                    f"the same. Leave --{name} out, or start a new run."
                )
        config = dataclasses.replace(config, output_dir=chosen.resume)
    return config, chosen.resume


def _read_file(path: str, *, for_resume: bool) -> list[str]:
    """The options of a YAML file as command-line words, so that both are checked by the same parser."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        what = "it holds no run to resume" if for_resume else "give an existing .yaml file"
        raise UserError(f"{path} cannot be read ({error.strerror}); {what}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}; expected 'option: value' lines.")
    words = []
    content.pop("provenance", None)  # what a run records beside its options
    for name, value in content.items():
        _require_known(str(name), where=path)
        if isinstance(value, dict):
            raise UserError(f"{name} in {path} is nested; expected a plain value.")
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _parse(parser: Any, words: list[str]) -> TrainConfig:
    for word in words:
        if word.startswith("--"):
            _require_known(word[2:].split("=")[0], where="the command line")
    try:
        namespace = parser.parse_args(words)
    except ValueError as error:
        raise UserError(str(error)) from None
    return TrainConfig(**{f.name: getattr(namespace, f.name) for f in dataclasses.fields(TrainConfig)})


def _require_known(name: str, *, where: str) -> None:
    known = [f.name for f in dataclasses.fields(TrainConfig)] + ["config", "resume", "doctor", "help"]
    if name not in known:
        if name in OTHER_NAMES:
            raise UserError(f"{name!r} in {where} is called {OTHER_NAMES[name]} here.")
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else "See --help for all options."
        raise UserError(f"{name!r} in {where} is no option of the trainer. {hint}")
