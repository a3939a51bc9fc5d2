"""Train a language model with APO (arXiv 2512.22953), or a peer, on problems whose answers can be verified.

    accelerate launch full/train.py                                      # Qwen3-1.7B on MATH level 3
    accelerate launch full/train.py --config full/configs/tiny.yaml      # embedded model: no GPU, no network

Each batch: sample groups of completions, score them, and take one or more optimiser steps. Each step: read the
schedule's signals, update alpha, turn the objective into one coefficient per token, and push those through the model in
micro-batches. The objective ties a group together and sees the groups of all processes; the model sees a weighted sum.
"""

import contextlib
import math
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from apo_edu import FailureMonitor, GroupBatch, candidate_entropy, effective_sample_size, group_signals
from apo_edu.divergences import tilted_log_weights
from apo_edu.objectives import Objective, coefficients
from apo_edu.schedules import Schedule
from full import report
from full.checkpoints import CheckpointError, Progress, load_checkpoint, save_checkpoint
from full.config import TrainConfig, UserError, parse_config
from full.data import ProblemOrder, load_splits
from full.evaluation import evaluate
from full.launch import StopRequest, quiet_exit, start_accelerator
from full.logprobs import Ids, Policy, micro_batches, score
from full.policy import load_model, load_tokenizer, render_prompts
from full.rewards import Rewarder, RewardError
from full.rollouts import Rollout, Sampler
from full.runs import RunFolder


@dataclass(frozen=True)
class Trainer:
    """What every step needs; made once in `main`, before the loop."""

    config: TrainConfig
    accelerator: Accelerator
    run: RunFolder
    policy: torch.nn.Module
    optimizer: Any
    lr_schedule: Any
    objective: Objective
    schedule: Schedule
    sampler: Sampler
    rewarder: Rewarder


def main(argv: list[str] | None = None) -> None:
    """The story of a run."""
    report.quiet_libraries()
    config, resume = parse_config(argv)
    accelerator = start_accelerator(config.cpu_threads)
    set_seed(config.seed)
    stop = StopRequest()
    run = RunFolder(config, resume=bool(resume), main=accelerator.is_main_process)
    say = report.Console(accelerator.is_main_process)

    # Everything that can be wrong is found before the model is loaded.
    say.line(f"loading {config.model} and {config.data}")
    tokenizer, model_name = load_tokenizer(config, accelerator)
    problems, held_out = load_splits(config.data, level=config.level, seed=config.seed)
    held_out = held_out.select(range(min(config.eval_problems, len(held_out))))
    check_batch(config, accelerator, len(problems))
    prompts, rendered = render_prompts(tokenizer, problems, config)
    held_out_prompts, _ = render_prompts(tokenizer, held_out, config)
    rewarder = Rewarder(config.reward, config.reward_weights, verify_seconds=config.verify_seconds)
    rewarder.self_test()
    say.line(f"data: {problems.info.description}; {len(problems)} to train on, {len(held_out)} held out")

    model = load_model(model_name, config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, config.adam_beta2), weight_decay=config.weight_decay
    )
    lr_schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.lr_factor)
    schedule = config.make_schedule()
    policy, optimizer = accelerator.prepare(Policy(model), optimizer)
    accelerator.register_for_checkpointing(schedule, lr_schedule)
    limits = (config.temperature, config.max_completion_tokens, config.generation_rows)
    sampler = Sampler(model, tokenizer, config.seed, *limits)
    objective = config.make_objective()
    trainer = Trainer(config, accelerator, run, policy, optimizer, lr_schedule, objective, schedule, sampler, rewarder)
    order = ProblemOrder(len(problems), config.prompts_per_batch, config.seed)
    monitor = FailureMonitor(alpha_max=config.alpha_max if config.schedule in ("guarded", "ess") else None)
    say.plan(config, model, rendered, accelerator)
    sources = {"train": problems.info.description, "test": held_out.info.description}
    run.write_config(config, {**sources, "processes": accelerator.num_processes})

    progress = Progress()
    if resume:
        progress, messages = load_checkpoint(run.checkpoints, accelerator)
        run.trim(progress.step)
        for row in run.read("metrics.jsonl"):
            monitor.update(row)
        say.line(*messages, f"resuming {run.path} after step {progress.step} of {config.steps}")

    def evaluation() -> dict[str, Any]:
        with accelerator.autocast():
            return evaluate(sampler, held_out, held_out_prompts, config.eval_samples, rewarder.verifier, accelerator)

    started = time.perf_counter()
    if progress.eval_before is None:
        progress.eval_before = evaluation()
        say.line(report.evaluation_line("before", progress.eval_before))
    with say.progress(config.steps, progress.step) as bar:
        while progress.step < config.steps:
            if progress.rollout is None:
                positions = order.batch(progress.batch)
                progress.rollout = collect(
                    trainer, progress, problems.select(positions), [prompts[i] for i in positions]
                )
            metrics = train_step(trainer, progress)
            progress.advance(config.updates_per_batch)
            if is_due(progress.step, config.eval_every) and progress.step < config.steps:
                metrics |= {f"eval_{name}": value for name, value in evaluation().items()}
            run.append("metrics.jsonl", [metrics])
            bar.step(metrics)
            for finding in monitor.update(metrics):
                say.line(f"warning: {finding}")
            stopping = stop.agreed(accelerator)
            if stopping or progress.step == config.steps or is_due(progress.step, config.save_every):
                save_checkpoint(run.checkpoints, accelerator, progress, keep=config.keep_checkpoints)
            if stopping:
                rewarder.close()
                raise Stopped(run, progress.step, stop.signal)

    eval_after = evaluation()
    if accelerator.is_main_process:
        for part in (model, tokenizer):  # an ordinary Hugging Face folder
            part.save_pretrained(run.path / "model")
        summary = report.summarize(config, progress.eval_before, eval_after, time.perf_counter() - started)
        run.write_summary(summary)
        report.draw_curves(run)
        say.conclusion(run, summary, monitor.findings, config)
    rewarder.close()
    accelerator.end_training()


def collect(trainer: Trainer, progress: Progress, problems: Any, prompts: list[list[int]]) -> Rollout:
    """Sample this process's share of a batch, reward it, and take the old log-probabilities; groups stay whole.

    Args:
        problems, prompts: the batch's prompts_per_batch problems and their token ids, over all processes.
    """
    config, sampler = trainer.config, trainer.sampler
    started = time.perf_counter()
    mine = local_prompts(trainer.accelerator, config)
    keys = [(progress.batch, slot, sample) for slot in mine for sample in range(config.group_size)]
    rows = [problems[slot] for _, slot, _ in keys]
    row_prompts = [prompts[slot] for _, slot, _ in keys]
    with trainer.accelerator.autocast():
        completions = sampler.sample(row_prompts, keys)
    texts = sampler.texts(completions)
    rewards, parts = trainer.rewarder([row["prompt"] for row in rows], texts, rows)
    truncated = torch.tensor([not sampler.ended(ids) for ids in completions])
    old_logps, entropies = score_now(trainer, row_prompts, completions, width=max(map(len, completions)))
    samples = [
        {
            "step": progress.step,
            "problem": rows[i]["problem"],
            "prompt": sampler.tokenizer.decode(row_prompts[i]),
            "completion": texts[i],
            "answer": rows[i]["answer"],
            "reward": rewards[i],
            "truncated": bool(truncated[i]),
            **{f"reward/{name}": values[i] for name, values in parts.items()},
        }
        for i in range(min(config.log_completions, len(rows)))
    ]
    trainer.run.append("completions.jsonl", samples)
    return Rollout(
        prompts=row_prompts,
        completions=completions,
        rewards=torch.tensor(rewards, dtype=torch.float64),
        valid=~truncated if config.truncated == "mask" else torch.ones_like(truncated),
        truncated=truncated,
        old_logps=old_logps,
        entropies=entropies,
        seconds=time.perf_counter() - started,
    )


def train_step(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """One optimiser step on one mini-batch of the rollout; returns the line for metrics.jsonl.

    The coefficients are taken once, over the groups of all processes, and pushed through the model in micro-batches of
    any size: micro_batch_tokens and the number of processes change memory and speed, not the gradient.
    """
    config, accelerator, policy = trainer.config, trainer.accelerator, trainer.policy
    started = time.perf_counter()
    assert progress.rollout is not None
    mini = progress.rollout.select(local_rows(progress.update, accelerator, config))
    logps, entropies = mini.old_logps, mini.entropies
    if progress.update > 0:  # on the first update the policy still is the one that sampled
        logps, entropies = score_now(trainer, mini.prompts, mini.completions, width=logps.shape[1])
    require_finite(trainer, "log-probability", logps, mini)
    batch = gather_groups(mini, logps, accelerator, config)
    totals = step_totals(mini, entropies, accelerator)
    signals = group_signals(
        batch,
        **config.distribution_options,
        confidence_from=config.confidence_from,
        token_entropy=totals["token_entropy"] / math.log(trainer.sampler.model.config.vocab_size),
    )
    alpha = trainer.schedule.update(signals)
    coef, loss, stats = coefficients(trainer.objective, batch, alpha=alpha)
    require_finite(trainer, "coefficient", coef, mini)

    mine = coef.flatten(0, 1)[len(mini.prompts) * accelerator.process_index :][: len(mini.prompts)]
    micro = list(micro_batches(mini.prompts, mini.completions, config.micro_batch_tokens, device=accelerator.device))
    for i, part in enumerate(micro):
        # Gradients cross processes once, at the end; DDP averages them, and a sum is wanted.
        with contextlib.nullcontext() if i == len(micro) - 1 else accelerator.no_sync(policy):
            part_logps = policy(*part.inputs, temperature=config.temperature)
            accelerator.backward((part.spread(mine) * part_logps).sum() * accelerator.num_processes)
    grad_norm = accelerator.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    require_finite(trainer, "gradient norm", grad_norm, mini)
    lr = trainer.lr_schedule.get_last_lr()[0]
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.lr_schedule.step()

    generate = progress.rollout.seconds / config.updates_per_batch
    update = time.perf_counter() - started
    weights = tilted_log_weights(signals.log_q, signals.log_p, alpha)
    return {
        "step": progress.step + 1,
        "batch": progress.batch,
        "reward_mean": signals.reward,
        "reward_std": batch.rewards.std().item(),
        "reward_se": signals.reward_se,
        "groups_with_signal": (batch.rewards.amax(-1) > batch.rewards.amin(-1)).float().mean().item(),
        "alpha": alpha,
        "confidence": signals.confidence,
        "improvement": getattr(trainer.schedule, "improvement", 0.0),
        "candidate_entropy": candidate_entropy(batch, logp_reduction=config.logp_reduction).mean().item(),
        **totals,
        "loss": loss.item(),
        "grad_norm": float(grad_norm),
        **{name: value.item() for name, value in stats.items()},
        "ess": effective_sample_size(weights).mean().item(),
        "lr": lr,
        "tokens_per_second": totals["tokens"] / (generate + update),
        "seconds_generate": generate,
        "seconds_update": update,
        "seconds_step": generate + update,
    }


def score_now(trainer: Trainer, prompts: Ids, completions: Ids, *, width: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [rows, width] under the policy as it is, without a graph."""
    with trainer.accelerator.autocast():
        return score(
            trainer.accelerator.unwrap_model(trainer.policy),
            prompts,
            completions,
            width=width,
            temperature=trainer.config.temperature,
            max_tokens=trainer.config.micro_batch_tokens,
            device=trainer.accelerator.device,
        )


def gather_groups(mini: Rollout, logps: Tensor, accelerator: Accelerator, config: TrainConfig) -> GroupBatch:
    """The mini-batch of all processes as [prompts, group, tokens], equal on each."""

    def gather(rows: Tensor) -> Tensor:
        rows = rows.to(accelerator.device)
        everywhere = accelerator.gather(accelerator.pad_across_processes(rows, dim=1) if rows.dim() > 1 else rows)
        return everywhere.view(-1, config.group_size, *everywhere.shape[1:])

    return GroupBatch(
        logps=gather(logps),
        old_logps=gather(mini.old_logps),
        mask=gather(mini.mask()),
        rewards=gather(mini.rewards).to(logps.dtype),
        valid=gather(mini.valid) if config.truncated == "mask" else None,
    )


def step_totals(mini: Rollout, entropies: Tensor, accelerator: Accelerator) -> dict[str, float]:
    """Means over the completions of all processes: sums first, then one division."""
    lengths = torch.tensor([len(ids) for ids in mini.completions])
    sums = torch.stack([torch.tensor(len(lengths)), lengths.sum(), mini.truncated.sum(), entropies.double().sum()])
    rows, tokens, truncated, entropy = accelerator.reduce(sums.to(accelerator.device), reduction="sum").tolist()
    return {
        "token_entropy": entropy / tokens,
        "completion_length": tokens / rows,
        "truncated_fraction": truncated / rows,
        "tokens": tokens,
    }


def local_prompts(accelerator: Accelerator, config: TrainConfig) -> list[int]:
    """This process's places in a batch of samples: its share of each mini-batch in turn."""
    share = config.mini_batch_prompts // accelerator.num_processes
    first = accelerator.process_index * share
    starts = range(0, config.prompts_per_batch, config.mini_batch_prompts)
    return [start + first + i for start in starts for i in range(share)]


def local_rows(update: int, accelerator: Accelerator, config: TrainConfig) -> slice:
    """The rows of this process's rollout that an update uses."""
    mini_batch = update % (config.prompts_per_batch // config.mini_batch_prompts)
    rows = config.mini_batch_prompts // accelerator.num_processes * config.group_size
    return slice(mini_batch * rows, (mini_batch + 1) * rows)


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps is due; 0 is never."""
    return every > 0 and step % every == 0


def check_batch(config: TrainConfig, accelerator: Accelerator, num_problems: int) -> None:
    """Raise unless every process gets whole groups, equally many, and no batch holds a problem twice."""
    if config.mini_batch_prompts % accelerator.num_processes:
        raise UserError(
            f"mini_batch_prompts is {config.mini_batch_prompts} on {accelerator.num_processes} processes; expected a "
            "multiple, so that groups stay whole. Change one of them."
        )
    if num_problems < config.prompts_per_batch:
        raise UserError(
            f"{config.data} has {num_problems} training problems for prompts_per_batch {config.prompts_per_batch}; "
            "expected at least one each. Lower prompts_per_batch or give more problems."
        )


def require_finite(trainer: Trainer, what: str, values: Any, mini: Rollout) -> None:
    """Stop before the update if a value is NaN or infinite on any process; save the batch that caused it."""
    bad = not bool(torch.isfinite(torch.as_tensor(values)).all())
    anywhere = trainer.accelerator.gather(torch.tensor([int(bad)], device=trainer.accelerator.device))
    if bool(anywhere.any()):
        path = trainer.run.path / f"failed-batch-{trainer.accelerator.process_index}.pt"
        torch.save({"what": what, "values": values, **asdict(mini)}, path)
        config = trainer.config
        raise NotFiniteError(
            f"a {what} is not finite; no update was made, and the batch is in {path}. Start a new run with a smaller lr "
            f"(now {config.lr:g}), a larger tau_anc (now {config.tau_anc:g}) or a larger beta_r (now {config.beta_r:g})."
        )


class NotFiniteError(RuntimeError):
    """A log-probability, coefficient or gradient is NaN or infinite; no update was made."""


class Stopped(Exception):
    """The run was asked to stop and left a checkpoint."""

    def __init__(self, run: RunFolder, step: int, number: int) -> None:
        super().__init__(f"stopped after step {step}; go on with --resume {run.path}")
        self.code = 128 + number


def run_and_report(argv: list[str] | None = None) -> None:
    """`main`, with what a user can mend told in one line."""
    try:
        main(argv)
    except Stopped as stopped:
        quiet_exit(str(stopped), stopped.code)
    except (UserError, RewardError) as error:
        quiet_exit(f"error: {error}", 2)
    except (CheckpointError, NotFiniteError) as error:
        quiet_exit(f"error: {error}", 1)


if __name__ == "__main__":
    run_and_report(sys.argv[1:])
