"""Lesson 13, The group under the microscope: from a completion's weight to its tokens, and from a token to the logits."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. From a completion to its tokens.


def _per_token(weights, mask):
    """dL/d(log pi) of every token, where dL/d(mean log pi over a completion's tokens) is given.

    weights: [group].  mask: bool [group, tokens].  Returns [group, tokens], 0 off the mask.
    """
    return weights[:, None] * mask / mask.sum(-1, keepdim=True)


def _per_token_looped(weights: Tensor, mask: Tensor) -> Tensor:
    out = torch.zeros(mask.shape, dtype=weights.dtype)
    for i, row in enumerate(mask.tolist()):
        for t, on in enumerate(row):
            if on:
                out[i, t] = weights[i] / sum(row)
    return out


def _per_token_autograd(weights: Tensor, mask: Tensor) -> Tensor:
    logps = torch.zeros(mask.shape, dtype=weights.dtype, requires_grad=True)
    means = (logps * mask).sum(-1) / mask.sum(-1)
    return torch.autograd.grad((weights * means).sum(), logps)[0]


def completions(group: int = 4, width: int = 6) -> Any:
    """Cases (weights, mask): completions of different lengths, none of them empty, one of full width."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        made = []
        for _ in range(2):
            lengths = 1 + torch.randperm(width, generator=generator)[:group]
            lengths[0] = width
            weights = torch.randn(group, generator=generator, dtype=torch.float64)
            made.append((weights - weights.mean(), torch.arange(width) < lengths[:, None]))
        return made

    return cases


per_token = WriteIt(
    name="per_token",
    title="From a completion to its tokens",
    minutes=5,
    difficulty=1,
    text=r"""
The objective sees one number a completion, $\ell_i = \frac{1}{|o_i|}\sum_t \log\pi(o_{it})$, and gives one weight,
$w_i = \partial L/\partial\ell_i$. The model is trained token by token. Write `per_token(weights, mask)`: the
coefficients
$c_{it} = \partial L/\partial\log\pi(o_{it})$, with 0 where `mask` is false (padding).
""",
    hint=r"""
The chain rule: each of the $|o_i|$ tokens of completion $i$ moves $\ell_i$ by $1/|o_i|$. The lengths are the row
sums of the mask.
""",
    after="Long completions speak as loudly as short ones, each of their tokens more softly.",
    solution=_per_token,
    also_right=(_per_token_looped, _per_token_autograd),
    checks=(
        check(
            "values",
            "the coefficients",
            completions(),
            rtol=1e-12,
            floor=1e-12,
            hint="A completion of 4 tokens with weight 1 has 0.25 at each of them.",
        ),
        check("wide", "another width", completions(5, 9), rtol=1e-12, floor=1e-12),
    ),
    mistakes=(
        Mistake(
            "not divided",
            "the weight is not divided by the length: that is the sum of log-probabilities, not their mean.",
            lambda weights, mask: weights[:, None] * mask,
        ),
        Mistake(
            "padding",
            "padding has coefficients too: multiply by the mask.",
            lambda weights, mask: (weights / mask.sum(-1))[:, None].expand(mask.shape),
        ),
        Mistake(
            "padded length",
            "this divides by the padded width; a completion's length is the number of its own tokens.",
            lambda weights, mask: weights[:, None] * mask / mask.shape[-1],
        ),
        Mistake(
            "all tokens",
            "this divides by the tokens of the whole group, as DAPO does; here each completion has its own mean.",
            lambda weights, mask: weights[:, None] * mask / mask.sum(),
        ),
        Mistake(
            "group size",
            "this divides by the number of completions instead of the length.",
            lambda weights, mask: weights[:, None] * mask / len(weights),
        ),
        Mistake(
            "mean length",
            "this divides by the mean length of the group; each completion has its own.",
            lambda weights, mask: weights[:, None] * mask / mask.double().sum(-1).mean(),
        ),
        Mistake(
            "times the length",
            "this multiplies by the length where it should divide.",
            lambda weights, mask: weights[:, None] * mask * mask.sum(-1, keepdim=True),
        ),
        Mistake(
            "root of the length",
            "this divides by the root of the length; a mean divides by the length.",
            lambda weights, mask: weights[:, None] * mask / mask.sum(-1, keepdim=True).double().sqrt(),
        ),
        Mistake(
            "last token",
            "only the last token has a coefficient; all tokens of a completion share its weight.",
            lambda weights, mask: (
                weights[:, None] * (torch.arange(mask.shape[-1]) == mask.sum(-1, keepdim=True) - 1).double()
            ),
        ),
        Mistake(
            "first token",
            "only the first token has a coefficient; all tokens of a completion share its weight.",
            lambda weights, mask: weights[:, None] * (torch.arange(mask.shape[-1]) == 0).double() * mask,
        ),
        Mistake(
            "sign",
            "the sign is turned: these are derivatives of the loss, like the weights.",
            lambda weights, mask: -weights[:, None] * mask / mask.sum(-1, keepdim=True),
        ),
        Mistake(
            "one number",
            "this is one number a completion; give one a token, [group, tokens].",
            lambda weights, mask: weights / mask.sum(-1),
        ),
    ),
)

# 2. From a token to the logits.


def _logit_push(coefficient, probs, token):
    """Minus the gradient of coefficient * log softmax(z)[token] with respect to the logits z.

    coefficient: a float.  probs: [vocabulary], softmax(z).  token: an int.  Returns [vocabulary].
    """
    push = coefficient * probs
    push[token] -= coefficient
    return push


def _logit_push_onehot(coefficient: float, probs: Tensor, token: int) -> Tensor:
    return -coefficient * (torch.nn.functional.one_hot(torch.tensor(token), len(probs)) - probs)


def _logit_push_numpy(coefficient: float, probs: Tensor, token: int) -> Any:
    return coefficient * (probs.numpy() - (np.arange(len(probs)) == token))


def tokens(size: int = 6) -> Any:
    """Cases (coefficient, probs, token), coefficients of either sign."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        made = []
        for sign in (-1.0, 1.0, -1.0):
            probs = (1.5 * torch.randn(size, generator=generator, dtype=torch.float64)).softmax(-1)
            coefficient = sign * (0.2 + float(torch.rand((), generator=generator)))
            made.append((coefficient, probs, int(torch.randint(size, (), generator=generator))))
        return made

    return cases


def _one(token: int, probs: Tensor) -> Tensor:
    return (torch.arange(len(probs)) == token).double()


logit_push = WriteIt(
    name="logit_push",
    title="From a token to the logits",
    minutes=7,
    difficulty=2,
    text=r"""
One sampled token has the coefficient $c = \partial L/\partial\log\pi(\text{token})$, and $\pi =
\mathrm{softmax}(z)$. Write
`logit_push(coefficient, probs, token)`: the direction in which gradient *descent* pushes all logits,
$-\partial L/\partial z$, a tensor over the vocabulary. `probs` is $\pi$.
""",
    hint=r"""
$\partial\log\pi_j/\partial z_v = [v = j] - \pi_v$. Multiply by $c$; descent goes against it. The result adds up to 0.
""",
    after="The token's own logit gets -c (1 - pi), the colour of its box; all the others share the opposite, by "
    "their probability.",
    solution=_logit_push,
    also_right=(_logit_push_onehot, _logit_push_numpy),
    checks=(
        check(
            "values",
            "the pushes, for coefficients of either sign",
            tokens(),
            rtol=1e-9,
            hint="Two tokens at 0.5 each, the first sampled with c = -1: the pushes are 0.5 and -0.5.",
        ),
        check("size", "another vocabulary", tokens(11), rtol=1e-9),
    ),
    mistakes=(
        Mistake(
            "ascent",
            "this is the gradient; descent goes the other way. A token with c < 0 must be pushed up.",
            lambda c, probs, token: c * (_one(token, probs) - probs),
        ),
        Mistake(
            "own logit alone",
            "only the sampled token's logit is pushed, fully; the softmax takes as much from the others: subtract pi.",
            lambda c, probs, token: -c * _one(token, probs),
        ),
        Mistake(
            "others forgotten",
            "the sampled token's own push is right; the others get -pi_v of it each, not 0.",
            lambda c, probs, token: -c * _one(token, probs) * (1 - probs),
        ),
        Mistake(
            "coefficient missing", "the coefficient is missing.", lambda c, probs, token: _one(token, probs) - probs
        ),
        Mistake(
            "size of c only",
            "the sign of the coefficient is lost: a token with c > 0 must be pushed down.",
            lambda c, probs, token: abs(c) * (_one(token, probs) - probs),
        ),
        Mistake(
            "of pi",
            "this is the gradient of c pi, not of c log pi: divide by pi(token).",
            lambda c, probs, token: -c * probs[token] * (_one(token, probs) - probs),
        ),
        Mistake(
            "divided by pi",
            "this divides by pi(token) once too often: the derivative of log softmax has no such factor left.",
            lambda c, probs, token: -c * (_one(token, probs) - probs) / probs[token],
        ),
        Mistake(
            "added",
            "pi is added where it should be subtracted: the result must add up to 0.",
            lambda c, probs, token: -c * (_one(token, probs) + probs),
        ),
        Mistake(
            "uniform",
            "the others share the push equally here; they share it by their probability.",
            lambda c, probs, token: -c * (_one(token, probs) - 1 / len(probs)),
        ),
        Mistake(
            "probabilities alone",
            "this pushes by -c pi whatever was sampled: the sampled token is missing.",
            lambda c, probs, token: c * probs,
        ),
        Mistake(
            "log probabilities",
            "log pi is subtracted where pi should be.",
            lambda c, probs, token: -c * (_one(token, probs) - probs.log()),
        ),
        Mistake(
            "the next token",
            "this pushes the token after the sampled one: counting starts at 0.",
            lambda c, probs, token: -c * (_one((token + 1) % len(probs), probs) - probs),
        ),
        Mistake(
            "one number",
            "this is the push on the sampled token's own logit; give one number for each token of the vocabulary.",
            lambda c, probs, token: -c * (1 - probs[token]),
        ),
    ),
)

exercises = (per_token, logit_push)
