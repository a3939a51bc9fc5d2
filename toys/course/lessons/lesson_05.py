"""Lesson 05, The guarded schedule: a confidence that counts answers, and a cap on alpha by the reward's variance."""

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. Confidence from answers.


def _answer_confidence(answers):
    """One minus the normalised entropy of a group's answers: 1 if all agree, 0 if all differ.

    answers: [n] integers, equal where two completions give the same answer.  Returns a float.
    """
    _, counts = answers.unique(return_counts=True)
    share = counts / len(answers)
    entropy = -(share * share.log()).sum()
    return float(1 - entropy / math.log(len(answers)))


def _by_counter(answers: Tensor) -> float:
    n = len(answers)
    shares = [count / n for count in Counter(answers.tolist()).values()]
    return 1 + sum(share * math.log(share) for share in shares) / math.log(n)


def _by_completion(answers: Tensor) -> float:
    """The mean over completions of the logarithm of how often their answer was given."""
    same = (answers[:, None] == answers[None, :]).double().mean(-1)
    return float(1 + same.log().mean() / math.log(len(answers)))


def groups(*settings: tuple[int, int]) -> Any:
    """Cases (answers,): n answers among so many possible ones; numbered from 3, so that a number is no count."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(3 + torch.randint(many, (n,), generator=generator),) for n, many in settings]

    return cases


def _shares(answers: Tensor) -> Tensor:
    return answers.unique(return_counts=True)[1].double() / len(answers)


def _entropy(answers: Tensor) -> Tensor:
    share = _shares(answers)
    return -(share * share.log()).sum()


def _of_shares(compute: Any) -> Any:
    return lambda answers: float(compute(_shares(answers), len(answers)))


answer_confidence = WriteIt(
    name="answer_confidence",
    title="Confidence that counts answers",
    minutes=6,
    difficulty=1,
    text=r"""
A group of $n$ completions ends in answers, some of them equal. With $f_a$ the share of the completions that say $a$,

$$c = 1 - \frac{-\sum_a f_a \log f_a}{\log n}.$$

Write `answer_confidence(answers)` for a tensor of integers that are equal where two answers are.
""",
    hint=r"""
`answers.unique(return_counts=True)` gives how often each answer occurs. The divisor is $\log n$ for the size of the
group, since how many answers are possible is not known.
""",
    after="It is 1 where all agree, right or wrong: confidence is no accuracy.",
    solution=_answer_confidence,
    also_right=(_by_counter, _by_completion),
    checks=(
        check(
            "values",
            "groups in which some answers agree",
            groups((8, 3), (8, 4), (16, 5), (6, 2)),
            rtol=1e-6,
            hint="Four completions, answers 7, 7, 5, 5: the entropy is log 2, half of log 4, so c = 1/2.",
        ),
        check(
            "ends",
            "all agree, and all differ",
            lambda generator, numbers: [(torch.full((8,), 4),), (torch.arange(5),)],
            rtol=1e-6,
            floor=1e-6,
        ),
    ),
    mistakes=(
        Mistake(
            "the entropy",
            "this is the normalised entropy, which is doubt; confidence is 1 minus it.",
            lambda answers: float(_entropy(answers) / math.log(len(answers))),
        ),
        Mistake("not normalised", "the entropy is not divided by log n.", lambda answers: float(1 - _entropy(answers))),
        Mistake(
            "by the answers given",
            "the entropy is divided by the logarithm of the number of different answers; then two answers shared evenly "
            "would be no "
            "confidence at all, in any group.",
            lambda answers: float(1 - _entropy(answers) / math.log(max(len(answers.unique()), 1 + 1e-9))),
        ),
        Mistake(
            "divided by n",
            "the entropy is divided by n; its largest value is log n.",
            lambda answers: float(1 - _entropy(answers) / len(answers)),
        ),
        Mistake(
            "the sign",
            "the minus of the entropy is lost: the result exceeds 1.",
            lambda answers: float(1 + _entropy(answers) / math.log(len(answers))),
        ),
        Mistake(
            "in bits",
            "one logarithm has base 2 and the other has not.",
            lambda answers: float(1 - _entropy(answers) / math.log(2) / math.log(len(answers))),
        ),
        Mistake(
            "counts for shares",
            "the counts are taken for shares: divide them by n first.",
            lambda answers: float(
                1 + sum(c * math.log(c) for c in Counter(answers.tolist()).values()) / math.log(len(answers))
            ),
        ),
        Mistake("the majority", "this is the share of the commonest answer.", _of_shares(lambda share, n: share.max())),
        Mistake(
            "the chance to agree",
            "this is the sum of the squared shares, the chance that two completions agree; the formula has their entropy.",
            _of_shares(lambda share, n: share.square().sum()),
        ),
        Mistake(
            "how many differ",
            "this counts the different answers and not how often each is given.",
            _of_shares(lambda share, n: 1 - math.log(len(share)) / math.log(n)),
        ),
        Mistake(
            "the share of repeats",
            "this is one minus the share of different answers; the formula has their entropy.",
            _of_shares(lambda share, n: 1 - len(share) / n),
        ),
        Mistake(
            "answers as numbers",
            "the answers are taken for numbers: only which of them are equal counts.",
            lambda answers: float(
                1 + (answers.double().softmax(-1) * answers.double().log_softmax(-1)).sum() / math.log(len(answers))
            ),
        ),
        Mistake(
            "averaged",
            "the terms of the entropy are averaged over the different answers where the formula adds them up.",
            lambda answers: float(1 - _entropy(answers) / len(answers.unique()) / math.log(len(answers))),
        ),
    ),
)

# 2. A cap by the reward's variance.


def _capped_alpha(answers, rewards, alpha_max, beta_r, delta):
    """alpha_max, or 2 beta_r delta / variance if that is less; the largest variance of the reward within one answer.

    answers: [n] integers.  rewards: [n].  Only answers given at least twice have a variance (unbiased).  Returns a float.
    """
    largest = 0.0
    for answer in answers.unique():
        paid = rewards[answers == answer]
        if len(paid) > 1:
            largest = max(largest, float(paid.var()))
    return min(alpha_max, 2 * beta_r * delta / largest) if largest > 0 else alpha_max


def _by_lists(answers: Tensor, rewards: Tensor, alpha_max: float, beta_r: float, delta: float) -> float:
    paid: dict[int, list[float]] = {}
    for answer, reward in zip(answers.tolist(), rewards.tolist(), strict=True):
        paid.setdefault(answer, []).append(reward)
    alpha = alpha_max
    for given in paid.values():
        n, mean = len(given), sum(given) / len(given)
        squares = sum((reward - mean) ** 2 for reward in given)
        if n > 1 and squares > 0:
            alpha = min(alpha, 2 * beta_r * delta * (n - 1) / squares)
    return alpha


def _by_table(answers: Tensor, rewards: Tensor, alpha_max: float, beta_r: float, delta: float) -> float:
    same = (answers[:, None] == answers[None, :]).double()
    count = same.sum(-1)
    mean = same @ rewards / count
    spread = (same * (rewards[None, :] - mean[:, None]) ** 2).sum(-1) / (count - 1).clamp(min=1)
    return min(alpha_max, float(2 * beta_r * delta / spread.max().clamp(min=1e-300)))


def judged(*spreads: float, n: int = 12, many: int = 3) -> Any:
    """Cases (answers, rewards, alpha_max, beta_r, delta); each answer's rewards scatter by another amount."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        made = []
        for spread in spreads:
            answers = torch.cat(
                [torch.arange(many).repeat_interleave(2), torch.randint(many, (n - 2 * many,), generator=generator)]
            )
            noise = torch.randn(n, generator=generator, dtype=torch.float64) * spread * (0.5 + answers)
            made.append((answers, answers / 2 + noise, 0.9, 0.3, 0.05))
        return made

    return cases


def _variances(answers: Tensor, rewards: Tensor, unbiased: bool = True) -> list[float]:
    found = [rewards[answers == answer] for answer in answers.unique()]
    return [float(paid.var(unbiased=unbiased)) for paid in found if len(paid) > 1]


def _cap_but(
    variance: Any = lambda answers, rewards: max(_variances(answers, rewards), default=0.0),
    allowed: Any = lambda beta_r, delta: 2 * beta_r * delta,
    cap: Any = min,
    none: Any = lambda alpha_max: alpha_max,
) -> Any:
    """One part changed."""

    def compute(answers: Tensor, rewards: Tensor, alpha_max: float, beta_r: float, delta: float) -> float:
        found = variance(answers, rewards)
        return cap(alpha_max, allowed(beta_r, delta) / found) if found > 0 else none(alpha_max)

    return compute


capped_alpha = WriteIt(
    name="capped_alpha",
    title="No more risk than a gain is worth",
    minutes=10,
    difficulty=3,
    text=r"""
The rule that beats a fixed alpha where a judge turns noisy: $\alpha = \min(\alpha_{\max},\ 2\beta_r\delta/\sigma^2)$, with
$\sigma^2$ the largest variance of the reward *within one answer*. Write
`capped_alpha(answers, rewards, alpha_max, beta_r, delta)` for one group. Only answers
that were given at least twice have a variance (the unbiased one); without any, or with a variance of 0, alpha is
$\alpha_{\max}$.
""",
    hint=r"""
Go through `answers.unique()`, select the rewards of each, and keep the largest variance. `Tensor.var()` is unbiased unless told
otherwise.
""",
    after="Its schedule, with a moving average of the variance, is the experiments' variance cap.",
    solution=_capped_alpha,
    also_right=(_by_lists, _by_table),
    checks=(
        check(
            "values",
            "a noisy judge",
            judged(0.5, 0.8, 1.2),
            rtol=1e-9,
            hint="Answer 1 was paid 0 and 1, so its variance is 1/2: with beta_r 0.3 and delta 0.05 alpha is at most 0.06.",
        ),
        check("calm", "an exact judge leaves alpha_max", judged(0.01, 0.0), rtol=1e-9),
        check(
            "once",
            "no answer twice",
            lambda generator, numbers: [
                (torch.arange(6), torch.randn(6, generator=generator, dtype=torch.float64), 0.9, 0.3, 0.05)
            ],
            rtol=1e-9,
            hint="An answer given once says nothing about its variance: alpha stays at alpha_max.",
        ),
    ),
    mistakes=(
        Mistake(
            "of the whole group",
            "this is the variance of all rewards; answers of different worth differ without any risk. Take it within "
            "each answer.",
            _cap_but(variance=lambda answers, rewards: float(rewards.var())),
        ),
        Mistake(
            "biased",
            "the variance divides by n; the unbiased one divides by n - 1.",
            _cap_but(variance=lambda answers, rewards: max(_variances(answers, rewards, False), default=0.0)),
        ),
        Mistake(
            "the mean variance",
            "the variances are averaged over answers; the largest decides.",
            _cap_but(variance=lambda answers, rewards: sum(v := _variances(answers, rewards)) / max(len(v), 1)),
        ),
        Mistake(
            "the smallest variance",
            "this takes the smallest variance; the largest decides.",
            _cap_but(variance=lambda answers, rewards: min(_variances(answers, rewards), default=0.0)),
        ),
        Mistake(
            "the standard deviation",
            "this divides by the standard deviation; the variance is its square.",
            _cap_but(variance=lambda answers, rewards: max(_variances(answers, rewards), default=0.0) ** 0.5),
        ),
        Mistake("2 missing", "the factor 2 is missing.", _cap_but(allowed=lambda beta_r, delta: beta_r * delta)),
        Mistake(
            "divided by beta_r",
            "beta_r stands below; a larger one allows a larger alpha.",
            _cap_but(allowed=lambda beta_r, delta: 2 * delta / beta_r),
        ),
        Mistake("beta_r missing", "beta_r is missing.", _cap_but(allowed=lambda beta_r, delta: 2 * delta)),
        Mistake("delta missing", "delta is missing.", _cap_but(allowed=lambda beta_r, delta: 2 * beta_r)),
        Mistake(
            "not capped",
            "alpha_max is no bound here: take the smaller of the two.",
            _cap_but(cap=lambda alpha_max, allowed: allowed),
        ),
        Mistake("the larger", "the larger of the two is taken; alpha_max is an upper bound.", _cap_but(cap=max)),
        Mistake(
            "0 where nothing is known",
            "where no answer was given twice alpha becomes 0; then it is alpha_max.",
            _cap_but(none=lambda alpha_max: 0.0),
        ),
        Mistake(
            "of the answers",
            "this is the variance of the means of the answers; the risk is within one answer.",
            _cap_but(
                variance=lambda answers, rewards: float(
                    torch.stack([rewards[answers == answer].mean() for answer in answers.unique()]).var()
                )
            ),
        ),
        Mistake(
            "alpha_max always",
            "this leaves alpha_max whatever the rewards do.",
            lambda answers, rewards, alpha_max, beta_r, delta: alpha_max,
        ),
    ),
)

exercises = (answer_confidence, capped_alpha)
