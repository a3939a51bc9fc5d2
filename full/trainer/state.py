"""What every step needs, made once before the loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from apo_edu import GroupBatch
from apo_edu.objectives import Objective, coefficients
from apo_edu.schedules import Schedule
from full.config import TrainConfig
from full.data.sources import is_remote, load_splits
from full.engines import find_engine, make_engine
from full.engines.base import Engine
from full.engines.hf import Sampler, check_sampling
from full.errors import UserError
from full.evaluation import evaluate
from full.halving import Halving
from full.logprobs.packing import attention_pair_cost
from full.logprobs.tokens import Policy
from full.models.adapters import keep_base_in
from full.models.loading import (
    check_model,
    check_tokenizer,
    go_offline_if_unreachable,
    load_model,
    load_tokenizer,
    render_prompts,
    without_long_prompts,
)
from full.models.origin import model_origin
from full.rewards.rewards import Rewarder
from full.runs import RunFolder
from full.trainer.batches import BatchPlan
from full.trainer.launch import require_fitting_device
from full.trainer.memory import SIZES, MemoryPlan, plan_memory
from full.trainer.precision import check_range, half_type, precision_line
from full.trainer.sharding import may_step_alone, prepare, whole_weights

# What a step of every run logs. Beside these an objective's stats have names of their own; others it may say itself, since it
# knows better (kl_old, clip_fraction, ess).
LOGGED = frozenset({
    "step", "batch", "alpha", "loss", "lr", "grad_norm", "reward_mean", "reward_std", "reward_se",
    "groups_with_signal", "candidate_entropy", "token_entropy", "completion_length", "truncated_fraction", "tokens",
    "verify_timeouts", "verify_deaths", "mismatch_mean", "mismatch_max", "importance_mean", "rows_with_gradient",
    "padding_fraction", "out_of_memory", "overflows", "push_hard", "push_easy", "push_idle", "tokens_per_second",
    "seconds_generate", "seconds_update", "seconds_step",
})  # fmt: skip


@dataclass(frozen=True)
class Trainer:
    """What every step needs; made once by `set_up`, before the loop.

    plan: the arithmetic of batches.
    say: prints lines on the main process.
    problems, held_out: data sets.
    prompts, held_out_prompts: their token ids.
    rendered: the first prompt as text.
    model: the language model.
    policy: the same, wrapped for training.
    pair_cost: see `attention_pair_cost`.
    memory: what the run takes.
    micro_batch: tokens of a forward and backward pass.
    generation: the generation_config that the model came with.
    """

    config: TrainConfig
    accelerator: Accelerator
    run: RunFolder
    plan: BatchPlan
    say: Callable[..., None]
    problems: Any
    prompts: list[list[int]]
    held_out: Any
    held_out_prompts: list[list[int]]
    rendered: str
    model: Any
    policy: torch.nn.Module
    pair_cost: float
    optimizer: Any
    lr_schedule: Any
    objective: Objective
    schedule: Schedule
    engine: Engine
    rewarder: Rewarder
    memory: MemoryPlan
    micro_batch: Halving
    generation: Any = None

    def coefficients(self, batch: GroupBatch, alpha: float) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(coefficient of each token, loss, stats) of the run's objective, see `apo_edu.objectives.coefficients`.

        The one place where an objective meets the trainer: updates push what comes from here, and the doctor looks at it.
        """
        return coefficients(self.objective, batch, alpha=alpha, **self.config.off_policy_options)

    @contextmanager
    def sampling(self, *, refresh: bool = True) -> Iterator[None]:
        """Within it the engine can be asked for completions; afterwards it leaves the memory to the policy.

        refresh: whether the engine takes over the present weights; False where it has them.
        """
        with whole_weights(self.policy), self.accelerator.autocast():
            if refresh:
                self.engine.refresh(self.model)
            yield
        self.engine.rest()

    def evaluate(self) -> dict[str, Any]:
        """Accuracy on the held-out problems under the policy as it is."""
        problems, prompts, samples = self.held_out, self.held_out_prompts, self.config.eval_samples
        verifier, gym = self.rewarder.verifier, self.rewarder.gym
        with self.sampling():
            return evaluate(self.engine, problems, prompts, samples, verifier, self.accelerator, gym=gym)

    def close(self) -> None:
        """Stop workers, engine and trackers."""
        self.rewarder.close()
        self.engine.close()
        self.accelerator.end_training()


def set_up(
    config: TrainConfig, accelerator: Accelerator, *, resume: bool, say: Callable[..., None] = lambda *lines: None
) -> Trainer:
    """Everything before the first step. What can be wrong is found before the model is loaded.

    Raises:
        UserError: an option, the data, the model or the launch is not what it should be.
    """
    set_seed(config.seed)
    plan = BatchPlan(config, accelerator.num_processes, accelerator.process_index)
    run = RunFolder(config, resume=resume, main=accelerator.is_main_process)
    find_engine(config.engine).require()
    try_objective(config)
    say(f"loading {config.model} and {config.data}")
    if is_remote(config.data):
        go_offline_if_unreachable()
    problems, held_out = load_splits(config.data, seed=config.seed, **config.problem_options)
    sources = {"train": problems.info.description, "test": held_out.info.description}
    say(*run.require_same_origin({**sources, "model": model_origin(config.model)}))
    tokenizer, model_name = load_tokenizer(config, accelerator, Sampler)
    require_fitting_device(accelerator, config.model, model_name, allow_cpu=config.allow_cpu)
    problems, held_out = (without_long_prompts(tokenizer, part, config) for part in (problems, held_out))
    held_out = held_out.select(range(min(config.eval_problems, len(held_out))))
    check_batch(config, plan, len(problems))
    prompts, rendered = render_prompts(tokenizer, problems, config)
    held_out_prompts, _ = render_prompts(tokenizer, held_out, config)
    rewarder = Rewarder(config.reward, config.reward_weights, verify_seconds=config.verify_seconds)
    rewarder.self_test()
    say(
        f"data: {problems.info.description}; {len(problems)} to train on, {len(held_out)} held out",
        f"held out: {held_out.info.description}",
    )

    if accelerator.device.type == "cuda":
        say(precision_line(accelerator))
    model = load_model(model_name, config)
    generation = getattr(model, "generation_config", None)  # before the engine sets it aside
    pair_cost = attention_pair_cost(model)
    check_tokenizer(model, tokenizer, model_name)
    check_model(model, prompts, config, pair_cost)
    if find_engine(config.engine).samples_with_policy:
        check_sampling(model, tokenizer, prompts[0], config.model)
    half = half_type(accelerator)
    if config.lora_rank and half and may_step_alone(accelerator):
        keep_base_in(model, half)  # sharded weights are gathered in it anyway, and share one type
    batch = max(plan.local_completions, -(-len(held_out) // plan.processes) * (1 + config.eval_samples))
    asked = {name for name in SIZES if not getattr(config, name)}
    every_prompt = [*prompts, *held_out_prompts]
    config, memory = plan_memory(config, model, accelerator, prompts=every_prompt, batch=batch, pair_cost=pair_cost)
    say(memory.line(asked))
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.lr,
        betas=(0.9, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=accelerator.device.type in ("cpu", "cuda"),  # the other ways make copies as large as the weights
    )
    lr_schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.lr_factor)
    schedule = config.make_schedule()
    policy, optimizer = prepare(accelerator, Policy(model), optimizer, max_grad_norm=config.max_grad_norm)
    check_range(model, prompts[0], accelerator, config.model)
    accelerator.register_for_checkpointing(schedule, lr_schedule)
    return Trainer(
        config=config,
        accelerator=accelerator,
        run=run,
        plan=plan,
        say=say,
        problems=problems,
        prompts=prompts,
        held_out=held_out,
        held_out_prompts=held_out_prompts,
        rendered=rendered,
        model=model,
        policy=policy,
        pair_cost=pair_cost,
        optimizer=optimizer,
        lr_schedule=lr_schedule,
        objective=config.make_objective(),
        schedule=schedule,
        engine=make_engine(config, model, tokenizer, model_name, accelerator),
        rewarder=rewarder,
        memory=memory,
        micro_batch=Halving("micro_batch_tokens", config.micro_batch_tokens),
        generation=generation,
    )


def try_objective(config: TrainConfig) -> None:
    """Call the objective once on two made-up groups: what is wrong with a user's own is found before the model is loaded.

    Raises:
        UserError: it raises, returns something else than (loss, stats), is not finite, or calls a stat as the trainer does.
    """
    logps = torch.linspace(-2.0, -0.1, 2 * config.group_size * 3).view(2, config.group_size, 3)
    rewards = torch.arange(2.0 * config.group_size).view(2, -1) % 2
    batch = GroupBatch(logps, logps, torch.ones_like(logps), rewards)
    options = {"alpha": config.make_schedule().alpha, **config.off_policy_options}
    try:
        coef, loss, stats = coefficients(config.make_objective(), batch, **options)
        {name: value.item() for name, value in stats.items()}
        if not bool(loss.isfinite() & coef.isfinite().all()):
            raise ArithmeticError(f"a loss of {loss.item():g}, or a gradient, that is not finite")
    except Exception as error:  # whatever somebody's function may do
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"objective {config.objective} cannot be used: on a made-up batch of two groups it gives {reason.rstrip('.')}; "
            "expected (loss, stats), a scalar with a gradient in batch.logps and a dict of scalar tensors. See "
            "apo_edu.objectives.apo."
        ) from error
    taken = sorted(LOGGED & stats.keys())
    if taken:
        raise UserError(
            f"objective {config.objective} has stats called {', '.join(taken)}, as the trainer's own metrics are; expected "
            f"other names, e.g. {taken[0]}_of_mine."
        )


def check_batch(config: TrainConfig, plan: BatchPlan, num_problems: int) -> None:
    """Raise unless every process gets whole groups, equally many, and no batch needs a second pass over the data."""
    if not plan.splits_evenly:
        raise UserError(
            f"mini_batch_prompts is {config.mini_batch_prompts} on {plan.processes} processes; expected a "
            "multiple, so that groups stay whole. Change one of them."
        )
    if num_problems < config.prompts_per_batch:
        raise UserError(
            f"{config.data} has {num_problems} training problems for prompts_per_batch {config.prompts_per_batch}; "
            "expected at least one each. Lower prompts_per_batch or give more problems."
        )
