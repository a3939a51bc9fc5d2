"""Experiment 1: the fixed alpha against ADPO and GRPO on held-out contexts, and the exact equivalence of alpha and beta_r."""

import math
from dataclasses import replace

import torch
from matplotlib.figure import Figure
from torch import Tensor

from apo_edu import alpha_divergence, objectives

from .. import plotting
from ..bandits import Bandit, Changing, History, Loop, graded, lucky, run_all
from .experiment import Experiment, Key, Verdict
from .table import Table

TRAIN, HELD_OUT, DIM, ARMS = 24, 24, 4, 6
KNOB_SEEDS = 20  # runs of each pair of alpha and beta_r
EQUAL = ((0.9, 0.3), (0.45, 0.15), (0.3, 0.1))  # alpha and beta_r with alpha / beta_r = 3
NONE = math.nan


def problem() -> tuple[Bandit, Tensor, Tensor]:
    """(bandit of the training contexts, features of all contexts, values of all contexts): the right arm is linear in them."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(TRAIN + HELD_OUT, DIM, generator=generator, dtype=torch.float64)
    features = features / features.norm(dim=-1, keepdim=True)
    scores = features @ torch.randn(DIM, ARMS, generator=generator, dtype=torch.float64)
    values = (scores == scores.amax(-1, keepdim=True)).double()
    return Bandit(values=values[:TRAIN]), features, values


def everywhere(history: History, features: Tensor) -> Tensor:
    """[snapshots, runs, contexts, arms] the policy in all contexts, from what it is in those it was trained in.

    logits = features theta, so theta, but for a constant a row, is what least squares finds in the centred log policy.
    """
    log_p = history.probs.log()
    theta = torch.linalg.pinv(features[:TRAIN]) @ (log_p - log_p.mean(-1, keepdim=True))
    return torch.softmax(features @ theta, dim=-1)


def run(seeds: list[int], quick: bool) -> Table:
    table = Table()
    bandit, features, values = problem()
    base = Loop(optimizer="adam", lr=0.05, num_steps=30 if quick else 150)
    loops = {
        ("apo", 0.6): base,
        ("adpo", NONE): replace(base, objective=objectives.adpo),
        ("grpo", NONE): replace(base, objective=objectives.grpo),
    }
    log_q = torch.log_softmax(values / base.beta_r, dim=-1)
    reward = {}
    for key, history in run_all(bandit, loops, seeds=seeds, features=features[:TRAIN], snapshots=11).items():
        policy = everywhere(history, features)
        held_out = (policy * values).sum(-1)[..., TRAIN:].mean(-1)
        loss = alpha_divergence(log_q, policy.clamp(min=1e-300).log(), 0.6)[..., TRAIN:].mean(-1)
        reward[key] = held_out[-1]
        for step, now, divergence in zip(history.probs_steps.tolist(), held_out, loss, strict=True):
            table.add("held-out contexts", key[0], "expected reward", now, alpha=key[1], x=step)
            table.add("held-out contexts", key[0], "D_0.6 to the target (nats)", divergence, alpha=key[1], x=step)
    for other in ("adpo", "grpo"):
        table.add("held-out contexts", "apo", f"minus {other}", reward["apo", 0.6] - reward[other, NONE], alpha=0.6)

    # Steps of unit length: every gradient is cut to a norm far below its own.
    tasks: dict[str, Bandit | Changing] = {"lucky arms": lucky(), "graded, noise": graded(noise=0.5)}
    for name, task in tasks.items():
        unit = Loop(max_grad_norm=1e-9, lr=0.3e9, num_steps=50 if quick else 300)
        pairs = {pair: replace(unit, alpha=pair[0], beta_r=pair[1]) for pair in (*EQUAL, (0.9, 0.15))}
        ends = [history.probs[-1] for history in run_all(task, pairs, seeds=seeds[:KNOB_SEEDS], snapshots=2).values()]
        for (alpha, beta_r), end in zip(list(pairs)[1:], ends[1:], strict=True):
            gap = float((end - ends[0]).abs().max())
            table.add_number(f"one knob, {name}", "apo", "largest difference to (0.9, 0.3)", gap, alpha=alpha, x=beta_r)
    return table


def judge(table: Table) -> Verdict:
    """Loss falls, reward rises; APO 0.6 within 0.02 of ADPO; one knob to 1e-6."""
    rows = table.where(part="held-out contexts", rule="apo", metric="expected reward")
    losses = table.where(part="held-out contexts", rule="apo", metric="D_0.6 to the target (nats)")
    difference = table.one(metric="minus adpo")
    same = max(row.mean for row in table if row.part.startswith("one knob") and abs(row.alpha / row.x - 3) < 1e-6)
    other = min(row.mean for row in table if row.part.startswith("one knob") and abs(row.alpha / row.x - 3) > 1)
    said = (
        f"on held-out contexts reward rises from {rows[0].mean:.3f} to {rows[-1].interval} and the loss falls from "
        f"{losses[0].mean:.3f} to {losses[-1].mean:.3f}; APO minus ADPO {difference.interval}; runs of equal alpha / "
        f"beta_r differ "
        f"by {same:.1e}, of twice that ratio by {other:.2f}"
    )
    fine = rows[-1].low > rows[0].high and losses[-1].high < losses[0].low and same < 1e-6 < 1e-2 < other
    alike = max(abs(difference.low), abs(difference.high)) < 0.02
    if not fine:
        return Verdict("does not hold", "strong", said)
    return Verdict("holds" if alike else "holds with a condition", "strong", said)


def draw(table: Table) -> tuple[Figure, str]:
    made, axes = plotting.figure(1, 2, size=(9.5, 3.8))
    for ax, metric in zip(axes, ("expected reward", "D_0.6 to the target (nats)"), strict=True):
        lines = {
            (0.6 if rule == "apo" else rule): table.where(part="held-out contexts", rule=rule, metric=metric)
            for rule in ("apo", "adpo", "grpo")
        }
        plotting.interval_lines(ax, lines)
        ax.set(xlabel="step", ylabel=metric)
    axes[0].set(title="24 contexts that were not trained on", ylim=(0, 1))
    axes[1].set(title="Their distance to the target")
    axes[1].get_legend().remove()
    return (made, "On contexts it never saw, every objective learns; alpha 0.6 and ADPO (alpha 1) end close together.")


EXPERIMENT = Experiment(
    number=1,
    name="sanity",
    title="fixed alpha against ADPO on held-out contexts; alpha and beta_r are one knob",
    question="Does APO with alpha 0.6 learn as ADPO does on held-out contexts, and are alpha and beta_r one knob on "
    "policy?",
    paper="Fixed alpha 0.6 and ADPO-softmax come out alike.",
    theory="ADPO is APO at alpha 1 up to a constant. On policy with one update the weights are exp(kappa A) - mean "
    "with kappa = "
    "alpha / beta_r, so with steps of unit length (0.9, 0.3), (0.45, 0.15) and (0.3, 0.1) are one run.",
    settings="48 contexts, 6 arms, the right one linear in 4 features; 24 trained on, 24 held out; Adam lr 0.05. One "
    "knob: lucky "
    "arms and noisy graded rewards, 300 unit steps.",
    controls="GRPO; alpha 0.9 with beta_r 0.15, which must differ.",
    rule="Holds if held-out reward rises and the divergence falls beyond the intervals, APO and ADPO differ by less "
    "than 0.02, and "
    "runs of equal ratio by less than 1e-6 while another ratio differs by more than 0.01.",
    run=run,
    judge=judge,
    draw=draw,
    key=Key(lambda table: table.one(part="one knob, lucky arms", x=0.1).mean, 0.0, 1e-6),
    quick_seeds=8,
)
