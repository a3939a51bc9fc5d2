"""APO as a GRPOTrainer of TRL 1.16: the same sampling, vLLM, adapters and trackers, with APO's gradient.

    from apo_edu import GuardedAlpha
    from full.peers.trl_apo import APOConfig, APOTrainer

    args = APOConfig(output_dir="out", num_generations=6, per_device_train_batch_size=6, tau_anc=0.5, beta_r=0.3)
    trainer = APOTrainer("Qwen/Qwen3-1.7B", reward_funcs=my_reward, args=args, train_dataset=data, schedule=GuardedAlpha())
    trainer.train()

TRL's loss_type "grpo" is the mean over completions of the mean over tokens of -ratio A, and on policy the ratio is 1. With
A from `full.peers.group_reshaped_advantages`, its gradient is that of `apo_edu.objectives.apo` with logp_reduction
"mean" and scale "none", to rounding, however rows are spread over micro-batches and processes (tests/test_engines.py).
That holds for every step of the default, one optimiser step per generation batch. With more, a warning says that only the
first is on policy; where TRL splits a batch among steps, groups are split too, and such a step has its rows' part of APO's
gradient. Later steps carry TRL's ratio and its clip, which is the trainer's `off_policy` "clip" with TRL's epsilon and with
the anchor at the policy itself; "none" and "ratio" do not exist here. TRL's other knobs act on top as they do on GRPO: a
KL term (beta), an entropy bonus, the importance weights of vLLM.

Completions for which every reward function returns None are left out of their group, as TRL does. The schedule is updated
once per generation batch, logged as `alpha` (with `confidence` and `improvement` where it has them), and saved in the
checkpoints.

Tested on one and two processes on a CPU. Untested: vLLM, DeepSpeed, FSDP, images.
"""

import inspect
import json
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import trl  # this module is TRL's subclass, so it is the one place that needs TRL at import
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from apo_edu import FixedAlpha, Signals, group_signals
from apo_edu.schedules import Schedule, record_of
from apo_edu.validation import require_choice, require_positive
from full.peers import group_reshaped_advantages, on_policy_batch
from full.rewards.numbering import answer_number

# TRL's private methods that APOTrainer overrides or calls, with the arguments that it relies on.
HOOKS = {
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("inputs",),
    "_get_per_token_logps_and_entropies": (
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
    ),
    "_save_checkpoint": ("model", "trial"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
}
STATE_FILE = "alpha_schedule.json"


def require_hooks(trainer: type = GRPOTrainer, version: str = trl.__version__) -> None:
    """Raise ImportError unless the trainer has the private methods that this module builds on; warn if it is no 1.16."""
    missing = [
        name
        for name, arguments in HOOKS.items()
        if not set(arguments) <= set(inspect.signature(getattr(trainer, name, lambda: None)).parameters)
    ]
    if missing:
        raise ImportError(
            f"TRL {version} has no {', '.join(missing)} with the arguments of TRL 1.16; expected its private methods as "
            "they are there. Install the tested version: pip install 'trl>=1.16,<1.17'."
        )
    if not version.startswith("1.16."):
        warnings.warn(
            f"APOTrainer is tested with TRL 1.16, here is {version}. Run tests/test_engines.py before trusting it.",
            stacklevel=2,
        )


require_hooks()


def text_of(completion: str | list[dict[str, Any]]) -> str:
    """A completion's text; of a conversation, that of all its messages."""
    return completion if isinstance(completion, str) else "".join(str(m.get("content") or "") for m in completion)


@dataclass
class APOConfig(GRPOConfig):
    """GRPOConfig with the options of APO, and with the two defaults under which TRL's gradient is APO's."""

    loss_type: str = field(default="grpo", metadata={"help": "Only 'grpo': the mean over completions of token means."})
    scale_rewards: str = field(default="none", metadata={"help": "Only 'none': the target is made from raw rewards."})
    tau_anc: float = field(default=0.5, metadata={"help": "Anchor temperature > 0, nats per token. Paper: 0.5."})
    beta_r: float = field(default=0.3, metadata={"help": "Reward temperature > 0, unit of the reward. Paper: 0.3."})
    confidence_from: str = field(
        default="tokens",
        metadata={
            "help": "Whose entropy is the schedule's confidence: 'tokens' (the policy's at each token) and 'candidates' (the "
            "policy over its own completions) take one more forward pass per generation batch; 'answers' (the distinct "
            "boxed answers of a group) and 'target' (q) take none; see apo_edu.group_signals."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, want, why in [
            ("loss_type", "grpo", "the gradient is APO's under this normalisation only"),
            ("scale_rewards", "none", "a standard deviation would be a second reward temperature"),
            ("multi_objective_aggregation", "sum_then_normalize", "APO has one target per group"),
            ("mask_truncated_completions", False, "TRL keeps masked completions in their group, APO would not"),
        ]:
            if getattr(self, name) != want:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {want!r}: {why}. Leave {name} out.")
        require_positive("tau_anc", self.tau_anc, remedy="The paper uses 0.5.")
        require_positive("beta_r", self.beta_r, remedy="The paper uses 0.3.")
        require_choice("confidence_from", self.confidence_from, ("tokens", "answers", "candidates", "target"))
        assert self.steps_per_generation is not None  # GRPOConfig has set it
        passes = self.steps_per_generation * self.num_iterations
        if self.gradient_accumulation_steps % passes:
            warnings.warn(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}, and a generation batch takes "
                f"{passes} passes (steps_per_generation x num_iterations): some optimiser steps see completions of an "
                "older policy. Those are clipped PPO steps with APO's advantages; only steps on fresh completions have "
                "APO's gradient. Make it a multiple, or use full/train.py, whose every step is APO's.",
                stacklevel=3,
            )


class APOTrainer(GRPOTrainer):
    """GRPOTrainer whose advantages are APO's.

    Args:
        model, options: as for GRPOTrainer, by keyword.
        args: an APOConfig.
        schedule: of alpha, see `apo_edu.schedules`; None is FixedAlpha(0.6), the paper's fixed variant.
    """

    _tag_names = ["trl", "grpo", "apo"]  # noqa: RUF012  (TRL's own attribute)
    args: APOConfig
    model: Any  # TRL allows None, and it is none of that once it trains

    def __init__(self, model: Any, *, args: APOConfig, schedule: Schedule | None = None, **options: Any) -> None:
        if not isinstance(args, APOConfig):
            raise ValueError(
                f"args is a {type(args).__name__}; expected an APOConfig, which checks the combination of options. "
                "Write APOConfig(...) with the same arguments."
            )
        self.schedule = FixedAlpha() if schedule is None else schedule
        super().__init__(model, args=args, **options)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: list[Any], completion_ids_list: Any) -> Tensor:
        """Keep TRL's rewards, [rows of all processes, functions], and the answers, for the advantages."""
        self._rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        numbers = torch.tensor([answer_number(text_of(completion)) for completion in completions])
        self._answers = self.accelerator.gather(numbers.to(self.accelerator.device))
        return self._rewards_per_func

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch, with its advantages replaced; evaluation, which takes no step, is left as it is."""
        output = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        rewards, valid = self._group_rewards()
        logps, token_entropy = self._scores(output)
        # Gathered rows come process by process, and the groups lie side by side in them.
        signals = group_signals(
            on_policy_batch(rewards, logps, valid=valid),
            tau_anc=self.args.tau_anc,
            beta_r=self.args.beta_r,
            confidence_from=self.args.confidence_from,
            token_entropy=token_entropy,
            answers=self._answers.view(-1, self.num_generations),
        )
        advantages = self._advantages(rewards, valid, signals).flatten()
        shown: Any = self._logs["advantages"]
        shown.extend(advantages.tolist())  # its length is one generation batch: TRL's own drop out
        first = self.accelerator.process_index * len(inputs)
        output["advantages"] = advantages[first : first + len(inputs)].to(output["advantages"].dtype)
        return output

    def _advantages(self, rewards: Tensor, valid: Tensor, signals: Signals) -> Tensor:
        """Update alpha, log it, and return the advantages of all processes, [prompts, group]."""
        alpha = self.schedule.update(signals)
        for name, value in ({"alpha": alpha} | self.schedule.traces()).items():
            self._metrics["train"][name].append(value)
        return group_reshaped_advantages(
            rewards, alpha=alpha, tau_anc=self.args.tau_anc, beta_r=self.args.beta_r, valid=valid
        )

    def _group_rewards(self) -> tuple[Tensor, Tensor]:
        """The weighted rewards of all processes and which of them count, both [prompts, group]."""
        per_func = self._rewards_per_func
        rewards = (per_func * self.reward_weights.to(per_func.device)).nansum(-1).view(-1, self.num_generations)
        valid = ~per_func.isnan().all(-1).view_as(rewards)
        # The mean in place of what nobody scored leaves the mean reward, which the schedule reads, as it is.
        return rewards.masked_fill(~valid, rewards[valid].mean().nan_to_num(0.0)), valid

    def _scores(self, output: dict[str, Any]) -> tuple[Tensor | None, float]:
        """(logps, token_entropy) of the completions of all processes, under the policy as it is.

        logps: [prompts, group] mean log-probability of each completion; None where no confidence is read off them.
        token_entropy: normalised, mean over all tokens; 1, no confidence, where it is not read.
        """
        source = self.args.confidence_from
        if source not in ("candidates", "tokens") or not record_of(type(self.schedule)).reads("confidence_from"):
            return None, 1.0  # saves a forward pass
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        logps, entropies = output.get("old_per_token_logps"), None
        if logps is None or source == "tokens":
            checkpointing: Any = self.args.gradient_checkpointing_kwargs
            with torch.no_grad(), disable_gradient_checkpointing(self.model, checkpointing):
                score = self._get_per_token_logps_and_entropies
                logps, entropies, *_ = score(
                    self.model,
                    torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
                    torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
                    output["completion_ids"].shape[1],
                    batch_size=self.args.per_device_train_batch_size,
                    compute_entropy=source == "tokens",
                    **{name: output[name] for name in inspect.signature(score).parameters if name in output},  # images
                )
        means = self.accelerator.gather((logps * mask).sum(-1) / mask.sum(-1).clamp(min=1))
        if entropies is None:
            return means.view(-1, self.num_generations), 1.0
        sums = self.accelerator.gather(torch.stack([(entropies * mask).sum(), mask.sum()])[None]).sum(0)
        vocabulary = self.accelerator.unwrap_model(self.model).config.get_text_config().vocab_size
        return means.view(-1, self.num_generations), (sums[0] / sums[1].clamp(min=1)).item() / math.log(vocabulary)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            (folder / STATE_FILE).write_text(json.dumps(self.schedule.state_dict()))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            path = Path(checkpoint) / STATE_FILE
            if not path.exists():
                raise ValueError(
                    f"{checkpoint} holds no {STATE_FILE}; expected a checkpoint of APOTrainer. Start a new run from its "
                    "weights instead."
                )
            self.schedule.load_state_dict(json.loads(path.read_text()))
