"""Log-probabilities of sampled tokens under a causal language model, at the temperature they were sampled with."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Ids = Sequence[Sequence[int]]  # token ids of some rows, each as long as it is


def token_logps(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_mask: Tensor,
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
        temperature: of sampling, > 0; logits are divided by it.
        with_entropy: also return the entropy of each next-token distribution, in nats, without gradient.

    Returns:
        [batch, tokens] aligned with input_ids, exactly 0 off the completion_mask; float32, or float64 for a float64
        model. With `with_entropy`, (logps, entropies).

    Raises:
        ValueError: unequal shapes, a completion that starts at position 0 (nothing predicts it), temperature <= 0.
    """
    if not (input_ids.shape == attention_mask.shape == completion_mask.shape) or input_ids.dim() != 2:
        raise ValueError(
            f"input_ids, attention_mask, completion_mask have shapes {tuple(input_ids.shape)}, "
            f"{tuple(attention_mask.shape)}, {tuple(completion_mask.shape)}; expected [batch, tokens] for all three."
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected > 0, the one that the completions were sampled with.")
    on = completion_mask[:, 1:].bool()
    if bool(completion_mask[:, 0].any()):
        raise ValueError("completion_mask is 1 at position 0; expected a prompt token there, which predicts the next.")
    # Positions count real tokens, so that padding on either side changes nothing.
    position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
    ).last_hidden_state
    logits = model.get_output_embeddings()(hidden[:, :-1][on])  # [completion tokens, vocabulary]
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    all_logps = torch.log_softmax(logits / temperature, dim=-1)
    chosen = all_logps.gather(-1, input_ids[:, 1:][on].unsqueeze(-1)).squeeze(-1)
    logps = _scatter(chosen, on)
    if not with_entropy:
        return logps
    with torch.no_grad():
        entropies = -(all_logps.exp() * all_logps).sum(-1)
    return logps, _scatter(entropies, on)


def _scatter(values: Tensor, on: Tensor) -> Tensor:
    """[batch, 1 + tokens] with the values where the mask is on, 0 elsewhere."""
    out = values.new_zeros(on.shape).masked_scatter(on, values)
    return nn.functional.pad(out, (1, 0))


class Policy(nn.Module):
    """The language model with `token_logps` as its forward: what DDP and FSDP wrap, so that their hooks see every pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """`token_logps` of the model."""
        return token_logps(self.model, *args, **kwargs)


class PaddedRows:
    """Some rows (prompt + completion) as one padded batch on a device; remembers which rows they are."""

    def __init__(
        self, indices: list[int], prompts: Ids, completions: Ids, *, device: torch.device, pad_left: bool = False
    ) -> None:
        self.indices = indices
        lengths = [(len(prompts[i]), len(completions[i])) for i in indices]
        width = max(p + c for p, c in lengths)
        self.input_ids = torch.zeros(len(indices), width, dtype=torch.long)  # any id will do: padding is masked out
        self.attention_mask = torch.zeros_like(self.input_ids)
        self.completion_mask = torch.zeros_like(self.input_ids)
        for row, (i, (p, c)) in enumerate(zip(indices, lengths, strict=True)):
            start = width - p - c if pad_left else 0
            self.input_ids[row, start : start + p + c] = torch.tensor([*prompts[i], *completions[i]])
            self.attention_mask[row, start : start + p + c] = 1
            self.completion_mask[row, start + p : start + p + c] = 1
        self.input_ids = self.input_ids.to(device)
        self.attention_mask = self.attention_mask.to(device)
        self.completion_mask = self.completion_mask.to(device)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first arguments of `token_logps`."""
        return self.input_ids, self.attention_mask, self.completion_mask

    def spread(self, per_completion: Tensor) -> Tensor:
        """[rows of the step, completion tokens] -> [rows here, tokens here], at the completions' places."""
        out = per_completion.new_zeros(self.input_ids.shape, device=self.input_ids.device)
        counts = self.completion_mask.sum(-1).tolist()
        values = torch.cat([per_completion[i, :count] for i, count in zip(self.indices, counts, strict=True)])
        return out.masked_scatter(self.completion_mask.bool(), values.to(out.device))

    def collect(self, per_token: Tensor, out: Tensor) -> None:
        """The way back: write [rows here, tokens here] into out [rows of the step, completion tokens]."""
        for row, i in enumerate(self.indices):
            values = per_token[row][self.completion_mask[row].bool()]
            out[i, : len(values)] = values.to(out.device, out.dtype)


def micro_batches(
    prompts: Ids, completions: Ids, max_tokens: int, *, device: torch.device, pad_left: bool = False
) -> Iterator[PaddedRows]:
    """Cut rows into padded batches of at most max_tokens tokens, padding included (a longer row goes alone).

    Rows are sorted by length and each batch is padded to its own longest, so little is padding. How rows are cut changes
    memory and speed, never the gradient.
    """
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    order = sorted((i for i in range(len(lengths)) if completions[i]), key=lambda i: (lengths[i], i))
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or lengths[order[end]] * (end + 1 - start) > max_tokens:
            yield PaddedRows(order[start:end], prompts, completions, device=device, pad_left=pad_left)
            start = end


@torch.no_grad()
def score(
    policy: nn.Module, prompts: Ids, completions: Ids, *, width: int, temperature: float, max_tokens: int, device: Any
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and next-token entropies of completions, without a graph.

    Returns:
        (logps, entropies): [rows, width] on the CPU, 0 beyond each completion's end.
    """
    dtype = next(policy.parameters()).dtype
    logps = torch.zeros(len(prompts), width, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    entropies = torch.zeros_like(logps)
    for rows in micro_batches(prompts, completions, max_tokens, device=device):
        got = policy(*rows.inputs, temperature=temperature, with_entropy=True)
        rows.collect(got[0], logps)
        rows.collect(got[1], entropies)
    return logps, entropies
