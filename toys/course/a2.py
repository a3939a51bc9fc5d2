"""Assignment 2, From rewards to an update: advantages, target, anchored policy, loss, gradient, loop, and what alpha does.

The mistakes are written with the library's functions where it has them: they are right but for one thing each.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import apo_edu
from apo_edu.objectives import group_distributions

from .. import bandits, plotting
from .model import Assignment, Check, Code, Exercise, Mistake, NotYet, Numbers, Text, Written, prediction
from .probes import is_the_limit


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number between low and high, rounded to two digits so that it reads well in a message."""
    return round(low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64)), 2)


def numbers_named(*names: str, pick: int | None = None) -> Any:
    """The probe for a function that returns several numbers, as floats, tensors or arrays; `pick` looks at one of them."""

    def probe(answer: Any, *case: Any) -> Any:
        given = answer(*case)
        if given is None:
            return None
        several = isinstance(given, tuple | list) or (isinstance(given, Tensor | np.ndarray) and given.ndim == 1)
        if not several or len(given) != len(names):
            raise NotYet(f"expected {len(names)} numbers, ({', '.join(names)}).")
        return tuple(float(number) for number in given) if pick is None else float(given[pick])

    return probe


# 1. Advantages.


def _group_advantages(rewards: Tensor, scale: str) -> Tensor:
    """Group-relative advantages.

    rewards: [prompts, group].  scale: "none" (APO) or "group" (GRPO).  Returns [prompts, group].
    """
    advantages = rewards - rewards.mean(-1, keepdim=True)
    if scale == "group":
        advantages = advantages / (rewards.std(-1, keepdim=True) + 1e-4)
    return advantages


def _reward_groups(generator: torch.Generator) -> Tensor:
    return normal(generator, 3, 6) + 2 * normal(generator, 3, 1)


def rewards_with(*scales: str, flat: bool = False) -> Any:
    """Cases (rewards, scale); with `flat`, one group has equal rewards and one has rewards of 0 and 1."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for scale in scales:
            rewards = _reward_groups(generator)
            if flat:
                rewards[0] = (rewards[0] > rewards[0].median()).double()
                rewards[2] = 0.5
            given.append((rewards, scale))
        return given

    return cases


def _advantages_but(
    centre: Callable[[Tensor], Tensor] = lambda r: r.mean(-1, keepdim=True),
    spread: Callable[[Tensor], Tensor] = lambda r: r.std(-1, keepdim=True) + 1e-4,
) -> Any:
    """Advantages with another centre or another divisor."""
    return lambda rewards, scale: (rewards - centre(rewards)) / (spread(rewards) if scale == "group" else 1.0)


group_advantages = Exercise(
    name="group_advantages",
    title="Advantages",
    minutes=10,
    difficulty=1,
    text=r"""
A group is $P$ completions of one prompt, with rewards $r_i$. Its advantages are what a completion earned beyond its own group:

$$A_i = r_i - \bar r \quad\text{(scale "none")}, \qquad A_i = \frac{r_i - \bar r}{s + 10^{-4}}\quad\text{(scale "group")}$$

with the group's mean $\bar r$ and its *unbiased* standard deviation $s$, the one that divides by $P - 1$. APO uses
the first, GRPO the second.
""",
    solution=_group_advantages,
    referee=lambda rewards, scale: apo_edu.group_advantages(rewards, scale=scale),
    checks=(
        Check(
            name="centred",
            title='scale "none"',
            points=2,
            cases=rewards_with("none", "none"),
            rtol=1e-9,
            hint="Each row is one group: which rewards may its baseline see?",
        ),
        Check(
            name="scaled",
            title='scale "group"',
            points=2,
            cases=rewards_with("group", "group"),
            rtol=1e-9,
            hint="Divide each group by its own unbiased standard deviation plus 1e-4.",
        ),
        Check(
            name="flat",
            title="groups with equal rewards, and with rewards of 0 and 1",
            points=1,
            cases=rewards_with("none", "group", flat=True),
            rtol=1e-9,
            hint="A group of equal rewards has advantages of 0, by no special case: what does 0 / 1e-4 give?",
        ),
    ),
    mistakes=(
        Mistake(
            "baseline over the batch",
            "the baseline is the mean over all prompts. It says nothing about the difficulty of this one: the mean "
            "is the group's own, over the last dimension.",
            _advantages_but(centre=lambda r: r.mean()),
        ),
        Mistake(
            "mean over prompts",
            "the mean runs over the prompts (dimension 0); a group is a row, the last dimension.",
            _advantages_but(centre=lambda r: r.mean(0, keepdim=True)),
        ),
        Mistake(
            "biased standard deviation",
            "the standard deviation divides by P; the unbiased one divides by P - 1.",
            _advantages_but(spread=lambda r: r.std(-1, correction=0, keepdim=True) + 1e-4),
        ),
        Mistake(
            "epsilon missing",
            "the 1e-4 beside the standard deviation is missing: where all rewards are equal this is 0/0.",
            _advantages_but(spread=lambda r: r.std(-1, keepdim=True)),
        ),
        Mistake(
            "epsilon inside the root",
            "the 1e-4 is added to the variance, inside the root; it belongs beside the standard deviation.",
            _advantages_but(spread=lambda r: (r.var(-1, keepdim=True) + 1e-4).sqrt()),
        ),
        Mistake(
            "variance for standard deviation",
            "this divides by the variance: the unit of the reward does not cancel. Take its root.",
            _advantages_but(spread=lambda r: r.var(-1, keepdim=True) + 1e-4),
        ),
        Mistake(
            "standard deviation over the batch",
            "the standard deviation is that of all rewards; here each group has its own.",
            _advantages_but(spread=lambda r: r.std() + 1e-4),
        ),
        Mistake(
            "standard deviation over prompts",
            "the standard deviation runs over the prompts (dimension 0); a group is a row, the last dimension.",
            _advantages_but(spread=lambda r: (r - r.mean(-1, keepdim=True)).std(0, keepdim=True) + 1e-4),
        ),
        Mistake(
            "unit length",
            "this divides by the length of the centred vector; the standard deviation is that over the root of P - 1.",
            _advantages_but(spread=lambda r: (r - r.mean(-1, keepdim=True)).norm(dim=-1, keepdim=True) + 1e-4),
        ),
        Mistake(
            "range for standard deviation",
            "this divides by the range, largest minus smallest reward; the standard deviation is asked for.",
            _advantages_but(spread=lambda r: r.amax(-1, keepdim=True) - r.amin(-1, keepdim=True) + 1e-4),
        ),
        Mistake(
            "a case of its own for equal rewards",
            "the 1e-4 is missing, and equal rewards have a case of their own instead. None is needed: 0 / 1e-4 is 0.",
            _advantages_but(
                spread=lambda r: torch.where(
                    r.std(-1, keepdim=True) > 0, r.std(-1, keepdim=True), torch.ones_like(r[..., :1])
                )
            ),
        ),
        Mistake(
            "brackets missing",
            "1e-4 is added to the quotient: it belongs into the divisor, (r - mean) / (s + 1e-4).",
            lambda rewards, scale: (
                (rewards - rewards.mean(-1, keepdim=True)) / rewards.std(-1, keepdim=True) + 1e-4
                if scale == "group"
                else rewards - rewards.mean(-1, keepdim=True)
            ),
        ),
        Mistake(
            "no baseline where scaled",
            'under scale "group" the mean is not subtracted; both scales have the same numerator.',
            lambda rewards, scale: (
                rewards / (rewards.std(-1, keepdim=True) + 1e-4)
                if scale == "group"
                else rewards - rewards.mean(-1, keepdim=True)
            ),
        ),
        Mistake(
            "scales exchanged",
            'the two scales are exchanged: "group" divides by the standard deviation, "none" does not.',
            lambda rewards, scale: apo_edu.group_advantages(rewards, scale="group" if scale == "none" else "none"),
        ),
        Mistake(
            "everything over the batch",
            "mean and standard deviation are those of the whole batch; each group, a row, has its own.",
            lambda rewards, scale: (rewards - rewards.mean()) / (rewards.std() + 1e-4 if scale == "group" else 1.0),
        ),
        Mistake(
            "another epsilon",
            "the number added to the standard deviation is not 1e-4.",
            _advantages_but(spread=lambda r: r.std(-1, keepdim=True) + 1e-8),
        ),
        Mistake(
            "numpy's standard deviation",
            "the standard deviation divides by P, as numpy's does unless told otherwise, and what is added to it is not 1e-4.",
            _advantages_but(spread=lambda r: r.std(-1, correction=0, keepdim=True) + 1e-8),
        ),
        Mistake(
            "spread around 0",
            "this divides by the root mean square of the rewards; the standard deviation is around their mean.",
            _advantages_but(spread=lambda r: (r * r).mean(-1, keepdim=True).sqrt() + 1e-4),
        ),
        Mistake(
            "leave-one-out",
            "the baseline is the mean of the others (leave-one-out): a right idea, P/(P - 1) times too large here. The mean "
            "includes the completion itself.",
            _advantages_but(centre=lambda r: (r.sum(-1, keepdim=True) - r) / (r.shape[-1] - 1)),
        ),
        Mistake(
            "sign",
            "the sign is turned round: a completion above its group's mean has a positive advantage.",
            lambda rewards, scale: -apo_edu.group_advantages(rewards, scale=scale),
        ),
        Mistake(
            "no baseline",
            "the baseline is missing: subtract the group's mean.",
            _advantages_but(centre=torch.zeros_like),
        ),
        Mistake(
            "always scaled",
            "this divides by the standard deviation under scale \"none\" too: that is GRPO's advantage, not APO's.",
            lambda rewards, scale: apo_edu.group_advantages(rewards, scale="group"),
        ),
        Mistake(
            "never scaled",
            'scale "group" does nothing here: divide by the standard deviation then.',
            lambda rewards, scale: apo_edu.group_advantages(rewards, scale="none"),
        ),
        Mistake(
            "best for mean",
            "the baseline is the best reward of the group; it is the mean.",
            _advantages_but(centre=lambda r: r.amax(-1, keepdim=True)),
        ),
        Mistake(
            "median for mean",
            "the baseline is the median of the group; it is the mean.",
            _advantages_but(centre=lambda r: r.median(-1, keepdim=True).values),
        ),
        Mistake(
            "sum for mean",
            "the baseline is the sum of the group's rewards; it is their mean.",
            _advantages_but(centre=lambda r: r.sum(-1, keepdim=True)),
        ),
    ),
)

# 2. The target.


def _boltzmann_log_target(advantages: Tensor, beta_r: float) -> Tensor:
    """Log-probabilities of the Boltzmann target q = softmax(A / beta_r) over the group; a constant.

    advantages: [prompts, group].  beta_r: a float > 0.  Returns [prompts, group].
    """
    return torch.log_softmax(advantages.detach() / beta_r, dim=-1)


def advantages_with(*temperatures: float, size: float = 1.0) -> Any:
    """Cases (advantages, beta_r)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for beta_r in temperatures:
            advantages = size * normal(generator, 3, 5)
            given.append((advantages - advantages.mean(-1, keepdim=True), beta_r))
        return given

    return cases


def as_a_constant(answer: Any, advantages: Tensor, beta_r: float) -> Any:
    """The target of advantages that carry a gradient: it must carry none."""
    value = answer(advantages.requires_grad_(), beta_r)
    if isinstance(value, Tensor) and value.requires_grad:
        raise NotYet("the target carries a gradient to the advantages.")
    return value


CUT_OFF = (
    "small probabilities are cut off: a constant inside the logarithm, or a clamp, gives the worst completions the same share. "
    "torch.log_softmax needs neither."
)


def not_cut_off(answer: Any, advantages: Tensor, beta_r: float) -> Any:
    """Call an answer where log-probabilities go down to minus several hundred."""
    value = answer(advantages, beta_r)
    if (
        isinstance(value, Tensor)
        and value.shape == advantages.shape
        and bool((value.max() <= 1e-6) & (value.min() > -120))
    ):
        raise NotYet(CUT_OFF)
    return value


def _softmax_over(dim: Any = -1, scaled: Any = lambda a, beta_r: a / beta_r, after: Any = lambda x: x) -> Any:
    def target(advantages: Tensor, beta_r: float) -> Tensor:
        scores = scaled(advantages.detach(), beta_r)
        if dim is None:
            return after(scores - scores.flatten().logsumexp(0))
        return after(torch.log_softmax(scores, dim=dim))

    return target


boltzmann_log_target = Exercise(
    name="boltzmann_log_target",
    title="The target",
    minutes=8,
    difficulty=1,
    text=r"""
The target gives each completion of a group a probability by its advantage, $q = \mathrm{softmax}(A/\beta_r)$. Write
$\log q$. It must survive a small $\beta_r$ (scores of several hundred), and it is a constant: no gradient flows into
the advantages.
""",
    solution=_boltzmann_log_target,
    referee=apo_edu.boltzmann_log_target,
    checks=(
        Check(
            name="values",
            title="values",
            points=2,
            cases=advantages_with(0.3, 0.75),
            rtol=1e-9,
            hint="Does exp of your result sum to 1 over each group?",
        ),
        Check(
            name="small",
            title="a small beta_r: scores of several hundred",
            points=1,
            rtol=1e-9,
            cases=advantages_with(0.002, size=3.0),
            probe=not_cut_off,
            hint="exp(800) is infinite and exp(-800) is 0. Stay with logarithms: torch.log_softmax.",
        ),
        Check(
            name="constant",
            title="it is a constant",
            points=1,
            cases=advantages_with(0.5),
            probe=as_a_constant,
            rtol=1e-9,
        ),
    ),
    mistakes=(
        Mistake(
            "multiplied by beta_r",
            "this multiplies by beta_r: a small temperature must make the target sharper, not flatter.",
            _softmax_over(scaled=lambda a, beta_r: a * beta_r),
        ),
        Mistake(
            "beta_r ignored",
            "beta_r does nothing here: it divides the advantages.",
            _softmax_over(scaled=lambda a, _: a),
        ),
        Mistake(
            "beta_r squared", "this divides by beta_r squared.", _softmax_over(scaled=lambda a, beta_r: a / beta_r**2)
        ),
        Mistake(
            "beta_r after the softmax",
            "beta_r divides the logarithms after the softmax: the result does not sum to 1. Divide first.",
            lambda advantages, beta_r: torch.log_softmax(advantages.detach(), -1) / beta_r,
        ),
        Mistake(
            "probabilities", "these are probabilities; their logarithm is asked for.", _softmax_over(after=torch.exp)
        ),
        Mistake(
            "not normalised",
            "A / beta_r is not normalised: exp of it does not sum to 1 over the group.",
            lambda advantages, beta_r: advantages.detach() / beta_r,
        ),
        Mistake(
            "softmax over prompts",
            "the softmax runs over the prompts; completions of one prompt compete with each other, over the last dimension.",
            _softmax_over(dim=0),
        ),
        Mistake(
            "softmax over everything",
            "the softmax runs over the whole batch: each group sums to 1 by itself.",
            _softmax_over(dim=None),
        ),
        Mistake(
            "sign",
            "the sign is turned round: this prefers the worst completion.",
            _softmax_over(scaled=lambda a, b: -a / b),
        ),
        Mistake(
            "exp overflows",
            "exp(A / beta_r) overflows or vanishes where beta_r is small. Stay with logarithms: torch.log_softmax.",
            lambda advantages, beta_r: (
                (advantages.detach() / beta_r).exp() / (advantages.detach() / beta_r).exp().sum(-1, keepdim=True)
            ).log(),
        ),
        Mistake(
            "cut off",
            CUT_OFF,
            lambda advantages, beta_r: (torch.softmax(advantages.detach() / beta_r, -1) + 1e-14).log(),
        ),
        Mistake(
            "scaled advantages",
            "the advantages are divided by their standard deviation first: the target takes them as they are given.",
            _softmax_over(scaled=lambda a, beta_r: a / (a.std(-1, keepdim=True) + 1e-4) / beta_r),
        ),
        Mistake(
            "logarithm of a softmax",
            "softmax first and log after gives log 0 where beta_r is small. torch.log_softmax does both at once.",
            lambda advantages, beta_r: torch.softmax(advantages.detach() / beta_r, -1).log(),
        ),
        Mistake(
            "carries a gradient",
            "the target carries a gradient to the advantages: a target is a constant, .detach().",
            lambda advantages, beta_r: torch.log_softmax(advantages / beta_r, -1),
        ),
        Mistake(
            "shares of the advantage",
            "this divides each advantage by a sum; a Boltzmann target is a softmax, whose weights are exponentials.",
            lambda advantages, beta_r: (
                (advantages - advantages.amin(-1, keepdim=True) + beta_r).log()
                - (advantages - advantages.amin(-1, keepdim=True) + beta_r).sum(-1, keepdim=True).log()
            ),
        ),
        Mistake(
            "base 2",
            "these are logarithms to base 2: use natural ones.",
            _softmax_over(after=lambda x: x / math.log(2)),
        ),
    ),
)

# 3. The anchored policy.


def _anchored_log_policy(token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor, tau_anc: float) -> Tensor:
    """Log of the anchored policy p = softmax((l - l_ref) / tau_anc) over the group; l is the mean over a completion's tokens.

    token_logps, ref_token_logps: [prompts, group, tokens].  mask: the same shape, 1 on tokens and 0 on padding.
    tau_anc: a float > 0.  Returns [prompts, group].
    """
    lengths = mask.sum(-1)
    logps = (token_logps * mask).sum(-1) / lengths
    ref_logps = (ref_token_logps.detach() * mask).sum(-1) / lengths
    return torch.log_softmax((logps - ref_logps) / tau_anc, dim=-1)


def tokens_with(*temperatures: float, padded: bool) -> Any:
    """Cases (token_logps, ref_token_logps, mask, tau_anc) of 2 prompts, 4 completions, 5 tokens."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for tau_anc in temperatures:
            logps, mask = _tokens(generator, padded)
            given.append((logps, logps + 0.4 * normal(generator, 2, 4, 5), mask, tau_anc))
        return given

    return cases


def _tokens(generator: torch.Generator, padded: bool) -> tuple[Tensor, Tensor]:
    logps = -(0.2 + normal(generator, 2, 4, 5).abs())
    lengths = torch.randint(1, 5, (2, 4, 1), generator=generator) if padded else torch.full((2, 4, 1), 5)
    return logps, (torch.arange(5) < lengths).double()


def gradient_to_both(answer: Any, logps: Tensor, ref_logps: Tensor, mask: Tensor, tau_anc: float) -> Tensor | None:
    """Gradient of the answer's spread over the group; raises NotYet where it reaches the anchor or misses the policy."""
    value = answer(logps.requires_grad_(), ref_logps.requires_grad_(), mask, tau_anc)
    if value is None:
        return None
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise NotYet("the result carries no gradient to the policy.")
    weights = torch.arange(1.0, value.numel() + 1, dtype=torch.float64).reshape(value.shape).sin()
    policy, anchor = torch.autograd.grad((weights * value).sum(), (logps, ref_logps), allow_unused=True)
    if anchor is not None and bool((anchor != 0).any()):
        raise NotYet("a gradient flows into the anchor.")
    if policy is None:
        raise NotYet("the result carries no gradient to the policy.")
    return policy


def _anchored_but(
    mean: Callable[[Tensor, Tensor], Tensor] = lambda x, mask: (x * mask).sum(-1) / mask.sum(-1),
    score: Callable[[Tensor, Tensor, float], Tensor] = lambda logps, ref, tau_anc: (logps - ref) / tau_anc,
    finish: Callable[[Tensor], Tensor] = lambda u: torch.log_softmax(u, -1),
) -> Any:
    def policy(token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor, tau_anc: float) -> Tensor:
        return finish(score(mean(token_logps, mask), mean(ref_token_logps.detach(), mask), tau_anc))

    return policy


def _anchor_not_detached(token_logps: Tensor, ref_token_logps: Tensor, mask: Tensor, tau_anc: float) -> Tensor:
    logps, ref_logps = ((x * mask).sum(-1) / mask.sum(-1) for x in (token_logps, ref_token_logps))
    return torch.log_softmax((logps - ref_logps) / tau_anc, -1)


anchored_log_policy = Exercise(
    name="anchored_log_policy",
    title="The anchored policy",
    minutes=15,
    difficulty=2,
    text=r"""
A language model gives each token of a completion a log-probability. A completion's own is their *mean*, $\ell_i$,
over its tokens and not over the padding (`mask` is 0 there; every completion has at least one token). Compared with
the anchor's $\ell_{ref,i}$, the same mean under the policy that sampled the group, it makes a policy over the group:

$$u_i = \frac{\ell_i - \ell_{ref,i}}{\tau_{anc}}, \qquad p = \mathrm{softmax}(u)$$

Write $\log p$. The anchor is a constant: a gradient flows to `token_logps` only.
""",
    solution=_anchored_log_policy,
    referee=lambda logps, ref_logps, mask, tau_anc: group_distributions(
        apo_edu.GroupBatch(
            logps=logps, old_logps=ref_logps.detach(), mask=mask, rewards=torch.zeros(logps.shape[:2]).double()
        ),
        tau_anc=tau_anc,
        beta_r=1.0,
    )[1],
    checks=(
        Check(
            name="values",
            title="completions of equal length",
            points=2,
            rtol=1e-9,
            cases=tokens_with(0.5, 0.2, padded=False),
            hint="Where the policy equals its anchor the result must be uniform.",
        ),
        Check(
            name="padded",
            title="completions of different length",
            points=2,
            rtol=1e-9,
            cases=tokens_with(0.5, 0.2, padded=True),
            hint="Change a number under the padding: the result must not move.",
        ),
        Check(
            name="gradient",
            title="a gradient to the policy, none to the anchor",
            points=2,
            rtol=1e-8,
            cases=tokens_with(0.5, padded=True),
            probe=gradient_to_both,
        ),
    ),
    mistakes=(
        Mistake(
            "tau_anc multiplied",
            "this multiplies by tau_anc: it divides, so that a small tau_anc makes much of a small change.",
            _anchored_but(score=lambda logps, ref, tau_anc: (logps - ref) * tau_anc),
        ),
        Mistake(
            "tau_anc ignored",
            "tau_anc does nothing here: it divides the difference.",
            _anchored_but(score=lambda logps, ref, tau_anc: logps - ref),
        ),
        Mistake(
            "anchor ignored",
            "the anchor does nothing here: the anchored policy sees only the change since sampling, l - l_ref.",
            _anchored_but(score=lambda logps, ref, tau_anc: logps / tau_anc),
        ),
        Mistake(
            "anchor added",
            "the anchor is added; it is subtracted, so that nothing changed means uniform.",
            _anchored_but(score=lambda logps, ref, tau_anc: (logps + ref) / tau_anc),
        ),
        Mistake(
            "policy and anchor exchanged",
            "policy and anchor are exchanged: a completion that became more likely must have a larger p.",
            lambda logps, ref_logps, mask, tau_anc: _anchored_but()(
                2 * ref_logps.detach() - logps, ref_logps, mask, tau_anc
            ),
        ),
        Mistake(
            "mask ignored", "the padding counts: the mask is not used.", _anchored_but(mean=lambda x, mask: x.mean(-1))
        ),
        Mistake(
            "divided by the padded length",
            "the sum runs over the completion's tokens, but it is divided by the padded length: divide by the number of "
            "tokens that count.",
            _anchored_but(mean=lambda x, mask: (x * mask).mean(-1)),
        ),
        Mistake(
            "sum for mean",
            "the log-probabilities are summed over the tokens: a long completion then speaks louder. Take the mean.",
            _anchored_but(mean=lambda x, mask: (x * mask).sum(-1)),
        ),
        Mistake(
            "mean over completions too",
            "each completion is divided by the number of tokens in the whole batch; divide by its own.",
            _anchored_but(mean=lambda x, mask: (x * mask).sum(-1) / mask.sum()),
        ),
        Mistake(
            "anchor not masked",
            "the policy's mean leaves the padding out, the anchor's does not: both need the mask.",
            lambda logps, ref_logps, mask, tau_anc: torch.log_softmax(
                ((logps * mask).sum(-1) / mask.sum(-1) - ref_logps.detach().mean(-1)) / tau_anc, -1
            ),
        ),
        Mistake(
            "last token only",
            "only the last place of each row counts here; a completion's log-probability is the mean over its tokens.",
            _anchored_but(mean=lambda x, mask: x[..., -1]),
        ),
        Mistake(
            "mean of ratios",
            "this averages the tokens' ratios exp(l - l_ref); the mean is that of the log-probabilities.",
            lambda logps, ref_logps, mask, tau_anc: torch.log_softmax(
                ((logps - ref_logps.detach()).exp() * mask).sum(-1) / mask.sum(-1) / tau_anc, -1
            ),
        ),
        Mistake(
            "tau_anc after the softmax",
            "tau_anc divides the logarithms after the softmax: the result does not sum to 1. Divide first.",
            lambda logps, ref_logps, mask, tau_anc: _anchored_but()(logps, ref_logps, mask, 1.0) / tau_anc,
        ),
        Mistake(
            "softmax over everything",
            "the softmax runs over the whole batch: each group sums to 1 by itself.",
            _anchored_but(finish=lambda u: u - u.flatten().logsumexp(0)),
        ),
        Mistake(
            "not normalised",
            "these are the logits u; exp of the result must sum to 1 over the group.",
            _anchored_but(finish=lambda u: u),
        ),
        Mistake(
            "probabilities",
            "these are probabilities; their logarithm is asked for.",
            _anchored_but(finish=lambda u: torch.softmax(u, -1)),
        ),
        Mistake(
            "softmax over prompts",
            "the softmax runs over the prompts; the group is the last dimension that is left.",
            _anchored_but(finish=lambda u: torch.log_softmax(u, 0)),
        ),
        Mistake(
            "ratio for its logarithm",
            "this puts the ratio exp(l - l_ref) into the softmax; u is its logarithm.",
            _anchored_but(score=lambda logps, ref, tau_anc: (logps - ref).exp() / tau_anc),
        ),
        Mistake(
            "anchor not detached",
            "a gradient flows into the anchor: it is a constant, .detach(). In the first update "
            "both are the same tensor, and their gradients would cancel to exactly 0.",
            _anchor_not_detached,
        ),
        Mistake(
            "policy detached",
            "no gradient reaches the policy: only the anchor is a constant.",
            lambda logps, ref_logps, mask, tau_anc: _anchored_but()(logps.detach(), ref_logps, mask, tau_anc),
        ),
    ),
)

# 4. The loss.


def _apo_loss(
    logps: Tensor, old_logps: Tensor, mask: Tensor, rewards: Tensor, alpha: float, tau_anc: float, beta_r: float
) -> Tensor:
    """APO's loss: D_alpha(q || p) of each group, mean over prompts.

    logps, old_logps, mask: [prompts, group, tokens]; the anchor is old_logps.  rewards: [prompts, group].  Returns a scalar.
    """
    log_q = apo_edu.boltzmann_log_target(rewards, beta_r)
    lengths = mask.sum(-1)
    now, old = (logps * mask).sum(-1) / lengths, (old_logps * mask).sum(-1) / lengths
    log_p = apo_edu.anchored_log_policy(now, old, tau_anc)
    return apo_edu.alpha_divergence(log_q, log_p, alpha).mean()


def batches_with(*orders: float, moved: float = 0.3) -> Any:
    """Cases of `apo_loss`, a fresh batch for each order; `moved` is how far the policy is from its anchor."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for alpha in orders:
            logps, mask = _tokens(generator, padded=True)
            old = logps + moved * normal(generator, 2, 4, 5)
            rewards = normal(generator, 2, 4)
            tau_anc, beta_r = uniform(generator, 0.2, 0.8), uniform(generator, 0.3, 0.7)
            given.append((logps, old, mask, rewards, alpha, tau_anc, beta_r))
        return given

    return cases


ANCHOR_MOVES = (
    "a gradient flows into old_logps, the anchor: it is a constant, .detach(). In training logps and old_logps come from "
    "the same "
    "network at the first update, and the two gradients would cancel to exactly 0."
)
NO_GRADIENT = "the loss carries no gradient. Stay in torch from logps to the result: no .item(), .detach() or numpy."


def slope_of_loss(answer: Any, logps: Tensor, old_logps: Tensor, *rest: Any) -> Tensor | None:
    """Gradient of a loss with respect to logps; none may reach old_logps, which carries one here as in a careless caller."""
    loss = answer(logps.requires_grad_(), old_logps.requires_grad_(), *rest)
    if loss is None:
        return None
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise NotYet(NO_GRADIENT)
    policy, anchor = torch.autograd.grad(loss.sum(), (logps, old_logps), allow_unused=True)
    if policy is None:
        raise NotYet(NO_GRADIENT)
    if anchor is not None and bool((anchor != 0).any()):
        raise NotYet(ANCHOR_MOVES)
    return policy


def _apo_but(
    divergence: Callable[..., Tensor] = apo_edu.alpha_divergence,
    reduce: Callable[[Tensor], Tensor] = torch.mean,
    tau: Callable[[float], float] = lambda tau_anc: tau_anc,
    beta: Callable[[float], float] = lambda beta_r: beta_r,
    worth: Callable[[Tensor], Tensor] = lambda rewards: rewards,
    anchor: Callable[[Tensor, Tensor], Tensor] = lambda logps, old: old,
    masked: bool = True,
    **options: str,
) -> Any:
    """APO's loss with one thing changed."""

    def loss(
        logps: Tensor, old_logps: Tensor, mask: Tensor, rewards: Tensor, alpha: float, tau_anc: float, beta_r: float
    ) -> Tensor:
        batch = apo_edu.GroupBatch(
            logps=logps,
            old_logps=anchor(logps, old_logps),
            mask=mask if masked else torch.ones_like(mask),
            rewards=worth(rewards),
        )
        keywords: dict[str, Any] = {"tau_anc": tau(tau_anc), "beta_r": beta(beta_r), **options}
        return reduce(divergence(*group_distributions(batch, **keywords), alpha))

    return loss


def _loss_of(
    score: Callable[[Tensor, Tensor], Tensor],
    detach: bool = True,
    length: Callable[[Tensor], Any] = lambda mask: mask.sum(-1),
    divergence: Callable[..., Tensor] = apo_edu.alpha_divergence,
) -> Any:
    """APO's loss with other anchored logits, score(l, l_ref) / tau_anc."""

    def loss(
        logps: Tensor, old_logps: Tensor, mask: Tensor, rewards: Tensor, alpha: float, tau_anc: float, beta_r: float
    ) -> Tensor:
        old_logps = old_logps.detach() if detach else old_logps
        now, old = ((x * mask).sum(-1) / length(mask) for x in (logps, old_logps))
        log_p = torch.log_softmax(score(now, old) / tau_anc, -1)
        return divergence(apo_edu.boltzmann_log_target(rewards, beta_r), log_p, alpha).mean()

    return loss


def _uncorrected(log_q: Tensor, log_p: Tensor, alpha: float) -> Tensor:
    """D_alpha by the formula as it stands: 0/0 at both ends."""
    return (1 - (alpha * log_q + (1 - alpha) * log_p).exp().sum(-1)) / (alpha * (1 - alpha))


PIECES = ("alpha_divergence", "group_advantages", "boltzmann_log_target", "anchored_log_policy", "__post_init__")
apo_loss = Exercise(
    name="apo_loss",
    title="The loss",
    minutes=10,
    difficulty=2,
    text=r"""
Put it together: $D_\alpha(q\,\|\,p)$ of each group, with mean-only advantages in $q$, the anchored policy as $p$, and
the mean over the prompts. You may use your own three functions, or the library's `alpha_divergence`,
`group_advantages`, `boltzmann_log_target` and `anchored_log_policy` (which takes `[prompts, group]`
log-probabilities), but not its objectives. Beware: the library's `group_advantages` has a baseline as its second argument, so
write `apo_edu.group_advantages(rewards, scale="none")`; and `old_logps` is a constant, whoever calls you.

A question on the way: what happens to $q$ if you forget the baseline?
""",
    solution=_apo_loss,
    referee=_apo_but(),
    library=PIECES,
    checks=(
        Check(
            name="value",
            title="the value, for alpha between 0 and 1",
            points=2,
            cases=batches_with(0.3, 0.8),
            rtol=1e-8,
            hint="Take one group in a cell of your own: print log_q and log_p, does exp of each sum to 1?",
        ),
        Check(
            name="ends",
            title="the value at alpha = 0 and alpha = 1",
            points=1,
            cases=batches_with(0.0, 1.0),
            rtol=1e-8,
            hint="At both ends the formula is 0/0: use a divergence that knows its limits.",
        ),
        Check(
            name="gradient",
            title="the gradient, away from the anchor; none to old_logps",
            points=1,
            cases=batches_with(0.4, 0.9),
            rtol=1e-7,
            probe=slope_of_loss,
        ),
        Check(
            name="anchor",
            title="the gradient where the policy is its anchor",
            points=1,
            rtol=1e-7,
            cases=batches_with(0.4, 0.0, moved=0.0),
            probe=slope_of_loss,
            hint="logps and old_logps have the same values here, but only one of them is a constant.",
        ),
    ),
    mistakes=(
        Mistake(
            "q and p swapped",
            "this is D_alpha(p || q): the target is the first argument.",
            _apo_but(lambda log_q, log_p, alpha: apo_edu.alpha_divergence(log_p, log_q, alpha)),
        ),
        Mistake(
            "sum over prompts",
            "this sums over the prompts: with more prompts the step would grow. Take the mean.",
            _apo_but(reduce=torch.sum),
        ),
        Mistake(
            "mean over completions too",
            "this divides by the number of completions as well: D_alpha is a sum over the group.",
            _apo_but(reduce=lambda d: d.mean() / 4),
        ),
        Mistake("the first prompt only", "only the first prompt counts here.", _apo_but(reduce=lambda d: d[0])),
        Mistake(
            "sign of the loss",
            "the sign is turned round: a loss is minimised, and D_alpha is the distance to the target.",
            _apo_but(reduce=lambda d: -d.mean()),
        ),
        Mistake(
            "sign of the advantages",
            "the target prefers the worst completions: the sign of the advantages is turned round.",
            _apo_but(worth=lambda rewards: -rewards),
        ),
        Mistake(
            "scaled advantages",
            "the advantages are divided by the standard deviation: that is GRPO's choice; APO's are mean-only. (Did you call "
            'the library\'s group_advantages(rewards, "none")? Its second argument is the baseline: write scale="none".)',
            _apo_but(scale="group"),
        ),
        Mistake(
            "tau_anc multiplied", "tau_anc multiplies here; it divides.", _apo_but(tau=lambda tau_anc: 1 / tau_anc)
        ),
        Mistake("beta_r multiplied", "beta_r multiplies here; it divides.", _apo_but(beta=lambda beta_r: 1 / beta_r)),
        Mistake(
            "tau_anc ignored", "tau_anc does nothing here: it divides l - l_ref.", _apo_but(tau=lambda tau_anc: 1.0)
        ),
        Mistake(
            "beta_r ignored", "beta_r does nothing here: it divides the advantages.", _apo_but(beta=lambda beta_r: 1.0)
        ),
        Mistake(
            "advantages against other prompts",
            "the baseline runs over the prompts (dimension 0): a completion is compared with its own group, the last "
            "dimension.",
            _apo_but(worth=lambda rewards: rewards - rewards.mean(0)),
        ),
        Mistake(
            "temperatures exchanged",
            "tau_anc and beta_r are exchanged: tau_anc divides the log-probabilities, beta_r the advantages.",
            lambda logps, old, mask, rewards, alpha, tau_anc, beta_r: _apo_but()(
                logps, old, mask, rewards, alpha, beta_r, tau_anc
            ),
        ),
        Mistake(
            "cross-entropy",
            "this is the cross-entropy -sum q log p for every alpha: ADPO's loss, which is alpha = 1 plus a constant.",
            _apo_but(lambda log_q, log_p, alpha: -(log_q.exp() * log_p).sum(-1)),
        ),
        Mistake(
            "alpha ignored",
            "this is KL(q || p) whatever alpha is.",
            _apo_but(lambda log_q, log_p, alpha: apo_edu.forward_kl(log_q, log_p)),
        ),
        Mistake(
            "no limits",
            "0/0 at alpha = 0 and 1: use a divergence that knows its limits, yours from assignment 1 or the library's.",
            _loss_of(lambda now, old: now - old, divergence=_uncorrected),
        ),
        Mistake(
            "anchored at itself",
            "the policy is anchored at itself: p is uniform for ever and no gradient is left. The anchor is old_logps.",
            _apo_but(anchor=lambda logps, old: logps),
        ),
        Mistake(
            "anchor ignored",
            "old_logps does nothing here: the anchored policy sees only the change since sampling, l - l_ref.",
            _loss_of(lambda now, old: now),
        ),
        Mistake(
            "policy and anchor exchanged",
            "logps and old_logps are exchanged: u is (l - l_ref)/tau_anc, so that a completion that became more likely has a "
            "larger p.",
            _loss_of(lambda now, old: old - now),
        ),
        Mistake(
            "exchanged, and detached",
            "logps and old_logps are exchanged, and the policy is the one that is detached: no gradient is left. The policy "
            "comes first, anchored_log_policy(logps, old_logps, tau_anc).",
            _loss_of(lambda now, old: old - now.detach(), detach=False),
        ),
        Mistake("anchor not detached", ANCHOR_MOVES, _loss_of(lambda now, old: now - old, detach=False)),
        Mistake(
            "no mean over prompts",
            "this gives one number for each prompt; a loss is one number, their mean.",
            _apo_but(reduce=lambda d: d),
        ),
        Mistake("mask ignored", "the padding counts: the mask is not used.", _apo_but(masked=False)),
        Mistake(
            "divided by the padded length",
            "the sum runs over a completion's tokens, but it is divided by the padded length: divide by mask.sum(-1).",
            _loss_of(lambda now, old: now - old, length=lambda mask: mask.shape[-1]),
        ),
        Mistake(
            "divided by all tokens",
            "each completion is divided by the number of tokens in the whole batch; divide by its own, mask.sum(-1).",
            _loss_of(lambda now, old: now - old, length=lambda mask: mask.sum()),
        ),
        Mistake(
            "sum over tokens",
            "the log-probabilities are summed over the tokens; a completion's own is their mean.",
            _apo_but(logp_reduction="sum"),
        ),
        Mistake("no gradient", NO_GRADIENT, _apo_but(reduce=lambda d: d.mean().detach())),
    ),
)

baseline_gone = Written(
    name="baseline_gone",
    title="Where did the baseline go?",
    minutes=5,
    difficulty=2,
    text=r"""
Replace the advantages in the target by the rewards themselves. What happens to the loss of one prompt, and why? Then:
why does it still matter that GRPO's advantages are *divided* by the group's standard deviation?
""",
    rubric=(
        (1, "what happens to the loss, and the property of the softmax behind it"),
        (1, "what a division does to the target that a shift does not, prompt by prompt"),
    ),
    answer=r"""
Nothing happens: $\mathrm{softmax}((r-\bar r)/\beta_r) = \mathrm{softmax}(r/\beta_r)$, since a common constant cancels
in a softmax; the baseline's work is done by the normalisation. Dividing is another matter:
$\mathrm{softmax}(A/(s\beta_r))$ has the temperature $s\beta_r$, another one for each prompt. A prompt whose rewards differ
by hundredths then gets as sharp a target as one whose rewards differ by 1: with rewards 1, 0, ½, 0.2 at $\beta_r = 0.3$
the best gets 0.97 in both cases, where it gets 0.77 and 0.25 without the division. Noise is answered as loudly as a
difference.
""",
)

# 5. At the anchor.

SAME_LONGER, SAME_SHORTER = "the same direction, longer", "the same direction, shorter"
OTHER, ZERO = "another direction", "zero, for both alphas"


def _own_count(generator: torch.Generator) -> dict[str, Any]:
    right = (1, 7)[int(torch.randint(2, (1,), generator=generator))]
    return {"right": right, "group": 8, "beta_r": (0.25, 0.3, 0.35)[int(torch.randint(3, (1,), generator=generator))]}


def _larger_alpha(right: int, group: int, beta_r: float) -> str:
    """Compare the length of the reshaped rewards at alpha 0.9 with that at 0.35."""
    lengths = []
    for alpha in (0.35, 0.9):
        mean = (right * math.exp(1 / beta_r) + group - right) / group
        lengths.append(math.expm1(alpha / beta_r) / (alpha * mean**alpha))
    return "the same direction, longer" if lengths[1] > lengths[0] else "the same direction, shorter"


stretch = prediction(
    name="stretch",
    title="Predict: what does a larger alpha do to one prompt?",
    minutes=3,
    difficulty=2,
    text=r"""
The policy has just sampled a group, so it equals its anchor: $u = 0$, $p$ is uniform. Of `mine["group"]` completions
`mine["right"]` earn 1 and the others 0. Compared with $\alpha = 0.35$, the gradient of this prompt at $\alpha = 0.9$
is ... (One point for committing. You will compute it in a moment.)
""",
    numbers=_own_count,
    solution=_larger_alpha,
    choices={
        SAME_LONGER: "q takes two values, so the centred weights are proportional for every alpha: the direction cannot turn. "
        "Where success is rare (1 of 8) a larger alpha makes the step longer.",
        SAME_SHORTER: "q takes two values, so the centred weights are proportional for every alpha: the direction cannot "
        "turn. Where success is common (7 of 8) a larger alpha makes the step shorter.",
        OTHER: "With two different rewards there is only one direction: right ones up, wrong ones down, in balance. Three "
        "different rewards would do.",
        ZERO: "The loss is not at its minimum at u = 0: there p is uniform and q is not. Only KL(new policy || old) is 0.",
    },
)


def _reshaped_advantage(log_q: Tensor, alpha: float) -> Tensor:
    """z_i = ((P q_i)^alpha - mean over the group of the same) / alpha, its limit at alpha = 0, over the last dimension.

    log_q: [..., P], log-probabilities.  alpha: any float.  Returns [..., P].
    """
    log_w = log_q + math.log(log_q.shape[-1])  # P q is q/p at the anchor, where p = 1/P
    z = log_w if alpha == 0 else torch.expm1(alpha * log_w) / alpha
    return z - z.mean(-1, keepdim=True)


SWITCHED = (
    "near alpha = 0 this gives the limit itself, log(P q) centred. It is exact at alpha = 0 only: at 0.02 it is already "
    "off in the "
    "second or third digit. torch.expm1 keeps the digits for every alpha other than 0."
)


def beside_0(answer: Any, log_q: Tensor, alpha: float) -> Any:
    """Call an answer near alpha = 0; it must not give the limit there."""
    limit, exact = (_centred(_z(log_q, order)) for order in (0.0, alpha))
    value = answer(log_q, alpha)
    if value is not None and is_the_limit(value, limit, exact):
        raise NotYet(SWITCHED)
    return value


def targets_with(*orders: float) -> Any:
    """Cases (log_q, alpha) of 2 groups of 5."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(normal(generator, 2, 5).log_softmax(-1), alpha) for alpha in orders]

    return cases


def _z(log_q: Tensor, alpha: float, scale: float = 1.0) -> Tensor:
    """The Box-Cox weight of P q, before it is centred; `scale` spoils P."""
    return apo_edu.box_cox(log_q + math.log(log_q.shape[-1] * scale), alpha)


def _centred(z: Tensor) -> Tensor:
    return z - z.mean(-1, keepdim=True)


reshaped_advantage = Exercise(
    name="reshaped_advantage",
    title="The reshaped advantage",
    minutes=12,
    difficulty=2,
    text=r"""
At the anchor $p_i = 1/P$. Take the derivative of $D_\alpha(q\,\|\,p)$ with respect to $\ell_j$ there (start from
$\nabla D_\alpha = -\mathbb{E}_p[\tfrac{r^\alpha - 1}{\alpha}\nabla\log p]$, $r = q/p = P q$). You get

$$\frac{\partial D_\alpha}{\partial \ell_j} = -\frac{1}{P\,\tau_{anc}}\; z_j, \qquad
z_j = \frac{(P q_j)^\alpha - \frac1P\sum_i (P q_i)^\alpha}{\alpha}$$

so $z$ stands where REINFORCE has the advantage. Write $z$: at any $\alpha$, at $\alpha = 0$ (a limit), and without
losing its digits close to 0.
""",
    solution=_reshaped_advantage,
    referee=lambda log_q, alpha: _centred(_z(log_q, alpha)),
    checks=(
        Check(
            name="values",
            title="values at orders other than 0",
            points=2,
            cases=targets_with(0.3, 0.9, -0.5),
            rtol=1e-7,
            hint="By hand: P = 2, q = (0.8, 0.2), alpha = 1 gives (1.6, 0.4) minus its mean, z = (0.6, -0.6); alpha = 1/2 "
            "gives "
            "(0.632, -0.632). What does yours give for log_q = torch.tensor([[0.8, 0.2]]).log()?",
        ),
        Check(
            name="limit",
            title="the limit at alpha = 0",
            points=1,
            cases=targets_with(0.0, 0.0),
            rtol=1e-9,
            hint="Take alpha to 0 in (w^alpha - 1) / alpha; the constant 1 leaves with the mean.",
        ),
        Check(
            name="digits",
            title="its digits near alpha = 0, up to 0.02",
            points=1,
            cases=targets_with(1e-12, -1e-12, 1e-7, 1e-5, 1e-3, 0.02),
            probe=beside_0,
            rtol=1e-7,
            noisy=True,
            hint="Numbers near 1 are subtracted and 1/alpha multiplies their rounding. What does torch.expm1 compute?",
        ),
    ),
    mistakes=(
        Mistake(
            "sign",
            "the sign is turned round: z is an advantage, positive where q is large; the minus is in the gradient.",
            lambda log_q, alpha: -_centred(_z(log_q, alpha)),
        ),
        Mistake(
            "not centred",
            "what is subtracted must be the mean of the powers (P q)^alpha over the group; here it is 1, or nothing.",
            _z,
        ),
        Mistake(
            "sum for mean",
            "the sum over the group is subtracted; it is the mean.",
            lambda log_q, alpha: _z(log_q, alpha) - _z(log_q, alpha).sum(-1, keepdim=True),
        ),
        Mistake(
            "groups for P",
            "P is the size of a group, the last dimension; this takes the first, the number of groups.",
            lambda log_q, alpha: _centred(_z(log_q, alpha, log_q.shape[0] / log_q.shape[-1])),
        ),
        Mistake(
            "P outside of the power",
            "P stands outside of the power: it is (P q)^alpha, not P q^alpha.",
            lambda log_q, alpha: _centred(_z(log_q, alpha, 1 / log_q.shape[-1])) * (log_q.shape[-1] if alpha else 1.0),
        ),
        Mistake(
            "1/alpha missing",
            "the factor 1/alpha is missing.",
            lambda log_q, alpha: _centred(_z(log_q, alpha)) * (alpha or 1.0),
        ),
        Mistake(
            "P missing",
            "this uses q^alpha where (P q)^alpha is asked for: r = q/p, and p is 1/P.",
            lambda log_q, alpha: _centred(_z(log_q, alpha, 1 / log_q.shape[-1])),
        ),
        Mistake(
            "p for 1/p",
            "this uses (q/P)^alpha: dividing by p = 1/P multiplies by P.",
            lambda log_q, alpha: _centred(_z(log_q, alpha, log_q.shape[-1] ** -2)),
        ),
        Mistake(
            "1/P included",
            "the factor 1/P belongs to the mean over samples, outside of z.",
            lambda log_q, alpha: _centred(_z(log_q, alpha)) / log_q.shape[-1],
        ),
        Mistake(
            "no limit",
            "0/0 at alpha = 0: the limit needs a case of its own.",
            lambda log_q, alpha: _centred((log_q + math.log(log_q.shape[-1])).mul(alpha).exp()) / alpha,
        ),
        Mistake(
            "the limit is 0",
            "at alpha = 0 the numerator is 0, but so is alpha: the limit is not 0.",
            lambda log_q, alpha: _centred(_z(log_q, alpha)) * (alpha != 0),
        ),
        Mistake(
            "limit not centred",
            "at alpha = 0 the weight is log(P q), and it is centred too.",
            lambda log_q, alpha: _z(log_q, alpha) if alpha == 0 else _centred(_z(log_q, alpha)),
        ),
        Mistake(
            "digits lost",
            "right in exact arithmetic, but near alpha = 0 the powers are all near 1, and 1/alpha multiplies their rounding: "
            "start from torch.expm1.",
            lambda log_q, alpha: (
                _centred(_z(log_q, alpha))
                if alpha == 0
                else _centred((alpha * (log_q + math.log(log_q.shape[-1]))).exp()) / alpha
            ),
        ),
        Mistake(
            "an early switch to the limit",
            SWITCHED,
            lambda log_q, alpha: _centred(_z(log_q, alpha if abs(alpha) > 0.05 else 0.0)),
        ),
        Mistake(
            "the limit is that of alpha = 1",
            "at alpha = 0 this is P q - 1, the weight at the other end, alpha = 1; take alpha to 0 instead.",
            lambda log_q, alpha: _centred(_z(log_q, alpha or 1.0)),
        ),
        Mistake(
            "1 - alpha for alpha",
            "this is the weight for 1 - alpha: the power alpha belongs to q.",
            lambda log_q, alpha: _centred(_z(log_q, 1 - alpha)),
        ),
        Mistake(
            "mean under q",
            "the mean is taken under q; at the anchor p is uniform, so it is the plain mean.",
            lambda log_q, alpha: _z(log_q, alpha) - (log_q.exp() * _z(log_q, alpha)).sum(-1, keepdim=True),
        ),
        Mistake(
            "mean over the batch",
            "the mean is taken over all groups: each has its own.",
            lambda log_q, alpha: _z(log_q, alpha) - _z(log_q, alpha).mean(),
        ),
        Mistake(
            "logarithms taken for probabilities",
            "log_q is a logarithm: take .exp() first, or multiply it by alpha inside an exponential.",
            lambda log_q, alpha: _centred((log_q.abs() * log_q.shape[-1]) ** alpha) / (alpha or 1.0),
        ),
        Mistake(
            "alpha ignored",
            "this is P q minus its mean, alpha = 1, whatever alpha is.",
            lambda log_q, alpha: _centred(_z(log_q, 1.0)),
        ),
        Mistake(
            "divided by the standard deviation",
            "z is divided by its standard deviation: that would remove what alpha does to the length.",
            lambda log_q, alpha: _centred(_z(log_q, alpha)) / _z(log_q, alpha).std(-1, keepdim=True),
        ),
    ),
)


def _reinforce_gradient(logits: Tensor, arms: Tensor, log_q: Tensor, alpha: float, tau_anc: float) -> Tensor:
    """The gradient of APO's loss of one group at the anchor, with respect to the policy's logits, as REINFORCE.

    logits: [arms of the bandit].  arms: [P], the arms drawn, integers; an arm may occur several times.
    log_q: [P].  Returns the shape of logits.
    """
    z = log_q + math.log(len(log_q))
    z = z if alpha == 0 else torch.expm1(alpha * z) / alpha
    z = z - z.mean()
    policy = torch.softmax(logits, -1)
    gradient = torch.zeros_like(logits)
    for weight, arm in zip(z, arms, strict=True):
        score = -policy
        score[arm] += 1.0  # grad log pi(arm) = onehot(arm) - pi
        gradient = gradient - weight * score / (len(arms) * tau_anc)
    return gradient


def groups_of_arms(*orders: float) -> Any:
    """Cases of `reinforce_gradient`: 6 draws from 4 arms, so that some arm occurs twice."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for alpha in orders:
            logits = normal(generator, 4)
            arms = torch.randint(4, (6,), generator=generator)
            arms[1] = arms[0]
            log_q = normal(generator, 6).log_softmax(-1)
            given.append((logits, arms, log_q, alpha, uniform(generator, 0.2, 0.8)))
        return given

    return cases


BY_AUTOGRAD = "this asks autograd for the gradient; write it as REINFORCE, and let autograd be your own check."


def without_autograd(answer: Any, *case: Any) -> Any:
    """Call an answer where autograd is switched off."""
    try:
        with torch.inference_mode():  # not no_grad: an answer could switch it on again
            return answer(*case)
    except RuntimeError as error:
        if "does not require grad" in str(error):
            raise NotYet(BY_AUTOGRAD) from None
        raise


def _by_autograd(logits: Tensor, arms: Tensor, log_q: Tensor, alpha: float, tau_anc: float) -> Tensor:
    leaf = logits.clone().requires_grad_()
    logps = leaf.log_softmax(-1)[arms]
    loss = apo_edu.alpha_divergence(log_q, apo_edu.anchored_log_policy(logps, logps.detach(), tau_anc), alpha)
    return torch.autograd.grad(loss, leaf)[0]


def _referee_gradient(logits: Tensor, arms: Tensor, log_q: Tensor, alpha: float, tau_anc: float) -> Tensor:
    with torch.inference_mode(False):
        logits, log_q = logits.clone(), log_q.clone()
        return _by_autograd(logits, arms, log_q, alpha, tau_anc)


def _scores(logits: Tensor, arms: Tensor) -> Tensor:
    """[P, arms] grad log pi of each draw."""
    return torch.nn.functional.one_hot(arms, len(logits)).double() - logits.softmax(-1)


def _reinforce_but(
    weigh: Callable[..., Tensor] = lambda z, logits, arms: z,
    z: Callable[[Tensor, float], Tensor] = lambda log_q, alpha: _centred(_z(log_q, alpha)),
    factor: Callable[[int, float], float] = lambda count, tau_anc: -1.0 / (count * tau_anc),
    scores: Callable[[Tensor, Tensor], Tensor] = _scores,
) -> Any:
    def gradient(logits: Tensor, arms: Tensor, log_q: Tensor, alpha: float, tau_anc: float) -> Tensor:
        weights = weigh(z(log_q, alpha), logits, arms)
        return factor(len(arms), tau_anc) * (weights[:, None] * scores(logits, arms)).sum(0)

    return gradient


def _overwritten(logits: Tensor, arms: Tensor, log_q: Tensor, alpha: float, tau_anc: float) -> Tensor:
    z, gradient = _centred(_z(log_q, alpha)), torch.zeros_like(logits)
    for weight, arm in zip(z, arms, strict=True):
        gradient[arm] = -weight / (len(arms) * tau_anc)
    return gradient


def _distinct(logits: Tensor, arms: Tensor, log_q: Tensor, alpha: float, tau_anc: float) -> Tensor:
    first = [list(arms.tolist()).index(arm) for arm in sorted(set(arms.tolist()))]
    z = _centred(_z(log_q, alpha))
    return -(z[first, None] * _scores(logits, arms[first])).sum(0) / (len(arms) * tau_anc)


reinforce_gradient = Exercise(
    name="reinforce_gradient",
    title="It is REINFORCE",
    minutes=16,
    difficulty=3,
    text=r"""
A bandit's policy is $\pi = \mathrm{softmax}(\text{logits})$ over its arms, and a completion is an arm, one token
long. Write the gradient of APO's loss of one group at the anchor with respect to the logits, by hand, as REINFORCE
writes it:

$$\nabla L = -\frac{1}{P\,\tau_{anc}}\sum_{i=1}^{P} z_i\, \nabla\log\pi(a_i), \qquad
\nabla\log\pi(a) = \mathrm{onehot}(a) - \pi$$

The check compares it with autograd through the whole loss: they are equal, not only similar. Call your own
`reshaped_advantage`. Beware: the same arm may be drawn twice.
""",
    solution=_reinforce_gradient,
    referee=_referee_gradient,
    checks=(
        Check(
            name="equal",
            title="equal to autograd through the loss",
            points=3,
            cases=groups_of_arms(0.4, 0.9),
            rtol=1e-8,
            probe=without_autograd,
            hint="Ask autograd in a cell of your own: `leaf = logits.clone().requires_grad_()`, `l = "
            "leaf.log_softmax(-1)[arms]`, "
            "and the divergence of log_q and `torch.log_softmax((l - l.detach()) / tau_anc, -1)`. Is the ratio to yours "
            "the same "
            "everywhere? Then a factor. Does it differ at an arm that was drawn twice? Then count the draws.",
        ),
        Check(
            name="limit",
            title="the same at alpha = 0",
            points=1,
            cases=groups_of_arms(0.0),
            rtol=1e-8,
            probe=without_autograd,
            hint="Only z knows alpha. What does your reshaped_advantage give at alpha = 0?",
        ),
    ),
    mistakes=(
        Mistake(
            "sign",
            "the sign is turned round: a gradient points where the loss grows, away from good arms. The step will subtract it.",
            _reinforce_but(factor=lambda count, tau_anc: 1.0 / (count * tau_anc)),
        ),
        Mistake(
            "sum for mean",
            "this sums over the group; the 1/P is missing.",
            _reinforce_but(factor=lambda count, tau_anc: -1.0 / tau_anc),
        ),
        Mistake(
            "1/(P tau_anc) missing",
            "the factor 1/(P tau_anc) is missing: a mean over the draws, and u changes by 1/tau_anc for every nat.",
            _reinforce_but(factor=lambda count, tau_anc: -1.0),
        ),
        Mistake(
            "arms for draws",
            "this divides by the number of the bandit's arms; P is how many were drawn.",
            lambda logits, arms, log_q, alpha, tau_anc: (
                _reinforce_but()(logits, arms, log_q, alpha, tau_anc) * len(arms) / len(logits)
            ),
        ),
        Mistake(
            "not summed",
            "this has one row for each draw: sum over the draws, and one number for each arm is left.",
            lambda logits, arms, log_q, alpha, tau_anc: (
                -_centred(_z(log_q, alpha))[:, None] * _scores(logits, arms) / (len(arms) * tau_anc)
            ),
        ),
        Mistake(
            "mean under pi",
            "z is centred by its mean under pi; the draws come from pi already, so it is their plain mean.",
            _reinforce_but(
                weigh=lambda z, logits, arms: z - (logits.softmax(-1)[arms] * z).sum(),
                z=lambda log_q, alpha: _z(log_q, alpha),
            ),
        ),
        Mistake(
            "other arms forgotten",
            "only the arm drawn moves here, by 1 - pi(a): grad log pi(a) also has -pi at every other arm.",
            _reinforce_but(
                scores=lambda logits, arms: (
                    _scores(logits, arms) * torch.nn.functional.one_hot(arms, len(logits)).double()
                )
            ),
        ),
        Mistake(
            "tau_anc missing",
            "the factor 1/tau_anc is missing: u changes by 1/tau_anc for every nat of log-probability.",
            _reinforce_but(factor=lambda count, tau_anc: -1.0 / count),
        ),
        Mistake(
            "tau_anc multiplied",
            "tau_anc multiplies here; it divides.",
            _reinforce_but(factor=lambda count, tau_anc: -tau_anc / count),
        ),
        Mistake(
            "repeated arms overwritten",
            "an arm that was drawn twice counts once: the second weight overwrites the first (gradient[arm] = ...). Add them.",
            _overwritten,
        ),
        Mistake("each arm once", "each distinct arm counts once; every draw counts.", _distinct),
        Mistake(
            "no baseline and no pi",
            "z is not centred and -pi is missing. With a centred z the terms with pi cancel; without, they do not.",
            _reinforce_but(
                z=lambda log_q, alpha: _z(log_q, alpha),
                scores=lambda logits, arms: torch.nn.functional.one_hot(arms, len(logits)).double(),
            ),
        ),
        Mistake(
            "no baseline",
            "z is not centred. Its expectation would be the same, but a group's own gradient is centred.",
            _reinforce_but(z=_z),
        ),
        Mistake(
            "grad pi for grad log pi",
            "this weights by the gradient of pi; REINFORCE has that of log pi.",
            _reinforce_but(weigh=lambda z, logits, arms: z * logits.softmax(-1)[arms]),
        ),
        Mistake(
            "importance weights",
            "this divides by pi(a): the draws already come from pi, so nothing is left to correct.",
            _reinforce_but(weigh=lambda z, logits, arms: z / logits.softmax(-1)[arms]),
        ),
        Mistake(
            "plain advantage",
            "the weights are log q, centred, for every alpha: that is REINFORCE with the plain advantage, alpha = 0.",
            _reinforce_but(z=lambda log_q, alpha: _centred(log_q)),
        ),
        Mistake(
            "alpha ignored",
            "the weights are P q - 1 for every alpha: that is alpha = 1.",
            _reinforce_but(z=lambda log_q, alpha: _centred(_z(log_q, 1.0))),
        ),
        Mistake(
            "1/alpha missing",
            "the factor 1/alpha is missing.",
            _reinforce_but(z=lambda log_q, alpha: _centred(_z(log_q, alpha)) * (alpha or 1.0)),
        ),
        Mistake(
            "q for z",
            "the weights are q itself, not z: (P q)^alpha, centred, over alpha.",
            _reinforce_but(z=lambda log_q, alpha: log_q.exp()),
        ),
        Mistake(
            "no limit",
            "0/0 at alpha = 0: there z is log(P q), centred.",
            _reinforce_but(z=lambda log_q, alpha: _centred(_z(log_q, alpha)) * (1.0 if alpha else math.nan)),
        ),
        Mistake("autograd", BY_AUTOGRAD, _by_autograd),
    ),
)

# 6. Binary rewards.


def _step_length(right: int, group: int, alpha: float, beta_r: float) -> float:
    """For rewards of 0 and 1, z_i = c (r_i - mean r): the factor c.

    right: how many of the group earn 1.  group: P.  alpha: a float >= 0.  beta_r: a float > 0.  Returns a float.
    """
    if alpha == 0:
        return 1 / beta_r
    mean = (right * math.exp(1 / beta_r) + group - right) / group
    return math.expm1(alpha / beta_r) / (alpha * mean**alpha)


def counts_with(*orders: float) -> Any:
    """Cases (right, group, alpha, beta_r)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for alpha in orders:
            group = int(torch.randint(5, 12, (1,), generator=generator))
            right = int(torch.randint(1, (group + 1) // 2, (1,), generator=generator))
            given.append((right, group, alpha, uniform(generator, 0.3, 0.8)))
        return given

    return cases


def _length_but(
    power: Callable[[float, float], float] = lambda alpha, beta_r: math.expm1(alpha / beta_r),
    mean: Callable[[int, int, float], float] = lambda right, group, e: (right * e + group - right) / group,
    by_mean: Callable[[float, float], float] = lambda mean, alpha: mean**alpha,
    divisor: Callable[[float], float] = lambda alpha: alpha,
    limit: Callable[[float], float] = lambda beta_r: 1 / beta_r,
    extra: Callable[[int, int], float] = lambda right, group: 1.0,
) -> Any:
    def length(right: int, group: int, alpha: float, beta_r: float) -> float:
        if alpha == 0:
            return limit(beta_r) * extra(right, group)
        whole = by_mean(mean(right, group, math.exp(1 / beta_r)), alpha)
        return power(alpha, beta_r) / (divisor(alpha) * whole) * extra(right, group)

    return length


def _right_ones_z(right: int, group: int, alpha: float, beta_r: float) -> float:
    log_w = 1 / beta_r - math.log((right * math.exp(1 / beta_r) + group - right) / group)
    return math.expm1(alpha * log_w) / alpha if alpha else log_w


def _of_two_values(right: int, group: int) -> float:
    return right * (group - right) / (group * group)


step_length = Exercise(
    name="step_length",
    title="Alpha is a step size",
    minutes=10,
    difficulty=2,
    text=r"""
With rewards of 0 and 1 the target has two values, so $z_i = c\,(r_i - \bar r)$ with one factor $c$ for the whole
prompt. Work out $c$ from the number of right completions $k$, the group size $P$, $\alpha$ and $\beta_r$. (Write $q$
for both kinds of completion over their common sum $k\,e^{1/\beta_r} + P - k$; then subtract.) At $\alpha = 0$ there
is a limit.
""",
    solution=_step_length,
    checks=(
        Check(
            name="values",
            title="values",
            points=3,
            cases=counts_with(0.3, 0.9, 0.6, 0.02),
            rtol=1e-8,
            hint="c is z of a right completion minus z of a wrong one: their rewards differ by 1.",
        ),
        Check(
            name="limit",
            title="the limit at alpha = 0",
            points=1,
            cases=counts_with(0.0, 0.0),
            rtol=1e-8,
            hint="z at alpha = 0 is log(P q), centred; log q is A / beta_r plus a constant.",
        ),
    ),
    mistakes=(
        Mistake(
            "alpha times beta_r",
            "the exponent is alpha / beta_r, not alpha times beta_r.",
            _length_but(power=lambda alpha, beta_r: math.expm1(alpha * beta_r)),
        ),
        Mistake(
            "-1 missing",
            "this is the right completion's power alone: subtract the wrong one's, which has e^0 = 1.",
            _length_but(power=lambda alpha, beta_r: math.exp(alpha / beta_r)),
        ),
        Mistake("1/alpha missing", "the factor 1/alpha is missing.", _length_but(divisor=lambda alpha: 1.0)),
        Mistake(
            "normalisation forgotten",
            "the target's normalisation is forgotten: q has a sum in its denominator, and it is raised to alpha too.",
            _length_but(by_mean=lambda mean, alpha: 1.0),
        ),
        Mistake(
            "normalisation not to the power alpha",
            "the normalisation is there, but not raised to the power alpha.",
            _length_but(by_mean=lambda mean, alpha: mean),
        ),
        Mistake(
            "P missing",
            "this is q^alpha; z has (P q)^alpha.",
            _length_but(mean=lambda right, group, e: right * e + group - right),
        ),
        Mistake(
            "p for 1/p",
            "this is (q/P)^alpha: dividing by p = 1/P multiplies by P.",
            _length_but(mean=lambda right, group, e: (right * e + group - right) * group),
        ),
        Mistake(
            "1/P included",
            "the factor 1/P belongs to the mean over samples, outside of z and c.",
            _length_but(extra=lambda right, group: 1 / group),
        ),
        Mistake(
            "right and wrong exchanged",
            "right and wrong completions are exchanged in the normalisation: the right ones have e^(1/beta_r).",
            _length_but(mean=lambda right, group, e: ((group - right) * e + right) / group),
        ),
        Mistake(
            "beta_r missing",
            "beta_r is missing in the normalisation: the right ones have e^(1/beta_r), not e.",
            _length_but(mean=lambda right, group, e: (right * math.e + group - right) / group),
        ),
        Mistake(
            "the group is all right",
            "the normalisation counts every completion as right.",
            _length_but(mean=lambda right, group, e: e),
        ),
        Mistake(
            "z of a right completion",
            "this is the z of a right completion before it is centred; c is that minus the z of a wrong one.",
            _right_ones_z,
        ),
        Mistake(
            "z, centred, of a right completion",
            "this is z of a right completion, c (1 - mean r): divide by 1 - k/P.",
            _length_but(extra=lambda right, group: 1 - right / group),
        ),
        Mistake(
            "exp(A/beta_r) for q",
            "the target is taken as exp(A / beta_r), with the centred advantage A: it must be divided by its sum over the "
            "group.",
            _length_but(mean=lambda right, group, e: e ** (right / group)),
        ),
        Mistake(
            "alpha missing in the exponent",
            "the numerator lacks alpha: e^(alpha / beta_r), not e^(1/beta_r).",
            _length_but(power=lambda alpha, beta_r: math.expm1(1 / beta_r)),
        ),
        Mistake(
            "normalisation to the power 1 - alpha",
            "the normalisation has the power 1 - alpha; it is q's, so its power is alpha.",
            _length_but(by_mean=lambda mean, alpha: mean ** (1 - alpha)),
        ),
        Mistake(
            "1 - alpha for alpha",
            "every alpha is 1 - alpha here: the power alpha belongs to q.",
            lambda right, group, alpha, beta_r: _length_but()(right, group, 1 - alpha, beta_r),
        ),
        Mistake(
            "the prompt's weight",
            "this is c times k/P (1 - k/P), the length of the whole prompt's gradient; c itself is asked for.",
            _length_but(extra=_of_two_values),
        ),
        Mistake(
            "GRPO's",
            "this is 1 / standard deviation, GRPO's factor: it knows neither alpha nor beta_r.",
            lambda right, group, alpha, beta_r: (_of_two_values(right, group) * group / (group - 1)) ** -0.5,
        ),
        Mistake(
            "the limit is that of alpha = 1",
            "at alpha = 0 this is the value at the other end, alpha = 1; take alpha to 0 instead.",
            lambda right, group, alpha, beta_r: _length_but()(right, group, alpha or 1.0, beta_r),
        ),
        Mistake(
            "an early switch to the limit",
            "near alpha = 0 this gives the limit, 1/beta_r, itself. It is exact at alpha = 0 only.",
            lambda right, group, alpha, beta_r: _length_but()(right, group, alpha if alpha > 0.05 else 0.0, beta_r),
        ),
        Mistake(
            "the limit is 1",
            "at alpha = 0 the limit is not 1: how much does log q grow if the reward grows by 1?",
            _length_but(limit=lambda beta_r: 1.0),
        ),
        Mistake(
            "the limit is 0", "at alpha = 0 the limit is not 0: 0/0 is not 0.", _length_but(limit=lambda beta_r: 0.0)
        ),
        Mistake(
            "the limit is beta_r",
            "at alpha = 0 the limit is the inverse of this: a small beta_r makes a long step.",
            _length_but(limit=lambda beta_r: beta_r),
        ),
        Mistake(
            "no limit",
            "0/0 at alpha = 0: the limit needs a case of its own.",
            _length_but(limit=lambda beta_r: math.nan),
        ),
    ),
)


def show_step_lengths(step_length: Any, right: int, group: int, beta_r: float) -> None:
    """Print c of a prompt at two alphas, and draw the weight of prompts solved k times in P."""
    from ..widgets import figure

    if step_length(right, group, 0.5, beta_r) is None:
        print("Write step_length first; then this cell draws it.")
        return
    low, high = (float(step_length(right, group, alpha, beta_r)) for alpha in (0.35, 0.9))
    print(f"{right} of {group} right: c = {low:.2f} at alpha 0.35 and {high:.2f} at alpha 0.9, {high / low:.2f} times.")
    with plotting.style():
        picture, ax = plotting.figure(size=(6.0, 3.2))
        counts = range(1, group)
        for alpha in (0.0, 0.35, 0.9):
            weights = [_of_two_values(k, group) * float(step_length(k, group, alpha, beta_r)) for k in counts]
            ax.plot(counts, weights, "o", label=f"alpha = {alpha:g}", **plotting.alpha_line(alpha))
        ax.set(xlabel=f"right completions k of {group}", ylabel="length of the prompt's gradient", ylim=(0, None))
        ax.legend()
    words = "One prompt: alpha only stretches. Several prompts: alpha shifts weight to those that are rarely solved."
    figure(picture, words, f"Length of a prompt's gradient against the number of right completions. {words}")


binary_proof = Written(
    name="binary_proof",
    title="Proof: alpha cannot turn it",
    minutes=10,
    difficulty=2,
    text=r"""
Prove in words: with rewards of 0 and 1 and one update at the anchor, $\alpha$ changes the length of a *prompt's*
gradient and never its direction, and GRPO's gradient has the same direction. Then say what becomes of the statement
(a) with rewards 0, ½ and 1, (b) with a batch of several prompts. Which line of *your* `step_length` decides (b)?
""",
    rubric=(
        (1, "the form that every function of a two-valued reward has, before and after centring"),
        (1, "GRPO's advantage is shown to have this form too"),
        (1, "(a) the quantity that depends on alpha once there are three rewards, and what follows for the direction"),
        (1, "(b) what differs from prompt to prompt, what follows for the sum, and the line of your own"),
    ),
    answer=r"""
A function of the reward that takes two values $f_1$ (right) and $f_0$ (wrong) can be written $f_0 + (f_1-f_0)\,r$.
Centring removes $f_0$, so $z_i = (f_1-f_0)(r_i-\bar r)$: the vector $r-\bar r$ times a number $c$. This holds for
$(Pq)^\alpha/\alpha$ at every $\alpha$ and for GRPO's advantage, so they all have one direction. (a) With three
rewards a function has three values; what counts is $(q_2^\alpha-q_1^\alpha)/(q_3^\alpha-q_1^\alpha)$, which moves
with $\alpha$: the direction turns. (b) Each prompt keeps its direction but has its own $c$, which depends on $k$
through `mean = (right * math.exp(1 / beta_r) + group - right) / group`; the sum over prompts is weighted differently
for each $\alpha$ and can turn.
""",
)

# 7. The loop.


def choose_arms(logits: Tensor, luck: Tensor) -> Tensor:
    """Draw arms from softmax(logits), [arms], with uniform random numbers, [group]: integers [group]."""
    steps = logits.detach().softmax(-1).cumsum(-1)
    return torch.searchsorted(steps, luck.contiguous()).clamp(max=len(logits) - 1)


def pull_arms(bandit: bandits.Bandit, arms: Tensor, luck: Tensor) -> Tensor:
    """The rewards of these arms, [group], with uniform random numbers, [group]."""
    return bandit.draw(arms[None, None], luck[None, None])[0, 0]


def _play(
    bandit: bandits.Bandit,
    draws: list[tuple[Tensor, Tensor]],
    alpha: float,
    tau_anc: float,
    beta_r: float,
    lr: float,
    updates: int,
) -> tuple[list[float], Tensor]:
    """The whole loop: sample a group, pull, and make `updates` steps of gradient descent on APO's loss of that group.

    bandit: arms = bandit.values.shape[1].  draws: one pair (luck, luck) a step, [group] uniform numbers each: the first for
    `choose_arms`, the second for `pull_arms`.  Start from logits of 0, float64.  The anchor of a group is the policy that
    sampled it.  Returns (mean reward of each step's group, the final logits).
    """
    logits = torch.zeros(bandit.values.shape[1], dtype=torch.float64, requires_grad=True)
    seen = []
    for choice, luck in draws:
        arms = choose_arms(logits, choice)
        rewards = pull_arms(bandit, arms, luck)
        seen.append(float(rewards.mean()))
        old = logits.log_softmax(-1)[arms].detach()
        log_q = apo_edu.boltzmann_log_target(rewards, beta_r)
        for _ in range(updates):
            log_p = apo_edu.anchored_log_policy(logits.log_softmax(-1)[arms], old, tau_anc)
            loss = apo_edu.alpha_divergence(log_q, log_p, alpha)
            (gradient,) = torch.autograd.grad(loss, logits)
            logits = (logits - lr * gradient).detach().requires_grad_()
    return seen, logits.detach()


def games_with(*orders: float, updates: int, steps: int = 3) -> Any:
    """Cases of `play`: 5 arms of graded values, groups of 4."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for alpha in orders:
            values = torch.rand(1, 5, generator=generator, dtype=torch.float64)
            bandit = bandits.Bandit(values=values, noise=0.2)
            draws = [tuple(torch.rand(2, 4, generator=generator, dtype=torch.float64)) for _ in range(steps)]
            tau_anc, beta_r = uniform(generator, 0.4, 0.7), uniform(generator, 0.3, 0.5)
            given.append((bandit, draws, alpha, tau_anc, beta_r, 1.0, updates))
        return given

    return cases


ONE_REWARD_A_STEP = "expected one mean reward for each step, in a list, and then the logits."
PROBABILITIES = (
    "the second thing returned are probabilities; the logits are asked for (or log-probabilities, the same policy)."
)


def as_policy(answer: Any, *case: Any) -> Any:
    """Rewards and final log-policy of a loop: logits that differ by a constant are the same policy."""
    given = answer(*case)
    if given is None:
        return None
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise NotYet("expected two things, (mean reward of each step, the final logits).")
    rewards, logits = given
    if not isinstance(logits, Tensor) or logits.dim() != 1:
        raise NotYet("the second thing returned must be the logits, a tensor with one entry for each arm.")
    if not isinstance(rewards, list | tuple | Tensor | np.ndarray) or len(rewards) != len(case[1]):
        raise NotYet(ONE_REWARD_A_STEP)
    logits = logits.detach().double()
    if bool((logits >= 0).all()) and abs(float(logits.sum()) - 1) < 1e-6:
        raise NotYet(PROBABILITIES)
    rewards = torch.as_tensor([float(reward) for reward in rewards], dtype=torch.float64)
    return rewards, logits.log_softmax(-1)


def _adam(gradients: list[Tensor]) -> Tensor:
    """Adam's direction after these gradients, with torch's defaults."""
    steps = len(gradients)
    ages = torch.arange(steps - 1, -1, -1, dtype=torch.float64)[:, None]
    seen = torch.stack(gradients)
    mean = (0.1 * 0.9**ages * seen).sum(0) / (1 - 0.9**steps)
    square = (0.001 * 0.999**ages * seen**2).sum(0) / (1 - 0.999**steps)
    return mean / (square.sqrt() + 1e-8)


def _played(
    *,
    sign: float = 1.0,
    learner: Callable[[float, float, float], tuple[float, float, float]] = lambda alpha, tau, beta: (alpha, tau, beta),
    anchor: str = "batch",
    sample: str = "policy",
    detached: bool = True,
    fresh_reward: bool = False,
    summed: bool = False,
    expected: bool = False,
    best: bool = False,
    after: bool = False,
    once: bool = False,
    step: Callable[[float, int], float] = lambda lr, updates: lr,
    keep_gradient: bool = False,
    forget: bool = False,
    same_luck: bool = False,
    other_luck: bool = False,
    worth: Callable[[Tensor], Tensor] = lambda rewards: rewards,
    times: Callable[[int], float] = lambda group: 1.0,
    first_lost: bool = False,
    drawn_again: bool = False,
    by_values: bool = False,
    of_probabilities: bool = False,
    adam: bool = False,
    give: Callable[[list[float], Tensor], Any] = lambda seen, logits: (seen, logits),
) -> Any:
    """The loop with one thing changed; its gradient in closed form, which is quicker than autograd."""

    def play(
        bandit: bandits.Bandit, draws: Any, alpha: float, tau_anc: float, beta_r: float, lr: float, updates: int
    ) -> Any:
        alpha, tau_anc, beta_r = learner(alpha, tau_anc, beta_r)
        logits = torch.zeros(bandit.values.shape[1], dtype=torch.float64)
        first, total, seen = logits, torch.zeros_like(logits), []
        gradients: list[Tensor] = []
        for choice, luck in draws:
            choice, luck = (luck, choice) if other_luck else (choice, luck)
            logits = first if forget else logits
            arms = choose_arms({"policy": logits, "first": first}[sample], choice)
            rewards = pull_arms(bandit, arms, choice if same_luck else luck)
            rewards = bandit.values[0][arms] if by_values else rewards
            before = logits
            log_q = apo_edu.boltzmann_log_target(worth(rewards), beta_r)
            for update in range(1 if once else updates):
                if drawn_again:
                    arms = choose_arms(logits, choice)
                at = {"batch": before, "first": first, "update": logits}["update" if drawn_again else anchor]
                now, ref = logits.log_softmax(-1), at.log_softmax(-1)
                here, there = (now.exp(), ref.exp()) if of_probabilities else (now, ref)
                log_p = apo_edu.anchored_log_policy(here[arms], there[arms], tau_anc)
                coef = apo_edu.alpha_divergence_grad(log_q, log_p, alpha) / tau_anc
                coef = coef * now.exp()[arms] if of_probabilities else coef
                gradient = torch.zeros_like(logits).index_add(0, arms, coef) - coef.sum() * now.exp()
                total = total + gradient if keep_gradient else gradient
                gradients.append(gradient)
                direction = _adam(gradients) if adam else total
                moves = detached and not (first_lost and update == 0)
                logits = logits - sign * step(lr, updates) * times(len(arms)) * direction * moves
            policy = (logits if after else before).softmax(-1)
            reward = rewards.sum() if summed else rewards.max() if best else rewards.mean()
            if after:
                reward = pull_arms(bandit, choose_arms(logits, choice), luck).mean()
            seen.append(float((policy * bandit.values[0]).sum() if expected else reward))
        return give(seen, logits)

    return play


play = Exercise(
    name="play",
    title="The loop",
    minutes=20,
    difficulty=3,
    text=r"""
Now let it learn. `choose_arms(logits, luck)` draws a group of arms from the policy, `pull_arms(bandit, arms, luck)`
pays them; all random numbers come in `draws`, so that your run and the referee's are the same run. Each step: draw,
pay, write down the mean reward, then make `updates` gradient steps of size `lr` on APO's loss of this group, anchored
at the policy that drew it. For the gradient use what you like: autograd through your `apo_loss` (a bandit is the case
of one prompt and one token: shapes `[1, group, 1]`, a mask of ones), the library's objectives, or a closed form. Mind
that after the first of several updates the policy is no longer its anchor.
""",
    solution=_play,
    referee=_played(),
    library="all",
    checks=(
        Check(
            name="one",
            title="one update a group",
            points=3,
            cases=games_with(0.6, 0.0, updates=1),
            probe=as_policy,
            rtol=1e-7,
            hint="Compare the rewards step by step: the first step is before any learning, the second is after one update.",
        ),
        Check(
            name="several",
            title="three updates a group",
            points=3,
            cases=games_with(0.6, 1.0, updates=3),
            probe=as_policy,
            rtol=1e-7,
            hint="With one update it is right? Then look at what must be new for each update and what stays for the group.",
        ),
    ),
    mistakes=(
        Mistake("climbs", "the loss is climbed: gradient descent subtracts.", _played(sign=-1.0)),
        Mistake(
            "anchor not detached",
            "the first update of each group does nothing: the anchor is not a constant there, and its gradient cancels the "
            "policy's exactly. Take it with .detach().",
            _played(first_lost=True),
        ),
        Mistake(
            "nothing moves",
            "the policy never moves: is the new value assigned to logits, and do the next draws use it?",
            _played(detached=False),
        ),
        Mistake(
            "probabilities in the softmax",
            "the anchored policy is made from probabilities; it takes log-probabilities, logits.log_softmax(-1)[arms].",
            _played(of_probabilities=True),
        ),
        Mistake(
            "a new group for each update",
            "a new group is drawn for each update; all updates of a step are made on the group that was drawn first.",
            _played(drawn_again=True),
        ),
        Mistake(
            "luck exchanged",
            "the random numbers are exchanged: the first of each pair is for choose_arms, the second for pull_arms.",
            _played(other_luck=True),
        ),
        Mistake(
            "values for rewards",
            "the rewards are the arms' true values; a pull is noisy: pull_arms(bandit, arms, luck).",
            _played(by_values=True),
        ),
        Mistake(
            "Adam",
            "this steps with Adam, which rescales every coordinate; asked for is gradient descent: lr times the gradient.",
            _played(adam=True),
        ),
        Mistake(
            "times the group",
            "the step is as many times too long as the group has members: D_alpha is one number for the group, no sum over it.",
            _played(times=lambda group: float(group)),
        ),
        Mistake(
            "divided by the group",
            "the step is divided by the size of the group: D_alpha is one number for the group, no mean over it.",
            _played(times=lambda group: 1 / group),
        ),
        Mistake(
            "tau_anc ignored",
            "tau_anc does nothing here.",
            _played(learner=lambda alpha, tau, beta: (alpha, 1.0, beta)),
        ),
        Mistake(
            "beta_r ignored", "beta_r does nothing here.", _played(learner=lambda alpha, tau, beta: (alpha, tau, 1.0))
        ),
        Mistake(
            "alpha ignored",
            "the loop learns with alpha = 1 whatever alpha is.",
            _played(learner=lambda alpha, tau, beta: (1.0, tau, beta)),
        ),
        Mistake("probabilities returned", PROBABILITIES, _played(give=lambda seen, logits: (seen, logits.softmax(-1)))),
        Mistake("the last reward only", ONE_REWARD_A_STEP, _played(give=lambda seen, logits: (seen[-1], logits))),
        Mistake(
            "anchor never renewed",
            "the anchor is the first policy for ever: each group is anchored at the policy that drew it.",
            _played(anchor="first"),
        ),
        Mistake(
            "anchor renewed at each update",
            "the anchor moves with every update: within a group it stays at the policy that drew it, else u = 0 always.",
            _played(anchor="update"),
        ),
        Mistake(
            "samples from the first policy",
            "all groups are drawn from the first policy: draw from the present one.",
            _played(sample="first"),
        ),
        Mistake(
            "one update only", "only one update is made for each group, whatever `updates` says.", _played(once=True)
        ),
        Mistake(
            "step divided by the updates",
            "the step is divided by the number of updates: each is a full step of size lr.",
            _played(step=lambda lr, updates: lr / updates),
        ),
        Mistake(
            "gradients accumulate",
            "gradients add up from update to update: clear them, logits.grad = None, or use torch.autograd.grad.",
            _played(keep_gradient=True),
        ),
        Mistake(
            "logits start anew",
            "the logits start anew in each step: what was learnt is forgotten.",
            _played(forget=True),
        ),
        Mistake(
            "best for mean reward",
            "the rewards written down are the best of each group; their mean is asked for.",
            _played(best=True),
        ),
        Mistake(
            "sum of the rewards",
            "the rewards written down are sums over the group; their mean is asked for.",
            _played(summed=True),
        ),
        Mistake(
            "expected rewards",
            "the rewards written down are the policy's true expectation; asked for is what the group earned.",
            _played(expected=True),
        ),
        Mistake(
            "rewards after the update",
            "the rewards written down come from a second draw, after the update: write down what the group itself earned.",
            _played(after=True),
        ),
        Mistake(
            "the same luck twice",
            "arms and rewards use the same random numbers: the first of each pair is for the arms, the second for the rewards.",
            _played(same_luck=True),
        ),
        Mistake(
            "1 - alpha",
            "the loop learns with 1 - alpha: are q and p exchanged in the divergence?",
            _played(learner=lambda alpha, tau, beta: (1 - alpha, tau, beta)),
        ),
        Mistake(
            "temperatures exchanged",
            "tau_anc and beta_r are exchanged.",
            _played(learner=lambda alpha, tau, beta: (alpha, beta, tau)),
        ),
        Mistake(
            "tau_anc multiplied",
            "tau_anc multiplies the log-probabilities; it divides.",
            _played(learner=lambda alpha, tau, beta: (alpha, 1 / tau, beta)),
        ),
        Mistake(
            "scaled advantages",
            "the advantages are divided by their standard deviation; APO's are mean-only.",
            _played(worth=lambda rewards: rewards / (rewards.std() + 1e-4)),
        ),
    ),
)


def show_play(play: Any, seed: int = 0) -> None:
    """Play 200 steps on a bandit with 4 good arms of 16 and draw the reward."""
    from ..widgets import figure

    generator = torch.Generator().manual_seed(seed)
    draws = [tuple(torch.rand(2, 8, generator=generator, dtype=torch.float64)) for _ in range(200)]
    given = play(bandits.equal_arms(), draws, 0.6, 0.5, 0.3, 0.5, 1)
    if given is None:
        print("Write play first; then this cell lets it learn.")
        return
    rewards = torch.as_tensor([float(reward) for reward in given[0]])
    smooth = rewards.unfold(0, 10, 1).mean(-1)
    with plotting.style():
        picture, ax = plotting.figure(size=(6.0, 2.8))
        ax.plot(rewards, color="#bbbbbb", linewidth=0.8, label="one group of 8")
        ax.plot(range(9, 200), smooth, label="mean of 10 steps")
        ax.set(xlabel="step", ylabel="mean reward of the group", ylim=(-0.05, 1.05))
        ax.legend()
    first, last = float(rewards[:10].mean()), float(rewards[-10:].mean())
    words = f"Your loop: mean reward {first:.2f} in the first ten steps, {last:.2f} in the last ten."
    figure(picture, words, f"Reward against steps. {words}")


# 8. Comparison at equal reward.

KEEPS_LARGE, KEEPS_SMALL, NO_DIFFERENCE = "alpha 0.9 keeps more", "alpha 0.2 keeps more", "almost no difference"


def _own_level(generator: torch.Generator) -> dict[str, Any]:
    good = (3, 4, 6)[int(torch.randint(3, (1,), generator=generator))]
    return {"good": good, "level": uniform(generator, 0.6, 0.8), "step": 40}


def _same_entropy(good: int, level: float, step: int) -> str:
    """Equal good arms: the curves of entropy against reward all but lie on each other."""
    return "almost no difference"


equal_reward = prediction(
    name="equal_reward",
    title="Predict: does a larger alpha keep more?",
    minutes=3,
    difficulty=2,
    text=r"""
Sixteen arms, `mine["good"]` of them equally good. After `mine["step"]` steps the runs at $\alpha = 0.9$ have more
entropy than those at $\alpha = 0.2$: they seem to cover more arms. Now compare each run at the moment when its
expected reward first reaches `mine["level"]`. Which keeps more entropy *there*? (One point for committing.)
""",
    numbers=_own_level,
    solution=_same_entropy,
    choices={
        KEEPS_LARGE: "It looks so at equal step, because the runs at 0.9 are behind: on this task they take shorter steps once "
        "good arms are common. At equal reward next to nothing is left.",
        KEEPS_SMALL: "The picture at equal step says the opposite; and at equal reward the difference is next to nothing, if "
        "anything the other way.",
        NO_DIFFERENCE: "Over 400 paired runs at most 0.01 is left at equal reward, where equal step shows 0.06 to 0.16: what "
        "looked like coverage was speed.",
    },
)


def _at_equal_reward(
    reward_a: Tensor, entropy_a: Tensor, reward_b: Tensor, entropy_b: Tensor, level: float
) -> tuple[float, float]:
    """Entropy of b minus that of a, each run read at its first step with reward >= level: the mean and two standard errors.

    All [steps, runs]; run i of a and of b had the same random numbers (paired).  Runs in which a or b never reaches the level
    are left out.  Returns (mean difference, 2 standard errors), with the unbiased standard deviation over the runs left.
    """
    differences = []
    for run in range(reward_a.shape[1]):
        read = []
        for reward, entropy in ((reward_a, entropy_a), (reward_b, entropy_b)):
            reached = (reward[:, run] >= level).nonzero()
            if len(reached):
                read.append(float(entropy[reached[0, 0], run]))
        if len(read) == 2:
            differences.append(read[1] - read[0])
    values = torch.tensor(differences, dtype=torch.float64)
    return float(values.mean()), float(2 * values.std() / math.sqrt(len(values)))


def curves(reaching: bool) -> Any:
    """Cases of `at_equal_reward`: noisy rising rewards of 12 runs, falling entropies; some never reach where not `reaching`."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        steps = torch.arange(30, dtype=torch.float64)[:, None]
        given: list[Tensor] = []
        common = normal(generator, 1, 12)
        slow = 2 + torch.randperm(10, generator=generator)[:4]
        for speed, never in ((0.25, slow[:2]), (0.15, slow[2:])):
            rewards = torch.sigmoid(speed * (steps - 12) + common) + 0.08 * normal(generator, 30, 12)
            if not reaching:
                rewards[:, never] = rewards[:, never].clamp(max=0.5)
            else:
                rewards[-2] = rewards[-2].clamp(min=0.75)  # above every level that is asked for
            rewards[-1] = rewards[-1].clamp(max=0.62)  # the last step of a run is not its best
            given += [rewards, torch.exp(-0.1 * steps + 0.2 * common) + 0.02 * normal(generator, 30, 12)]
        return [(*given, uniform(generator, 0.64, 0.72))]

    return cases


def _read_by(
    where: Callable[[Tensor, float], Tensor],
    *,
    keep: bool | None = True,
    sign: float = 1.0,
    spread: Callable[[Tensor, Tensor], Tensor] = lambda a, b: 2 * (b - a).std() / len(a) ** 0.5,
    value: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda reward, entropy, at: entropy.gather(0, at[None])[0],
    middle: Callable[[Tensor], Tensor] = torch.mean,
) -> Any:
    """The comparison with another place to read, another spread or another quantity.

    `where` gives a step for each run. Runs that never reach the level are left out, kept (`keep` False) or 0 (None).
    """

    def compare(
        reward_a: Tensor, entropy_a: Tensor, reward_b: Tensor, entropy_b: Tensor, level: float
    ) -> tuple[float, float]:
        a = value(reward_a, entropy_a, where(reward_a, level))
        b = value(reward_b, entropy_b, where(reward_b, level))
        both = (reward_a >= level).any(0) & (reward_b >= level).any(0)
        if keep:
            a, b = a[both], b[both]
        elif keep is None:
            a, b = a * both, b * both
        return float(sign * middle(b - a)), float(spread(a, b))

    return compare


def _first(reward: Tensor, level: float) -> Tensor:
    return (reward >= level).double().argmax(0)


def _first_or_last(reward: Tensor, level: float) -> Tensor:
    reached = reward >= level
    return torch.where(reached.any(0), reached.double().argmax(0), len(reward) - 1)


def _last(reward: Tensor, level: float) -> Tensor:
    return len(reward) - 1 - (reward >= level).flip(0).double().argmax(0)


def _last_below(reward: Tensor, level: float) -> Tensor:
    return (_first(reward, level) - 1).clamp(min=0)


def _mean_curve(reward: Tensor, level: float) -> Tensor:
    return _first(reward.mean(1, keepdim=True), level).expand(reward.shape[1])


def _same_step(whose: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Both read where one of them reaches the level, in the runs in which both reach it."""

    def compare(
        reward_a: Tensor, entropy_a: Tensor, reward_b: Tensor, entropy_b: Tensor, level: float
    ) -> tuple[float, float]:
        both = (reward_a >= level).any(0) & (reward_b >= level).any(0)
        reward, a, b = (x[:, both] for x in (whose(reward_a, reward_b), entropy_a, entropy_b))
        return _read_by(_first)(reward, a, reward, b, level)

    return compare


def _left_out_for_a(
    reward_a: Tensor, entropy_a: Tensor, reward_b: Tensor, entropy_b: Tensor, level: float
) -> tuple[float, float]:
    kept = (reward_a >= level).any(0)
    case = (x[:, kept] for x in (reward_a, entropy_a, reward_b, entropy_b))
    return _read_by(_first_or_last, keep=False)(*case, level)


_both_numbers = functools.partial(numbers_named, "mean difference", "2 standard errors")
at_equal_reward = Exercise(
    name="at_equal_reward",
    title="Compare at equal reward",
    minutes=14,
    difficulty=2,
    text=r"""
A comparison at equal step compares a fast run with a slow one. Write the comparison at equal *reward*: for each run,
the entropy at the first step whose reward reaches the level, in b minus in a; then the mean over the runs and two
standard errors (about a 95 % interval). Runs are paired, so take differences first. Rewards are noisy: they may dip
below the level again. A run that never reaches the level has nothing to be read.
""",
    solution=_at_equal_reward,
    checks=(
        Check(
            name="difference",
            title="the mean difference, where all runs reach the level",
            points=1,
            cases=curves(True),
            probe=_both_numbers(pick=0),
            rtol=1e-8,
            hint="Take one run and look for the step by eye.",
        ),
        Check(
            name="error",
            title="two standard errors of it",
            points=1,
            cases=curves(True),
            probe=_both_numbers(pick=1),
            rtol=1e-8,
            hint="It is about the differences, one a run: their unbiased standard deviation over the root of their number.",
        ),
        Check(
            name="some",
            title="both, where some runs never reach it",
            points=2,
            cases=curves(False),
            probe=_both_numbers(),
            rtol=1e-8,
            hint="Which step does your code read in a run that never reaches the level?",
        ),
    ),
    mistakes=(
        Mistake(
            "at equal step",
            "both are read at the last step: that is the comparison at equal step, which this one is to replace.",
            _read_by(lambda reward, level: torch.full((reward.shape[1],), len(reward) - 1)),
        ),
        Mistake(
            "the mean curve's step",
            "all runs are read at the step at which the *mean* curve reaches the level: each run has its own.",
            _read_by(_mean_curve),
        ),
        Mistake(
            "never reached read at step 0",
            "runs that never reach the level are read at step 0: argmax over no True gives 0. Leave them out.",
            _read_by(_first, keep=False),
        ),
        Mistake(
            "never reached read at the end",
            "runs that never reach the level are read at their last step, at another reward than the rest. Leave them out.",
            _read_by(_first_or_last, keep=False),
        ),
        Mistake(
            "the last crossing",
            "this reads the last step at or above the level; the first is asked for.",
            _read_by(_last),
        ),
        Mistake(
            "never reached counted as 0",
            "a run that never reaches the level counts as a difference of 0; it has nothing to be read: leave it out.",
            _read_by(_first, keep=None),
        ),
        Mistake(
            "left out for a alone",
            "runs in which a never reaches the level are left out, those in which b never does are read at their last step.",
            _left_out_for_a,
        ),
        Mistake(
            "number of all runs",
            "the mean is right, but the standard error divides by the root of the number of all runs: some were left out.",
            lambda reward_a, entropy_a, reward_b, entropy_b, level: _read_by(
                _first, spread=lambda a, b: 2 * (b - a).std() / reward_a.shape[1] ** 0.5
            )(reward_a, entropy_a, reward_b, entropy_b, level),
        ),
        Mistake(
            "a's step for both",
            "b is read at the step at which a reaches the level: each run is read where it reaches the level itself.",
            _same_step(lambda reward_a, reward_b: reward_a),
        ),
        Mistake(
            "b's step for both",
            "a is read at the step at which b reaches the level: each run is read where it reaches the level itself.",
            _same_step(lambda reward_a, reward_b: reward_b),
        ),
        Mistake(
            "magnitudes",
            "the differences have lost their signs: a mean of magnitudes is never near 0, whatever the truth is.",
            _read_by(
                _first, middle=lambda d: d.abs().mean(), spread=lambda a, b: 2 * (b - a).abs().std() / len(a) ** 0.5
            ),
        ),
        Mistake("a step too early", "this reads the step before the level is reached.", _read_by(_last_below)),
        Mistake(
            "the best step",
            "this reads the step with the largest reward, whatever the level is.",
            _read_by(lambda reward, level: reward.argmax(0)),
        ),
        Mistake(
            "the nearest step",
            "this reads the step whose reward is nearest to the level, which may be years later: the first that reaches it.",
            _read_by(lambda reward, level: (reward - level).abs().argmin(0)),
        ),
        Mistake("sign", "this is a minus b; asked for is b minus a.", _read_by(_first, sign=-1.0)),
        Mistake(
            "steps for entropies",
            "this compares the steps at which the level is reached, not the entropies there.",
            _read_by(_first, value=lambda reward, entropy, at: at.double()),
        ),
        Mistake(
            "rewards for entropies",
            "this compares the rewards at these steps, which are nearly equal by construction: read the entropies.",
            _read_by(_first, value=lambda reward, entropy, at: reward.gather(0, at[None])[0]),
        ),
        Mistake(
            "not paired",
            "the mean is right, but its error is that of unpaired runs: take the differences run by run, then their spread.",
            _read_by(_first, spread=lambda a, b: 2 * (a.var() / len(a) + b.var() / len(b)).sqrt()),
        ),
        Mistake(
            "standard deviation for standard error",
            "the mean is right, but the spread is that of single runs: divide by the root of their number.",
            _read_by(_first, spread=lambda a, b: 2 * (b - a).std()),
        ),
        Mistake(
            "one standard error",
            "the mean is right, but this is one standard error; two are asked for.",
            _read_by(_first, spread=lambda a, b: (b - a).std() / len(a) ** 0.5),
        ),
        Mistake(
            "three standard errors",
            "the mean is right, but these are three standard errors; two are asked for.",
            _read_by(_first, spread=lambda a, b: 3 * (b - a).std() / len(a) ** 0.5),
        ),
        Mistake(
            "the root of n - 1",
            "the mean is right, but the standard error divides by the root of n - 1: that correction is in the unbiased "
            "standard "
            "deviation already.",
            _read_by(_first, spread=lambda a, b: 2 * (b - a).std() / (len(a) - 1) ** 0.5),
        ),
        Mistake(
            "1.96 standard errors",
            "the mean is right, but this is 1.96 standard errors; two are asked for.",
            _read_by(_first, spread=lambda a, b: 1.96 * (b - a).std() / len(a) ** 0.5),
        ),
        Mistake(
            "biased standard deviation",
            "the mean is right, but the standard deviation divides by n; the unbiased one divides by n - 1.",
            _read_by(_first, spread=lambda a, b: 2 * (b - a).std(correction=0) / len(a) ** 0.5),
        ),
        Mistake(
            "divided by n",
            "the mean is right, but the standard error divides by the *root* of n.",
            _read_by(_first, spread=lambda a, b: 2 * (b - a).std() / len(a)),
        ),
        Mistake(
            "median",
            "this is the median of the differences; the mean is asked for.",
            _read_by(_first, middle=torch.median),
        ),
    ),
)


STEPS = 60  # every run has reached the highest level by then


def show_equal_reward(at_equal_reward: Any, good: int, level: float, step: int, runs: int = 100) -> None:
    """Run the library's bandit at alpha 0.2 and 0.9, and compare entropies at equal step and at equal reward."""
    from ..widgets import figure

    loop = bandits.Loop(num_steps=STEPS, closed_form=True)
    histories = bandits.sweep(bandits.equal_arms(num_good=good), (0.2, 0.9), loop, seeds=runs, snapshots=2)
    a, b = histories.values()
    given = at_equal_reward(a.expected_reward, a.entropy, b.expected_reward, b.entropy, level)
    if given is None:
        print("Write at_equal_reward first; then this cell compares.")
        return
    gap = b.entropy[step] - a.entropy[step]
    print(
        f"alpha 0.9 minus alpha 0.2, normalised entropy, {runs} paired runs, mean and two standard errors\n"
        f"  at equal step ({step}):      {float(gap.mean()):+.3f} +- {float(2 * gap.std() / runs**0.5):.3f}\n"
        f"  at equal reward ({level:g}):  {float(given[0]):+.3f} +- {float(given[1]):.3f}"
    )
    with plotting.style():
        picture, axes = plotting.figure(1, 2, size=(9.0, 3.2))
        for alpha, history in histories.items():
            line = plotting.alpha_line(alpha)
            plotting.median_band(axes[0], range(STEPS), history.entropy, f"alpha = {alpha:g}", **line)
            order = history.expected_reward.mean(1)
            axes[1].plot(order, history.entropy.mean(1), label=f"alpha = {alpha:g}", **line)
        axes[0].axvline(step, color="#888888", linewidth=0.8)
        axes[1].axvline(level, color="#888888", linewidth=0.8)
        axes[0].set(xlabel="step", ylabel="entropy (1 = uniform)")
        axes[1].set(xlabel="expected reward", ylabel="entropy (1 = uniform)")
        axes[0].legend()
        axes[1].legend()
    words = (
        "Left: entropy against steps, where the two differ. Right: entropy against reward, where they all but agree."
    )
    figure(picture, words, words)


coverage_or_speed = Written(
    name="coverage_or_speed",
    title="Coverage or speed?",
    minutes=5,
    difficulty=2,
    text=r"""
A colleague writes: "At step 40 alpha = 0.9 has more entropy, so covering divergences preserve diversity in training."
Answer in at most five sentences, with your two numbers and their intervals. What would you have to see before you
believed it?
""",
    rubric=(
        (1, "both numbers with their intervals, and what each interval says"),
        (1, "what differs between the two alphas besides the divergence, with a reason from an earlier exercise"),
        (1, "an observation that would convince, and on which kind of task it could be made"),
    ),
    answer=r"""
With four good arms the difference at step 40 is +0.08 ± 0.03, well away from 0; at equal reward it is 0.00 ± 0.01. So the
runs at 0.9 are hardly broader, they are behind: alpha changes the length of a step (as my `step_length` shows), and
equal step is not equal progress. I would believe it after a difference of that size at equal reward, or between runs
whose steps were rescaled to the same length, over enough paired seeds, on a task with several good answers.
""",
)

# 9. The risk attitude.


def _risk_switch(safe: float, win: float, chance: float) -> float:
    """The kappa other than 0 at which a gamble and a safe reward have the same exponential utility.

    The gamble pays win with probability chance, else 0; 0 < safe < win.  Negative where the gamble has the larger mean.
    """

    def excess(kappa: float) -> float:  # certainty equivalent of the gamble, minus the safe reward; it rises with kappa
        if kappa == 0:
            return chance * win - safe
        return math.log1p(chance * math.expm1(kappa * win)) / kappa - safe

    low, high = -1.0, 1.0
    while excess(low) > 0:
        low *= 2
    while excess(high) < 0:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return (low + high) / 2


def gambles(worse: bool) -> Any:
    """Cases (safe, win, chance): gambles with a smaller (`worse`) or a larger mean than the safe reward."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for _ in range(3):
            win, chance = uniform(generator, 0.8, 1.6), uniform(generator, 0.3, 0.5)
            share = uniform(generator, 1.15, 1.6) if worse else uniform(generator, 0.5, 0.85)
            given.append((round(win * chance * share, 3), win, chance))
        return given

    return cases


def _second_order(safe: float, win: float, chance: float) -> float:
    return 2 * (safe - chance * win) / (win * win * chance * (1 - chance))


TOO_COARSE = (
    "right to a few digits only; eight are asked for. Halving a bracket 40 times gives twelve digits of its width."
)
END_OF_SEARCH = (
    "this is an end of the bracket, not a root: what you search does not change its sign there. The difference of the two "
    "exponentials has the root 0 as well; the certainty equivalent minus safe has one root only, and rises through it."
)


def found(answer: Any, safe: float, win: float, chance: float) -> Any:
    """Call a search; it must have ended at a root, and not before its digits are there."""
    value = answer(safe, win, chance)
    if not isinstance(value, float | int | Tensor | np.number) or (isinstance(value, Tensor) and value.numel() != 1):
        return value
    off = abs(float(value) / _risk_switch(safe, win, chance) - 1)
    if 1e-7 < off < 1e-2:
        raise NotYet(TOO_COARSE)
    if abs(float(value)) >= 15:  # every kappa of the cases is below 10
        raise NotYet(END_OF_SEARCH)
    return value


risk_switch = Exercise(
    name="risk_switch",
    title="Derive the switch",
    minutes=12,
    difficulty=3,
    text=r"""
With $z$ in place of the advantage, a large group pushes towards the arm with the largest *certainty equivalent*
$\frac1\kappa\log\mathbb{E}\,e^{\kappa R}$, $\kappa = \alpha/\beta_r$: an exponential utility. So an arm that pays `win` with
probability `chance` beats one that pays `safe` for sure as soon as its certainty equivalent exceeds `safe`, even if its mean
is smaller (or, for $\kappa < 0$, loses although its mean is larger).
Write the $\kappa \ne 0$ at which the two are equal, by bisection or otherwise, to eight digits. ($\kappa = 0$ is always a
root of $\mathbb{E}\,e^{\kappa R} = e^{\kappa\cdot\text{safe}}$; it is not the one. Divide the logarithm by $\kappa$ and the
unwanted root is gone: the certainty equivalent rises with $\kappa$.)
""",
    solution=_risk_switch,
    checks=(
        Check(
            name="worse",
            title="gambles with the smaller mean: kappa > 0",
            points=3,
            cases=gambles(True),
            probe=found,
            rtol=1e-7,
            floor=1e-8,
            hint="By hand: safe 0.5, win 1, chance 0.4 has 0.6 + 0.4 x^2 = x with x = e^(kappa/2), so x = 1 or 3/2, and "
            "kappa = "
            "2 log(3/2) = 0.811. Does yours give it? If not, print the certainty equivalent minus safe at kappa = 0.1 and "
            "at 2: it "
            "must change its sign between them.",
        ),
        Check(
            name="better",
            title="gambles with the larger mean: kappa < 0",
            points=1,
            cases=gambles(False),
            probe=found,
            rtol=1e-7,
            floor=1e-8,
            hint="Here a careful player refuses a gamble that is better on average. By hand: safe 0.5, win 1, chance 0.6 "
            "is the "
            "mirror image of 0.4 and has kappa = -2 log(3/2) = -0.811. Does your search look at negative kappa?",
        ),
    ),
    mistakes=(
        Mistake(
            "the root at 0",
            "this is the root at 0, where both sides are 1: it is there for every gamble.",
            lambda safe, win, chance: 1e-9 * _risk_switch(safe, win, chance),
        ),
        Mistake(
            "second order",
            "this is the second-order approximation 2 (safe - mean) / variance, exact for Gaussian rewards only: solve the "
            "equation itself.",
            _second_order,
        ),
        Mistake(
            "losing forgotten",
            "the losing branch is missing: with probability 1 - chance the gamble pays 0, and e^0 is 1, not 0.",
            lambda safe, win, chance: -math.log(chance) / (win - safe),
        ),
        Mistake(
            "sign",
            "the sign is turned round: a player who prefers the gamble with the smaller mean likes risk, kappa > 0.",
            lambda safe, win, chance: -_risk_switch(safe, win, chance),
        ),
        Mistake(
            "chance of losing",
            "chance is used as the chance of losing.",
            lambda safe, win, chance: _risk_switch(safe, win, 1 - chance),
        ),
        Mistake(
            "win is 1",
            "win is taken as 1: it is an argument.",
            lambda safe, win, chance: _risk_switch(safe, 1.0, chance),
        ),
        Mistake(
            "safe scaled by win",
            "safe is divided by win but kappa is not: in units of win kappa is kappa times win.",
            lambda safe, win, chance: _risk_switch(safe / win, 1.0, chance),
        ),
        Mistake(
            "powers of 2",
            "this solves it with powers of 2: divide by log 2... the utility is e^(kappa R).",
            lambda safe, win, chance: _risk_switch(safe, win, chance) / math.log(2),
        ),
        Mistake(
            "search too narrow",
            "the search stops at a bound near kappa = 1: widen the bracket until the sign changes.",
            lambda safe, win, chance: max(-0.5, min(0.5, _risk_switch(safe, win, chance))),
        ),
        Mistake(
            "search too coarse",
            "right to about one digit: refine the search to eight.",
            lambda safe, win, chance: round(_risk_switch(safe, win, chance), 1),
        ),
        Mistake("the end of the bracket", END_OF_SEARCH, lambda safe, win, chance: -60.0),
        Mistake(
            "half of the second order",
            "this is (safe - mean) / variance: the second-order approximation has the factor 2, and is exact for Gaussian "
            "rewards "
            "only. Solve the equation itself.",
            lambda safe, win, chance: 0.5 * _second_order(safe, win, chance),
        ),
        Mistake("three digits", TOO_COARSE, lambda safe, win, chance: round(_risk_switch(safe, win, chance), 3)),
        Mistake(
            "never negative",
            "negative kappa is cut off at 0: where the gamble has the larger mean, the switch lies below 0.",
            lambda safe, win, chance: max(0.0, _risk_switch(safe, win, chance)),
        ),
        Mistake(
            "absolute value",
            "the sign is lost: where the gamble has the larger mean, the switch lies below 0.",
            lambda safe, win, chance: abs(_risk_switch(safe, win, chance)),
        ),
        Mistake("inverse", "this is 1 / kappa.", lambda safe, win, chance: 1 / _risk_switch(safe, win, chance)),
    ),
)


# (safe, chance, beta_r, first seed) for which measured and predicted switch are more than 3 % apart, and both more than 3 %
# off the grid and its middles: so that a wrong answer is not right by chance. Found by running them.
GAMBLES = [(*gamble, seed) for *gamble, seeds in (
    (0.37, 0.3, 0.3, (0, 100, 200, 300)), (0.37, 0.3, 0.35, (0, 100, 300)), (0.38, 0.3, 0.3, (100, 200, 300)),
    (0.38, 0.3, 0.4, (0, 300)), (0.39, 0.3, 0.35, (100, 300)), (0.39, 0.3, 0.4, (300,)),
    (0.41, 0.3, 0.3, (0, 100, 300)), (0.41, 0.3, 0.4, (300,)), (0.42, 0.3, 0.3, (0, 300)), (0.42, 0.3, 0.4, (300,)),
    (0.42, 0.35, 0.3, (0, 100, 200, 300)), (0.43, 0.35, 0.35, (100, 300)), (0.44, 0.35, 0.3, (0, 100, 300)),
    (0.45, 0.35, 0.35, (0, 300)), (0.46, 0.35, 0.3, (0, 200, 300)), (0.46, 0.35, 0.35, (100, 300)),
    (0.47, 0.4, 0.3, (0, 100, 200, 300)), (0.47, 0.4, 0.4, (0, 100, 200, 300)), (0.48, 0.4, 0.35, (0, 100, 200)),
    (0.49, 0.4, 0.3, (0, 100, 200, 300)), (0.5, 0.4, 0.35, (0, 100, 200, 300)), (0.5, 0.4, 0.4, (100, 200, 300)),
    (0.51, 0.4, 0.35, (0, 100, 200, 300)), (0.57, 0.5, 0.3, (200, 300)), (0.57, 0.5, 0.4, (100, 200)),
    (0.58, 0.5, 0.35, (100, 200)), (0.59, 0.5, 0.3, (0, 100)), (0.6, 0.5, 0.35, (0, 100, 200, 300)),
    (0.61, 0.5, 0.3, (0, 200)), (0.61, 0.5, 0.35, (100,)), (0.62, 0.55, 0.3, (0, 100, 200, 300)),
    (0.62, 0.55, 0.4, (100,)), (0.64, 0.55, 0.3, (100, 200)), (0.66, 0.55, 0.3, (0, 100, 200, 300)),
    (0.67, 0.55, 0.3, (0, 100, 200)), (0.67, 0.55, 0.4, (0, 200)),
) for seed in seeds]  # fmt: skip


def _own_gamble(generator: torch.Generator) -> dict[str, Any]:
    safe, chance, beta_r, first_seed = GAMBLES[int(torch.randint(len(GAMBLES), (1,), generator=generator))]
    alphas = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    return {"safe": safe, "chance": chance, "beta_r": beta_r, "alphas": alphas, "first_seed": first_seed}


def _measured_switch(
    safe: float, chance: float, beta_r: float, alphas: tuple[float, ...], first_seed: int
) -> tuple[list[float], float, float]:
    """Play the gamble at each alpha: (share of runs on the risky arm, alpha at which it crosses 1/2, predicted alpha)."""
    bandit = bandits.gamble(2, 1, 1, safe=safe, chance=chance)
    loops = {
        alpha: bandits.Loop(alpha=alpha, beta_r=beta_r, group=64, num_steps=100, lr=2.0, closed_form=True)
        for alpha in alphas
    }
    shares = []
    for history in bandits.run_all(bandit, loops, seeds=range(first_seed, first_seed + 30), snapshots=2).values():
        risky = history.probs[-1][:, 0, 1] > 0.5
        shares.append(float(risky.double().mean()))
    above = next(i for i, share in enumerate(shares) if share >= 0.5)
    slope = (shares[above] - shares[above - 1]) / (alphas[above] - alphas[above - 1])
    crossing = alphas[above - 1] + (0.5 - shares[above - 1]) / slope
    low, high = 1e-6, 50.0
    for _ in range(100):
        kappa = (low + high) / 2
        worse = math.log1p(chance * math.expm1(kappa)) < kappa * safe
        low, high = (kappa, high) if worse else (low, kappa)
    return shares, crossing, beta_r * low


_measured = functools.cache(_measured_switch)


def _measured_again(*case: Any) -> tuple[list[float], float, float]:
    shares, crossing, predicted = _measured(*case)
    return list(shares), crossing, predicted


@functools.cache
def _shares_under(
    safe: float, chance: float, beta_r: float, alphas: tuple[float, ...], first_seed: int, what: str
) -> list[float]:
    """The risky arm's share where one thing is changed in the experiment."""
    changed: dict[str, Any] = {"group": {"group": 2}, "steps": {"num_steps": 4}}[what]
    loop = replace(bandits.Loop(beta_r=beta_r, group=64, num_steps=100, lr=2.0, closed_form=True), **changed)
    histories = bandits.run_all(
        bandits.gamble(2, 1, 1, safe=safe, chance=chance),
        {alpha: replace(loop, alpha=alpha) for alpha in alphas},
        seeds=range(first_seed, first_seed + 30),
        snapshots=2,
    )
    return [float((history.probs[-1][:, 0, 1] > 0.5).double().mean()) for history in histories.values()]


def _measured_but(change: Callable[..., Any]) -> Any:
    """A wrong answer made from the right one."""

    def answer(**numbers: Any) -> Any:
        case = tuple(numbers[name] for name in ("safe", "chance", "beta_r", "alphas", "first_seed"))
        return change(*_measured_again(*case), case)

    return answer


def measured_part(index: int) -> Any:
    """The probe that looks at one of the three things asked for."""

    def probe(answer: Any) -> Any:
        if (
            not isinstance(answer, tuple | list)
            or len(answer) != 3
            or not isinstance(answer[0], tuple | list | Tensor | np.ndarray)
        ):
            raise NotYet("expected (shares, measured alpha, predicted alpha): a list and two numbers.")
        if index == 0 and len(answer[0]) != 6:
            raise NotYet("expected one share for each of mine['alphas'].")
        if index == 0:
            return [float(share) for share in answer[0]]
        return float(answer[index])

    return probe


def _cross(shares: list[float], alphas: tuple[float, ...]) -> float:
    above = next((i for i, share in enumerate(shares) if share >= 0.5 and i), len(shares) - 1)
    rise = shares[above] - shares[above - 1]
    return alphas[above - 1] + (0.5 - shares[above - 1]) / (rise / (alphas[above] - alphas[above - 1]) if rise else 1.0)


def _one_number(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
    return [()]


measured_switch = Exercise(
    name="measured_switch",
    title="Measure it",
    minutes=10,
    difficulty=2,
    text=r"""
Your gamble: `mine["safe"]` for sure against 1 with probability `mine["chance"]` (win = 1), at your `beta_r`. Let the
library's bandit play it at each of `mine["alphas"]`, with a large group and 30 seeds from `mine["first_seed"]` on:

```python
bandit = bandits.gamble(2, 1, 1, safe=mine["safe"], chance=mine["chance"])
loops = {
    alpha: bandits.Loop(alpha=alpha, beta_r=mine["beta_r"], group=64, num_steps=100, lr=2.0, closed_form=True)
    for alpha in mine["alphas"]
}
seeds = range(mine["first_seed"], mine["first_seed"] + 30)
histories = bandits.run_all(bandit, loops, seeds=seeds, snapshots=2)  # {alpha: history}
history.probs[-1][:, 0, 1]  # of one history: each run's final probability of the risky arm
```

Answer with three things: for each alpha the share of runs that end with more than one half on the risky arm; the
alpha at which that share crosses one half, by linear interpolation between the two neighbours; and the alpha that
your `risk_switch` predicts (it gives $\kappa = \alpha/\beta_r$). Do not round.
""",
    stub="measured_switch = None  # (list of six shares, measured alpha, predicted alpha)",
    value=True,
    library="all",
    numbers=_own_gamble,
    solution=_measured_switch,
    referee=_measured_but(lambda shares, crossing, predicted, case: (shares, crossing, predicted)),
    checks=(
        Check(
            name="shares",
            title="the shares of runs on the risky arm",
            points=2,
            cases=_one_number,
            probe=measured_part(0),
            rtol=0.035,
            hint="Use the loops and seeds as given, the final policy, more than one half.",
        ),
        Check(
            name="crossing",
            title="the measured switch",
            points=1,
            cases=_one_number,
            probe=measured_part(1),
            rtol=0.02,
            hint="Between the last share below one half and the first above it, on a straight line.",
        ),
        Check(
            name="predicted",
            title="the predicted switch",
            points=1,
            cases=_one_number,
            probe=measured_part(2),
            rtol=1e-3,
            hint="risk_switch gives kappa = alpha / beta_r.",
        ),
    ),
    mistakes=(
        Mistake(
            "shares of the safe arm",
            "these are the shares of the safe arm; the risky one has index 1.",
            _measured_but(lambda shares, crossing, predicted, case: ([1 - s for s in shares], crossing, predicted)),
        ),
        Mistake(
            "in percent",
            "the shares are in percent; give them between 0 and 1.",
            _measured_but(lambda shares, crossing, predicted, case: ([100 * s for s in shares], crossing, predicted)),
        ),
        Mistake(
            "numbers of runs",
            "these are numbers of runs; divide by how many there are.",
            _measured_but(lambda shares, crossing, predicted, case: ([30 * s for s in shares], crossing, predicted)),
        ),
        Mistake(
            "in reverse",
            "the shares are in reverse order: one for each alpha, as they stand in mine['alphas'].",
            _measured_but(lambda shares, crossing, predicted, case: (shares[::-1], crossing, predicted)),
        ),
        Mistake(
            "group of 2",
            "these are the shares of groups of 2, which have only one direction to learn: take group=64.",
            _measured_but(
                lambda shares, crossing, predicted, case: (_shares_under(*case, "group"), crossing, predicted)
            ),
        ),
        Mistake(
            "too early",
            "these are the shares after the first few steps, before the runs have decided: read the final policy.",
            _measured_but(
                lambda shares, crossing, predicted, case: (_shares_under(*case, "steps"), crossing, predicted)
            ),
        ),
        Mistake(
            "kappa for alpha",
            "the prediction is kappa; alpha is kappa times beta_r.",
            _measured_but(lambda shares, crossing, predicted, case: (shares, crossing, predicted / case[2])),
        ),
        Mistake(
            "kappa for the measured alpha",
            "the measured switch is given as kappa; the alpha itself is asked for.",
            _measured_but(lambda shares, crossing, predicted, case: (shares, crossing / case[2], predicted)),
        ),
        Mistake(
            "kappa divided by beta_r",
            "the prediction is kappa divided by beta_r; alpha = kappa times beta_r.",
            _measured_but(lambda shares, crossing, predicted, case: (shares, crossing, predicted / case[2] ** 2)),
        ),
        Mistake(
            "prediction of second order",
            "the prediction is the second-order one, 2 (safe - mean) / variance: it is off for a gamble. Solve the equation.",
            _measured_but(
                lambda shares, crossing, predicted, case: (
                    shares,
                    crossing,
                    case[2] * _second_order(case[0], 1.0, case[1]),
                )
            ),
        ),
        Mistake(
            "measured and predicted exchanged",
            "measured and predicted alpha are exchanged.",
            _measured_but(lambda shares, crossing, predicted, case: (shares, predicted, crossing)),
        ),
        Mistake(
            "predicted twice",
            "the measured alpha is the predicted one: read it off the shares. They need not be the same.",
            _measured_but(lambda shares, crossing, predicted, case: (shares, predicted, predicted)),
        ),
        Mistake(
            "measured twice",
            "the predicted alpha is the measured one: compute it from your risk_switch.",
            _measured_but(lambda shares, crossing, predicted, case: (shares, crossing, crossing)),
        ),
        Mistake(
            "no interpolation",
            "the measured alpha is the first one of the grid above one half: go to the crossing on the straight line.",
            _measured_but(
                lambda shares, crossing, predicted, case: (
                    shares,
                    next(alpha for alpha, share in zip(case[3], shares, strict=True) if share >= 0.5),
                    predicted,
                )
            ),
        ),
        Mistake(
            "the alpha below",
            "the measured alpha is the last one of the grid below one half: go to the crossing on the straight line.",
            _measured_but(
                lambda shares, crossing, predicted, case: (
                    shares,
                    [alpha for alpha, share in zip(case[3], shares, strict=True) if share < 0.5][-1],
                    predicted,
                )
            ),
        ),
        Mistake(
            "the middle of the cell",
            "the measured alpha is half-way between two alphas of the grid: weigh them by the shares.",
            _measured_but(
                lambda shares, crossing, predicted, case: (
                    shares,
                    [alpha for alpha, share in zip(case[3], shares, strict=True) if share < 0.5][-1] + 0.05,
                    predicted,
                )
            ),
        ),
    ),
)

attitude = Written(
    name="attitude",
    title="Which attitude do you want?",
    minutes=8,
    difficulty=3,
    text=r"""
(a) Compare your measured with your predicted switch, and say what differs between the experiment and the limit in
which the prediction holds. (b) Why does GRPO not have this preference for gambles, and why does a group of 2 not have
it either? (c) You train a model whose judge is noisy on some questions and exact on others. Which $\alpha/\beta_r$
would you take, and what would you give up for it?
""",
    rubric=(
        (1, "(a) both numbers, and a difference between experiment and limit that can explain theirs"),
        (1, "(b) a property of GRPO's weights and one of a group of 2, each with a reason"),
        (1, "(c) a choice, with a reason from your own figures"),
        (1, "(c) what is given up, with a number from an earlier exercise"),
    ),
    answer=r"""
(a) Predicted and measured agree to about a tenth; a group of 64 sees a finite sample of the gamble, the policy's
moving share changes the group, and I interpolate a grid of 0.1. (b) GRPO's $(r-\bar r)/s$ is linear in $r$ within a
group, so a push is decided by the mean; in a group of 2 the centred weights are $\pm$ one number for any $\alpha$.
(c) A small $\alpha/\beta_r$, well below the switch: at a large one an answer that the judge sometimes overrates beats
an answer that is surely fair. I give up the extra weight that a large $\alpha$ has for prompts that are solved once
in eight (1.5 times as long a step in my figure).
""",
)

sources = Written(
    name="sources",
    title="Whom and what you asked",
    minutes=2,
    difficulty=1,
    text='Name the people, pages and AI assistants that you asked, and for what. "Nobody" is an answer.',
    rubric=((0, "says what was asked of whom, within the course's policy"),),
    answer="I asked nobody.",
)

assignment = Assignment(
    name="a2",
    title="From rewards to an update",
    intro=r"""
You follow one update of the method from the rewards of a group to the gradient of the policy, write each piece, find
REINFORCE at the end of the road, and then let it learn. Afterwards you can say what $\alpha$ changes in one prompt
(with rewards of 0 and 1: its length alone), between prompts (their weights) and between a sure and a risky answer (the
attitude), and how to compare two runs of different speed.

**You need:** assignment 1 or its functions in the library, softmax and its derivative. Lessons 03, 04, 06 and 07
cover the same ground.
""",
    imports=(
        "import math\n\nimport torch\nfrom torch import Tensor\n\nimport apo_edu\nfrom toys import bandits\n"
        "from toys.course.a2 import choose_arms, pull_arms, show_equal_reward, show_play, show_step_lengths"
    ),
    parts=(
        Text(r"""
## Part one: from a group of rewards to a gradient

The functions here are small, and each is used by a later one. Shapes are always `[prompts, group]`, with a last
dimension `tokens` where there are tokens.
"""),
        group_advantages,
        boltzmann_log_target,
        anchored_log_policy,
        apo_loss,
        baseline_gone,
        stretch,
        reshaped_advantage,
        reinforce_gradient,
        step_length,
        Code('show_step_lengths(step_length, **me.numbers("stretch"))\nme.reveal("stretch")'),
        binary_proof,
        Text(r"""
## Part two: let it learn
"""),
        play,
        Code("show_play(play)"),
        equal_reward,
        at_equal_reward,
        Code('show_equal_reward(at_equal_reward, **me.numbers("equal_reward"))\nme.reveal("equal_reward")'),
        coverage_or_speed,
        Text(r"""
## Part three: a risk attitude

(The derivation is this project's; the paper does not discuss it.) On policy and with one update, $\alpha$ and
$\beta_r$ turn the push within a group through $\kappa = \alpha/\beta_r$ alone (its length
still depends on both): $z$ is proportional to $e^{\kappa A_i}$ minus its mean. What
that does to rewards of three values or more:
"""),
        risk_switch,
        measured_switch,
        attitude,
        sources,
    ),
)
