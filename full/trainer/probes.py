r"""What experiments read off the policy of a run: functions for --callback, which leave the run as it is.

    --callback full.trainer.probes:confidence    # six readings of confidence against the true success rate
    --callback full.trainer.probes:spread        # mean and spread of the reward over the answers to one problem
    --callback full.trainer.microscope:groups    # whole groups of a few problems, token by token

Each samples completions of held-out problems at stages of the run and appends a line of numbers to probes.jsonl in its
folder; full/sweep.py puts them into results.csv as "NAME STAGE". The sampling depends on the seed alone, is the same at
every stage, and takes nothing from the random numbers of training. Both are ours.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from apo_edu import GroupBatch, group_signals
from apo_edu.statistics import rank_correlation
from full.engines.base import answer_texts
from full.errors import UserError
from full.evaluation import EVALUATION_BATCH
from full.rewards.numbering import answer_number
from full.trainer.rollout import score_now
from full.trainer.state import Trainer

FILE = "probes.jsonl"
PROBE_BATCH = EVALUATION_BATCH + 1  # neither training nor evaluation draws from it
PROBLEMS = 100  # standard error of a rank correlation: 0.1
TRUTH = 32  # samples behind a problem's success rate: its standard error is at most 0.09
SPREAD_SAMPLES = 24

# Name -> (confidence_from, logp_reduction) of `group_signals`. "anchored" is left out: on policy it is 0 by construction.
READINGS = {
    "tokens": ("tokens", "mean"),
    "answers": ("answers", "mean"),
    "candidates": ("candidates", "mean"),
    "candidates summed": ("candidates", "sum"),
    "target": ("target", "mean"),
}
LIKELIHOOD = "likelihood"  # 1 + mean log-probability / log of the vocabulary, as the paper's author's code reads it


def confidence(trainer: Trainer, metrics: Mapping[str, Any]) -> None:
    """Each reading of confidence on one group per problem, against the problem's success rate on other samples.

    Numbers: "success", the mean success rate, and for each reading "mean", its mean over problems, "sd", over problems, and
    "rank", its Spearman correlation with the success rate over problems (0 where the reading is constant: it says nothing),
    and "lead", its rank minus that of "tokens".
    """
    stages = {1: "first", max(1, trainer.config.steps // 4): "quarter", trainer.config.steps: "last"}
    stage = stages.get(metrics["step"])
    if stage is None:
        return
    group = trainer.config.group_size
    prompts, completions, texts, rewards = draw(trainer, group + TRUTH)
    problems = len(rewards)
    success = rewards[:, group:].mean(-1)
    # The group's own samples are not among those that say the truth: their luck would be in both.
    of_group = [i * (group + TRUTH) + k for i in range(problems) for k in range(group)]
    completions = [completions[row] for row in of_group]
    logps, entropies = score_now(
        trainer, [prompts[row] for row in of_group], completions, width=max(map(len, completions))
    )
    mask = torch.arange(logps.shape[1]) < torch.tensor([len(ids) for ids in completions])[:, None]
    answers = torch.tensor([answer_number(texts[row]) for row in of_group]).view(problems, group)
    logps = logps.view(problems, group, -1)
    batch = GroupBatch(logps, logps, mask.view(problems, group, -1), rewards[:, :group].to(logps))
    readings = read_confidence(batch, entropies.view(problems, group, -1), answers, trainer)
    numbers = {"success": success.mean().item(), "sd success": success.std().item()}
    for name, values in readings.items():
        constant = bool((values == values[0]).all() or (success == success[0]).all())
        rank = 0.0 if constant else rank_correlation(values, success, resamples=10).estimate.item()
        numbers |= {f"mean {name}": values.mean().item(), f"sd {name}": values.std().item(), f"rank {name}": rank}
    leads = {f"lead {name}": numbers[f"rank {name}"] - numbers["rank tokens"] for name in readings if name != "tokens"}
    append(trainer, metrics["step"], stage, numbers | leads)


def read_confidence(batch: GroupBatch, entropies: Tensor, answers: Tensor, trainer: Trainer) -> dict[str, Tensor]:
    """Reading -> [problems]: `group_signals` with every problem as a run of its own, and the author's likelihood.

    Args:
        entropies: [problems, group, tokens] of the next-token distributions, nats.
        answers: [problems, group] integers.
    """
    size = math.log(trainer.model.config.vocab_size)
    tokens = batch.mask.sum((1, 2))
    token_entropy = (entropies * batch.mask).sum((1, 2)) / tokens / size
    options = {**trainer.config.distribution_options, "answers": answers, "token_entropy": token_entropy}
    found: dict[str, Tensor] = {}
    for name, (source, reduction) in READINGS.items():
        signals = group_signals(
            batch, **{**options, "logp_reduction": reduction}, confidence_from=source, num_runs=len(batch.rewards)
        )
        found[name] = torch.as_tensor(signals.confidence)
    likelihood = 1.0 + (batch.logps * batch.mask).sum((1, 2)) / tokens / size
    return found | {LIKELIHOOD: likelihood.clamp(0.0, 1.0).to(found["tokens"])}


def spread(trainer: Trainer, metrics: Mapping[str, Any]) -> None:
    """The reward of a problem's answers after the last step: "reward", its mean; "sd"; "risk"; and "right".

    - sd: root of the variance within a problem, mean over problems.
    - risk: that variance as a share of the most that the means allow with rewards in [0, 1], sum m (1 - m). It is 1 where
      every answer gets all or nothing, and does not fall merely because the policy is better.
    - right: share of answers with the full reward, 1.
    """
    if metrics["step"] != trainer.config.steps:
        return
    *_, rewards = draw(trainer, SPREAD_SAMPLES)
    append(trainer, metrics["step"], "last", spread_of(rewards))


def spread_of(rewards: Tensor) -> dict[str, float]:
    """What `spread` says of rewards [problems, samples].

    >>> spread_of(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]]))["risk"]
    0.5
    """
    variance, mean = rewards.double().var(-1, correction=0), rewards.double().mean(-1)
    most = (mean * (1 - mean)).sum()
    return {
        "reward": mean.mean().item(),
        "sd": variance.mean().sqrt().item(),
        "risk": (variance.sum() / most).item() if most > 0 else 0.0,
        "right": (rewards >= 1).double().mean().item(),
    }


def draw(
    trainer: Trainer, samples: int, most: int = PROBLEMS
) -> tuple[list[list[int]], list[list[int]], list[str], Tensor]:
    """Sample so many completions of each of the first `most` held-out problems: prompts, completions, texts, and rewards.

    Returns:
        prompts, completions and texts, one a completion; rewards [problems, samples], by the run's reward.
    """
    if trainer.accelerator.num_processes > 1:
        raise UserError("a probe runs on one process; start one, or leave --callback out.")
    problems = range(min(most or PROBLEMS, len(trainer.held_out)))
    keys = [(PROBE_BATCH, i, k) for i in problems for k in range(samples)]
    prompts = [list(trainer.held_out_prompts[i]) for _, i, _ in keys]
    with trainer.sampling():
        completions = trainer.engine.sample(prompts, keys).completions
    texts = answer_texts(trainer.engine, prompts, completions)
    rows = [trainer.held_out[i] for i in problems for _ in range(samples)]
    rewards, _ = trainer.rewarder([row["prompt"] for row in rows], texts, rows)
    trainer.rewarder.take_counts()  # what befell these answers is none of the next step's
    return prompts, completions, texts, torch.tensor(rewards, dtype=torch.float64).view(len(problems), samples)


def append(trainer: Trainer, step: int, stage: str, numbers: Mapping[str, float]) -> None:
    """A line of probes.jsonl."""
    with open(trainer.run.path / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "stage": stage, **numbers}) + "\n")
