"""Train a language model with APO (arXiv 2512.22953), or a peer, on problems whose answers can be verified.

    accelerate launch full/train.py                                      # Qwen3-1.7B on MATH level 3
    accelerate launch full/train.py --config full/configs/tiny.yaml      # embedded model: no GPU, no network

Each batch: sample groups of completions, score them, and take one or more optimiser steps. Each step: read the
schedule's signals, update alpha, turn the objective into one coefficient per token, and push those through the model in
micro-batches. The objective ties a group together and sees all processes' groups; the model sees a weighted sum.
"""

import contextlib
import dataclasses
import math
import sys
import time
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
from full.logprobs import Policy, micro_batches, score
from full.policy import load_model, load_tokenizer, render_prompts, save_model
from full.rewards import Rewarder, RewardError
from full.rollouts import Rollout, Sampler
from full.runs import RunFolder


def main(argv: list[str] | None = None) -> None:
    """The story of a run."""
    report.quiet_libraries()
    config, resume = parse_config(argv)
    accelerator = start_accelerator(config.cpu_threads)
    set_seed(config.seed)
    stop = StopRequest()
    run = RunFolder(config, resume=bool(resume), main=accelerator.is_main_process)
    say = report.Console(accelerator.is_main_process)
    check_processes(config, accelerator)

    say.line(f"loading {config.model} and {config.data}")
    tokenizer, model_name = load_tokenizer(config, accelerator)
    train_set, test_set = load_splits(config.data, level=config.level, seed=config.seed)
    test_set = test_set.select(range(min(config.eval_problems, len(test_set))))
    check_problems(config, train_set)
    prompts, rendered = render_prompts(tokenizer, train_set, config)
    test_prompts, _ = render_prompts(tokenizer, test_set, config)
    rewarder = Rewarder(config.reward, config.reward_weights, verify_seconds=config.verify_seconds)
    rewarder.self_test()
    say.line(f"data: {train_set.info.description}; {len(train_set)} to train, {len(test_set)} held out for evaluation")
    model = load_model(model_name, config)
    say.plan(config, model, rendered, accelerator)
    provenance = {"train": train_set.info.description, "test": test_set.info.description}
    run.write_config(config, {**provenance, "processes": accelerator.num_processes})

    objective, schedule = config.make_objective(), config.make_schedule()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, config.adam_beta2), weight_decay=config.weight_decay
    )
    lr_schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.lr_factor)
    policy, optimizer = accelerator.prepare(Policy(model), optimizer)
    accelerator.register_for_checkpointing(schedule, lr_schedule)
    sampler = Sampler(
        accelerator.unwrap_model(policy).model,
        tokenizer,
        seed=config.seed,
        temperature=config.temperature,
        max_new_tokens=config.max_completion_tokens,
        rows_at_once=config.generation_rows,
    )
    order = ProblemOrder(len(train_set), config.prompts_per_batch, config.seed)
    monitor = FailureMonitor(alpha_max=config.alpha_max if config.schedule in ("guarded", "ess") else None)

    def evaluation() -> dict[str, Any]:
        with accelerator.autocast():
            return evaluate(
                sampler,
                test_set,
                test_prompts,
                samples=config.eval_samples,
                verifier=rewarder.verifier,
                accelerator=accelerator,
            )

    progress = Progress()
    if resume:
        progress, messages = load_checkpoint(run.checkpoints, accelerator)
        run.trim(progress.step)
        for row in run.read("metrics.jsonl"):
            monitor.update(row)
        say.line(*messages, f"resuming {run.path} after step {progress.step} of {config.steps}")
    started = time.perf_counter()
    if progress.eval_before is None:
        progress.eval_before = evaluation()
        say.line(report.evaluation_line("before", progress.eval_before))

    with say.progress(config.steps, progress.step) as bar:
        while progress.step < config.steps:
            if progress.rollout is None:
                progress.rollout, samples = collect(
                    policy, sampler, rewarder, train_set, prompts, order, progress, accelerator, config
                )
                run.append("completions.jsonl", samples)
            metrics = train_step(
                policy, optimizer, lr_schedule, objective, schedule, progress, accelerator, config, run
            )
            progress.step, progress.update = progress.step + 1, progress.update + 1
            if progress.update == config.updates_per_batch:
                progress.batch, progress.update, progress.rollout = progress.batch + 1, 0, None
            if config.eval_every and progress.step % config.eval_every == 0 and progress.step < config.steps:
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
        save_model(sampler.model, tokenizer, run.path / "model")
        summary = report.summarize(config, run, progress.eval_before, eval_after, time.perf_counter() - started)
        run.write_summary(summary)
        report.draw_curves(run)
        say.conclusion(run, summary, monitor.findings, config)
    rewarder.close()
    accelerator.end_training()


class Stopped(Exception):
    """The run was asked to stop and left a checkpoint."""

    def __init__(self, run: RunFolder, step: int, number: int) -> None:
        super().__init__(f"stopped after step {step}; go on with --resume {run.path}")
        self.code = 128 + number


def collect(
    policy, sampler: Sampler, rewarder: Rewarder, problems, prompts, order, progress: Progress, accelerator, config
) -> tuple[Rollout, list[dict[str, Any]]]:
    """Sample this process's share of a batch, score it, and take the old log-probabilities; groups stay whole.

    Returns:
        the rollout, and some completions for completions.jsonl.
    """
    started = time.perf_counter()
    batch = order.batch(progress.batch)
    mine = local_prompts(accelerator, config)
    rows = [(slot, sample) for slot in mine for sample in range(config.group_size)]
    row_problems = [problems[batch[slot]] for slot, _ in rows]
    row_prompts = [prompts[batch[slot]] for slot, _ in rows]
    with accelerator.autocast():
        completions = sampler.sample(row_prompts, [(progress.batch, slot, sample) for slot, sample in rows])
    texts = sampler.texts(completions)
    rewards, parts = rewarder([row["prompt"] for row in row_problems], texts, row_problems)
    truncated = torch.tensor([not sampler.ended(ids) for ids in completions])
    with accelerator.autocast():
        old_logps, entropies = score(
            accelerator.unwrap_model(policy),
            row_prompts,
            completions,
            width=max(map(len, completions)),
            temperature=config.temperature,
            max_tokens=config.micro_batch_tokens,
            device=accelerator.device,
        )
    samples = [
        {
            "step": progress.step,
            "problem": row_problems[i]["problem"],
            "prompt": sampler.tokenizer.decode(row_prompts[i]),
            "completion": texts[i],
            "answer": row_problems[i]["answer"],
            "reward": rewards[i],
            "truncated": bool(truncated[i]),
            **{f"reward/{name}": values[i] for name, values in parts.items()},
        }
        for i in range(min(config.log_completions, len(rows)))
    ]
    rollout = Rollout(
        prompts=row_prompts,
        completions=completions,
        rewards=torch.tensor(rewards, dtype=torch.float64),
        valid=~truncated if config.truncated == "mask" else torch.ones_like(truncated),
        truncated=truncated,
        old_logps=old_logps,
        entropies=entropies,
        seconds=time.perf_counter() - started,
    )
    return rollout, samples


def train_step(
    policy,
    optimizer,
    lr_schedule,
    objective: Objective,
    schedule: Schedule,
    progress: Progress,
    accelerator: Accelerator,
    config: TrainConfig,
    run: RunFolder,
) -> dict[str, Any]:
    """One optimiser step on one mini-batch of the rollout; returns the line for metrics.jsonl.

    The coefficients are taken once, over the groups of all processes, and pushed through the model in micro-batches of
    any size: micro_batch_tokens and the number of processes change memory and speed, not the gradient.
    """
    started = time.perf_counter()
    assert progress.rollout is not None
    rows = local_rows(progress.update, accelerator, config)
    mini = progress.rollout.select(rows)
    logps, entropies = mini.old_logps, mini.entropies
    if progress.update > 0:  # on the first update the policy still is the one that sampled
        with accelerator.autocast():
            logps, entropies = score(
                accelerator.unwrap_model(policy),
                mini.prompts,
                mini.completions,
                width=logps.shape[1],
                temperature=config.temperature,
                max_tokens=config.micro_batch_tokens,
                device=accelerator.device,
            )
    require_finite("log-probability", logps, mini, run, config, accelerator)
    batch = gather_groups(mini, logps, accelerator, config)
    totals = step_totals(mini, entropies, accelerator)
    vocabulary = accelerator.unwrap_model(policy).model.config.vocab_size
    signals = group_signals(
        batch,
        **config.distribution_options,
        confidence_from=config.confidence_from,
        token_entropy=totals["token_entropy"] / math.log(vocabulary),
    )
    alpha = schedule.update(signals)
    coef, loss, stats = coefficients(objective, batch, alpha=alpha)
    require_finite("coefficient", coef, mini, run, config, accelerator)

    local = coef.flatten(0, 1)[len(mini.prompts) * accelerator.process_index :][: len(mini.prompts)]
    micro = list(micro_batches(mini.prompts, mini.completions, config.micro_batch_tokens, device=accelerator.device))
    for i, part in enumerate(micro):
        # Gradients cross processes once, at the end; DDP averages them, and a sum is wanted.
        with contextlib.nullcontext() if i == len(micro) - 1 else accelerator.no_sync(policy):
            part_logps = policy(part.input_ids, part.attention_mask, part.completion_mask, config.temperature)
            accelerator.backward((part.spread(local) * part_logps).sum() * accelerator.num_processes)
    grad_norm = accelerator.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    require_finite("gradient norm", grad_norm, mini, run, config, accelerator)
    lr = lr_schedule.get_last_lr()[0]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    lr_schedule.step()

    generate = progress.rollout.seconds / config.updates_per_batch
    update = time.perf_counter() - started
    assert signals.log_q is not None
    assert signals.log_p is not None
    return {
        "step": progress.step + 1,
        "batch": progress.batch,
        "reward_mean": signals.reward,
        "reward_std": batch.rewards.std().item(),
        "reward_se": signals.reward_se,
        "groups_with_signal": (batch.rewards.amax(-1) > batch.rewards.amin(-1)).float().mean().item(),
        "alpha": alpha,
        "confidence": signals.confidence,
        "improvement": getattr(schedule, "improvement", 0.0),
        "ess": effective_sample_size(tilted_log_weights(signals.log_q, signals.log_p, alpha)).mean().item(),
        "candidate_entropy": candidate_entropy(batch, logp_reduction=config.logp_reduction).mean().item(),
        **totals,
        "loss": loss.item(),
        "grad_norm": float(grad_norm),
        **{name: value.item() for name, value in stats.items() if name != "ess"},
        "lr": lr,
        "tokens_per_second": totals["tokens"] / (generate + update),
        "seconds_generate": generate,
        "seconds_update": update,
        "seconds_step": generate + update,
    }


def gather_groups(mini: Rollout, logps: Tensor, accelerator: Accelerator, config: TrainConfig) -> GroupBatch:
    """The mini-batch of all processes as [prompts, group, tokens], equal on each."""

    def gather(rows: Tensor) -> Tensor:
        everywhere = accelerator.pad_across_processes(rows.to(accelerator.device), dim=1) if rows.dim() > 1 else rows
        everywhere = accelerator.gather(everywhere.to(accelerator.device))
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
    sums = torch.tensor([len(lengths), lengths.sum(), mini.truncated.sum(), entropies.sum()], dtype=torch.float64).to(
        accelerator.device
    )
    rows, tokens, truncated, entropy = accelerator.reduce(sums, reduction="sum").tolist()
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
    mini_batches = config.prompts_per_batch // config.mini_batch_prompts
    rows = config.mini_batch_prompts // accelerator.num_processes * config.group_size
    return slice(update % mini_batches * rows, (update % mini_batches + 1) * rows)


def require_finite(
    what: str, values: Any, mini: Rollout, run: RunFolder, config: TrainConfig, accelerator: Accelerator
) -> None:
    """Stop before the update if a value is NaN or infinite on any process; save the batch that caused it."""
    bad = torch.tensor([not bool(torch.isfinite(torch.as_tensor(values)).all())], device=accelerator.device)
    if bool(accelerator.gather(bad.long()).any()):
        path = run.path / f"failed-batch-{accelerator.process_index}.pt"
        torch.save({"what": what, "values": values, **dataclasses.asdict(mini)}, path)
        raise NotFiniteError(
            f"a {what} is not finite; no update was made, and the batch is in {path}. Resume from the last checkpoint "
            f"with a smaller lr (now {config.lr:g}), a larger tau_anc (now {config.tau_anc:g}) or beta_r, in a new run."
        )


class NotFiniteError(RuntimeError):
    """A log-probability, coefficient or gradient is NaN or infinite; no update was made."""


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps is due; 0 is never."""
    return every > 0 and step % every == 0


def check_processes(config: TrainConfig, accelerator: Accelerator) -> None:
    """Raise unless every process gets whole groups, equally many."""
    if config.mini_batch_prompts % accelerator.num_processes:
        raise UserError(
            f"mini_batch_prompts is {config.mini_batch_prompts} on {accelerator.num_processes} processes; expected a "
            "multiple, so that groups stay whole. Change one of them."
        )


def check_problems(config: TrainConfig, problems: Any) -> None:
    """Raise if a batch would hold a problem twice."""
    if len(problems) < config.prompts_per_batch:
        raise UserError(
            f"{config.data} has {len(problems)} training problems for prompts_per_batch {config.prompts_per_batch}; "
            "expected at least one each. Lower prompts_per_batch or give more problems."
        )


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
