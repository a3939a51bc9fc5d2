"""One optimiser step: coefficients over whole groups, pushed through the model in micro-batches."""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from apo_edu import GroupBatch, candidate_entropy, effective_sample_size, group_signals
from apo_edu.divergences import tilted_log_weights
from apo_edu.objectives import kl_old
from apo_edu.schedules import Signals
from full.config import TrainConfig
from full.errors import NotFiniteError
from full.halving import NothingToHalveError
from full.logprobs.packing import PackedRows, micro_batches
from full.trainer.checkpoints import Progress
from full.trainer.precision import scale_down
from full.trainer.rollout import Rollout, score_now
from full.trainer.sharding import backward, clip, may_step_alone
from full.trainer.state import Trainer


def train_step(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """One optimiser step on one mini-batch of the rollout; returns the line for metrics.jsonl.

    The coefficients are taken once, over the groups of all processes, and pushed through the model in micro-batches of
    any size: micro_batch_tokens and the number of processes change memory and speed, not the gradient.
    """
    config, accelerator = trainer.config, trainer.accelerator
    started = time.perf_counter()
    assert progress.rollout is not None
    mini = progress.rollout.select(trainer.plan.rows(progress.update))
    logps, entropies = mini.old_logps, mini.entropies
    if progress.update > 0:  # on the first update the policy still is the one that sampled
        logps, entropies = score_now(trainer, mini.prompts, mini.completions, width=logps.shape[1])
    require_finite(trainer, "log-probability", logps, mini)
    batch = gather_groups(mini, logps, accelerator, config)
    totals = step_totals(mini, entropies, trainer)
    signals = read_signals(trainer, mini, batch, token_entropy=totals["token_entropy"])
    alpha = trainer.schedule.update(signals)
    coef, loss, stats = trainer.coefficients(batch, alpha)
    require_finite(trainer, "coefficient", coef, mini)

    pushed, grad_norm = clipped_gradient(trainer, mini, local_coefficients(trainer, mini, coef), step=progress.step + 1)
    require_finite(trainer, "gradient norm", grad_norm, mini)
    lr = trainer.lr_schedule.get_last_lr()[0]
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.lr_schedule.step()

    seconds = progress.rollout.seconds / trainer.plan.updates, time.perf_counter() - started
    known = {"step": progress.step + 1, "batch": progress.batch, "alpha": alpha, "loss": loss.item(), "lr": lr}
    seen = step_metrics(trainer, batch, coef, signals, stats, alpha, seconds)
    return known | totals | pushed | {"grad_norm": grad_norm} | seen


def read_signals(trainer: Trainer, mini: Rollout, batch: GroupBatch, *, token_entropy: float) -> Signals:
    """The schedule's signals of a mini-batch, over all processes.

    Args:
        batch: the groups of all processes.
        token_entropy: of the policy, nats per token.
    """
    config = trainer.config
    return group_signals(
        batch,
        **config.distribution_options,
        confidence_from=config.confidence_from,
        token_entropy=token_entropy / math.log(trainer.model.config.vocab_size),
        answers=gather_rows(mini.answers, trainer.accelerator, config),
    )


def local_coefficients(trainer: Trainer, mini: Rollout, coef: Tensor) -> Tensor:
    """This process's part [rows, tokens] of the coefficients of all groups, times the engine's importance weights."""
    rows, width = mini.old_logps.shape
    # The completions of another process may be longer: coefficients are as wide as the longest of all.
    mine = coef.flatten(0, 1)[rows * trainer.accelerator.process_index :][:rows, :width]
    return mine * mini.importance(trainer.config.importance_cap).to(mine)


def step_metrics(
    trainer: Trainer,
    batch: GroupBatch,
    coef: Tensor,
    signals: Signals,
    stats: dict[str, Tensor],
    alpha: float,
    seconds: tuple[float, float],
) -> dict[str, float]:
    """What a step's groups, signals and clock say; full/report/glossary.py explains each.

    Args:
        coef: [prompts, group, tokens] of all processes.
        seconds: sampling (this step's share of it) and update.
    """
    config = trainer.config
    counts = torch.ones_like(batch.rewards).bool() if batch.valid is None else batch.valid.bool()
    highest, lowest = (batch.rewards.masked_fill(~counts, end) for end in (-math.inf, math.inf))
    assert signals.log_q is not None and signals.log_p is not None  # `group_signals` gives both
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
        **push_shares(batch, coef),
        "clip_fraction": 0.0,
        "kl_old": (stats["kl_old"] if "kl_old" in stats else kl_old(batch)).item(),
        **{name: value.item() for name, value in stats.items()},  # what an objective says itself is what counts
        "tokens_per_second": batch.mask.sum().item() / sum(seconds),
        "seconds_generate": seconds[0],
        "seconds_update": seconds[1],
        "seconds_step": sum(seconds),
    }


def push_shares(batch: GroupBatch, coef: Tensor) -> dict[str, float]:
    """Whose gradient it is: shares of the push, the sum of `|coef|` over tokens, by how many of a group are its best.

    push_hard: of the prompts whose highest reward at most a quarter of the completions got, push_easy: at least three
    quarters, but not all; push_idle: of the prompts whose completions all got the same. With rewards that are right or wrong
    the first two are what a prompt's weight w_k (`apo_edu.apo`) times the number of such prompts comes to.

    >>> logps, rewards = torch.zeros(2, 4, 1), torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    >>> batch = GroupBatch(logps=logps, old_logps=logps, mask=torch.ones(2, 4, 1), rewards=rewards)
    >>> push_shares(batch, torch.tensor([[-3.0, 1.0, 1.0, 1.0], [-1.0, -1.0, 0.0, 0.0]])[..., None])
    {'push_hard': 0.75, 'push_easy': 0.25, 'push_idle': 0.0}
    """
    counts = torch.ones_like(batch.rewards).bool() if batch.valid is None else batch.valid.bool()
    highest = batch.rewards.masked_fill(~counts, -math.inf).amax(-1, keepdim=True)
    best = ((batch.rewards == highest) & counts).sum(-1) / counts.sum(-1).clamp(min=1)
    push = coef.double().abs().sum((1, 2))
    whole = push.sum().clamp(min=torch.finfo(push.dtype).tiny)  # nothing is pushed where no group has a signal
    parts = {"hard": best <= 0.25, "easy": (best >= 0.75) & (best < 1), "idle": best == 1}
    return {f"push_{name}": ((push * part).sum() / whole).item() for name, part in parts.items()}


def clipped_gradient(trainer: Trainer, mini: Rollout, coef: Tensor, *, step: int) -> tuple[dict[str, float], float]:
    """`push_coefficients` and its clipped norm; once more with half float16's scale, as often as the gradient overflows.

    GradScaler alone would skip the step, and with it samples that took longer than the pass that is repeated here.

    Args:
        coef: [completions here, tokens].
        step: of the run, for what is said.

    Returns:
        (what was computed, the norm before it was clipped); not finite where no scale helps.
    """
    overflows, scale = 0, 1.0
    while True:
        pushed = push_coefficients(trainer, mini, coef)
        grad_norm = clip(trainer.accelerator, trainer.policy, trainer.config.max_grad_norm)
        smaller = 0.0 if math.isfinite(grad_norm) else scale_down(trainer.accelerator)
        if not smaller:
            break
        overflows, scale = overflows + 1, smaller
        trainer.optimizer.zero_grad(set_to_none=True)
    if overflows:
        trainer.say(
            f"float16: the gradient of step {step} overflowed {overflows} x and was computed again, in the end with a scale of "
            f"{scale:g}; no step is lost"
        )
    return pushed | {"overflows": overflows}, grad_norm


def push_coefficients(trainer: Trainer, mini: Rollout, coef: Tensor) -> dict[str, float]:
    """Accumulate the gradient sum(coef * logps) in micro-batches; return what was computed, over all processes.

    Completions without coefficients (groups without signal on a batch's first update, clipped ones) are left out: their
    gradient is 0. What is rounding beside the largest coefficient counts as 0.

    Args:
        coef: [completions here, tokens].
    """
    accelerator = trainer.accelerator
    floor = 8 * torch.finfo(coef.dtype).eps * largest(coef.abs().max(), accelerator)
    keep = (coef.abs().amax(-1) > floor).nonzero().flatten().tolist()
    cut = partial(micro_batches, mini.prompts, mini.completions, keep=keep, device=accelerator.device)
    micro = cut(trainer.micro_batch.size, pair_cost=trainer.pair_cost)
    # Every process makes equally many passes, since sharded weights are gathered in each, and at least one, so that no
    # gradient is missing: where the work has run out, the first completion with weight 0.
    passes = max(1, int(largest(len(micro), accelerator)))
    idle = PackedRows([[0]], mini.prompts, mini.completions, device=accelerator.device)
    while not accumulate(trainer, [(rows, coef) for rows in micro], (idle, torch.zeros_like(coef)), passes):
        # From the beginning, since what failed may have left a part of its gradient.
        trainer.optimizer.zero_grad(set_to_none=True)
        micro = cut(trainer.micro_batch.size, pair_cost=trainer.pair_cost)
        # More than the others make: they meet in the last one.
        passes = max(passes, len(micro))
    padding, cells = sum(m.num_padding for m in micro), sum(m.input_ids.numel() for m in micro)
    halvings = trainer.micro_batch.count + trainer.engine.halvings
    sums = torch.tensor([len(keep), len(mini.prompts), padding, cells, halvings])
    kept, rows, padding, cells, halvings = total(sums, accelerator)
    fractions = {"rows_with_gradient": kept / rows, "padding_fraction": padding / max(cells, 1)}
    return fractions | {"out_of_memory": halvings}


def accumulate(
    trainer: Trainer, work: Sequence[tuple[PackedRows, Tensor]], idle: tuple[PackedRows, Tensor], passes: int
) -> bool:
    """Forward and backward passes over micro-batches with the coefficients of each, and idle ones after them.

    Returns:
        Whether all went through; False where one did not fit, with smaller ones from now on. The gradient is of no use then.

    Raises:
        NothingToHalveError: no smaller micro-batch would do, or the pass exchanged something with other processes, which
            cannot be taken back.
    """
    accelerator, policy, room = trainer.accelerator, trainer.policy, trainer.micro_batch
    exchanging = False  # whether others have heard of the pass

    def run(rows: PackedRows, weights: Tensor, *, alone: bool, last: bool) -> bool:
        nonlocal exchanging
        exchanging = not may_step_alone(accelerator)
        # The wrapping of FSDP2 has no autocast of its own.
        with accelerator.no_sync(policy) if alone else contextlib.nullcontext(), accelerator.autocast():
            logps = policy(*rows.inputs, temperature=trainer.config.temperature)
            loss = (rows.spread(weights) * logps).sum()
            exchanging = exchanging or not (alone or accelerator.num_processes == 1)
            backward(accelerator, loss, last=last)
        return True

    for number, (rows, weights) in enumerate([*work, *[idle] * (passes - len(work))], start=1):
        # Gradients cross processes once, at the end.
        alone = may_step_alone(accelerator) and number < passes
        done, why = room.attempt(partial(run, rows, weights, alone=alone, last=number == passes))
        if not done:
            if exchanging:
                half = max(1, min(room.size, rows.input_ids.numel()) // 2)
                raise NothingToHalveError(
                    f"{why}; the processes were exchanging gradients or weights, so this one cannot try again by itself. Go "
                    f"on with --resume {trainer.run.path} --micro_batch_tokens {half}"
                )
            room.halve(why, tried=rows.input_ids.numel(), whole=rows.indivisible)
            return False
    return True


def gather_groups(mini: Rollout, logps: Tensor, accelerator: Accelerator, config: TrainConfig) -> GroupBatch:
    """The mini-batch of all processes as [prompts, group, tokens], equal on each; on the CPU.

    There its values can be checked, and the objective and the signals read, without waiting for the device: a batch has some
    hundred thousand numbers, where the model has 10^9.
    """
    return GroupBatch(
        logps=gather_rows(logps, accelerator, config),
        old_logps=gather_rows(mini.old_logps, accelerator, config),
        mask=gather_rows(mini.mask(), accelerator, config),
        rewards=gather_rows(mini.rewards, accelerator, config).to(logps.dtype),
        valid=gather_rows(mini.valid, accelerator, config) if config.truncated == "mask" else None,
    )


def gather_rows(rows: Tensor, accelerator: Accelerator, config: TrainConfig) -> Tensor:
    """[rows here, ...] of all processes as [prompts, group, ...], equal on each, on the CPU; padded to the longest of all."""
    if accelerator.num_processes > 1:
        rows = rows.to(accelerator.device)
        rows = accelerator.gather(accelerator.pad_across_processes(rows, dim=1) if rows.dim() > 1 else rows).cpu()
    return rows.view(-1, config.group_size, *rows.shape[1:])


def largest(value: Tensor | float, accelerator: Accelerator) -> float:
    """The largest of a number of each process."""
    number = torch.as_tensor(value)
    if accelerator.num_processes > 1:
        number = accelerator.gather(number.to(accelerator.device)[None]).max()
    return number.item()


def total(values: Tensor, accelerator: Accelerator) -> list[Any]:
    """The sum over all processes, of each of some numbers."""
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values.to(accelerator.device), reduction="sum")
    return values.tolist()


def step_totals(mini: Rollout, entropies: Tensor, trainer: Trainer) -> dict[str, float]:
    """Means over the completions of all processes (sums first, then one division), and what befell their verifiers.

    The mismatch of an engine that is not exact is left out where nothing was scored again: it was not measured.
    """
    config, accelerator = trainer.config, trainer.accelerator
    lengths = torch.tensor([len(ids) for ids in mini.completions])
    mismatch = (mini.old_logps - mini.engine_logps).abs().double()
    importance = mini.importance(config.importance_cap).double() * mini.mask()
    befell = torch.tensor(trainer.rewarder.take_counts())
    parts = (lengths, mini.truncated, entropies.double(), mismatch, importance, *befell)
    sums = torch.stack([torch.tensor(len(lengths)).double(), *(part.sum().double() for part in parts)])
    rows, tokens, truncated, entropy, difference, weight, timeouts, deaths = total(sums, accelerator)
    worst = largest(mismatch.max(), accelerator)
    means = {
        "token_entropy": entropy / tokens,
        "completion_length": tokens / rows,
        "truncated_fraction": truncated / rows,
        "tokens": tokens,
        "verify_timeouts": timeouts,
        "verify_deaths": deaths,
    }
    if worst == 0 and not trainer.engine.exact:
        return means
    return means | {"mismatch_mean": difference / tokens, "mismatch_max": worst, "importance_mean": weight / tokens}


def require_finite(trainer: Trainer, what: str, values: Any, mini: Rollout) -> None:
    """Stop before the update if a value is NaN or infinite on any process; save the batch that caused it."""
    bad = not bool(torch.isfinite(torch.as_tensor(values)).all())
    if largest(int(bad), trainer.accelerator):
        path = trainer.run.path / f"failed-batch-{trainer.accelerator.process_index}.pt"
        torch.save({"what": what, "values": values, **asdict(mini)}, path)
        config, narrow = trainer.config, trainer.accelerator.mixed_precision == "fp16"
        wider = ", or compute in a wider range than float16's: --mixed_precision bf16" if narrow else ""
        where = f" (torch.load reads it; objective {config.objective} made this of it)" if what == "coefficient" else ""
        raise NotFiniteError(
            f"a {what} is not finite; no update was made, and the batch is in {path}{where}. Start a new run with a smaller lr "
            f"(now {config.lr:g}) or a larger beta_r (now {config.beta_r:g}){wider}."
        )
