"""Experiment 8 (bandit): which entropy is confidence? Five readings against the true success rate of contexts."""

import math
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from apo_edu import GroupBatch, GuardedAlpha, group_signals, normalized_entropy
from apo_edu.statistics import rank_correlation

from .. import plotting
from ..bandits import Bandit, Loop, run_all
from .experiment import Experiment, Key, Verdict
from .sweeps import final_reward
from .table import Table

CONTEXTS, ARMS, GROUP = 48, 16, 8
STAGES = ("first", "quarter", "last")
SOURCES = ("tokens", "answers", "candidates", "target")
READINGS = (*SOURCES, "likelihood")
LOOP = Loop(closed_form=True, lr=16.0, num_steps=120, schedule=GuardedAlpha)
ALPHA_MAX, ALPHA_MIN, REACH = 0.9, 0.35, 0.05


def task(seed: int) -> tuple[Bandit, Tensor]:
    """Contexts with one right arm of 16, reward 0 or 1, and a policy that knows some of them and is sure of wrong ones too."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.randint(ARMS, (CONTEXTS, 1), generator=generator)
    knows = 1.0 + 1.5 * torch.randn(CONTEXTS, 1, generator=generator, dtype=torch.float64)
    logits = torch.randn(CONTEXTS, ARMS, generator=generator, dtype=torch.float64)
    values = torch.zeros(CONTEXTS, ARMS, dtype=torch.float64).scatter(1, right, 1.0)
    return Bandit(values=values), logits.scatter_add(1, right, knows)


def readings(policy: Tensor, values: Tensor, seed: int) -> dict[str, Tensor]:
    """Reading -> [contexts], from one group a context.

    Args:
        policy, values: [contexts, arms].
    """
    arms = torch.multinomial(policy, GROUP, replacement=True, generator=torch.Generator().manual_seed(seed))
    logps = policy.log().gather(-1, arms)
    batch = GroupBatch(
        logps=logps[..., None],
        old_logps=logps[..., None],
        mask=torch.ones_like(logps)[..., None],
        rewards=values.gather(-1, arms),
    )
    known: dict[str, Any] = {
        "token_entropy": normalized_entropy(policy.log()),
        "answers": arms,
        "num_runs": len(policy),
    }
    found = {
        name: torch.as_tensor(group_signals(batch, tau_anc=0.5, beta_r=0.3, confidence_from=name, **known).confidence)
        for name in SOURCES
    }
    return found | {"likelihood": (1 + logps.mean(-1) / math.log(ARMS)).clamp(0, 1)}


def run(seeds: list[int], quick: bool) -> Table:
    """Every seed has contexts and a first policy of its own."""
    loops = {name: replace(LOOP, confidence_from=name) for name in (("tokens",) if quick else SOURCES)}
    numbers: dict[tuple[str, str, str], list[float]] = {}
    for seed in seeds:
        bandit, logits = task(seed)
        histories = run_all(bandit, loops, seeds=[seed], initial_logits=logits, snapshots=5)
        probs = histories["tokens"].probs[:, 0]
        for stage, policy in zip(STAGES, (probs[0], probs[1], probs[-1]), strict=True):
            success = (policy * bandit.values).sum(-1)
            numbers.setdefault((stage, "tokens", "success"), []).append(float(success.mean()))
            for name, values in readings(policy, bandit.values, seed).items():
                rank = float(rank_correlation(values, success, resamples=10).estimate) if values.std() > 0 else 0.0
                numbers.setdefault((stage, name, "rank"), []).append(rank)
                numbers.setdefault((stage, name, "mean confidence"), []).append(float(values.mean()))
        for name, history in histories.items():
            reward = float(final_reward(history))
            lead = reward - float(final_reward(histories["tokens"]))
            found = {"alpha, mean": float(history.alpha.mean()), "alpha, lowest": float(history.alpha.amin())}
            for metric, value in (found | {"expected reward": reward, "expected reward minus tokens": lead}).items():
                numbers.setdefault(("guarded by it", name, metric), []).append(value)
    table = Table()
    for (part, name, metric), by_seed in numbers.items():
        if (name, metric) != ("tokens", "expected reward minus tokens"):
            table.add(part, name, metric, by_seed)
    return table


def qualifies(table: Table, reading: str) -> bool:
    """The rule of the language model's part: ranks at every stage, and alpha can move."""
    ranks = all(table.one(part=stage, rule=reading, metric="rank").low > 0 for stage in STAGES)
    mean = table.one(part="last", rule=reading, metric="mean confidence").mean
    return ranks and (ALPHA_MAX - ALPHA_MIN) * mean >= REACH


def judge(table: Table) -> Verdict:
    said = []
    for name in READINGS:
        first, last = (table.one(part=stage, rule=name, metric="rank") for stage in ("first", "last"))
        means = (table.one(part=stage, rule=name, metric="mean confidence").mean for stage in ("first", "last"))
        words = f"{name}: rank {first.interval} and {last.interval}, c {' to '.join(f'{mean:.2f}' for mean in means)}"
        lowest = table.where(part="guarded by it", rule=name, metric="alpha, lowest")
        said.append(words + (f", lowest alpha {lowest[0].mean:.2f}" if lowest else ""))
    gaps = table.where(metric="expected reward minus tokens")
    if gaps:
        widest = max(gaps, key=lambda row: abs(row.mean))
        said.append(f"outcome minus that by tokens: none further than {widest.interval} ({widest.rule})")
    fit = [name for name in READINGS if qualifies(table, name)]
    answer = "holds" if "candidates" in fit else "does not hold"
    fine = f"Qualified: {', '.join(fit) or 'none'}. Rank correlation with the success rate at the start and at the end, and "
    return Verdict(answer, "strong", f"{fine}mean confidence: {'; '.join(said)}.")


def draw(table: Table) -> tuple[Figure, str]:
    made, axes = plotting.figure(1, 3, size=(13.0, 3.9))
    for ax, stage, title in ((axes[0], "first", "At the start"), (axes[1], "last", "At the end")):
        plotting.differences(ax, {name: table.one(part=stage, rule=name, metric="rank") for name in READINGS})
        ax.set(xlabel="rank correlation with the success rate", title=title, xlim=(-1, 1.05))
    lows = {row.rule: row for row in table.where(part="guarded by it", metric="alpha, lowest")}
    plotting.differences(axes[2], lows)
    axes[2].axvline(ALPHA_MAX, color="#777777", linestyle=":")
    axes[2].set(xlabel="lowest alpha of a run", title="The guard by each reading", xlim=(0.3, 0.95))
    return (
        made,
        "Readings of one group of 8 a context; the success rate is exact. A guard by 'candidates' hardly moves.",
    )


EXPERIMENT = Experiment(
    number=8,
    name="confidence_bandit",
    title="which entropy is confidence? Five readings on a bandit",
    question="Which reading of confidence ranks contexts as their true success rates do, has a range, and moves alpha?",
    paper="Confidence is one minus the normalised entropy of the candidate set; which distribution that is stays open.",
    theory="'tokens' is exact here, the entropy of the arms; 'answers' is the same entropy off one group; 'candidates' is flat "
    "wherever the sampled arms are about equally likely, and as flat where they all are the same arm: it cannot tell a policy "
    "that is sure from one that knows nothing; 'target' reads the rewards.",
    settings="48 contexts, one right arm of 16, reward 0 or 1; a first policy that knows some contexts and is sure of a wrong "
    "arm in others; 120 steps, groups of 8, the guard with each reading.",
    controls="The success rate is exact; all readings are of the same policies and samples.",
    rule="As on the language model: a reading qualifies if its rank correlation is above 0, beyond the interval, at the start, "
    "at a quarter and at the end, and alpha can move by 0.05. The paper's candidate set as read off log-probabilities holds if "
    "'candidates' qualifies, and does not otherwise. This part decides no default.",
    run=run,
    judge=judge,
    draw=draw,
    key=Key(lambda table: table.one(part="first", rule="tokens", metric="rank").mean, 0.458, 0.14),
)
