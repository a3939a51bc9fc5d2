"""Lesson 03, Anchored coordinates: how steep the bowl is, and where a policy comes to rest."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...anchoring import fisher_information
from ..a1 import log_probs
from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. Fisher information.


def _fisher(log_p, tau_anc):
    """Fisher information of p = softmax(l / tau_anc) in the log-probabilities l.

    log_p: [n].  tau_anc: a float > 0.  Returns [n, n].
    """
    p = log_p.exp()
    return (torch.diag(p) - torch.outer(p, p)) / tau_anc**2


def _fisher_from_scores(log_p: Tensor, tau_anc: float) -> Tensor:
    p = log_p.exp()
    scores = (torch.eye(len(p), dtype=p.dtype) - p) / tau_anc
    return (p[:, None, None] * scores[:, :, None] * scores[:, None, :]).sum(0)


def _fisher_looped(log_p: Tensor, tau_anc: float) -> Any:
    p = np.exp(log_p.numpy())
    rows = [[(p[i] * (i == j) - p[i] * p[j]) / tau_anc**2 for j in range(len(p))] for i in range(len(p))]
    return np.array(rows)


def policies(*taus: float, anchor: bool = False) -> Any:
    """Cases (log_p, tau_anc); with `anchor`, the uniform policy."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = [(log_probs(generator, 4 if i % 2 else 3), tau) for i, tau in enumerate(taus)]
        return [(torch.full_like(p, -math.log(len(p))), tau) for p, tau in given] if anchor else given

    return cases


def _fisher_but(matrix: Any, scale: Any = lambda tau: tau**2) -> Any:
    """Another matrix, or another power of tau_anc."""
    return lambda log_p, tau_anc: matrix(log_p.exp()) / scale(tau_anc)


def _right(p: Tensor) -> Tensor:
    return torch.diag(p) - torch.outer(p, p)


def _scores(p: Tensor) -> Tensor:
    return torch.eye(len(p), dtype=p.dtype) - p


fisher = WriteIt(
    name="fisher",
    title="Fisher information",
    minutes=8,
    difficulty=2,
    text=r"""
The score of completion $i$ is $s_i = \nabla_\ell \log p_i = (e_i - p)/\tau_{\mathrm{anc}}$, with $e_i$ the vector that
is 1 at $i$ and 0 elsewhere. Write `fisher(log_p, tau_anc)`: the mean $F = \sum_i p_i\, s_i s_i^\top$, a matrix of shape
`[n, n]`.
""",
    hint=r"""
Multiply out: $\sum_i p_i (e_i - p)(e_i - p)^\top$ has four terms, and three of them are $\pm p p^\top$. `torch.diag` and
`torch.outer` make the two matrices that are left. Or take the sum as it stands.
""",
    after="Wherever p meets its target D_alpha has this curvature, for every alpha: close by, all of the family look "
    "alike.",
    solution=_fisher,
    referee=lambda log_p, tau_anc: fisher_information(log_p, tau_anc=tau_anc),
    also_right=(_fisher_from_scores, _fisher_looped),
    checks=(
        check(
            "values",
            "any policy",
            policies(0.5, 0.25, 2.0),
            rtol=1e-9,
            hint="Each row sums to 0: a shift of all log-probabilities changes no policy.",
        ),
        check(
            "anchor",
            "the anchor, where p is uniform",
            policies(0.5, 0.3, anchor=True),
            rtol=1e-9,
            hint="For n = 3 and tau_anc = 1: 2/9 on the diagonal, -1/9 beside it.",
        ),
    ),
    mistakes=(
        Mistake(
            "tau_anc once",
            "this divides by tau_anc once; the score comes in twice, and each brings a 1/tau_anc.",
            _fisher_but(_right, lambda tau: tau),
        ),
        Mistake(
            "tau_anc forgotten",
            "tau_anc does nothing here: the score is (e_i - p)/tau_anc.",
            _fisher_but(_right, lambda tau: 1.0),
        ),
        Mistake(
            "multiplied by tau_anc",
            "this multiplies by tau_anc^2: a smaller tau_anc must make the bowl steeper.",
            _fisher_but(_right, lambda tau: tau**-2),
        ),
        Mistake(
            "diagonal only",
            "p p^T is missing: this is diag(p) alone, whose rows do not sum to 0.",
            _fisher_but(torch.diag),
        ),
        Mistake(
            "plus for minus",
            "p p^T is added; multiplied out, it is left with a minus.",
            _fisher_but(lambda p: torch.diag(p) + torch.outer(p, p)),
        ),
        Mistake(
            "off-diagonal forgotten",
            "only the diagonal p (1 - p) is there; completions compete, so the entries beside it are -p_i p_j.",
            _fisher_but(lambda p: torch.diag(p * (1 - p))),
        ),
        Mistake(
            "sign",
            "the sign is turned round: a mean of s s^T has no negative eigenvalue.",
            _fisher_but(lambda p: -_right(p)),
        ),
        Mistake(
            "not weighted by p",
            "the squares of the scores are averaged with equal weights; completion i counts with p_i.",
            _fisher_but(lambda p: _scores(p).mT @ _scores(p) / len(p)),
        ),
        Mistake(
            "summed, not averaged",
            "the squares of the scores are added without any weight; completion i counts with p_i.",
            _fisher_but(lambda p: _scores(p).mT @ _scores(p)),
        ),
        Mistake(
            "mean parameters",
            "this is the Fisher information in the probabilities themselves, diag(1/p); here it is in the "
            "log-probabilities.",
            _fisher_but(lambda p: torch.diag(1 / p)),
        ),
        Mistake(
            "square of the mean score",
            "the mean of the score is squared, and it is 0; the square is averaged.",
            _fisher_but(lambda p: torch.zeros(len(p), len(p), dtype=p.dtype)),
        ),
        Mistake(
            "the trace",
            "this is one number, the trace; the matrix is asked for.",
            _fisher_but(lambda p: _right(p).trace()),
        ),
        Mistake(
            "identity for diag(p)",
            "the identity stands where diag(p) belongs.",
            _fisher_but(lambda p: torch.eye(len(p), dtype=p.dtype) - torch.outer(p, p)),
        ),
        Mistake(
            "logarithms for probabilities",
            "log_p is taken for p: use .exp().",
            lambda log_p, tau_anc: _right(log_p) / tau_anc**2,
        ),
    ),
)

# 2. Where it rests.


def _at_rest(old_logps, log_q, tau_anc):
    """Log of the policy at which the anchored policy equals q, for a group that holds every answer once.

    old_logps: [n] log-probabilities of the anchor.  log_q: [n] target.  tau_anc: a float > 0.  Returns [n], normalised.
    """
    return (old_logps + tau_anc * log_q).log_softmax(-1)


def _at_rest_numpy(old_logps: Tensor, log_q: Tensor, tau_anc: float) -> Any:
    weights = np.exp(old_logps.numpy()) * np.exp(log_q.numpy()) ** tau_anc
    return np.log(weights / weights.sum())


def _at_rest_looped(old_logps: Tensor, log_q: Tensor, tau_anc: float) -> Tensor:
    values = [a + tau_anc * b for a, b in zip(old_logps.tolist(), log_q.tolist(), strict=True)]
    top = max(values)
    norm = top + math.log(sum(math.exp(v - top) for v in values))
    return torch.tensor([v - norm for v in values], dtype=torch.float64)


def anchors(*taus: float) -> Any:
    """Cases (old_logps, log_q, tau_anc)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(log_probs(generator, 4), log_probs(generator, 4), tau) for tau in taus]

    return cases


def _rest_but(logits: Any, after: Any = lambda x: x.log_softmax(-1)) -> Any:
    return lambda old, log_q, tau: after(logits(old, log_q, tau))


at_rest = WriteIt(
    name="at_rest",
    title="Where a fixed anchor comes to rest",
    minutes=6,
    difficulty=2,
    text=r"""
A group holds every answer once, the anchor is fixed, and training goes on until the pull ends: $p_\theta =
\mathrm{softmax}\big((\ell - \ell_{\mathrm{old}})/\tau_{\mathrm{anc}}\big) = q$. Solve for the policy: write
`at_rest(old_logps, log_q, tau_anc)`, the log-probabilities $\ell$ at which that holds, normalised over the answers.
""",
    hint=r"""
A softmax equals $q$ where its argument is $\log q$ *up to a constant*. Solve that line for $\ell$; the constant is what
makes the probabilities sum to 1.
""",
    after="A small tau_anc stops near the anchor, a large one far from it, and alpha is not in it. That is the trust region, "
    "once the inner loop converges.",
    solution=_at_rest,
    also_right=(_at_rest_numpy, _at_rest_looped),
    checks=(
        check(
            "values",
            "the policy at rest",
            anchors(0.5, 0.2, 1.5),
            rtol=1e-9,
            hint="Put it back: softmax((l - l_old)/tau_anc) must be q.",
        ),
        check(
            "near",
            "a small tau_anc: it stays near the anchor",
            anchors(0.01, 0.05),
            rtol=1e-9,
            hint="At tau_anc = 0 nothing would have moved.",
        ),
    ),
    mistakes=(
        Mistake(
            "tau_anc forgotten",
            "tau_anc does nothing here: the way from the anchor is tau_anc log q.",
            _rest_but(lambda a, q, t: a + q),
        ),
        Mistake(
            "divided by tau_anc",
            "log q is divided by tau_anc: solved for l it is multiplied.",
            _rest_but(lambda a, q, t: a + q / t),
        ),
        Mistake(
            "the anchor forgotten",
            "this is tau_anc log q, normalised: the anchor is missing.",
            _rest_but(lambda a, q, t: t * q),
        ),
        Mistake(
            "the target itself",
            "this is q: the *anchored* policy equals q, the policy does not.",
            _rest_but(lambda a, q, t: q),
        ),
        Mistake(
            "nothing moved", "this is the anchor itself: there p_theta is uniform, not q.", _rest_but(lambda a, q, t: a)
        ),
        Mistake(
            "not normalised",
            "the probabilities do not sum to 1: .log_softmax(-1) takes care of the constant.",
            _rest_but(lambda a, q, t: a + t * q, lambda x: x),
        ),
        Mistake(
            "probabilities",
            "these are probabilities; their logarithm is asked for.",
            _rest_but(lambda a, q, t: a + t * q, lambda x: x.softmax(-1)),
        ),
        Mistake("sign", "log q is subtracted: this runs away from the target.", _rest_but(lambda a, q, t: a - t * q)),
        Mistake(
            "tau_anc on the anchor",
            "tau_anc multiplies the anchor; it multiplies log q.",
            _rest_but(lambda a, q, t: t * a + q),
        ),
        Mistake(
            "a weighted mean of both",
            "this mixes the two logarithms with weights 1 - tau_anc and tau_anc; the anchor keeps the weight 1.",
            _rest_but(lambda a, q, t: (1 - t) * a + t * q),
        ),
        Mistake(
            "a mixture",
            "this mixes probabilities; the way from the anchor goes through logarithms.",
            _rest_but(lambda a, q, t: (a.exp() + t * q.exp()).log()),
        ),
        Mistake("q for log q", "q is added where log q belongs.", _rest_but(lambda a, q, t: a + t * q.exp())),
        Mistake(
            "tau_anc squared",
            "this has tau_anc squared: the curvature has that, the place does not.",
            _rest_but(lambda a, q, t: a + t * t * q),
        ),
        Mistake(
            "the anchored policy",
            "this is softmax((log q - l_old)/tau_anc), what the anchored policy would be if the policy were q.",
            _rest_but(lambda a, q, t: (q - a) / t),
        ),
    ),
)

exercises = (fisher, at_rest)
