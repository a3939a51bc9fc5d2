"""Lesson 08, From bandit to language model: the standard error of a run's reward, and how many completions were cut."""

import math
import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. The standard error of a step's reward.


def _standard_error(rewards):
    """Standard error of the mean reward over prompts: [prompts, group] to a float."""
    means = rewards.mean(-1)
    return float(means.std() / len(means) ** 0.5)


def _se_by_statistics(rewards: Tensor) -> float:
    means = [statistics.fmean(row) for row in rewards.tolist()]
    return statistics.stdev(means) / math.sqrt(len(means))


def _se_in_numpy(rewards: Tensor) -> Any:
    means = rewards.numpy().mean(axis=1)
    return np.sqrt(np.var(means, ddof=1) / means.size)


def solved(*shapes: tuple[int, int]) -> Any:
    """Cases (rewards,): 0 or 1, where every prompt has a success rate of its own."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        made = []
        for prompts, group in shapes:
            rate = torch.rand(prompts, 1, generator=generator, dtype=torch.float64)
            made.append(((torch.rand(prompts, group, generator=generator, dtype=torch.float64) < rate).double(),))
        return made

    return cases


def scored(*shapes: tuple[int, int]) -> Any:
    """Cases (rewards,): scores scattered about each prompt's own level."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        def scores(prompts: int, group: int) -> Tensor:
            level = torch.rand(prompts, 1, generator=generator, dtype=torch.float64)
            return level + 0.3 * torch.randn(prompts, group, generator=generator, dtype=torch.float64)

        return [(scores(*shape),) for shape in shapes]

    return cases


def _scatter(values: Tensor, dim: int) -> Tensor:
    """The unbiased standard deviation, NaN for one value, and torch does not warn of it."""
    squares = (values - values.mean(dim, keepdim=True)).square().sum(dim)
    return (squares / (values.shape[dim] - 1)).sqrt()


def _se(compute: Any) -> Any:
    return lambda rewards: float(compute(rewards, rewards.mean(-1)))


standard_error = WriteIt(
    name="standard_error",
    title="The plus-minus of a step",
    minutes=6,
    difficulty=1,
    text=r"""
A step samples $M$ prompts with a group of completions each. Some prompts are hard, some easy, so the completions of
one prompt are no independent trials: the prompts are. With $m_j$ the mean reward of prompt $j$ and $s$ the standard
deviation of $m_1, \dots, m_M$ (the unbiased one, over $M - 1$), the standard error of the mean reward is $s/\sqrt M$.
Write `standard_error(rewards)` for rewards `[prompts, group]`; it returns a float.
""",
    hint=r"""
First the mean of each prompt, over the last dimension; then forget the completions. `Tensor.std()` divides by $M - 1$ unless
told otherwise.
""",
    after="This is `reward_se` of a run. In the first step above it is 0.036; as many independent completions would "
    "claim 0.029.",
    solution=_standard_error,
    also_right=(_se_by_statistics, _se_in_numpy),
    checks=(
        check(
            "values",
            "rewards of 0 and 1",
            solved((32, 8), (24, 4)),
            rtol=1e-9,
            hint="Three prompts of two completions, (1, 1), (1, 0), (0, 0): the means are 1, 1/2, 0 with s = 1/2, so it is "
            "0.289.",
        ),
        check("graded", "graded rewards", scored((16, 6), (5, 3)), rtol=1e-9),
        check("single", "one completion a prompt", scored((20, 1)), rtol=1e-9),
    ),
    mistakes=(
        Mistake(
            "over completions",
            "every completion counts as a trial of its own here. Those of one prompt share its difficulty: take the "
            "prompts' means first.",
            _se(lambda rewards, means: rewards.std() / rewards.numel() ** 0.5),
        ),
        Mistake(
            "over completions, biased",
            "every completion counts as a trial of its own here, and the standard deviation divides by their number. Take the "
            "prompts' means first, and M - 1.",
            _se(lambda rewards, means: rewards.std(correction=0) / rewards.numel() ** 0.5),
        ),
        Mistake(
            "biased",
            "the standard deviation divides by M; from a sample it is M - 1.",
            _se(lambda rewards, means: means.std(correction=0) / len(means) ** 0.5),
        ),
        Mistake(
            "not divided",
            "this is how far the prompts scatter; their mean is known better, by the root of M.",
            _se(lambda rewards, means: means.std()),
        ),
        Mistake(
            "divided by M",
            "this divides by M; the error of a mean falls with the root of M.",
            _se(lambda rewards, means: means.std() / len(means)),
        ),
        Mistake(
            "root of all completions",
            "the prompts' means are divided by the root of the number of completions; there are only M means.",
            _se(lambda rewards, means: means.std() / rewards.numel() ** 0.5),
        ),
        Mistake(
            "scatter of completions",
            "this is the scatter of single completions over the root of M; the means of the prompts scatter less.",
            _se(lambda rewards, means: rewards.std() / len(means) ** 0.5),
        ),
        Mistake(
            "completions, undivided",
            "this is the scatter of single completions: neither the prompts' means nor the root of M are in it.",
            _se(lambda rewards, means: rewards.std()),
        ),
        Mistake(
            "root of the group",
            "the scatter of the prompts' means is divided by the root of the group's size; there are M means, one a prompt.",
            _se(lambda rewards, means: means.std() / rewards.shape[1] ** 0.5),
        ),
        Mistake(
            "within prompts",
            "this is the scatter within a prompt, averaged. It says how well one prompt is known, and nothing of which "
            "prompts were drawn.",
            _se(lambda rewards, means: (_scatter(rewards, -1) / rewards.shape[-1] ** 0.5).mean()),
        ),
        Mistake(
            "sums",
            "the rewards of a prompt are added up here; the standard error of the mean needs their means.",
            _se(lambda rewards, means: rewards.sum(-1).std() / len(means) ** 0.5),
        ),
        Mistake(
            "squared",
            "this is the square of the standard error: a root is missing.",
            _se(lambda rewards, means: means.var() / len(means)),
        ),
        Mistake(
            "over the other axis",
            "the means are taken over the prompts, one for each place in the group; take one a prompt.",
            _se(lambda rewards, means: _scatter(rewards.mean(0), 0) / rewards.shape[-1] ** 0.5),
        ),
        Mistake(
            "an interval",
            "this is the half width of a 95 % interval, 1.96 standard errors; one is asked for.",
            _se(lambda rewards, means: 1.96 * means.std() / len(means) ** 0.5),
        ),
        Mistake(
            "the first completion",
            "this reads one completion a prompt and leaves out the others.",
            _se(lambda rewards, means: rewards[:, 0].std() / len(rewards) ** 0.5),
        ),
        Mistake(
            "of a coin",
            "this is the standard error of independent coins, from the mean alone. It knows nothing of prompts, and is for "
            "rewards of 0 and 1 only.",
            _se(lambda rewards, means: (rewards.mean() * (1 - rewards.mean()) / rewards.numel()).abs().sqrt()),
        ),
        Mistake(
            "M - 1 twice",
            "M - 1 is divided by twice: once in the standard deviation, and again under the root, where M stands.",
            _se(lambda rewards, means: means.std() / (len(means) - 1) ** 0.5),
        ),
    ),
)

# 2. How many completions were cut.


def _truncated_fraction(tokens, mask, end):
    """Share of the completions that were cut off before their end token.

    tokens: [n, width] integers, padded behind a completion's end.  mask: bool [n, width].  end: an int.  Returns a float.
    """
    last = tokens.gather(-1, mask.sum(-1, keepdim=True) - 1)
    return float((last != end).double().mean())


def _cut_by_search(tokens: Tensor, mask: Tensor, end: int) -> float:
    """Sampling stops at the end token, so a completion that has it anywhere has come to its end."""
    return 1.0 - float(((tokens == end) & mask).any(-1).double().mean())


def _cut_by_loop(tokens: Tensor, mask: Tensor, end: int) -> float:
    cut = 0
    for row, there in zip(tokens.tolist(), mask.tolist(), strict=True):
        own = [token for token, on in zip(row, there, strict=True) if on]
        cut += own[-1] != end
    return cut / len(tokens)


END = 2


def sampled(*settings: tuple[int, int, int], some_are_cut: bool = True) -> Any:
    """Cases (tokens, mask, end), for (limit, width, filling): at the limit every second completion has just ended."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        made = []
        for limit, width, filling in settings:
            lengths = torch.randint(2, limit, (21,), generator=generator)
            places = torch.randperm(21, generator=generator)
            lengths[places[:10]], lengths[places[10:13]] = limit, 1  # some are nothing but the end token
            at_limit = (lengths == limit).nonzero().flatten()
            cut = torch.zeros(21, dtype=torch.bool)
            cut[at_limit[: 5 + int(torch.randint(3, (), generator=generator))]] = some_are_cut
            mask = torch.arange(width) < lengths[:, None]
            tokens = torch.where(mask, torch.randint(3, 14, (21, width), generator=generator), filling)
            ended = (~cut).nonzero().flatten()
            tokens[ended, lengths[ended] - 1] = END
            made.append((tokens, mask, END))
        return made

    return cases


def _share(compute: Any) -> Any:
    """From (tokens, lengths, mask, which completions were cut) to a float."""

    def answer(tokens: Tensor, mask: Tensor, end: int) -> float:
        lengths = mask.sum(-1)
        cut = tokens[torch.arange(len(tokens)), lengths - 1] != end
        return float(torch.as_tensor(compute(tokens, lengths, mask, cut)).double().mean())

    return answer


truncated_fraction = WriteIt(
    name="truncated_fraction",
    title="How many were cut",
    minutes=7,
    difficulty=2,
    text=r"""
A completion stops at its end token or at the length limit, whichever comes first. One that stops at the limit *without*
an end token was cut; one whose end token is the last allowed was not. The rows of a batch are padded behind their
completions to a common width, which may be wider than the limit, and padded with any token, the end token too; `mask` is
true on a completion's own tokens, its end token among them. Write `truncated_fraction(tokens, mask, end)`: the share of the
completions that were cut.
""",
    hint=r"""
Which token is a completion's last one? The lengths are the row sums of the mask. No completion is empty.
""",
    after="The dashed curve in the last of the six panels above. Where it grows, look at samples before anything else.",
    solution=_truncated_fraction,
    also_right=(_cut_by_search, _cut_by_loop),
    checks=(
        check(
            "values",
            "rows padded with 0",
            sampled((6, 8, 0), (8, 8, 0)),
            rtol=1e-9,
            hint="With end = 2 and at most three tokens, (5, 7, 2), (5, 2, 0) and (5, 7, 9): only the last one was cut, so it "
            "is 1/3.",
        ),
        check("filled", "rows padded with the end token", sampled((6, 8, END), (8, 8, END)), rtol=1e-9),
        check("none", "all have ended", sampled((6, 8, 0), (8, 8, END), some_are_cut=False), floor=1e-12),
    ),
    mistakes=(
        Mistake(
            "full width",
            "this counts the completions that fill the whole width. The width may be more than the limit, and one that fills "
            "it may have ended there.",
            _share(lambda tokens, lengths, mask, cut: mask.all(-1)),
        ),
        Mistake(
            "the longest",
            "this counts the longest completions; those that ended with the last token allowed are among them.",
            _share(lambda tokens, lengths, mask, cut: lengths == lengths.max()),
        ),
        Mistake(
            "filling read",
            "the padding is searched for the end token too: multiply by the mask, or look at each completion's own last token.",
            _share(lambda tokens, lengths, mask, cut: ~(tokens == END).any(-1)),
        ),
        Mistake(
            "the last column",
            "this looks at the last column, which is padding for most completions; a completion's last token is where its mask "
            "ends.",
            _share(lambda tokens, lengths, mask, cut: tokens[:, -1] != END),
        ),
        Mistake(
            "those that ended",
            "this is the share of completions that came to their end; the others are asked for.",
            _share(lambda tokens, lengths, mask, cut: ~cut),
        ),
        Mistake(
            "share of tokens",
            "this is the share of the *tokens* that cut completions have; they are long, so it is too much.",
            _share(lambda tokens, lengths, mask, cut: (lengths * cut).sum() / lengths.sum()),
        ),
        Mistake(
            "a number",
            "this is how many were cut; divide by the number of completions.",
            _share(lambda tokens, lengths, mask, cut: cut.sum()),
        ),
        Mistake(
            "one too early",
            "this looks at the last token but one: the last of n tokens is at n - 1.",
            _share(lambda tokens, lengths, mask, cut: tokens[torch.arange(len(tokens)), lengths - 2] != END),
        ),
        Mistake(
            "the first token",
            "this looks at the first token; a completion ends at its last one.",
            _share(lambda tokens, lengths, mask, cut: tokens[:, 0] != END),
        ),
        Mistake(
            "tokens that are no end",
            "this is the share of all tokens that are not the end token; one verdict a completion is asked for.",
            _share(lambda tokens, lengths, mask, cut: (tokens != END)[mask]),
        ),
        Mistake(
            "tokens and filling",
            "this averages over all places, padding included; one verdict a completion is asked for.",
            _share(lambda tokens, lengths, mask, cut: tokens != END),
        ),
        Mistake(
            "places in use",
            "this is the share of places that hold a token, a matter of lengths; whether a completion ended is asked for.",
            _share(lambda tokens, lengths, mask, cut: mask),
        ),
        Mistake(
            "among the longest",
            "this divides by the number of completions that reach the limit; all of them count.",
            _share(lambda tokens, lengths, mask, cut: cut.sum() / (lengths == lengths.max()).sum()),
        ),
    ),
)

exercises = (standard_error, truncated_fraction)
