"""Held-out accuracy: greedy, and sampled pass@1 with its standard error."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset

from full.rewards import accuracies
from full.rollouts import Sampler
from full.verifier import Verifier

# Evaluation draws from a batch that training never reaches. It is the same at every evaluation, so that two of them
# differ by the policy and not by the luck of the draw.
EVALUATION_BATCH = 2**63


def evaluate(
    sampler: Sampler,
    problems: Dataset,
    prompts: Sequence[Sequence[int]],
    samples: int,
    verifier: Verifier,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Accuracy on held-out problems, greedy and over `samples` sampled completions each.

    Returns:
        "pass@1", the mean accuracy of a sampled completion, with "pass@1_se", its standard error over problems;
        "greedy" with "greedy_se"; "n", the number of problems, and "k", of samples.
    """
    mine = list(range(accelerator.process_index, len(problems), accelerator.num_processes))
    answers = [problems[i]["answer"] for i in mine]
    greedy = _scores(sampler, prompts, mine, answers, [(0, 0, 0)] * len(mine), True, verifier)
    sampled = [
        _scores(sampler, prompts, mine, answers, [(EVALUATION_BATCH, i, k) for i in mine], False, verifier)
        for k in range(samples)
    ]
    per_problem = [statistics.fmean(values) for values in zip(*sampled, strict=True)]
    gathered = gather_object(list(zip(mine, greedy, per_problem, strict=True)))
    gathered.sort()
    greedy_all, sampled_all = [row[1] for row in gathered], [row[2] for row in gathered]
    return {
        "pass@1": statistics.fmean(sampled_all),
        "pass@1_se": standard_error(sampled_all),
        "greedy": statistics.fmean(greedy_all),
        "greedy_se": standard_error(greedy_all),
        "n": len(gathered),
        "k": samples,
    }


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; 0 for a single one."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _scores(sampler, prompts, rows, answers, keys, greedy, verifier) -> list[float]:
    completions = sampler.sample([prompts[i] for i in rows], keys, greedy=greedy)
    return accuracies(sampler.texts(completions), answers, verifier)
