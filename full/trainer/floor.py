"""The floor of a step, the time of its matrix products alone, and what a step would take on GPUs by arithmetic.

    operations of a token in a forward pass = 2 x the entries of the matrices + 4 x layers x attention width x tokens seen

A step samples a token once, passes it forward once and backward at twice the cost (once, where the weights are frozen);
later updates of a batch score it before. Everything else (launches, memory traffic, padding, Python) is above the floor.

The estimates for GPUs stand on shares that were measured on one H200 (Qwen3-1.7B's shape, bfloat16 autocast, torch 2.11, a
virtual machine), and the data sheets of both.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch

from full.engines.graphs import UNSHARDED


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet.

    rate: products in bfloat16, dense, operations a second.
    bandwidth: of its memory, bytes a second.
    """

    name: str
    rate: float
    bandwidth: float


GPUS = (Gpu("H100", 989e12, 3.35e12), Gpu("H200", 989e12, 4.8e12))  # SXM
# Further ones whose runs are estimated, with the shares of that H200; of a T4 the rate in float16, as it has no bfloat16.
OTHERS = (
    Gpu("A100", 312e12, 2.0e12),
    Gpu("L40S", 362e12, 0.864e12),
    Gpu("RTX 4090", 165e12, 1.008e12),
    Gpu("Tesla T4", 65e12, 0.32e12),
)

# Kernels of a layer for one sampled token (counted: 1,400 to 1,600 in 28 layers), and seconds from one to the next: in a CUDA
# graph (6.5 ms a token beside what is read), and when Python starts each (68 ms a token of a run on that machine's
# virtual CPU, beside other work).
KERNELS_OF_A_LAYER, KERNEL, LAUNCH = 54, 4.3e-6, 45e-6

# Share of the memory's bandwidth at which sampling reads: 176 and 288 rows of 640 tokens took 16 and 17 ms a token.
STREAMED = 0.4

# Share of the rate that the products of an update reach: 144 rows of 1,290 tokens took 10.4 s.
REACHED = 0.22


def token_seconds(gpu: Gpu, *, layers: int, read: float, graphs: bool) -> float:
    """Seconds of a sampled token of all rows: its kernels, and the weights, keys and values that they read.

    Args:
        read: bytes.
        graphs: without CUDA graphs it takes at least as long as Python to start the kernels.
    """
    kernels = layers * KERNELS_OF_A_LAYER
    busy = kernels * KERNEL + read / (STREAMED * gpu.bandwidth)
    return busy if graphs else max(busy, kernels * LAUNCH)


@dataclass(frozen=True)
class Work:
    """A step's work on one process, by its shape.

    body, head: entries of the matrices of the layers and of the LM head.
    attention: layers times the width of queries.
    layers: of the model.
    cache: keys and values of a token, bytes.
    frozen: whether the weights are (adapters).
    rows: completions of a step; prompts: their distinct prompts.
    prompt, completion: mean lengths, tokens; longest: of the completions.
    rescored: share of the completions that are scored again before their update.
    batch, rows_at_once: completions sampled for a batch, and at once; updates of a batch.
    graphs: whether a token is sampled by one CUDA graph.
    """

    body: float
    head: float
    attention: float
    layers: int
    cache: float
    frozen: bool
    rows: float
    prompts: float
    prompt: float
    completion: float
    longest: float
    rescored: float
    batch: int
    rows_at_once: int
    updates: int
    graphs: bool = True

    def operations(self, passes: float) -> float:
        """Of so many forward passes over every token of a step, prompts once for their group."""
        seen = self.prompt + self.completion / 2
        token = 2 * (self.body + self.head) + 4 * self.attention * seen
        return passes * (self.rows * self.completion * token + self.prompts * self.prompt * 2 * self.body)

    @property
    def update_passes(self) -> float:
        """Forward passes that an update is worth."""
        return (2.0 if self.frozen else 3.0) + self.rescored

    @property
    def step_operations(self) -> float:
        """Of a step: sampling and update."""
        return self.operations(1.0 + self.update_passes)

    def floor(self, rate: float) -> float:
        """Seconds that a step's matrix products take at a rate, operations a second."""
        return self.step_operations / rate

    def sampling_on(self, gpu: Gpu) -> float:
        """Seconds of a step's share of sampling."""
        passes = -(-self.batch // self.rows_at_once)
        rows = self.batch / passes
        read = 2 * (self.body + self.head) + rows * (self.prompt + self.completion / 2) * self.cache
        token = token_seconds(gpu, layers=self.layers, read=read, graphs=self.graphs)
        return passes * self.longest * token / self.updates

    def update_on(self, gpu: Gpu) -> float:
        """Seconds of an update's products."""
        return self.operations(self.update_passes) / (REACHED * gpu.rate)

    def step_on(self, gpu: Gpu) -> float:
        """Seconds of a step."""
        return self.sampling_on(gpu) + self.update_on(gpu)


def work_of(trainer: Any, *, prompt: float, completion: float, longest: float) -> Work:
    """The work of a run's step with completions of these lengths, on this process.

    Args:
        prompt, completion: mean tokens; longest: of the completions.
    """
    model, config, plan = trainer.model, trainer.config, trainer.plan
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    known = {id(p) for p in (head, embedding)}
    matrices = [p for p in model.parameters() if p.dim() == 2 and id(p) not in known]
    heads = getattr(model.config, "num_attention_heads", None) or 1
    head_dim = getattr(model.config, "head_dim", None) or head.shape[1] // heads
    layers = model.config.num_hidden_layers
    return Work(
        body=float(sum(getattr(p, "ds_numel", p.numel()) for p in matrices)),
        head=float(getattr(head, "ds_numel", head.numel())),
        attention=float(layers * heads * head_dim),
        layers=layers,
        cache=trainer.memory.model.cache,
        frozen=bool(config.lora_rank),
        rows=float(plan.local_mini_batch),
        prompts=plan.local_mini_batch / config.group_size,
        prompt=prompt,
        completion=completion,
        longest=longest,
        rescored=(plan.updates - 1) / plan.updates,
        batch=plan.local_completions,
        rows_at_once=config.generation_rows,
        updates=plan.updates,
        graphs=config.cuda_graphs and trainer.accelerator.distributed_type in UNSHARDED,
    )


def matmul_rate(device: torch.device, half: torch.dtype | None) -> float:
    """Operations a second of a large product here: the best of a few, in half precision on a GPU, float32 without any."""
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 768
    # Random numbers: a GPU multiplies a matrix of ones faster.
    a = torch.randn(size, size, device=device, dtype=half if on_gpu and half else torch.float32)
    best = 0.0
    for _ in range(6):
        if on_gpu:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        a @ a
        if on_gpu:
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best
