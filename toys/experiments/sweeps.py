"""What the experiments share: rules by name and alpha, runs at each rule's own best learning rate, what is measured."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from apo_edu import objectives
from apo_edu.statistics import own_best

from ..bandits import Bandit, Changing, History, Loop, run_all

Setting = tuple[str, float]  # name of the rule, its alpha (NaN where there is none or it moves)
GRPO: Setting = ("grpo", math.nan)
RATES = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


def fixed(base: Loop, alphas: Iterable[float], *, grpo: bool = True) -> dict[Setting, Loop]:
    """APO with each alpha, and GRPO beside them."""
    rules: dict[Setting, Loop] = {("apo", alpha): replace(base, alpha=alpha, schedule=None) for alpha in alphas}
    return rules | ({GRPO: replace(base, objective=objectives.grpo, schedule=None)} if grpo else {})


def final_reward(history: History) -> Tensor:
    """[runs] the policy's true expected reward at the last step."""
    return history.expected_reward[-1]


def mean_reward(history: History) -> Tensor:
    """[runs] the policy's true expected reward, averaged over the steps."""
    return history.expected_reward.mean(0)


Results = dict[tuple[Setting, float], Tensor]  # (rule, learning rate) -> one value a seed


def over_rates(
    bandit: Bandit | Changing,
    rules: Mapping[Setting, Loop],
    rates: Sequence[float],
    seeds: Sequence[int],
    measure: Callable[[History], Tensor] = final_reward,
    **kwargs: Any,
) -> Results:
    """Every rule at every learning rate, on the same seeds."""
    loops = {(rule, lr): replace(loop, lr=lr) for rule, loop in rules.items() for lr in rates}
    histories = run_all(bandit, loops, seeds=seeds, snapshots=2, **kwargs)
    return {key: measure(history) for key, history in histories.items()}


def best_rates(results: Results) -> dict[Setting, tuple[float, Tensor]]:
    """Each rule at its own best learning rate: {rule: (lr, values)}.

    The rate is chosen on one half of the seeds, and the values are those of the other half, the same for every rule: they can
    be compared in pairs (`apo_edu.statistics.own_best`).
    """
    best: dict[Setting, tuple[float, Tensor]] = {}
    for rule in dict.fromkeys(rule for rule, _ in results):
        (_, lr), values = best_of({key: found for key, found in results.items() if key[0] == rule})
        best[rule] = (lr, values)
    return best


def best_of(results: Results) -> tuple[tuple[Setting, float], Tensor]:
    """The best rule and rate of all, chosen on one half of the seeds: its key, and its values on the other half."""
    chosen = own_best(torch.stack(list(results.values())))
    return list(results)[int(chosen.index)], chosen.scores


def at_best_rates(
    bandit: Bandit | Changing,
    rules: Mapping[Setting, Loop],
    rates: Sequence[float],
    seeds: Sequence[int],
    measure: Callable[[History], Tensor] = final_reward,
    **kwargs: Any,
) -> dict[Setting, tuple[float, Tensor]]:
    """`best_rates` of `over_rates`."""
    return best_rates(over_rates(bandit, rules, rates, seeds, measure, **kwargs))
