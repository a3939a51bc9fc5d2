"""Train a language model with APO (arXiv 2512.22953), or a peer, on problems whose answers can be verified.

    accelerate launch full/train.py                                      # Qwen3-1.7B on MATH level 3
    accelerate launch full/train.py --config full/configs/tiny.yaml      # embedded model: no GPU, no network

Each batch: sample groups of completions, reward them, and take one or more optimiser steps. Each step: read the
schedule's signals, update alpha, turn the objective into one coefficient per token, and push those through the model in
micro-batches. The objective ties a group together and sees the groups of all processes; the model sees a weighted sum.
"""

import contextlib
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Threads that wait without spinning, before torch starts them: beside another busy process it is five times faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if __name__ == "__main__" and os.environ.get("RANK", "0") == "0" and "--help" not in sys.argv:
    print("starting: loading torch and transformers, about ten seconds", flush=True)

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from apo_edu import FailureMonitor, GroupBatch, candidate_entropy, effective_sample_size, group_signals
from apo_edu.divergences import tilted_log_weights
from apo_edu.objectives import Objective, coefficients
from apo_edu.schedules import Schedule, Signals
from full import report
from full.checkpoints import CheckpointError, Progress, load_checkpoint, save_checkpoint
from full.config import TrainConfig, UserError, parse_config
from full.data import ProblemOrder, load_splits
from full.evaluation import evaluate
from full.launch import StopRequest, quiet_exit, start_accelerator
from full.logprobs import Policy, score
from full.packing import Ids, PackedRows, attention_pair_cost, micro_batches
from full.page import write_report
from full.policy import check_model, load_model, load_tokenizer, render_prompts, save_policy
from full.rewards import Rewarder, RewardError
from full.rollouts import Engine, Rollout, make_engine
from full.runs import RunFolder
from full.sharding import backward, clip, may_step_alone, prepare, whole_state, whole_weights
from full.vllm_engine import require_vllm


@dataclass(frozen=True)
class Trainer:
    """What every step needs; made once by `set_up`, before the loop.

    problems, held_out: data sets.  prompts, held_out_prompts: their token ids.  rendered: the first prompt as text.
    model: the language model.  policy: the same, wrapped for training.  pair_cost: see `attention_pair_cost`.
    """

    config: TrainConfig
    accelerator: Accelerator
    run: RunFolder
    say: report.Console
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

    def evaluate(self) -> dict[str, Any]:
        """Accuracy on the held-out problems under the policy as it is."""
        problems, prompts, samples = self.held_out, self.held_out_prompts, self.config.eval_samples
        with whole_weights(self.policy), self.accelerator.autocast():
            self.engine.refresh(self.model)
            return evaluate(self.engine, problems, prompts, samples, self.rewarder.verifier, self.accelerator)

    def close(self) -> None:
        """Stop workers, engine and trackers."""
        self.rewarder.close()
        self.engine.close()
        self.accelerator.end_training()


def main(argv: list[str] | None = None) -> None:
    """The story of a run."""
    report.quiet_libraries()
    config, resume = parse_config(argv)
    stop = StopRequest()
    trainer = set_up(config, resume=bool(resume))
    if "--doctor" in (sys.argv if argv is None else argv):
        from full.doctor import examine

        return examine(trainer)
    accelerator, run, say = trainer.accelerator, trainer.run, trainer.say
    order = ProblemOrder(len(trainer.problems), config.prompts_per_batch, config.seed)
    monitor = FailureMonitor(alpha_max=config.alpha_max if config.schedule in ("guarded", "ess") else None)
    say.plan(config, trainer.model, trainer.rendered, accelerator, len(trainer.problems))
    sources = {"train": trainer.problems.info.description, "test": trainer.held_out.info.description}
    run.write_config(config, {**sources, "processes": accelerator.num_processes})
    if config.tracker != "none":
        named = {} if config.tracker == "tensorboard" else {config.tracker: {"name": run.path.name}}
        accelerator.init_trackers("apo_edu", {k: str(v) for k, v in asdict(config).items()}, init_kwargs=named)

    progress = Progress()
    if resume:
        progress, messages = load_checkpoint(run.checkpoints, accelerator)
        run.trim(progress.step)
        for row in run.read("metrics.jsonl"):
            monitor.update(row)
        say.line(*messages, f"resuming {run.path} after step {progress.step} of {config.steps}")

    started = time.perf_counter() - progress.seconds
    if progress.eval_before is None:
        say.line(f"evaluating {len(trainer.held_out)} held-out problems before the first step")
        progress.eval_before = trainer.evaluate()
        say.line(report.evaluation_line("before", progress.eval_before))
    with say.progress(config, progress.step) as bar:
        while progress.step < config.steps:
            if progress.rollout is None:
                progress.rollout = collect(trainer, progress, order.batch(progress.batch))
            metrics = train_step(trainer, progress)
            progress.advance(config.updates_per_batch)
            if is_due(progress.step, config.eval_every) and progress.step < config.steps:
                metrics |= {f"eval_{name}": value for name, value in trainer.evaluate().items()}
            run.append("metrics.jsonl", [metrics])
            numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and k != "step"}
            accelerator.log(numbers, step=progress.step)
            bar.step(metrics)
            for finding in monitor.update(metrics):
                say.line(f"warning: {finding}")
            progress.seconds = time.perf_counter() - started
            stopping = stop.agreed(accelerator)
            if stopping or progress.step == config.steps or is_due(progress.step, config.save_every):
                save_checkpoint(run.checkpoints, accelerator, progress, keep=config.keep_checkpoints)
            if stopping:
                trainer.close()
                raise Stopped(run, progress.step, stop.signal)

    finish(trainer, progress, monitor)


def finish(trainer: Trainer, progress: Progress, monitor: FailureMonitor) -> None:
    """After the last step: evaluate, write the model, and show what happened."""
    config, accelerator, run = trainer.config, trainer.accelerator, trainer.run
    eval_after = trainer.evaluate()
    state = whole_state(accelerator, trainer.policy)
    with whole_weights(trainer.policy):
        if accelerator.is_main_process:
            folder, merge = run.path / "model", config.merge_lora
            save_policy(trainer.model, trainer.engine.tokenizer, folder, merge=merge, state=state)
    if accelerator.is_main_process:
        summary = report.summarize(config, progress.eval_before, eval_after, progress.seconds)
        run.write_summary(summary)
        report.draw_curves(run)
        write_report(run.path)
        trainer.say.conclusion(run, summary, monitor.findings, config)
    trainer.close()


def set_up(config: TrainConfig, *, resume: bool) -> Trainer:
    """Everything before the first step. What can be wrong is found before the model is loaded.

    Raises:
        UserError: an option, the data, the model or the launch is not what it should be.
    """
    accelerator = start_accelerator(config.cpu_threads, tracker=config.tracker, folder=Path(config.run_dir))
    set_seed(config.seed)
    run = RunFolder(config, resume=resume, main=accelerator.is_main_process)
    say = report.Console(accelerator.is_main_process)
    if config.engine == "vllm":
        require_vllm()
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
    pair_cost = attention_pair_cost(model)
    check_model(model, prompts, config, pair_cost)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.lr,
        betas=(0.9, config.adam_beta2),
        weight_decay=config.weight_decay,
    )
    lr_schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.lr_factor)
    schedule = config.make_schedule()
    policy, optimizer = prepare(accelerator, Policy(model), optimizer, max_grad_norm=config.max_grad_norm)
    accelerator.register_for_checkpointing(schedule, lr_schedule)
    return Trainer(
        config=config,
        accelerator=accelerator,
        run=run,
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
    )


def collect(trainer: Trainer, progress: Progress, positions: list[int]) -> Rollout:
    """Sample this process's share of a batch, reward it, and take the old log-probabilities; groups stay whole.

    Args:
        positions: of the batch's prompts_per_batch problems, over all processes.
    """
    config, engine = trainer.config, trainer.engine
    started = time.perf_counter()
    mine = local_prompts(trainer.accelerator, config)
    keys = [(progress.batch, slot, sample) for slot in mine for sample in range(config.group_size)]
    rows = [row for slot in mine for row in [trainer.problems[positions[slot]]] * config.group_size]
    prompts = [trainer.prompts[positions[slot]] for slot in mine for _ in range(config.group_size)]
    with whole_weights(trainer.policy), trainer.accelerator.autocast():
        engine.refresh(trainer.model)
        samples = engine.sample(prompts, keys)
    completions = samples.completions
    texts = engine.texts(completions)
    rewards, parts = trainer.rewarder([row["prompt"] for row in rows], texts, rows)
    truncated = torch.tensor([not engine.ended(ids) for ids in completions])
    engine_logps, old_logps, entropies = old_log_probabilities(trainer, prompts, samples)
    logged = [
        {
            "step": progress.step,
            "problem": rows[i]["problem"],
            "prompt": engine.tokenizer.decode(prompts[i]),
            "completion": texts[i],
            "answer": rows[i]["answer"],
            "reward": rewards[i],
            "truncated": bool(truncated[i]),
            **{f"reward/{name}": values[i] for name, values in parts.items()},
        }
        for i in range(min(config.log_completions, len(rows)))
    ]
    trainer.run.append("completions.jsonl", logged)
    return Rollout(
        prompts=prompts,
        completions=completions,
        rewards=torch.tensor(rewards, dtype=torch.float64),
        valid=~truncated if config.truncated == "mask" else torch.ones_like(truncated),
        truncated=truncated,
        old_logps=old_logps,
        entropies=entropies,
        engine_logps=engine_logps,
        seconds=time.perf_counter() - started,
    )


def old_log_probabilities(trainer: Trainer, prompts: Ids, samples: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(engine_logps, old_logps, entropies), each [rows, tokens]: what was known when sampling, scored again where needed.

    An exact engine knows them. transformers' generate under bfloat16 is off by the rounding of another kernel, which only
    matters to later updates: on the first the ratio to the policy that sampled is 1 whatever the numbers, so the rows that
    only the first update sees are not scored. Any other engine is scored again altogether.
    """
    config = trainer.config
    rows, width = samples.logps.shape
    dtype = torch.float64 if config.weights == "float64" else torch.float32
    if samples.entropies is None:
        num_known = 0
    elif trainer.engine.exact:
        num_known = rows
    else:
        num_known = 0 if config.epochs > 1 else local_rows(0, trainer.accelerator, config).stop
    parts = [(samples.logps[:num_known].to(dtype), samples.entropies[:num_known].to(dtype))] if num_known else []
    if num_known < rows:
        parts.append(score_now(trainer, prompts[num_known:], samples.completions[num_known:], width=width))
    old_logps, entropies = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return samples.logps.to(dtype), old_logps, entropies


def train_step(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """One optimiser step on one mini-batch of the rollout; returns the line for metrics.jsonl.

    The coefficients are taken once, over the groups of all processes, and pushed through the model in micro-batches of
    any size: micro_batch_tokens and the number of processes change memory and speed, not the gradient.
    """
    config, accelerator = trainer.config, trainer.accelerator
    started = time.perf_counter()
    assert progress.rollout is not None
    mini = progress.rollout.select(local_rows(progress.update, accelerator, config))
    logps, entropies = mini.old_logps, mini.entropies
    if progress.update > 0:  # on the first update the policy still is the one that sampled
        logps, entropies = score_now(trainer, mini.prompts, mini.completions, width=logps.shape[1])
    require_finite(trainer, "log-probability", logps, mini)
    batch = gather_groups(mini, logps, accelerator, config)
    totals = step_totals(mini, entropies, trainer)
    signals = group_signals(
        batch,
        **config.distribution_options,
        confidence_from=config.confidence_from,
        token_entropy=totals["token_entropy"] / math.log(trainer.model.config.vocab_size),
    )
    alpha = trainer.schedule.update(signals)
    coef, loss, stats = coefficients(trainer.objective, batch, alpha=alpha)
    require_finite(trainer, "coefficient", coef, mini)

    mine = coef.flatten(0, 1)[len(mini.prompts) * accelerator.process_index :][: len(mini.prompts)]
    # The completions of another process may be longer: coefficients are as wide as the longest of all.
    mine = mine[:, : mini.old_logps.shape[1]] * mini.importance(config.importance_cap).to(mine)
    pushed = push_coefficients(trainer, mini, mine)
    grad_norm = clip(accelerator, trainer.policy, config.max_grad_norm)
    require_finite(trainer, "gradient norm", grad_norm, mini)
    lr = trainer.lr_schedule.get_last_lr()[0]
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.lr_schedule.step()

    seconds = progress.rollout.seconds / config.updates_per_batch, time.perf_counter() - started
    known = {"step": progress.step + 1, "batch": progress.batch, "alpha": alpha, "loss": loss.item(), "lr": lr}
    seen = step_metrics(trainer, batch, signals, stats, alpha, seconds)
    return known | totals | pushed | {"grad_norm": grad_norm} | seen


def step_metrics(
    trainer: Trainer,
    batch: GroupBatch,
    signals: Signals,
    stats: dict[str, Tensor],
    alpha: float,
    seconds: tuple[float, float],
) -> dict[str, float]:
    """What a step's groups, signals and clock say; full/glossary.py explains each.

    Args:
        seconds: sampling (this step's share of it) and update.
    """
    config = trainer.config
    counts = torch.ones_like(batch.rewards).bool() if batch.valid is None else batch.valid.bool()
    highest, lowest = (batch.rewards.masked_fill(~counts, end) for end in (-math.inf, math.inf))
    weights = tilted_log_weights(signals.log_q, signals.log_p, alpha)
    return {
        "reward_mean": signals.reward,
        "reward_std": batch.rewards.std().item(),
        "reward_se": signals.reward_se,
        "groups_with_signal": (highest.amax(-1) > lowest.amin(-1)).float().mean().item(),
        "confidence": signals.confidence,
        "improvement": 0.0,
        **trainer.schedule.traces(),
        "candidate_entropy": candidate_entropy(batch, logp_reduction=config.logp_reduction).mean().item(),
        "ess": effective_sample_size(weights).mean().item(),
        **{name: value.item() for name, value in stats.items()},  # an objective's own ess is the one that counts
        "tokens_per_second": batch.mask.sum().item() / sum(seconds),
        "seconds_generate": seconds[0],
        "seconds_update": seconds[1],
        "seconds_step": sum(seconds),
    }


def push_coefficients(trainer: Trainer, mini: Rollout, coef: Tensor) -> dict[str, float]:
    """Accumulate the gradient sum(coef * logps) in micro-batches; return what was computed, over all processes.

    Completions without coefficients (groups without signal on a batch's first update, clipped ones) are left out: their
    gradient is 0. What is rounding beside the largest coefficient counts as 0.

    Args:
        coef: [completions here, tokens].
    """
    config, accelerator, policy = trainer.config, trainer.accelerator, trainer.policy
    largest = accelerator.gather(coef.abs().max()[None]).max()
    keep = (coef.abs().amax(-1) > 8 * torch.finfo(coef.dtype).eps * largest).nonzero().flatten().tolist()
    options = {"device": accelerator.device, "pair_cost": trainer.pair_cost}
    micro = micro_batches(mini.prompts, mini.completions, config.micro_batch_tokens, keep=keep, **options)
    work = [(rows, coef) for rows in micro]
    # Every process makes equally many passes, since sharded weights are gathered in each, and at least one, so that no
    # gradient is missing: where the work has run out, the first completion with weight 0.
    passes = max(1, int(accelerator.gather(torch.tensor([len(work)], device=accelerator.device)).max()))
    idle = PackedRows([[0]], mini.prompts, mini.completions, device=accelerator.device)
    work += [(idle, torch.zeros_like(coef))] * (passes - len(work))
    for number, (rows, weights) in enumerate(work, start=1):
        # Gradients cross processes once, at the end.
        alone = may_step_alone(accelerator) and number < passes
        # The wrapping of FSDP2 has no autocast of its own.
        with accelerator.no_sync(policy) if alone else contextlib.nullcontext(), accelerator.autocast():
            logps = policy(*rows.inputs, temperature=config.temperature)
            backward(accelerator, (rows.spread(weights) * logps).sum(), last=number == passes)
    padding, cells = sum(m.num_padding for m in micro), sum(m.input_ids.numel() for m in micro)
    sums = torch.tensor([len(keep), len(mini.prompts), padding, cells], device=accelerator.device)
    kept, total, padding, cells = accelerator.reduce(sums, reduction="sum").tolist()
    return {"rows_with_gradient": kept / total, "padding_fraction": padding / max(cells, 1)}


def score_now(trainer: Trainer, prompts: Ids, completions: Ids, *, width: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [rows, width] under the policy as it is, without a graph."""
    with whole_weights(trainer.policy), trainer.accelerator.autocast():
        return score(
            trainer.accelerator.unwrap_model(trainer.policy),
            prompts,
            completions,
            width=width,
            temperature=trainer.config.temperature,
            max_tokens=trainer.config.micro_batch_tokens,
            device=trainer.accelerator.device,
            pair_cost=trainer.pair_cost,
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


def step_totals(mini: Rollout, entropies: Tensor, trainer: Trainer) -> dict[str, float]:
    """Means over the completions of all processes: sums first, then one division.

    The mismatch of an engine that is not exact is left out where nothing was scored again: it was not measured.
    """
    config, accelerator = trainer.config, trainer.accelerator
    lengths = torch.tensor([len(ids) for ids in mini.completions])
    mismatch = (mini.old_logps - mini.engine_logps).abs().double()
    importance = mini.importance(config.importance_cap).double() * mini.mask()
    parts = (lengths, mini.truncated, entropies.double(), mismatch, importance)
    sums = torch.stack([torch.tensor(len(lengths)).double(), *(part.sum().double() for part in parts)])
    reduced = accelerator.reduce(sums.to(accelerator.device), reduction="sum").tolist()
    rows, tokens, truncated, entropy, difference, weight = reduced
    largest = accelerator.gather(mismatch.max().to(accelerator.device)[None]).max().item()
    means = {
        "token_entropy": entropy / tokens,
        "completion_length": tokens / rows,
        "truncated_fraction": truncated / rows,
        "tokens": tokens,
    }
    if largest == 0 and not trainer.engine.exact:
        return means
    return means | {"mismatch_mean": difference / tokens, "mismatch_max": largest, "importance_mean": weight / tokens}


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
    """Raise unless every process gets whole groups, equally many, and no batch needs a second pass over the data."""
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
        quiet_exit(f"error: {error}", getattr(error, "code", 2))
    except (CheckpointError, NotFiniteError) as error:
        quiet_exit(f"error: {error}", 1)


if __name__ == "__main__":
    run_and_report(sys.argv[1:])
