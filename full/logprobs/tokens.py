"""Log-probabilities of sampled tokens under a causal language model, at the temperature they were sampled with."""

from typing import Any

import torch
from torch import Tensor, nn

from full.logprobs.lm_head import head_logps


def token_logps(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_mask: Tensor,
    segments: Tensor | None = None,
    places: Tensor | None = None,
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
        places: [completion tokens] index of each in the flattened batch, rising: the same as completion_mask, for one who knows
            it without asking the device. Then nothing of completion_mask is checked.
        temperature: of sampling, > 0; logits are divided by it.
        with_entropy: also return the entropy of each next-token distribution, in nats, without gradient.

    Returns:
        [batch, tokens] aligned with input_ids, exactly 0 off the completion_mask; float32, or float64 for a float64
        model. With `with_entropy`, (logps, entropies).

    Raises:
        ValueError: unequal shapes, a completion that starts at position 0 (nothing predicts it), temperature <= 0, an
            LM head that is not linear, segments for a model whose attention is not all of the mask's.
    """
    if not (input_ids.shape == attention_mask.shape == completion_mask.shape) or input_ids.dim() != 2:
        raise ValueError(
            f"input_ids, attention_mask, completion_mask have shapes {tuple(input_ids.shape)}, "
            f"{tuple(attention_mask.shape)}, {tuple(completion_mask.shape)}; expected [batch, tokens] for all three."
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected > 0, the one that the completions were sampled with.")
    if places is None and bool(completion_mask[:, 0].any()):
        raise ValueError("completion_mask is 1 at position 0; expected a prompt token there, which predicts the next.")
    # The model is spared the last column, which predicts nothing: of a row of 26 tokens that is 4 % of the work.
    if segments is None:
        # Positions count real tokens, so that padding on either side changes nothing.
        mask, position_ids = attention_mask[:, :-1], (attention_mask[:, :-1].long().cumsum(-1) - 1).clamp(min=0)
        segments = attention_mask.long() + completion_mask.long() - 1
    else:
        if not may_share_prompts(model.config):
            raise ValueError(
                f"segments were given for a {model.config.model_type} model with sliding windows, ALiBi or attention other "
                "than sdpa; expected one completion a row, since the tree mask would replace what the model does. Leave "
                "segments out."
            )
        ancestors = tree_mask(segments[:, :-1])
        mask, position_ids = ancestors[:, None], ancestors.sum(-1) - 1  # a token's depth in the tree
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(input_ids=input_ids[:, :-1], attention_mask=mask, position_ids=position_ids, use_cache=False)[0]

    # Only the states that predict a completion token, in the order of those tokens.
    on = completion_mask.bool().flatten().nonzero().squeeze(-1) if places is None else places
    row = on // input_ids.shape[1]
    states = hidden.flatten(0, 1).index_select(0, predecessors(segments).flatten()[on] - row)  # a column less a row
    targets = input_ids.flatten()[on]
    logps, entropies = head_logps(
        model.get_output_embeddings(), states, targets, temperature=temperature, with_entropy=with_entropy
    )
    # No view is returned: FSDP2 hangs a hook on what is, and one on a view can be lost.
    where = row, on % input_ids.shape[1]
    aligned = logps.new_zeros(input_ids.shape).index_put(where, logps)
    if entropies is None:
        return aligned
    return aligned, entropies.new_zeros(input_ids.shape).index_put(where, entropies)


def may_share_prompts(config: Any) -> bool:
    """Whether several completions can share a prompt in one row under a mask and positions of our own.

    Not with another attention than torch's scaled dot product, sliding windows (our mask would replace them), or positions
    that are no argument of the model (ALiBi).
    """
    windows = ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]
    kinds = set(getattr(config, "layer_types", None) or windows)
    alibi = getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt")
    return config._attn_implementation == "sdpa" and kinds == {"full_attention"} and not alibi


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
    """The language model with `token_logps` as its forward: what DDP and FSDP wrap, so that their hooks see every pass.

    It hides the embeddings of its model. accelerate would make FSDP2 units of their own of what get_input_embeddings and
    get_output_embeddings return; the head of tied ones would be in two, which torch refuses from 2.13 on.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """`token_logps` of the model."""
        return token_logps(self.model, *args, **kwargs)
