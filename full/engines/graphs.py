"""Sampling on a GPU without waiting for Python: a token of all rows is one CUDA graph.

For every token Python starts some 1,500 kernels of a model of 28 layers. On an H200 that took 51 to 117 ms, beside other work
on its CPU; with a graph a token takes 9 to 17 ms (tests/benchmarks/h200.json). A graph holds all kernels of a token (forward
pass, draw, bookkeeping), and starting it starts them all. It works on addresses, so that everything in it has a fixed shape:
keys and values have room for coming tokens, masked until they are there. When the room is full or many rows have ended, keys
and values move and a new graph is captured.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from full.logprobs.tokens import may_share_prompts

# Kinds of processes that hold all weights: those that others hold are fetched by Python, which no graph contains.
UNSHARDED = (DistributedType.NO, DistributedType.MULTI_GPU)

# Tokens of room that keys and values get at once; attention passes over the empty ones too.
ROOM = 256

# Share of the rows that has ended at which they leave.
LEAVE_AT = 0.5

# Completions that are allowed fewer tokens than this are sampled without a graph, whose capture takes as long as two tokens.
SHORTEST = 64

# Draws from logits [rows, vocabulary] with uniforms [rows] and likeliest (or None): tokens, log-probabilities, entropies.
Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """What starts the kernels that `step` would start; they are not started yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # NCCL's own thread asks the device meanwhile
        step()
    return graph.replay


def takes_fixed_room(model: Any, cache: Cache) -> bool:
    """Whether the mask alone decides which keys and values attention sees: then empty room, masked, changes nothing."""
    usual = {type(layer) for layer in cache.layers} == {DynamicLayer}
    return usual and may_share_prompts(model.config) and model.config._attn_implementation == "sdpa"


class FixedLayer(DynamicLayer):
    """Keys and values of one layer, with room for more: the next token's go to `place`.

    Args:
        keys, values: [rows, heads, room, head dim], 0 where there is nothing yet.
        place: [1]; its owner counts it up.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, place: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.place = keys, values, place
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Put one token's where they belong; all keys and values, those of the empty room included."""
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values


class GraphDecoding:
    """Samples the rest of some completions, whose prompts and first tokens are in the cache.

    Args:
        model: see `takes_fixed_room`.
        cache: of everything but the last tokens; it is taken over.
        tokens: [rows] the last token of each row.
        positions: [rows] of the last tokens, padding not counted.
        padding: [rows] padded places on the left of each row.
        uniforms: [rows, limit] one for every token of a completion, the first ones included; limit is the longest allowed.
        likeliest: [rows] booleans, the rows that take the likeliest token instead of drawing; None is no row.
        start: tokens of the completions so far, those in `tokens` included.
        eos: [ends] ids.
        draw: see `Draw`.
    """

    def __init__(
        self,
        model: Any,
        cache: Cache,
        *,
        tokens: Tensor,
        positions: Tensor,
        padding: Tensor,
        uniforms: Tensor,
        likeliest: Tensor | None,
        start: int,
        eos: Tensor,
        draw: Draw,
    ) -> None:
        self.model, self.eos, self.draw = model, eos, draw
        self.cache: Any = cache
        (rows, self.limit), device = uniforms.shape, uniforms.device
        self.done, self.used, self.room = start, int(cache.get_seq_length()), 0
        self.whole = self.used + self.limit - start  # places, when all is sampled
        self.out = torch.zeros(rows, self.limit, dtype=torch.long, device=device)
        self.known = torch.zeros(2, rows, self.limit, device=device)
        # What a step reads and writes in place. here: the rows' places in `out`.
        self.rows = {
            "tokens": tokens[:, None],
            "positions": positions[:, None],
            "padding": padding,
            "uniforms": uniforms,
            "ended": torch.isin(tokens, eos),
            "here": torch.arange(rows, device=device),
        } | ({} if likeliest is None else {"likeliest": likeliest})
        self.step_now = torch.full((1,), start, device=device)
        self.place = torch.full((1,), self.used, device=device)

    def step(self) -> None:
        """One token of every row, ended ones included. Nothing here waits for the GPU or moves a tensor."""
        rows = self.rows
        places = torch.arange(self.room, device=self.place.device)
        seen = (places >= rows["padding"][:, None]) & (places <= self.place)
        logits = self.model(
            input_ids=rows["tokens"],
            attention_mask=seen[:, None, None],
            position_ids=rows["positions"],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        uniforms = rows["uniforms"].index_select(1, self.step_now).squeeze(1)
        tokens, logps, entropies = self.draw(logits.float(), uniforms, likeliest=rows.get("likeliest"))
        where = (rows["here"], self.step_now)
        self.out.index_put_(where, tokens)
        self.known[0].index_put_(where, logps)
        self.known[1].index_put_(where, entropies)
        rows["tokens"].copy_(tokens[:, None])
        rows["positions"].add_(1)
        rows["ended"].logical_or_((tokens[:, None] == self.eos).any(-1))
        self.step_now.add_(1)
        self.place.add_(1)

    def move(self, stay: Tensor | slice) -> None:
        """Give some of the rows new room, and let the others go."""
        self.rows = {name: value[stay].clone() for name, value in self.rows.items()}
        self.room = min(self.whole, -(-(self.used + 1) // ROOM) * ROOM)
        for i, layer in enumerate(self.cache.layers):
            self.cache.layers[i] = FixedLayer(self.moved(layer.keys, stay), self.moved(layer.values, stay), self.place)

    def moved(self, old: Tensor, stay: Tensor | slice) -> Tensor:
        """Keys or values of the rows that stay, with as much room as there is to be."""
        new = old.new_zeros(len(self.rows["here"]), old.shape[1], self.room, old.shape[3])
        new[:, :, : self.used] = old[stay][:, :, : self.used]
        return new

    def advance(self, start: Callable[[], None]) -> int:
        """One token more; how many rows have ended."""
        start()
        self.done, self.used = self.done + 1, self.used + 1
        return int(self.rows["ended"].sum())

    def finish(self) -> tuple[Tensor, Tensor]:
        """(tokens [rows, limit], [2, rows, limit] log-probabilities and entropies) from `start` on, 0 before.

        A row that has ended goes on until it leaves: what stands behind its end-of-sequence token means nothing.
        """
        gone = int(self.rows["ended"].sum())
        stay: Tensor | slice = slice(None)
        again: Callable[[], None] | None = None
        while self.done < self.limit and gone < len(self.rows["here"]):
            if gone >= LEAVE_AT * len(self.rows["here"]):
                stay = (~self.rows["ended"]).nonzero().squeeze(-1)
            again = None  # its memory goes before more is taken
            self.move(stay)
            rows, stay = len(self.rows["here"]), slice(None)
            # The first token of a shape goes without a graph: what libraries prepare at first use must not be captured.
            gone = self.advance(self.step)
            while self.used < self.room and self.done < self.limit and gone < LEAVE_AT * rows:
                again = again or self.captured()
                gone = self.advance(again)
        return self.out, self.known

    def captured(self) -> Callable[[], None]:
        """A graph of `step`; without one, said once, what cannot be captured goes on as before."""
        try:
            return capture(self.step)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as why:
            warnings.warn(
                f"sampling goes on without a CUDA graph, several times slower: {str(why).splitlines()[0]}", stacklevel=2
            )
            return self.step
