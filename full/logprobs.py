"""Log-probabilities of sampled tokens under a causal language model, at the temperature they were sampled with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from full.lm_head import head_logps
from full.packing import Ids, PackedRows, micro_batches


def token_logps(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_mask: Tensor,
    segments: Tensor | None = None,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """log pi(token_t | tokens before t) of the completion's tokens, in nats.

    The LM head sees only the positions that predict a completion token: neither prompts nor padding.

    Args:
        model: a causal language model of transformers.
        input_ids: [batch, tokens] prompt and completion, padded left or right.
        attention_mask: [batch, tokens] 1 on prompt and completion, 0 on padding.
        completion_mask: [batch, tokens] 1 on the completion's tokens, the end-of-sequence token included. Made from
            positions, never from token ids, so pad = eos is no special case.
        segments: [batch, tokens] for rows that hold several completions of one prompt: 0 on the prompt, 1, 2, ... on its
            completions, -1 on padding. Each completion sees the prompt and itself, as if it had the row to itself.
        temperature: of sampling, > 0; logits are divided by it.
        with_entropy: also return the entropy of each next-token distribution, in nats, without gradient.

    Returns:
        [batch, tokens] aligned with input_ids, exactly 0 off the completion_mask; float32, or float64 for a float64
        model. With `with_entropy`, (logps, entropies).

    Raises:
        ValueError: unequal shapes, a completion that starts at position 0 (nothing predicts it), temperature <= 0, an
            LM head that is not linear.
    """
    if not (input_ids.shape == attention_mask.shape == completion_mask.shape) or input_ids.dim() != 2:
        raise ValueError(
            f"input_ids, attention_mask, completion_mask have shapes {tuple(input_ids.shape)}, "
            f"{tuple(attention_mask.shape)}, {tuple(completion_mask.shape)}; expected [batch, tokens] for all three."
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected > 0, the one that the completions were sampled with.")
    if bool(completion_mask[:, 0].any()):
        raise ValueError("completion_mask is 1 at position 0; expected a prompt token there, which predicts the next.")
    if segments is None:
        # Positions count real tokens, so that padding on either side changes nothing.
        mask, position_ids = attention_mask, (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        segments = attention_mask.long() + completion_mask.long() - 1
    else:
        ancestors = tree_mask(segments)
        mask, position_ids = ancestors[:, None], ancestors.sum(-1) - 1  # a token's depth in the tree
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, use_cache=False)[0]

    # Only the states that predict a completion token, in the order of those tokens.
    on = completion_mask.bool().flatten().nonzero().squeeze(-1)
    states = hidden.flatten(0, 1).index_select(0, predecessors(segments).flatten()[on])
    targets = input_ids.flatten()[on]
    logps, entropies = head_logps(
        model.get_output_embeddings(), states, targets, temperature=temperature, with_entropy=with_entropy
    )
    aligned = logps.new_zeros(input_ids.shape).masked_scatter(completion_mask.bool(), logps)
    if entropies is None:
        return aligned
    return aligned, entropies.new_zeros(input_ids.shape).masked_scatter(completion_mask.bool(), entropies)


def tree_mask(segments: Tensor) -> Tensor:
    """[batch, tokens, tokens] booleans: whether the first token may attend to the second.

    To the prompt and to its own completion, nothing later; padding attends to padding, so that no row is empty.
    """
    earlier = torch.ones(segments.shape[-1], segments.shape[-1], dtype=torch.bool, device=segments.device).tril()
    same = segments[:, :, None] == segments[:, None, :]
    return earlier & (same | ((segments == 0)[:, None, :] & (segments > 0)[:, :, None]))


def predecessors(segments: Tensor) -> Tensor:
    """[batch, tokens] index, into the flattened batch, of the token that predicts each: the one before it in its path."""
    width = segments.shape[-1]
    here = torch.arange(width, device=segments.device).expand_as(segments)
    starts = segments != segments.roll(1, dims=-1)
    end_of_prompt = here.masked_fill(segments != 0, -1).amax(-1, keepdim=True)
    before = torch.where(starts, end_of_prompt, here - 1).clamp(min=0)
    return before + width * torch.arange(len(segments), device=segments.device)[:, None]


class Policy(nn.Module):
    """The language model with `token_logps` as its forward: what DDP and FSDP wrap, so that their hooks see every pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """`token_logps` of the model."""
        return token_logps(self.model, *args, **kwargs)


@torch.no_grad()
def score(
    policy: nn.Module,
    prompts: Ids,
    completions: Ids,
    *,
    width: int,
    temperature: float,
    max_tokens: int,
    device: Any,
    pair_cost: float = float("inf"),
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and next-token entropies of completions, without a graph.

    Returns:
        (logps, entropies): [rows, width] on the CPU, 0 beyond each completion's end.
    """
    dtype = next(policy.parameters()).dtype
    logps = torch.zeros(len(prompts), width, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    entropies = torch.zeros_like(logps)
    for rows in micro_batches(prompts, completions, max_tokens, device=device, pair_cost=pair_cost):
        got = policy(*rows.inputs, temperature=temperature, with_entropy=True)
        rows.collect(got[0], logps)
        rows.collect(got[1], entropies)
    return logps, entropies


@torch.no_grad()
def scoring_error(model: nn.Module, prompt: Sequence[int], *, shared: bool) -> float:
    """Largest difference, in nats, between `token_logps` and the model's own forward pass, on a few tokens.

    `token_logps` goes from the backbone to the LM head by itself; a model that does more on the way (scales or caps its
    logits) would be trained on wrong probabilities.

    Args:
        prompt: at least two token ids; a few are used.
        shared: score two completions in one row, which also tests the model's way with a tree mask.
    """
    start, completions = list(prompt[:4]), [list(prompt[:3]), list(prompt[1:3])]
    device = next(model.parameters()).device
    rows = PackedRows([[0, 1]] if shared else [[0], [1]], [start] * 2, completions, device=device)
    scored = torch.zeros(2, 3)
    rows.collect(token_logps(model, *rows.inputs), scored)
    differences = []
    for completion, logps in zip(completions, scored, strict=True):
        ids = torch.tensor([[*start, *completion]], device=device)
        own = model(input_ids=ids).logits[0].float().log_softmax(-1).cpu()
        want = torch.stack([own[len(start) - 1 + t, token] for t, token in enumerate(completion)])
        differences.append((logps[: len(completion)] - want).abs().max().item())
    return max(differences)
