"""Scoring completions under a model, and whether the scorer agrees with the model's own forward pass."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from full.halving import Halving
from full.logprobs.packing import Ids, PackedRows, micro_batches
from full.logprobs.tokens import token_logps


@torch.no_grad()
def score(
    policy: nn.Module,
    prompts: Ids,
    completions: Ids,
    *,
    width: int,
    temperature: float,
    max_tokens: int | Halving,
    device: Any,
    pair_cost: float = float("inf"),
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and next-token entropies of completions, without a graph.

    Args:
        max_tokens: at once, padding included; half of them where they do not fit.

    Returns:
        (logps, entropies): [rows, width] on the CPU, 0 beyond each completion's end.
    """
    dtype = next(policy.parameters()).dtype
    logps = torch.zeros(len(prompts), width, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    entropies = torch.zeros_like(logps)
    room = max_tokens if isinstance(max_tokens, Halving) else Halving("micro_batch_tokens", max_tokens)
    known: list[tuple[PackedRows, Tensor]] = []
    left = set(range(len(prompts)))
    options = {"device": device, "pair_cost": pair_cost}
    waiting = micro_batches(prompts, completions, room.size, **options)
    while waiting:
        rows = waiting.pop(0)
        got, why = room.attempt(partial(policy, *rows.inputs, temperature=temperature, with_entropy=True))
        if got is None:
            room.halve(why, tried=rows.input_ids.numel(), whole=rows.indivisible)
            waiting = micro_batches(prompts, completions, room.size, keep=left, **options)
            continue
        known.append((rows, torch.stack([rows.of_completions(values) for values in got])))
        left -= {i for row in rows.rows for i in row}
    # All at once, since a copy from the device waits for it.
    found = torch.cat([values for _, values in known], 1).cpu() if known else torch.zeros(2, 0)
    for (rows, _), values in zip(known, found.split([values.shape[1] for _, values in known], 1), strict=True):
        rows.put(values[0], logps)
        rows.put(values[1], entropies)
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
    logps = token_logps(model, *rows.inputs)
    assert isinstance(logps, Tensor)
    rows.collect(logps, scored)
    differences = []
    for completion, logps in zip(completions, scored, strict=True):
        differences.append((logps[: len(completion)] - own_logps(model, start, completion)).abs().max())
    return torch.stack(differences).max().item()  # NaN, where any is


@torch.no_grad()
def own_logps(model: nn.Module, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """[tokens] log-probabilities of a completion by the model's own forward pass, one row without padding; on the CPU."""
    ids = torch.tensor([[*prompt, *completion]], device=next(model.parameters()).device)
    logps = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1).cpu()
    return logps.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)
