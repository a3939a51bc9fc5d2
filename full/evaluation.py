"""Held-out accuracy: greedy, sampled pass@1, unbiased pass@k and majority vote maj@k, each with its uncertainty.

The problems are what varies: standard errors are those of a mean over problems, and the intervals come from a bootstrap
that draws problems anew. Neither knows of the training seed; full/compare.py looks at that.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset

from full.engines.base import Engine, answer_texts
from full.rewards.answers import final_answer
from full.rewards.pool import Verifier
from full.rewards.rewards import accuracies, right_answers

# Evaluation draws from a batch that training never reaches. It is the same at every evaluation, so that two of them
# differ by the policy and not by the luck of the draw.
EVALUATION_BATCH = 2**63


RESAMPLES = 2000


@dataclass(frozen=True)
class ProblemResult:
    """What one problem's completions came to.

    index: the problem's place.
    greedy: accuracy of the greedy completion.
    right: accuracy of each sampled one.
    votes: the answer of each sampled one as the number of its class of equal answers; None without an answer.
    truncated: how many sampled ones did not come to an end.
    """

    index: int
    greedy: float
    right: list[float]
    votes: list[int | None]
    truncated: int


def evaluate(
    sampler: Engine,
    problems: Dataset,
    prompts: Sequence[Sequence[int]],
    samples: int,
    verifier: Verifier,
    accelerator: Accelerator,
    *,
    ks: Sequence[int] | None = None,
    gym: Verifier | None = None,
) -> dict[str, Any]:
    """Accuracy on held-out problems, greedy and over `samples` sampled completions each.

    Args:
        samples: completions per problem, beside the greedy one.
        ks: for which k pass@k and maj@k are given; default: `samples`.
        gym: judges problems that have a scorer of their own (`full.rewards.rewards.right_answers`); None: there are none.

    Returns:
        `summarize_results` of all problems.
    """
    results = problem_results(sampler, problems, prompts, samples, verifier, accelerator, gym=gym)
    return summarize_results(results, ks or [samples])


def problem_results(
    sampler: Engine,
    problems: Dataset,
    prompts: Sequence[Sequence[int]],
    samples: int,
    verifier: Verifier,
    accelerator: Accelerator,
    *,
    gym: Verifier | None = None,
) -> list[ProblemResult]:
    """Sample and score all problems over all processes; every process gets the results of all, in order."""
    mine = list(range(accelerator.process_index, len(problems), accelerator.num_processes))
    rows = [problems[i] for i in mine]
    # A problem's greedy completion and its samples are neighbours in one call: the engine reads the prompt once for all of
    # them, and its batches are full. With fewer problems than processes, some have nothing to do.
    keys = [(EVALUATION_BATCH, i, k) for i in mine for k in (0, *range(samples))]  # a greedy completion draws nothing
    greedy = [True, *[False] * samples] * len(mine)
    asked = [prompts[i] for _, i, _ in keys]
    completions = sampler.sample(asked, keys, greedy=greedy).completions if mine else []
    texts = answer_texts(sampler, asked, completions)
    scores = right_answers(texts, [row for row in rows for _ in range(1 + samples)], verifier, gym)
    likeliest, right = _first_and_others(scores, samples)
    _, boxes = _first_and_others([final_answer(text) or None for text in texts], samples)
    _, ended = _first_and_others([sampler.ended(ids) for ids in completions], samples)
    votes = answer_classes(boxes, right, verifier)
    local = list(map(ProblemResult, mine, likeliest, right, votes, [group.count(False) for group in ended]))
    return sorted(gather_object(local), key=lambda result: result.index)


def summarize_results(results: Sequence[ProblemResult], ks: Sequence[int]) -> dict[str, Any]:
    """The means over problems, with their standard errors and 95 % intervals.

    Returns:
        "pass@1", the mean accuracy of a sampled completion; "greedy"; for every k > 1 in `ks` "pass@k" and "maj@k". Each
        has "..._se", its standard error over problems, and "..._ci", the ends of its interval (`mean_intervals`). Then
        "n", the number of problems, and "k", of samples; "truncated_fraction" and "unanswered_fraction" of the samples,
        those that did not end and those without a boxed answer, both of which count as wrong.
    """
    samples = len(results[0].right)
    columns = {"pass@1": [statistics.fmean(r.right) for r in results], "greedy": [r.greedy for r in results]}
    for k in sorted(set(ks) - {1}):
        columns[f"pass@{k}"] = [pass_at_k(samples, round(sum(r.right)), k) for r in results]
        columns[f"maj@{k}"] = [majority_at_k(r.votes, r.right, k) for r in results]
    intervals = mean_intervals(np.array(list(columns.values())).T)
    summary: dict[str, Any] = {}
    for (name, values), interval in zip(columns.items(), intervals, strict=True):
        summary |= {name: statistics.fmean(values), f"{name}_se": standard_error(values), f"{name}_ci": interval}
    completions = len(results) * samples
    return summary | {
        "n": len(results),
        "k": samples,
        "truncated_fraction": sum(r.truncated for r in results) / completions,
        "unanswered_fraction": sum(r.votes.count(None) for r in results) / completions,
    }


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that at least one of k completions is right, without bias, from `samples` of which so many are right.

        pass@k = 1 - C(samples - right, k) / C(samples, k)

    That is the mean over all subsets of k samples. The integers are exact, so nothing overflows.

    Raises:
        ValueError: unless 1 <= k <= samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k} with {samples} samples; expected 1 <= k <= samples. Draw more samples.")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def majority_at_k(votes: Sequence[int | None], right: Sequence[float], k: int) -> float:
    """Chance that the commonest answer of k completions is right: the exact mean over all subsets of k samples.

    Samples without an answer (None) do not vote; a subset without any vote is wrong. Tied answers share: with t answers
    tied at the top, a right one among them counts 1/t, as if the winner were drawn by lot.

    Args:
        votes: the class of each sample's answer.
        right: 1 or 0 for each sample, equal within a class.
    """
    if not 1 <= k <= len(votes):
        raise ValueError(f"k is {k} with {len(votes)} samples; expected 1 <= k <= samples. Draw more samples.")
    counts = Counter(vote for vote in votes if vote is not None)
    winners = {vote for vote, score in zip(votes, right, strict=True) if vote is not None and score}
    won = Fraction(0)
    for winner in winners:
        others = [count for vote, count in counts.items() if vote != winner]
        fewest = max(1, k - (len(votes) - counts[winner]))  # all samples but the winner's cannot fill the subset
        for top in range(fewest, min(counts[winner], k) + 1):
            # ways[chosen, tied]: of choosing the rest of the subset such that no other answer has more than `top`
            # votes and `tied` of them have exactly as many. Silent samples come first, in any number.
            ways = {(n, 0): math.comb(votes.count(None), n) for n in range(k - top + 1)}
            for count in others:
                more: Counter[tuple[int, int]] = Counter()
                for (chosen, tied), number in ways.items():
                    for n in range(min(count, top, k - top - chosen) + 1):
                        more[chosen + n, tied + (n == top)] += number * math.comb(count, n)
                ways = more
            lots = sum(Fraction(number, tied + 1) for (chosen, tied), number in ways.items() if chosen == k - top)
            won += math.comb(counts[winner], top) * lots
    return float(won / math.comb(len(votes), k))


def answer_classes(
    answers: Sequence[Sequence[str | None]], right: Sequence[Sequence[float]], verifier: Verifier
) -> list[list[int | None]]:
    r"""Number the answers of each problem so that equal ones have the same number; a missing one stays None.

    Right answers all equal the gold answer, hence each other. Wrong ones are compared by the verifier, so that
    \frac{1}{4} and 0.25 vote together whether or not they are right. They matter only where a right answer can lose.
    """
    wrong = [
        list(dict.fromkeys(a for a, score in zip(row, scores, strict=True) if a is not None and not score))
        if any(scores)
        else []
        for row, scores in zip(answers, right, strict=True)
    ]
    pairs = list(dict.fromkeys(pair for row in wrong for pair in combinations(row, 2)))
    verdicts = accuracies([f"\\boxed{{{b}}}" for _, b in pairs], [f"\\boxed{{{a}}}" for a, _ in pairs], verifier)
    equal = {pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict}
    numbered = []
    for row, scores, distinct in zip(answers, right, wrong, strict=True):
        leader: dict[str | None, str] = {}
        for b in distinct:
            leader[b] = next((leader[a] for a in leader if (a, b) in equal), b)
        named = [a if a is None or not score else "" for a, score in zip(row, scores, strict=True)]  # no answer is ""
        numbers: dict[str | None, int | None] = {None: None}
        for a in named:
            numbers.setdefault(leader.get(a, a), len(numbers) - 1)
        numbered.append([numbers[leader.get(a, a)] for a in named])
    return numbered


def mean_intervals(values: np.ndarray, *, seed: int = 0) -> list[list[float]]:
    """95 % percentile bootstrap intervals of the means of the columns of [problems, columns], drawing problems anew.

    The draw is the same for all columns and all calls, so equal results get equal intervals. Where all problems agree the
    interval has no width; that says nothing about other problems (of n, 3/n may still be otherwise).
    """
    rng, n = np.random.default_rng(seed), len(values)
    means = np.stack([values[rng.integers(n, size=n)].mean(axis=0) for _ in range(RESAMPLES)])
    return np.quantile(means, [0.025, 0.975], axis=0).T.tolist()


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; 0 for a single one."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _first_and_others(values: Sequence[Any], others: int) -> tuple[list[Any], list[list[Any]]]:
    """Of runs of 1 + others values: the first one of each, and the others of each."""
    starts = range(0, len(values), 1 + others)
    return [values[start] for start in starts], [list(values[start + 1 : start + 1 + others]) for start in starts]
