"""Sample a batch, reward it, and take the old log-probabilities."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from full.engines.base import Samples, answer_texts
from full.logprobs.packing import Ids
from full.logprobs.scoring import score
from full.rewards.numbering import answer_number
from full.trainer.sharding import whole_weights
from full.trainer.state import Trainer


@dataclass
class Rollout:
    """One batch of samples, this process's share: all that its updates need, and all that a checkpoint must hold.

    prompts: token ids per completion (the same list `group` times).
    completions: token ids, end of sequence included.
    rewards: [rows].
    valid: [rows] whether the completion counts in its group.
    truncated: [rows] whether it did not come to its own end.
    answers: [rows] a number for each distinct final answer, see `answer_number`.
    old_logps: [rows, width] log-probabilities under the policy that sampled, 0 beyond the end.
    entropies: [rows, width] of its next-token distributions, nats.
    engine_logps: [rows, width] as the engine that sampled computed them; equal to old_logps where nothing was scored again.
    seconds: spent on sampling and scoring.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    rewards: Tensor
    valid: Tensor
    truncated: Tensor
    answers: Tensor
    old_logps: Tensor
    entropies: Tensor
    engine_logps: Tensor
    seconds: float

    def mask(self) -> Tensor:
        """[rows, width]: 1 on the completions' tokens. By position, so the end-of-sequence token is trained."""
        lengths = torch.tensor([len(ids) for ids in self.completions])
        return (torch.arange(self.old_logps.shape[1]) < lengths[:, None]).long()

    def importance(self, cap: float) -> Tensor:
        """[rows, width] truncated importance weights, min(pi_old / pi_engine, cap) for each token.

        Completions come from the engine's distribution, and the objective's gradient is meant under pi_old. Where both are
        the same they are exactly 1. Per token, since the product over a completion has a variance that grows with its
        length. (Ours: the paper samples and scores with one engine.)
        """
        return (self.old_logps - self.engine_logps).exp().clamp(max=cap)

    def select(self, rows: slice) -> "Rollout":
        """The rollout of some rows."""
        parts = {name: value[rows] for name, value in vars(self).items() if name != "seconds"}
        return Rollout(**parts, seconds=self.seconds)


def collect(trainer: Trainer, positions: list[int], *, batch: int, step: int) -> Rollout:
    """Sample this process's share of a batch, reward it, and take the old log-probabilities; groups stay whole.

    Args:
        positions: of the batch's prompts_per_batch problems, over all processes.
        batch: index of the batch, a part of what its randomness depends on.
        step: optimiser steps done, for the log.
    """
    config, slots = trainer.config, trainer.plan.slots()
    started = time.perf_counter()
    prompts, samples = sample_groups(trainer, positions, slots, batch=batch)
    judged = reward_groups(trainer, positions, slots, samples)
    known = old_log_probabilities(trainer, prompts, samples)
    logged = [
        {
            "step": step,
            "problem": judged.rows[i]["problem"],
            "prompt": trainer.engine.tokenizer.decode(prompts[i]),
            "completion": judged.texts[i],
            "answer": judged.rows[i]["answer"],
            "reward": judged.rewards[i],
            "truncated": judged.truncated[i],
            **{f"reward/{name}": values[i] for name, values in judged.parts.items()},
        }
        for i in range(min(config.log_completions, len(prompts)))
    ]
    trainer.run.append("completions.jsonl", logged)
    return make_rollout(trainer, prompts, samples, judged, *known, seconds=time.perf_counter() - started)


@dataclass(frozen=True)
class Judged:
    """What is known of some completions beside their tokens.

    rows: the problem of each.
    texts: without special tokens, after the mark of thinking where the prompt opens it.
    rewards: the weighted sums.
    parts: the values of each reward function, by its name.
    truncated: whether a completion did not come to its own end.
    """

    rows: list[Any]
    texts: list[str]
    rewards: list[float]
    parts: dict[str, list[float]]
    truncated: list[bool]


def sample_groups(
    trainer: Trainer,
    positions: list[int],
    slots: Sequence[int],
    *,
    batch: int,
    limit: int | None = None,
    refresh: bool = True,
) -> tuple[list[list[int]], Samples]:
    """(prompts, samples) of a group for each of these places in a batch.

    Args:
        limit: tokens at most, None is the run's.
        refresh: see `Trainer.sampling`.
    """
    size = trainer.config.group_size
    keys = [(batch, slot, sample) for slot in slots for sample in range(size)]
    prompts = [trainer.prompts[positions[slot]] for slot in slots for _ in range(size)]
    with trainer.sampling(refresh=refresh):
        samples = trainer.engine.sample(prompts, keys, limit=limit)
    return prompts, samples


def reward_groups(trainer: Trainer, positions: list[int], slots: Sequence[int], samples: Samples) -> Judged:
    """Reward what `sample_groups` drew for these places."""
    size, engine = trainer.config.group_size, trainer.engine
    rows = [row for slot in slots for row in [trainer.problems[positions[slot]]] * size]
    prompts = [trainer.prompts[positions[slot]] for slot in slots for _ in range(size)]
    texts = answer_texts(engine, prompts, samples.completions)
    rewards, parts = trainer.rewarder([row["prompt"] for row in rows], texts, rows)
    return Judged(rows, texts, rewards, parts, [not engine.ended(ids) for ids in samples.completions])


def make_rollout(
    trainer: Trainer,
    prompts: list[list[int]],
    samples: Samples,
    judged: Judged,
    engine_logps: Tensor,
    old_logps: Tensor,
    entropies: Tensor,
    *,
    seconds: float,
) -> Rollout:
    """Everything about some completions in the form that updates use."""
    truncated = torch.tensor(judged.truncated)
    return Rollout(
        prompts=prompts,
        completions=samples.completions,
        rewards=torch.tensor(judged.rewards, dtype=torch.float64),
        valid=~truncated if trainer.config.truncated == "mask" else torch.ones_like(truncated),
        truncated=truncated,
        answers=torch.tensor([answer_number(text) for text in judged.texts]),
        old_logps=old_logps,
        entropies=entropies,
        engine_logps=engine_logps,
        seconds=seconds,
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
        num_known = 0 if config.epochs > 1 else trainer.plan.rows(0).stop
    parts = [(samples.logps[:num_known].to(dtype), samples.entropies[:num_known].to(dtype))] if num_known else []
    if num_known < rows:
        parts.append(score_now(trainer, prompts[num_known:], samples.completions[num_known:], width=width))
    old_logps, entropies = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return samples.logps.to(dtype), old_logps, entropies


def score_now(trainer: Trainer, prompts: Ids, completions: Ids, *, width: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [rows, width] under the policy as it is, without a graph."""
    with whole_weights(trainer.policy), trainer.accelerator.autocast():
        return score(
            trainer.accelerator.unwrap_model(trainer.policy),
            prompts,
            completions,
            width=width,
            temperature=trainer.config.temperature,
            max_tokens=trainer.micro_batch,
            device=trainer.accelerator.device,
            pair_cost=trainer.pair_cost,
        )
