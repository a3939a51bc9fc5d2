"""What a large group prefers: the exponential utility, its certainty equivalent, and where two arms change places."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from apo_edu import GroupBatch, objectives

from ..bandits import Bandit, History, Loop, run_all
from ..estimators import prompt_weights
from ..experiments.risk_attitude import BETA_R, PAIRS
from ..worked_example import BETA_R as BETA_R_OF_EXAMPLE
from ..worked_example import worked_example

PAIR = PAIRS["gamble"]  # arm 0 pays 0.5 for sure, arm 1 pays 1 with probability 0.4


def certainty_equivalents(bandit: Bandit, kappas: Sequence[float] | Tensor) -> Tensor:
    """The sure reward that each arm is worth under the exponential utility, in the unit of the reward.

        CE_kappa = (1/kappa) log E exp(kappa R),    the mean at kappa = 0

    A Gaussian arm is worth mean + kappa sd^2 / 2; one that pays w with probability c, (1/kappa) log(1 + c (e^(kappa w) - 1)).

    Args:
        kappas: finite, 1 / unit of the reward; above 0 seeks risk, below 0 shuns it.

    Returns:
        [kappas, contexts, arms]
    """
    orders = torch.as_tensor(kappas, dtype=torch.float64)[:, None, None]
    values = bandit.values.double()
    noise = torch.as_tensor(bandit.noise, dtype=torch.float64)
    gaussian = values + orders * noise.square() / 2
    if bandit.chance is None:
        return gaussian
    chance = bandit.chance.double()
    power = orders * values / chance.clamp(min=1e-12)
    # log(1 - c + c e^x): log1p keeps digits for small x, the other form does not overflow for large x.
    large = torch.logaddexp(torch.log1p(-chance), chance.log() + power)
    log_mean = torch.where(power.abs() < 1.0, torch.log1p(chance * torch.expm1(power)), large)
    paying = torch.where(orders == 0, values, log_mean / torch.where(orders == 0, 1.0, orders))
    return torch.where(chance < 1, paying, gaussian)


def switching_kappa(pair: Bandit, *, limit: float = 50.0) -> float:
    """The kappa > 0 at which the second of two arms overtakes the first; NaN if it does not below `limit`."""

    def gap(kappa: float) -> float:
        first, second = certainty_equivalents(pair, [kappa])[0, 0, :2].tolist()
        return second - first

    low, high = 0.0, limit
    if gap(low) >= 0 or gap(high) <= 0:
        return math.nan
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) < 0 else (low, middle)
    return (low + high) / 2


def group_push(rewards: Sequence[float], *, alpha: float, beta_r: float, tau_anc: float = 0.5) -> Tensor:
    """[group] the push of the first on-policy update on each completion, minus dL/dlogp: the library's own coefficients."""
    paid = torch.as_tensor(rewards, dtype=torch.float64)[None]
    logps = torch.full_like(paid, -1.0)[..., None]
    batch = GroupBatch(logps=logps, old_logps=logps, mask=torch.ones_like(logps), rewards=paid)
    coef, _, _ = objectives.coefficients(objectives.apo, batch, alpha=alpha, tau_anc=tau_anc, beta_r=beta_r)
    return -coef[0, :, 0]


def worked_example_attitudes(alphas: Sequence[float]) -> dict[float, list[float]]:
    """The worked example as a choice: its middle completion is a sure 1/2, the other two are an even chance of 1.

    Returns:
        {alpha: [kappa, the sure reward that the even chance is worth, three pushes as shares of the largest]}
    """
    values, chance = torch.tensor([[[0.5, 0.5]], [[1.0, 0.5]]], dtype=torch.float64)
    kappas = [alpha / BETA_R_OF_EXAMPLE for alpha in alphas]
    worth = certainty_equivalents(Bandit(values=values, chance=chance), kappas)[:, 0, 1].tolist()
    found = {}
    for alpha, kappa, sure in zip(alphas, kappas, worth, strict=True):
        push = -worked_example(alpha).coefficients
        found[alpha] = [kappa, sure, *(push / push.abs().max()).tolist()]
    return found


def learned(
    kappas: Sequence[float], *, group: int = 64, seeds: int = 20, lr: float = 0.2, num_steps: int = 400
) -> dict[float, History]:
    """Runs of `PAIR` from even odds at each kappa, alpha = kappa * 0.3: {kappa: History}."""
    loop = {"closed_form": True, "group": group, "beta_r": BETA_R, "lr": lr, "num_steps": num_steps}
    loops = {kappa: Loop(alpha=kappa * BETA_R, **loop) for kappa in map(float, kappas)}  # type: ignore[arg-type]
    return run_all(PAIR, loops, seeds=seeds, snapshots=60)


def curriculum_ratio(alphas: Sequence[float], *, group: int = 8, beta_r: float = BETA_R) -> list[float]:
    """w_1 / w_(P-1): how much more a prompt solved once in P counts than one missed once, at each alpha; from the objective."""
    weights = prompt_weights(group, alphas=tuple(alphas), beta_r=beta_r)
    return [float(weights[f"apo {alpha:g}"][1] / weights[f"apo {alpha:g}"][group - 1]) for alpha in alphas]
