"""Rows for the model: a prompt with one or more of its completions, so that the prompt is computed once for them.

A row is a small tree. Its tokens carry a segment number: 0 for the prompt, 1, 2, ... for its completions, -1 for padding.
A completion's token attends to the prompt and to its own completion (full/logprobs.py), so a row with several completions
means the same as one row for each.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from full.logprobs.tokens import may_share_prompts

Ids = Sequence[Sequence[int]]  # token ids of some rows, each as long as it is


class PackedRows:
    """Some rows as one padded batch on a device; remembers which completion each token belongs to.

    Everything is known before it goes to the device, so that nothing has to be asked of it: a question would wait for it.

    Fields:
        input_ids, segments: [rows, tokens].
        places: [completion tokens] index of each in the flattened batch.
        num_padding: tokens of padding.
        tree: whether the model takes a tree mask, see `may_share_prompts`. Padding goes into it then: of a mask [rows,
            tokens] transformers would ask whether there is any.

    Raises:
        ValueError: a completion without a prompt: nothing predicts its first token.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        prompts: Ids,
        completions: Ids,
        *,
        device: torch.device,
        pad_left: bool = False,
        tree: bool = False,
    ) -> None:
        self.rows, self.tree = rows, tree
        width = max(_length(row, prompts, completions) for row in rows)
        bare = next((row[0] for row in rows if not prompts[row[0]] and any(completions[i] for i in row)), None)
        if bare is not None:
            raise ValueError(
                f"the prompt of completion {bare} is empty; expected a token at least, which predicts the next."
            )
        ids: list[list[int]] = []
        segments: list[list[int]] = []
        owner: list[int] = []  # of each completion token: its completion ...
        place: list[int] = []  # ... and its place there
        for row in rows:
            tokens = list(prompts[row[0]])
            numbers = [0] * len(tokens)
            for number, i in enumerate(row, start=1):
                tokens += completions[i]
                numbers += [number] * len(completions[i])
                owner += [i] * len(completions[i])
                place += range(len(completions[i]))
            padding = width - len(tokens)
            ids.append([0] * padding + tokens if pad_left else tokens + [0] * padding)  # any id: padding is masked out
            segments.append([-1] * padding + numbers if pad_left else numbers + [-1] * padding)
        here = torch.tensor(segments)
        self.num_padding = int((here < 0).sum())
        self._spots = (here.flatten() > 0).nonzero().squeeze(-1)  # here, and on the device
        self._owner, self._place = torch.tensor(owner, dtype=torch.long), torch.tensor(place, dtype=torch.long)
        self.input_ids, self.segments = to_device(torch.tensor(ids), device), to_device(here, device)
        self.places = to_device(self._spots, device)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """The first arguments of `token_logps`; segments only where a row has several completions, or padding in a tree."""
        wanted = any(len(row) > 1 for row in self.rows) or (self.tree and self.num_padding > 0)
        attention_mask, completion_mask = (self.segments >= 0).long(), (self.segments > 0).long()
        return self.input_ids, attention_mask, completion_mask, self.segments if wanted else None, self.places

    @property
    def indivisible(self) -> bool:
        """Whether this is one completion alone, which no smaller micro-batch could hold in parts."""
        return len(self.rows) == 1 and len(self.rows[0]) == 1

    def spread(self, per_completion: Tensor) -> Tensor:
        """[completions of the step, tokens], on the CPU -> [rows, tokens] on the device, at the completions' places."""
        out = per_completion.new_zeros(self.segments.numel())
        out[self._spots] = per_completion[self._owner, self._place]
        return to_device(out.view(self.segments.shape), self.segments.device)

    def collect(self, per_token: Tensor, out: Tensor) -> None:
        """The way back: write [rows, tokens] here into out [completions of the step, tokens], on the CPU."""
        self.put(self.of_completions(per_token), out)

    def of_completions(self, per_token: Tensor) -> Tensor:
        """[rows, tokens] -> [completion tokens]."""
        return per_token.flatten()[self.places]

    def put(self, values: Tensor, out: Tensor) -> None:
        """Write what `of_completions` gave into out [completions of the step, tokens], on the CPU."""
        out[self._owner, self._place] = values.to(out.device, out.dtype)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. The copy does not wait for what the device is doing; it is in order with what comes after."""
    return tensor.to(device, non_blocking=True)


def micro_batches(
    prompts: Ids,
    completions: Ids,
    max_tokens: int,
    *,
    device: torch.device,
    keep: Collection[int] | None = None,
    pair_cost: float = 0.0,
    pad_left: bool = False,
) -> list[PackedRows]:
    """Cut completions into padded batches of at most max_tokens tokens, padding included (a longer row goes alone).

    Rows are sorted by length and each batch is padded to its own longest, so little is padding. How completions are cut
    into rows and rows into batches changes memory and speed, never the gradient.

    Args:
        prompts: of each completion; equal neighbours, the completions of one group, may share a row.
        keep: indices of the completions wanted; None is all.
        pair_cost: what a pair of tokens in a row costs in attention, in units of what a token costs elsewhere
            (`attention_pair_cost`); decides how many completions share a row. inf: one each.
    """
    wanted = range(len(completions)) if keep is None else sorted(keep)
    rows = pack([i for i in wanted if completions[i]], prompts, completions, max_tokens, pair_cost)
    rows.sort(key=lambda row: (_length(row, prompts, completions), row))
    batches, start = [], 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or _length(rows[end], prompts, completions) * (end + 1 - start) > max_tokens:
            tree = pair_cost < float("inf")
            batches.append(
                PackedRows(rows[start:end], prompts, completions, device=device, pad_left=pad_left, tree=tree)
            )
            start = end
    return batches


def pack(indices: Sequence[int], prompts: Ids, completions: Ids, max_tokens: int, pair_cost: float) -> list[list[int]]:
    """Rows of completions: of each group, as many together as make the sum of tokens + pair_cost * tokens^2 smallest.

    Sharing saves the prompt's tokens and costs attention between completions that the mask then hides, so short
    completions share and long ones do not. No row gets longer than max_tokens by sharing.
    """
    if pair_cost == float("inf"):
        return [[i] for i in indices]
    rows: list[list[int]] = []
    for group in _groups(indices, prompts):
        group.sort(key=lambda i: len(completions[i]))
        best, lowest = [[i] for i in group], float("inf")
        for size in range(1, len(group) + 1):
            cut = [group[start : start + size] for start in range(0, len(group), size)]
            lengths = [_length(row, prompts, completions) for row in cut]
            cost = sum(n + pair_cost * n * n for n in lengths)
            if cost < lowest and (size == 1 or max(lengths) <= max_tokens):
                best, lowest = cut, cost
        rows += best
    return rows


def attention_pair_cost(model: Any) -> float:
    """Floating-point operations of attention per pair of tokens over those of everything else per token.

    inf where rows cannot share a prompt (`may_share_prompts`).
    """
    config = model.config
    if not may_share_prompts(config):
        return float("inf")
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    embedding = model.get_input_embeddings().weight
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2) - embedding.numel()
    if model.get_output_embeddings().weight is not embedding:
        matrices -= embedding.numel()
    return 4 * layers * heads * head_dim / (2 * matrices)


def _groups(indices: Sequence[int], prompts: Ids) -> list[list[int]]:
    """Runs of neighbours with the same prompt."""
    groups: list[list[int]] = []
    for i in indices:
        if groups and prompts[groups[-1][-1]] == prompts[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _length(row: Sequence[int], prompts: Ids, completions: Ids) -> int:
    return len(prompts[row[0]]) + sum(len(completions[i]) for i in row)
