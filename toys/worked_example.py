"""The course's one example: three completions with rewards 1, 1/2 and 0, every number of the method by hand.

    rewards r -> advantages A -> target q -> anchored logits u -> anchored policy p -> ratio q/p -> D_alpha -> coefficients c

beta_r is chosen so that half a point of reward makes a completion four times as wanted: q = (16, 4, 1)/21, and square roots
come out even. `by_hand` has the numbers as they come out on paper, at the anchor; `worked_example` has them from the library,
anywhere. Lesson 03 opens with it. Lessons 04 to 07 come back to it with the functions here, 09, 10, 11 and 13 with those called
`worked_example_...` in `toys.bugs`, `toys.risk`, `toys.stale` and `toys.microscope`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apo_edu import (
    GroupBatch,
    GuardedAlpha,
    Signals,
    alpha_divergence,
    anchored_logits,
    boltzmann_log_target,
    box_cox,
    group_advantages,
    group_signals,
    normalized_entropy,
    objectives,
    reverse_kl,
)

from .flows import population_flow

REWARDS = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
BETA_R = 0.5 / math.log(4.0)  # 0.361 in the unit of the reward: e^(0.5 / BETA_R) = 4
TAU_ANC = 0.5
OLD_LOGPS = torch.tensor([-3.0, -9.0, -1.0], dtype=torch.float64)  # any numbers: the anchor cancels them


@dataclass(frozen=True)
class WorkedExample:
    """Every number on the way from the rewards to the update; tensors are [3], one entry a completion.

    weights: (ratio^alpha - 1)/alpha, log ratio at alpha = 0.
    divergence: D_alpha(q || p), nats.
    coefficients: dD_alpha/dl, per nat of each completion's log-probability; an update pushes l by minus this.
    """

    alpha: float
    rewards: Tensor
    advantages: Tensor
    q: Tensor
    u: Tensor
    p: Tensor
    ratio: Tensor
    weights: Tensor
    divergence: float
    coefficients: Tensor


def group_batch(moved: Sequence[float] | Tensor = (0.0, 0.0, 0.0)) -> GroupBatch:
    """The three completions as the batch of one prompt, one token each; `moved` as in `worked_example`."""
    logps = OLD_LOGPS + torch.as_tensor(moved, dtype=torch.float64)
    return GroupBatch.bandit(logps[None], REWARDS[None], old_logps=OLD_LOGPS[None])


def worked_example(
    alpha: float, *, moved: Sequence[float] | Tensor = (0.0, 0.0, 0.0), beta_r: float = BETA_R, tau_anc: float = TAU_ANC
) -> WorkedExample:
    """The example by the library's own functions.

    Args:
        alpha: order of the divergence.
        moved: by how many nats each log-probability has changed since the group was sampled; nothing is on policy.
        beta_r, tau_anc: temperatures of target and anchor.
    """
    batch = group_batch(moved)
    advantages = group_advantages(REWARDS, scale="none")
    log_q = boltzmann_log_target(advantages, beta_r)
    u = anchored_logits(batch.logps[0, :, 0], OLD_LOGPS, tau_anc)
    log_p = u.log_softmax(-1)
    coefficients, _, _ = objectives.coefficients(objectives.apo, batch, alpha=alpha, tau_anc=tau_anc, beta_r=beta_r)
    return WorkedExample(
        alpha=alpha,
        rewards=REWARDS,
        advantages=advantages,
        q=log_q.exp(),
        u=u,
        p=log_p.exp(),
        ratio=(log_q - log_p).exp(),
        weights=box_cox(log_q - log_p, alpha),
        divergence=float(alpha_divergence(log_q, log_p, alpha)),
        coefficients=coefficients[0, :, 0],
    )


@dataclass(frozen=True)
class ByHand:
    """What comes out on paper at one of the three orders, at the anchor: the formula written out, and its value.

    divergence, coefficients: as in `WorkedExample`; `push` is the direction that the coefficients have, in small whole numbers.
    """

    alpha: float
    formula: str
    divergence: float
    coefficients: tuple[float, float, float]
    push: tuple[int, int, int]


def by_hand() -> tuple[ByHand, ...]:
    """alpha = 0, 1/2, 1 in plain arithmetic, without the library: q = (16, 4, 1)/21, p = 1/3, ratio = (16, 4, 1)/7.

    The coefficients are -p (z - mean z)/tau_anc with the weight z = (ratio^alpha - 1)/alpha. At 0, z has steps of log 4, so
    z - mean z = log 4 (1, 0, -1). At 1/2, sqrt(ratio) = (4, 2, 1)/sqrt(7), whose mean is sqrt(7)/3, so z - mean z =
    2 (5, -1, -4)/(3 sqrt(7)). At 1, z - mean z = (9, -3, -6)/7.
    """
    rows = []
    for alpha, formula, divergence, size, push in (
        (0.0, "log(343/64) / 3", math.log(343 / 64) / 3, math.log(4), (1, 0, -1)),
        (0.5, "4 * (1 - sqrt(7)/3)", 4 * (1 - math.sqrt(7) / 3), 2 / (3 * math.sqrt(7)), (5, -1, -4)),
        (1.0, "(16 * log(16/7) + 4 * log(4/7) - log(7)) / 21",
         (16 * math.log(16 / 7) + 4 * math.log(4 / 7) - math.log(7)) / 21, 3 / 7, (3, -1, -2)),
    ):  # fmt: skip
        first, second, third = (0.0 - size * entry / 3 / TAU_ANC for entry in push)
        rows.append(ByHand(alpha, formula, divergence, (first, second, third), push))
    return tuple(rows)


def grpo_coefficients() -> Tensor:
    """[3] what GRPO gives the same three completions on policy: -A_i/(3 std), 0 for the completion in the middle."""
    logps = torch.full((1, 3, 1), -1.0, dtype=torch.float64)
    batch = GroupBatch(logps, logps, torch.ones_like(logps), REWARDS[None])
    return objectives.coefficients(objectives.grpo, batch)[0][0, :, 0]


def guarded(confidence_from: str, *, gain: float = 0.1) -> tuple[float, float]:
    """The group's confidence by one reading, and the guard's alpha where the reward is `gain` above its moving average.

    confidence_from: as for `group_signals`; the three answers differ. "tokens" cannot be read here: it needs a vocabulary.
    """
    signals = group_signals(
        group_batch(), tau_anc=TAU_ANC, beta_r=BETA_R, confidence_from=confidence_from, answers=torch.arange(3)[None]
    )
    schedule = GuardedAlpha()
    schedule.update(Signals(signals.reward - gain, 0.0, signals.confidence))  # the average starts at the first reward
    return float(signals.confidence), float(schedule.update(signals))


def road(alphas: Sequence[float], steps: Sequence[int], *, lr: float = 0.2) -> Tensor:
    """Exact descent of D_alpha from the anchor to the group's q, [alphas, steps]: normalised entropy after so many steps."""
    log_q = worked_example(0.0).q.log()
    start = torch.zeros(1, 3, dtype=torch.float64)
    path = population_flow(log_q, start, alphas, lr=lr, num_steps=max(steps))[list(steps), :, 0]
    return normalized_entropy(path.log()).T


def objective_pushes(
    lengths: Sequence[int] = (4, 1, 2), *, alpha: float = 0.5, beta_r: float = BETA_R, tau_anc: float = TAU_ANC
) -> dict[str, tuple[float, ...]]:
    """The first update of each objective on completions of these lengths, in tokens: {objective: (loss, three pushes)}.

    A push is minus the coefficients of all of a completion's tokens. Dr.GRPO's longest allowed length is the longest here.
    """
    longest = max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).double()[None]
    batch = GroupBatch(logps=-mask, old_logps=-mask, mask=mask, rewards=REWARDS[None])
    options = {"tau_anc": tau_anc, "beta_r": beta_r, "max_completion_tokens": longest, "advantage_scale": "none"}
    found = {}
    for name, record in objectives.OBJECTIVES.items():
        keywords = record.bind(options) | ({"alpha": alpha} if record.reads_alpha else {})
        coef, loss, _ = objectives.coefficients(record.function, batch, **keywords)
        found[name] = (float(loss), *(-coef.sum(-1)[0] + 0.0).tolist())
    return found


def regularised_reward(log_p: Tensor, *, beta: float, log_ref: Tensor | None = None) -> Tensor:
    """What RL with a KL penalty makes large: E_p[r] - beta KL(p || ref), in the unit of the reward, [...] for [..., 3].

    ref is uniform over the three completions unless given: the anchored policy at the anchor.
    """
    reference = torch.full_like(log_p, -math.log(3.0)) if log_ref is None else log_ref
    return (log_p.exp() * REWARDS).sum(-1) - beta * reverse_kl(reference, log_p)


def table(example: WorkedExample) -> str:
    """The whole example in lines of text, one quantity a line."""
    rows = {
        "reward r": example.rewards,
        "advantage A = r - mean": example.advantages,
        "target q = softmax(A / beta_r)": example.q,
        "u = (l - l_ref) / tau_anc": example.u,
        "policy p = softmax(u)": example.p,
        "ratio q / p": example.ratio,
        f"weight at alpha = {example.alpha:g}": example.weights,
        "coefficient dD/dl": example.coefficients,
    }
    lines = [f"{name:32s}" + "".join(f"{value:+10.4f}" for value in values.tolist()) for name, values in rows.items()]
    return "\n".join([*lines, f"{'D_alpha(q || p)':32s}{example.divergence:+10.4f} nats"])


def lines(head: Sequence[str], rows: Mapping[str, Iterable[float]]) -> str:
    """Rows of numbers with three decimals under their heads, as text: {label: numbers}."""
    wide = max(map(len, rows))
    widths = [max(len(name), 7) for name in head]
    made = [" " * wide + "".join(f"  {name:>{width}}" for name, width in zip(head, widths, strict=True))]
    for label, numbers in rows.items():
        cells = (f"  {round(float(number), 3) + 0.0:{width}.3f}" for number, width in zip(numbers, widths, strict=True))
        made.append(f"{label:{wide}}" + "".join(cells))
    return "\n".join(made)
