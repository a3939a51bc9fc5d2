"""The LM head without its logits: log-probabilities of given tokens, in memory that does not grow with tokens x vocabulary.

A vocabulary of 151,936 makes the logits of 2,000 tokens larger than the 1.7B model's own activations. Here they exist for
a chunk of tokens at a time, in the forward pass and, computed again, in the backward pass. Where there is one chunk it is
kept for the backward pass, in the memory that this would take for it anyway.
"""

from typing import Any

import torch
from torch import Tensor, nn

# Elements of the largest temporary, tokens x vocabulary; a GPU needs larger chunks to be busy.
CHUNK_ELEMENTS = 2**24


CHUNK_ELEMENTS_CUDA = 2**26


def head_logps(
    head: nn.Module, hidden: Tensor, targets: Tensor, *, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target under softmax(head(hidden) / temperature), in nats.

    The gradient reaches hidden and the head's weight and bias as ordinary return values of one autograd function, so the
    hooks of DDP, FSDP and ZeRO see it, and the weight's gradient is summed in a single buffer.

    Args:
        head: the model's output embedding, an nn.Linear.
        hidden: [n, width] of the positions that predict the targets.
        targets: [n] token ids.
        temperature: > 0; logits are divided by it.
        with_entropy: also return the entropy of each distribution, without gradient.

    Returns:
        (logps, entropies): each [n], float32 (float64 for a float64 model); entropies is None unless asked for.

    Raises:
        ValueError: a head that is not an nn.Linear (an adapter on it, say), whose weight alone is not the whole map.
    """
    if type(head) is not nn.Linear:
        raise ValueError(f"the LM head is a {type(head).__name__}; expected nn.Linear. Put no adapter on the LM head.")

    # The head is called as a module, not read from outside: ZeRO-3 gathers its weight only then.
    def forward(hidden: Tensor) -> tuple[Tensor, Tensor]:
        return ChunkedLogps.apply(hidden, head.weight, head.bias, targets, temperature, with_entropy)

    own = head.__dict__.get("forward")
    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        logps, entropies = head(hidden)
    finally:
        del head.forward
        if own is not None:
            head.forward = own  # type: ignore[method-assign]
    return logps, entropies if with_entropy else None


class ChunkedLogps(torch.autograd.Function):
    """log softmax(hidden W^T + b)[target] and its exact gradient, one chunk of rows at a time.

    With p = softmax(logits / T) and g the gradient that arrives, dL/dlogits = g (onehot(target) - p) / T.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        """(log-probabilities, entropies) of the targets, [rows] each; the second is meaningless unless asked for."""
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        ctx.compute = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        ctx.temperature = temperature
        exact = torch.promote_types(ctx.compute, torch.float32)
        logps = torch.empty(len(hidden), dtype=exact, device=hidden.device)
        entropies, normalizers = torch.empty_like(logps), torch.empty_like(logps)
        matrix = weight.to(ctx.compute)
        chunks = _chunks(len(hidden), len(weight), device)
        ctx.kept = None
        for rows in chunks:
            logits = _logits(hidden[rows], matrix, bias, ctx.compute, temperature)
            logps[rows] = logits.gather(-1, targets[rows, None]).squeeze(-1)
            if with_entropy:
                normalizers[rows] = logits.logsumexp(-1)
                p = torch.exp(logits - normalizers[rows, None])
                entropies[rows] = normalizers[rows] - p.mul_(logits).sum(-1)
                del p
            else:  # the same in place: logsumexp makes another chunk on the way
                largest = logits.amax(-1, keepdim=True)
                total = logits.sub_(largest).exp_().sum(-1, keepdim=True)
                normalizers[rows] = (total.log() + largest).squeeze(-1)
                if len(chunks) == 1 and any(ctx.needs_input_grad):
                    ctx.kept = logits.div_(total)  # small enough to be kept
            logps[rows] -= normalizers[rows]
            del logits  # before the next chunk's are there
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers)
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizers = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        # The sum over chunks is kept in float32 at least; in bfloat16 it would lose a little with every chunk.
        summed = torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=summed) if for_weight else None
        grad_bias = torch.zeros_like(bias) if for_bias else None
        matrix = weight.to(ctx.compute)
        for rows in _chunks(len(hidden), len(weight), hidden.device.type):
            slope, ctx.kept = ctx.kept, None  # used up: a second backward pass computes it again
            if slope is None:
                slope = _logits(hidden[rows], matrix, bias, ctx.compute, ctx.temperature)
                slope = slope.sub_(normalizers[rows, None]).exp_()
            slope = slope.mul_(-grad[rows, None])
            slope.scatter_add_(-1, targets[rows, None], grad[rows, None])
            slope = slope.div_(ctx.temperature).to(ctx.compute)
            if grad_hidden is not None:
                grad_hidden[rows] = (slope @ matrix).to(hidden.dtype)
            if grad_weight is not None:
                if ctx.compute == summed:
                    grad_weight.addmm_(slope.T, hidden[rows].to(ctx.compute))
                else:
                    grad_weight += slope.T @ hidden[rows].to(ctx.compute)
            if grad_bias is not None:
                grad_bias += slope.sum(0)
            del slope
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), grad_bias, None, None, None


def chunk_rows(vocabulary: int, device: str) -> int:
    """Tokens of a chunk on a device of this type."""
    return max(1, (CHUNK_ELEMENTS_CUDA if device == "cuda" else CHUNK_ELEMENTS) // vocabulary)


def _chunks(tokens: int, vocabulary: int, device: str) -> list[slice]:
    step = chunk_rows(vocabulary, device)
    return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]


def _logits(hidden: Tensor, matrix: Tensor, bias: Tensor | None, compute: torch.dtype, temperature: float) -> Tensor:
    """[chunk, vocabulary] logits / temperature; half precision is promoted after the product."""
    logits = nn.functional.linear(hidden.to(compute), matrix, None if bias is None else bias.to(compute))
    logits = logits.to(torch.promote_types(compute, torch.float32))
    return logits if temperature == 1.0 else logits.div_(temperature)
