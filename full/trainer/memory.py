"""What memory a run takes, as one model: the trainer asks it what fits, the doctor whether it fits, the docs for tables.

A run is largest at one of three moments, and each is a sum of parts (bytes of one process):

    an update   weights + moments + gradients + half-precision copies + what the forward pass keeps of a micro-batch's
                tokens + the larger of the LM head's backward pass and a layer's
    AdamW       weights + moments + gradients (+ one more copy of the gradients where AdamW is not fused)
    sampling    weights + moments + half-precision copies + the keys and values of every row + one layer's step, or the
                vocabulary's; or, for short completions, the pass over the prompts

What a token keeps is counted on the model at hand (`kept_bytes`), so that no family needs a formula of its own; the rest
follows from its shape. tests/test_memory.py holds the sum against the bytes that the trainer's own functions allocate, and
`MemoryPlan`, which knows the process around them, against the resident peak of training processes.
"""

import bisect
import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from full.config import TrainConfig
from full.engines import find_engine
from full.engines.hf import ComputeTypeCache, caches_only_keys_and_values
from full.logprobs.lm_head import chunk_rows
from full.logprobs.tokens import may_share_prompts, token_logps
from full.trainer.precision import half_type
from full.units import size

# Share of a device's memory that what fits may fill: the rest is for fragmentation, the libraries' workspaces, and what
# the model does not know. On a CPU the machine is shared with others.
SHARE_OF_GPU, SHARE_OF_CPU = 0.9, 0.5

# Resident over allocated bytes of all but the weights, on a CPU: the holes of the C library's heap, which no tensor fits. Ours,
# measured on training processes of 12 to 38 M parameters (glibc 2.36 as full/heap.py sets it, two steps of 64 completions of
# 64 tokens, micro-batches of 2,048). Estimate over growth: all weights 1.02, 1.03, 1.09, 1.09 (width 512, 1,024, 256 with 16
# layers, 256 with 50,000 entries), LoRA 0.92, 0.98, 0.95 (512, 16 layers, 50,000), gradient checkpointing 0.92, 0.95 (512,
# 1,024). More than a tenth off: 1.12 with 32 completions, whose second micro-batch is small (all weights, 512); 1.20 with
# micro-batches of 512, which rows of 274 tokens fill by half, and an estimate counts them as full.
HEAP_OF_CPU = 1.14

# More is no faster: a GPU is busy with so many tokens, a CPU's caches are smaller than what 2,048 tokens take.
MOST_TOKENS = {"cuda": 16384, "cpu": 2048}
MOST_ROWS = {"cuda": 1024, "cpu": 96}

# The options in which 0 is what fits.
SIZES = ("micro_batch_tokens", "generation_rows")

# Of the adapters that are advised.
RANK = 16

# Bytes for each row and entry of the vocabulary while a token is drawn: logits, log-probabilities, probabilities and
# entropy terms in float32, the cumulative sum in float64 and what it is made from; and the half-precision logits.
DRAW_BYTES = 30


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the LM head takes (full/logprobs/lm_head.py), bytes.

    gradient: of its weight; 0 where that is frozen.
    copy: its weight in the type of the computation, where that is another one.
    product: what is added to the gradient, in the type of the computation, where that is another one.
    logits, half: a chunk's, in float32 at least, and in half precision.
    rows: tokens of a chunk.
    """

    gradient: float
    copy: float
    product: float
    logits: float
    half: float
    rows: int

    def peak(self, tokens: int) -> float:
        """The most for so many tokens, in the backward pass: the slopes of a chunk, or their product."""
        share = min(1.0, tokens / self.rows)
        return self.copy + self.gradient + max(share * (self.logits + self.half), share * self.half + self.product)


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """The parts of a run's memory, bytes of one process, and their sums.

    weights: of the model here, and `gathered` those of other processes that sampling needs.
    gradients, moments: of what is trained; moments are AdamW's two.
    buckets: a second copy of the gradients, in which DDP sums them.
    spare: what AdamW makes on the way where it is not fused.
    copies: weights in half precision that autocast keeps during an update, and `copies_sampling` while sampling.
    kept: of a token, by the forward pass for the backward pass.
    kept_pair: the same of a pair of tokens in a row (masks).
    passing: of a token while a layer's backward pass runs, the layer that gradient checkpointing computes again included.
    reading: of a token while a layer's forward pass runs without gradient; a pair of tokens takes a byte (masks).
    cache: keys and values of a token of a completion, and `cache_layer` what a layer makes anew of them at each step.
    head: see `Head`; tied: whether its weight is the embedding, so that one's gradient waits for the other's.
    vocabulary: entries.
    """

    weights: float
    gathered: float = 0.0
    gradients: float
    moments: float
    buckets: float = 0.0
    spare: float = 0.0
    copies: float = 0.0
    copies_sampling: float = 0.0
    kept: float
    kept_pair: float = 0.0
    passing: float
    reading: float
    cache: float
    cache_layer: float
    head: Head
    tied: bool
    vocabulary: int

    @property
    def resting(self) -> float:
        """What is there between two steps."""
        return self.weights + self.moments + self.buckets

    def activations(self, tokens: int, width: int = 0) -> float:
        """What an update takes for a micro-batch, beyond what is resting and the gradients.

        Args:
            width: of its rows, tokens; 0 leaves masks out.
        """
        waiting = self.head.gradient * self.tied
        layer = waiting + self.passing * tokens
        return self.copies + (self.kept + self.kept_pair * width) * tokens + max(self.head.peak(tokens), layer)

    def updating(self, tokens: int, width: int = 0, *, micro_batches: int = 2) -> float:
        """The most that an update holds. In a single micro-batch the gradients come as the activations go."""
        end = self.gradients + self.copies + 2 * self.head.gradient * self.tied  # of head and embedding, to be added
        here = self.activations(tokens, width) + (self.gradients if micro_batches > 1 else 0.0)
        return self.resting + max(here, end)

    @property
    def stepping(self) -> float:
        """The most that AdamW's step holds."""
        return self.resting + self.gradients + self.spare

    def sampling(self, rows: int, prompt: int, completion: int, *, prompts: int | None = None) -> float:
        """The most that sampling holds.

        Args:
            rows: completions at once.
            prompt, completion: the longest, tokens.
            prompts: distinct ones among the rows; None is all.
        """
        length, prompts = prompt + completion, rows if prompts is None else prompts
        read = prompts * prompt * (self.cache + self.reading + prompt)
        cast = 0.0 if self.head.gradient else self.head.copy  # autocast keeps none of a frozen weight
        step = max(rows * length * self.cache_layer, rows * DRAW_BYTES * self.vocabulary, cast)
        return self.resting + self.gathered + self.copies_sampling + max(read, rows * length * self.cache + step)

    def tokens_that_fit(self, have: float, width: int = 0) -> int:
        """The largest micro-batch whose update stays within `have` bytes; 0 if none does."""
        return _largest(lambda tokens: self.updating(tokens, min(width, tokens)) <= have)

    def rows_that_fit(self, have: float, prompt: int, completion: int, *, copies: int = 1) -> int:
        """The most completions at once within `have` bytes; 0 if none.

        Args:
            copies: completions of each prompt among them.
        """
        return _largest(lambda rows: self.sampling(rows, prompt, completion, prompts=-(-rows // copies)) <= have)


def _largest(fits: Callable[[int], bool], most: int = 2**24) -> int:
    """The largest count up to `most` that fits, where all smaller ones do; 0 if none does."""
    return bisect.bisect_left(range(1, most + 1), True, key=lambda count: not fits(count))


def memory_model(
    model: Any,
    *,
    autocast: torch.dtype | None,
    device: str,
    fused: bool = True,
    weight_shards: int = 1,
    state_shards: int = 1,
    ddp: bool = False,
) -> MemoryModel:
    """The memory model of a language model as it was loaded: whole, and not yet shared out.

    Args:
        autocast: the half precision that products are computed in; None: the type of the weights.
        device: "cuda" or "cpu", where it will run.
        fused: whether AdamW is.
        weight_shards, state_shards: processes that share the weights; their gradients and moments.
        ddp: whether DDP sums the gradients.
    """
    config, weight, head = model.config, model.get_input_embeddings().weight, model.get_output_embeddings().weight
    vocabulary, hidden = head.shape
    layers, inner = config.num_hidden_layers, getattr(config, "intermediate_size", None) or 4 * hidden
    compute = autocast or head.dtype
    exact = torch.promote_types(compute, torch.float32)
    stream = torch.promote_types(weight.dtype, compute).itemsize  # of the residual stream

    named = list(model.named_parameters())
    parameters = [p for _, p in named]
    weights = sum(p.nbytes for p in parameters)
    gradients = sum(p.nbytes for p in parameters if p.requires_grad)
    kept, pair, whole = kept_bytes(model, autocast)
    again = whole > kept  # layers keep their inputs alone, and are computed again
    cache = cache_bytes(model, autocast)
    # Products cast their weights. autocast keeps the copies of what requires a gradient until it ends, also while sampling;
    # the copies of frozen weights are kept for the backward pass, of one layer where the layers are computed again.
    cast = [p for p in parameters if p.dim() == 2 and p.dtype != compute and p is not head and p is not weight]
    frozen = sum(p.numel() for p in cast if not p.requires_grad) / (layers if again else 1)
    trained = sum(p.numel() for p in cast if p.requires_grad)
    trained_head = head.numel() * (head.requires_grad and head.dtype != compute)
    heads = getattr(config, "num_attention_heads", None) or 1
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    keys = head_dim * (getattr(config, "num_key_value_heads", None) or heads)
    attention = (4 * heads * head_dim + keys + 2.5 * hidden) * stream  # norms and rotations, in the stream's type
    adapters = sum(
        {p.element_size() for n, p in named if ".lora_A" in n and p.dtype != compute}
    )  # which cast their inputs
    passing = 3 * hidden * stream
    if again:  # a layer's own, beside the inputs of all; what came after the last layer is gone by then
        inputs = layers * hidden * stream
        passing += (whole - kept + inputs) / layers - (kept - inputs) + inner * (compute.itemsize + adapters)
    rows = chunk_rows(vocabulary, device)
    return MemoryModel(
        weights=weights / weight_shards,
        gathered=(1 - 1 / weight_shards) * sum(p.numel() for p in parameters) * compute.itemsize,
        gradients=gradients / state_shards,
        moments=2 * gradients / state_shards,
        buckets=float(gradients) if ddp else 0.0,
        spare=0.0 if fused else gradients / state_shards,
        copies=(trained + frozen) * compute.itemsize / weight_shards,
        copies_sampling=float(trained + trained_head) * compute.itemsize if weight_shards == 1 else 0.0,
        kept=kept,
        kept_pair=pair,
        passing=passing,
        reading=max(inner * (3 * compute.itemsize + adapters) + 4 * hidden * stream, attention),
        cache=cache,
        cache_layer=cache / layers / 2,
        head=Head(
            gradient=float(head.numel() * exact.itemsize * head.requires_grad),
            copy=float(head.numel() * compute.itemsize * (head.dtype != compute)),
            product=float(head.numel() * compute.itemsize * (head.requires_grad and compute != exact)),
            logits=float(rows * vocabulary * exact.itemsize),
            half=float(rows * vocabulary * compute.itemsize * (compute != exact)),
            rows=rows,
        ),
        tied=head is weight,
        vocabulary=vocabulary,
    )


def with_checkpointing(memory: MemoryModel, model: Any, autocast: torch.dtype | None) -> MemoryModel:
    """What a model's memory would be with gradient checkpointing, from its shape alone: nothing is run.

    Layers keep their inputs; one at a time is computed again, and keeps then what each keeps now.
    """
    config, weight = model.config, model.get_input_embeddings().weight
    layers, hidden = config.num_hidden_layers, weight.shape[1]
    row = hidden * torch.promote_types(weight.dtype, autocast or weight.dtype).itemsize
    kept = (layers + 3) * row  # and what the last norm and the head read
    return dataclasses.replace(
        memory,
        kept=min(memory.kept, kept),
        kept_pair=0.0,
        passing=memory.passing + max(0.0, memory.kept - 3 * row) / layers,
    )


def with_adapters(
    memory: MemoryModel,
    model: Any,
    rank: int,
    autocast: torch.dtype | None,
    *,
    state_shards: int = 1,
    whole: bool = True,
) -> MemoryModel:
    """What a model's memory would be with LoRA adapters on its frozen linear layers, from its shape alone.

    An upper bound: a layer keeps less when its weights are frozen, by about a sixth on Qwen3.

    Args:
        whole: whether the weights are on this process, so that the base is kept in half precision (`keep_base_in`).
    """
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    weight, compute = linear[0].weight, autocast or linear[0].weight.dtype
    itemsize, stream = (torch.promote_types(weight.dtype, other).itemsize for other in (torch.float32, compute))
    hidden = head.weight.shape[1]
    inner = getattr(model.config, "intermediate_size", None) or 4 * hidden
    cast = compute.itemsize if autocast is None else compute.itemsize + itemsize  # adapters cast what they read
    trained = rank * sum(m.in_features + m.out_features for m in linear)
    saved = sum(m.weight.nbytes - m.weight.numel() * autocast.itemsize for m in linear) if autocast and whole else 0
    return dataclasses.replace(
        memory,
        weights=memory.weights - saved + trained * itemsize,
        gradients=trained * itemsize / state_shards,
        moments=2 * trained * itemsize / state_shards,
        buckets=float(trained * itemsize) if memory.buckets else 0.0,
        spare=trained * itemsize / state_shards if memory.spare else 0.0,
        copies=trained * autocast.itemsize if autocast else 0.0,
        copies_sampling=trained * autocast.itemsize if autocast and whole else 0.0,
        reading=max(memory.reading, inner * (2 * compute.itemsize + cast) + 4 * hidden * stream),
        head=dataclasses.replace(memory.head, gradient=0.0, product=0.0),
    )


def alternatives(
    config: TrainConfig, memory: MemoryModel, model: Any, autocast: torch.dtype | None, *, state_shards: int = 1
) -> dict[str, MemoryModel]:
    """What takes less memory than the run as it is: options -> its memory model."""
    found = {}
    if not config.gradient_checkpointing:
        found["--gradient_checkpointing true"] = with_checkpointing(memory, model, autocast)
    if not config.lora_rank and any(isinstance(module, torch.nn.Linear) for module in model.base_model.modules()):
        whole = not memory.gathered
        for options, less in [("", memory), *found.items()]:
            adapted = with_adapters(less, model, RANK, autocast, state_shards=state_shards, whole=whole)
            found[f"--lora_rank {RANK} {options}".strip()] = adapted
    return found


def kept_bytes(model: Any, autocast: torch.dtype | None, *, width: int = 8) -> tuple[float, float, float]:
    """What a forward pass keeps for the backward pass, bytes: of a token, of a pair of tokens in a row, and of a token
    without gradient checkpointing.

    Counted on the model in passes over one row, two rows, and one of twice the width: what grows with the tokens, with
    their pairs and with neither (copies of weights) comes apart exactly.
    """

    def count(rows: int, width: int) -> int:
        # The model sees all columns but the last, which predicts nothing.
        ids = torch.zeros(rows, width + 1, dtype=torch.long, device=model.device)
        attention_mask, completion_mask, segments = torch.ones_like(ids), torch.ones_like(ids), None
        completion_mask[:, : width // 4 + 1] = 0
        if may_share_prompts(model.config):  # two completions a row
            segments = completion_mask.clone()
            segments[:, width // 2 :] *= 2
        else:
            attention_mask[:, 0] = 0
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        precision = torch.autocast(model.device.type, autocast) if autocast else contextlib.nullcontext()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.enable_grad(), precision:
            logps = token_logps(model, ids, attention_mask, completion_mask, segments)
        del logps  # until here the storages counted are alive, so no two have one address
        sizes.pop(ids.untyped_storage()._cdata, None)  # given to the pass, and there without it
        return sum(sizes.values())

    def per_token() -> tuple[float, float]:
        one, two, wide = count(1, width), count(2, width), count(1, 2 * width)
        pair = (wide - two) / (2 * width**2)
        return (two - one) / width - pair * width, pair

    kept, pair = per_token()
    if not model.training:
        return kept, pair, kept
    model.eval()  # in evaluation mode no layer is left to be computed again
    whole, _ = per_token()
    model.train()
    return kept, pair, whole


@torch.no_grad()
def cache_bytes(model: Any, autocast: torch.dtype | None, *, tokens: int = 8) -> float:
    """Bytes of keys and values per token of a completion, as the sampler keeps them."""
    was_training = model.training
    model.eval()  # with gradient checkpointing a training model keeps no cache
    options = {"past_key_values": ComputeTypeCache(config=model.config)} if caches_only_keys_and_values(model) else {}
    ids = torch.zeros(1, tokens, dtype=torch.long, device=model.device)
    with torch.autocast(model.device.type, autocast) if autocast else contextlib.nullcontext():
        backbone = getattr(model, model.base_model_prefix)
        cache = getattr(backbone(input_ids=ids, use_cache=True, **options), "past_key_values", None)
    model.train(was_training)
    parts = [getattr(layer, name, None) for layer in getattr(cache, "layers", []) for name in ("keys", "values")]
    return sum(part.nbytes for part in parts if isinstance(part, Tensor)) / tokens


def memory_of(device: torch.device, processes: int) -> tuple[float, float]:
    """(bytes this process uses now, bytes it may use in all); a CPU's memory is shared among its processes."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        return float(torch.cuda.memory_allocated(device)), float(free)
    resident = psutil.Process().memory_info().rss
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    have = resident + psutil.virtual_memory().available / sharers
    with contextlib.suppress(OSError, ValueError):  # a container's limit, where there is one
        have = min(have, int(Path("/sys/fs/cgroup/memory.max").read_text()) / sharers)
    return float(resident), have


def total_memory(device: torch.device) -> float:
    """Bytes of a GPU, or of the machine, whoever uses them."""
    return float(torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total)


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will take of what there is, on this process.

    model: see `MemoryModel`.
    have: bytes that this process may take in all, those in use included.
    other: bytes in use that are none of the model's: Python and its libraries on a CPU, another engine's share.
    heap: bytes that are taken for each byte allocated beside the weights, see `HEAP_OF_CPU`.
    share: of `have`, which what fits may fill.
    prompt, completion: the longest, tokens.
    copies: completions of a prompt that are sampled together, at least.
    width: of the widest row of a micro-batch, tokens.
    tokens: of a micro-batch.
    rows: sampled at once; 0 where another engine samples, in memory of its own.
    engine: of that other engine while it samples, bytes; it lets go of it during updates.
    instead: what else could be run: options -> its memory model.
    """

    model: MemoryModel
    have: float
    other: float
    share: float
    prompt: int
    completion: int
    copies: int
    width: int
    tokens: int
    rows: int
    engine: float = 0.0
    instead: Mapping[str, MemoryModel] = field(default_factory=dict)
    heap: float = 1.0

    def taken(self, allocated: float) -> float:
        """Bytes that the process takes when so many are allocated by the memory model, weights included."""
        return self.other + self.model.weights + self.heap * (allocated - self.model.weights)

    @property
    def room(self) -> float:
        """Bytes that may be allocated, by the memory model, so that the process stays within its share."""
        return self.model.weights + (self.share * self.have - self.other - self.model.weights) / self.heap

    @property
    def updating(self) -> float:
        """The most that an update or AdamW's step holds, all of the process included; a long completion goes alone."""
        tokens = max(self.tokens, self.longest)
        update = self.model.updating(tokens, min(self.width, tokens))
        return self.taken(max(update, self.model.stepping))

    @property
    def sampling(self) -> float:
        """The most that sampling holds, all of the process included."""
        if not self.rows:
            return self.taken(self.model.resting) + self.engine
        prompts = -(-self.rows // self.copies)
        return self.taken(self.model.sampling(self.rows, self.prompt, self.completion, prompts=prompts))

    @property
    def peak(self) -> float:
        """The most that the run holds."""
        return max(self.updating, self.sampling)

    def line(self, chosen: Collection[str] = ()) -> str:
        """One line for the log.

        Args:
            chosen: the names among `SIZES` whose numbers come from here.
        """
        sizes = {"micro_batch_tokens": self.tokens, "generation_rows": self.rows}
        told = [f"{name} {sizes[name]}{' (what fits)' * (name in chosen)}" for name in SIZES if sizes[name]]
        return f"memory: {', '.join(told)}: at most about {size(self.peak)} of {size(self.have)}"

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and completion together."""
        return self.prompt + self.completion

    def advice(self, config: TrainConfig, what: str = "", *, tokens: int | None = None, correction: float = 1.0) -> str:
        """What to change where it does not fit, the cheapest first: of "an update", of "sampling" or, not knowing, of both.

        Args:
            tokens: of a micro-batch, where not as planned.
            correction: measured over modelled activations.
        """
        tokens, room = tokens or self.tokens, self.room
        state, found = self.model.resting + self.model.gradients, []
        if what != "an update" and self.rows and 1 <= self.rows_that_fit < self.rows:
            found.append(f"--generation_rows {self.rows_that_fit}")
        if what != "an update" and 0 < room - self.model.resting < self.engine:
            fitting = config.vllm_memory * (room - self.model.resting) / self.engine
            found.append(f"--vllm_memory {math.floor(100 * fitting) / 100:g}")
        if what != "sampling":
            fit = self.model.tokens_that_fit(state + (room - state) / correction, self.width)
            if self.longest <= fit < tokens:
                found.append(f"--micro_batch_tokens {fit}")
            if not config.gradient_checkpointing and room > state:
                found.append("--gradient_checkpointing true")
        if not found:
            found += ["--lora_rank 16, which needs neither gradients nor moments of the weights"] * (
                not config.lora_rank
            )
            found += ["several GPUs that share the weights (FSDP)"] * (not self.model.gathered)
            found += ["a smaller model"]
        return f"Try {', or '.join(found)}."

    def finding(self) -> str:
        """What the run needs at the least, and what would fit with which sizes: for one whose memory ran out for good.

        By arithmetic alone, so that it can be said where there is no memory left to try anything.
        """
        room, least, found = SHARE_OF_GPU * self.have, self.least(), []  # on a CPU too, where what is chosen is smaller
        needs = f"By the memory model one completion at a time needs about {size(least)} of {size(self.have)}"
        if least <= room:
            needs += ", so it should fit: look for what else takes memory"
        elif self.least(1) <= room:
            longest = _largest(lambda tokens: self.least(tokens) <= room, self.completion)
            found.append(f"--max_completion_tokens {longest} (about {size(self.least(longest))})")
        for options, model in self.instead.items():
            other = dataclasses.replace(self, model=model, share=SHARE_OF_GPU)
            if other.least() > room:
                continue
            tokens, rows = min(self.tokens, other.tokens_that_fit), min(self.rows, other.rows_that_fit)
            other = dataclasses.replace(other, tokens=tokens, rows=rows)
            sizes = f"--micro_batch_tokens {tokens}" + f" --generation_rows {rows}" * (rows > 0)
            found.append(f"{options} {sizes} (about {size(other.peak)})")
        found += ["several GPUs that share the weights (FSDP)"] * (not self.model.gathered)
        return f"{needs}. Try {', or '.join([*found, 'a smaller model'])}."

    def least(self, completion: int = 0) -> float:
        """The most that the run holds where it computes one completion at a time, all of the process included.

        Args:
            completion: the longest, tokens; 0 is the run's.
        """
        completion = completion or self.completion
        tokens = self.prompt + completion
        update = max(self.model.updating(tokens, min(self.width, tokens)), self.model.stepping)
        return self.taken(max(update, self.model.sampling(1, self.prompt, completion) if self.rows else 0.0))

    @property
    def tokens_that_fit(self) -> int:
        """The largest micro-batch that stays within the share; 0 if none does."""
        return self.model.tokens_that_fit(self.room, self.width)

    @property
    def rows_that_fit(self) -> int:
        """The most completions sampled at once that stay within the share; 0 if none does."""
        return self.model.rows_that_fit(self.room, self.prompt, self.completion, copies=self.copies)


def widest_row(prompt: int, completion: int, group: int, pair_cost: float) -> int:
    """Tokens of the widest row that `full.logprobs.packing.pack` may make of a group.

    Two halves of a row of p prompt and n completion tokens cost as much as the row where n^2 / 2 - p^2 = p / c, with c the
    cost of a pair. So n goes up to sqrt(2 (p / c + p^2)), and one completion more where halves are uneven.
    """
    shared = math.sqrt(2 * (prompt / pair_cost + prompt**2)) + completion if 0 < pair_cost < math.inf else completion
    return prompt + max(completion, min(int(shared), group * completion))


def round_down(count: int, step: int) -> int:
    """A count in full steps, where it has any: what fits should not change with a megabyte more or less."""
    return count - count % step if count >= step else count


def choose_sizes(config: TrainConfig, plan: MemoryPlan, *, device: str, batch: int) -> TrainConfig:
    """The configuration with numbers in place of a 0 in micro_batch_tokens and generation_rows: what fits.

    Args:
        plan: of the run; its tokens and rows are not read.
        device: "cuda" or "cpu".
        batch: completions that are sampled on a process, at most.
    """
    changes: dict[str, Any] = {}
    if not config.micro_batch_tokens:
        changes["micro_batch_tokens"] = max(1, round_down(min(plan.tokens_that_fit, MOST_TOKENS[device]), 256))
    if not config.generation_rows:
        fitting = round_down(min(plan.rows_that_fit, MOST_ROWS[device]), 8) if plan.rows else MOST_ROWS[device]
        changes["generation_rows"] = max(1, min(fitting, batch))
    return dataclasses.replace(config, **changes)


def plan_memory(
    config: TrainConfig,
    model: Any,
    accelerator: Accelerator,
    *,
    prompts: Sequence[Sequence[int]],
    batch: int,
    pair_cost: float,
    training: bool = True,
) -> tuple[TrainConfig, MemoryPlan]:
    """The configuration with sizes that fit where it has a 0, and what memory the run takes with them.

    Called when the model is loaded, whole, and before it is wrapped. All processes get the same sizes.

    Args:
        prompts: all that are sampled from.
        batch: completions that are sampled on a process, at most.
        training: whether gradients and moments are needed.
    """
    device, processes = accelerator.device, accelerator.num_processes
    kind = "cuda" if device.type == "cuda" else "cpu"
    stage = (
        accelerator.state.deepspeed_plugin.zero_stage
        if accelerator.distributed_type == DistributedType.DEEPSPEED
        else 0
    )
    share_weights = accelerator.is_fsdp2 or stage == 3
    autocast = half_type(accelerator)
    state_shards = processes if share_weights or stage else 1
    memory = memory_model(
        model,
        autocast=autocast,
        device=kind,
        fused=device.type in ("cpu", "cuda"),
        weight_shards=processes if share_weights else 1,
        state_shards=state_shards,
        ddp=accelerator.distributed_type in (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU),
    )
    if not training:
        memory = dataclasses.replace(memory, gradients=0.0, moments=0.0, buckets=0.0, spare=0.0)
    in_use, have = memory_of(device, processes)
    samples_here = find_engine(config.engine).samples_with_policy
    of_engine = 0.0 if samples_here else config.vllm_memory * total_memory(device)
    sleeps = kind == "cuda"  # on a CPU another engine keeps what it has
    longest = max(map(len, prompts))
    plan = MemoryPlan(
        model=memory,
        have=have,
        other=in_use if sleeps else max(0.0, in_use - memory.weights) + of_engine,
        share=SHARE_OF_GPU if kind == "cuda" else SHARE_OF_CPU,
        prompt=longest,
        completion=config.max_completion_tokens,
        copies=min(config.group_size, 1 + config.eval_samples) if training else 1 + config.eval_samples,
        width=widest_row(longest, config.max_completion_tokens, config.group_size, pair_cost),
        tokens=config.micro_batch_tokens,
        rows=int(samples_here),
        engine=of_engine if sleeps else 0.0,
        instead=alternatives(config, memory, model, autocast, state_shards=state_shards) if training else {},
        heap=HEAP_OF_CPU if kind == "cpu" else 1.0,
    )
    config = choose_sizes(config, plan, device=kind, batch=batch)
    sizes = torch.tensor([getattr(config, name) for name in SIZES], device=device)
    fewest = accelerator.gather(sizes).view(-1, len(SIZES)).amin(0).tolist()
    config = dataclasses.replace(config, **dict(zip(SIZES, fewest, strict=True)))
    rows = config.generation_rows if samples_here else 0
    return config, dataclasses.replace(plan, tokens=config.micro_batch_tokens, rows=rows)
