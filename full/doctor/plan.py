"""What a run of a larger model would take, from its shape alone: `python -m full.doctor.plan`.

Memory is the trainer's own model (full/trainer/memory.py), on a model that has shapes and no weights. Seconds are an estimate
from a GPU's data sheet, the shares of it that were measured on one H200 with 1.7B (full/trainer/floor.py), and what is
`ASSUMED`. Money is seconds times the price you give.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, Qwen3Config

from full.models.adapters import add_adapters
from full.trainer import floor
from full.trainer.floor import REACHED, Gpu, token_seconds
from full.trainer.memory import MOST_TOKENS, SHARE_OF_GPU, MemoryModel, memory_model

# config.json on the hub, under Qwen/Qwen3-NAME.
SHAPES: dict[str, dict[str, Any]] = {
    "1.7B": {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "32B": {
        "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
COMMON = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960}


@dataclass(frozen=True, kw_only=True)
class ClusterGpu(Gpu):
    """A data sheet with what a model that needs several GPUs asks for.

    memory: bytes.
    inside, across: of the links between GPUs of a node and of different nodes, bytes a second and GPU, one way.
    """

    memory: float
    inside: float
    across: float


SHEETS = {gpu.name: vars(gpu) for gpu in (*floor.GPUS, *floor.OTHERS)}
GPUS = {
    "H100": ClusterGpu(**SHEETS["H100"], memory=80e9, inside=450e9, across=50e9),
    "H200": ClusterGpu(**SHEETS["H200"], memory=141e9, inside=450e9, across=50e9),
    "A100": ClusterGpu(**SHEETS["A100"], memory=80e9, inside=300e9, across=25e9),
}
NODE = 8  # GPUs
PRICE = 2.5  # US dollars for a GPU and an hour, of the order of what clouds ask
BEGIN, END = "<!-- plan: written by `python -m full.doctor.plan` -->", "<!-- end of plan -->"


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What the estimate of the time stands on, each to be replaced by a measurement.

    links: share of the links' bandwidth.
    prompt, completion: mean tokens.
    """

    links: float = 0.6
    prompt: int = 150
    completion: int = 500


ASSUMED = Assumed()


@dataclass(frozen=True, kw_only=True)
class Work:
    """The paper's set-up: groups of 6 completions in two updates, up to 1,024 and 1,280 tokens."""

    group: int = 6
    updates: int = 2
    longest_prompt: int = 1024
    longest: int = 1280
    batches: int = 100


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A model, how it is trained, and on how many GPUs; several share the weights (FSDP2).

    prompts: of a batch; the paper's 48 do not divide among 64 GPUs.
    """

    model: str
    gpus: int
    prompts: int = 48
    lora_rank: int = 0
    checkpointing: bool = True

    @property
    def words(self) -> str:
        """In the words of the trainer's options."""
        how = f"lora_rank {self.lora_rank}" if self.lora_rank else "all weights"
        more = ", gradient_checkpointing" * self.checkpointing + ", fsdp2.yaml" * (self.gpus > 1)
        batch = f", prompts_per_batch {self.prompts}, mini_batch_prompts {self.prompts // 2}" * (self.prompts != 48)
        return f"{how}{more}{batch}"


SETUPS = (
    Setup(model="1.7B", gpus=1),
    Setup(model="1.7B", gpus=8),
    Setup(model="8B", gpus=1),
    Setup(model="8B", gpus=1, lora_rank=16),
    Setup(model="8B", gpus=8),
    Setup(model="8B", gpus=64, prompts=512),
    Setup(model="32B", gpus=8, lora_rank=16),
    Setup(model="32B", gpus=8),
    Setup(model="32B", gpus=64, prompts=512),
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a set-up takes.

    updating, sampling: the most memory of a GPU, bytes; `tokens` of a micro-batch and `rows` at once that fit, 0 if none do.
    sample, update: seconds of a batch.
    """

    updating: float
    sampling: float
    tokens: int
    rows: int
    sample: float
    update: float

    @property
    def fits(self) -> bool:
        """Whether there is a micro-batch and a row that fit."""
        return self.tokens > 0 and self.rows > 0


def bare_model(shape: str, layers: int, *, lora_rank: int, checkpointing: bool) -> Any:
    """A Qwen3 of so many layers whose tensors have shapes and no memory."""
    options = {**COMMON, **SHAPES[shape], "num_hidden_layers": layers}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**options), dtype=torch.float32)
        if lora_rank:
            add_adapters(model, lora_rank)
    made: dict[int, torch.nn.Parameter] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, p in list(module._parameters.items()):
                if p is not None:
                    if id(p) not in made:  # tied weights stay one
                        empty = torch.empty(p.shape, dtype=p.dtype)
                        made[id(p)] = torch.nn.Parameter(empty, requires_grad=p.requires_grad)
                    module._parameters[name] = made[id(p)]
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
    return model


def memory_of_shape(setup: Setup) -> tuple[MemoryModel, float]:
    """The trainer's memory model of a set-up, and its number of parameters.

    Every part is a line in the number of layers, so that two and three layers tell about all of them.
    """
    at = {}
    for layers in (2, 3):
        model = bare_model(setup.model, layers, lora_rank=setup.lora_rank, checkpointing=setup.checkpointing)
        memory = memory_model(
            model, autocast=torch.bfloat16, device="cuda", weight_shards=setup.gpus, state_shards=setup.gpus
        )
        at[layers] = dataclasses.asdict(memory), float(sum(p.numel() for p in model.parameters()))
    (two, count_2), (three, count_3) = at[2], at[3]
    more = SHAPES[setup.model]["num_hidden_layers"] - 2
    parts = {name: extend(value, three[name], more) for name, value in two.items() if name != "head"}
    return MemoryModel(**parts, head=memory.head), extend(count_2, count_3, more)


def extend(two: Any, three: Any, more: int) -> Any:
    """A value at two layers and so many more; names and truths stay."""
    return two if isinstance(two, bool) or two == three else two + more * (three - two)


def estimate(setup: Setup, gpu: ClusterGpu, work: Work | None = None, assumed: Assumed = ASSUMED) -> Estimate:
    """Memory and seconds of a set-up."""
    work = work or Work()
    memory, parameters = memory_of_shape(setup)
    room = SHARE_OF_GPU * gpu.memory
    tokens = min(memory.tokens_that_fit(room), MOST_TOKENS["cuda"])
    tokens = tokens if tokens >= work.longest_prompt + work.longest else 0
    share = math.ceil(setup.prompts / setup.gpus) * work.group
    rows = min(share, memory.rows_that_fit(room, work.longest_prompt, work.longest, copies=work.group))

    layers = SHAPES[setup.model]["num_hidden_layers"]
    here = max(1, min(rows, share))
    length = assumed.prompt + assumed.completion / 2
    read = 2 * parameters + here * length * memory.cache
    token = max(
        token_seconds(gpu, layers=layers, read=read, graphs=setup.gpus == 1), 2 * parameters * here / gpu.rate / REACHED
    )
    sample = math.ceil(share / here) * work.longest * token

    links = (gpu.inside if setup.gpus <= NODE else gpu.across) * assumed.links
    trained = setup.prompts * assumed.prompt + setup.prompts * work.group * assumed.completion
    # Of 2 operations a parameter and token each: forward, again with checkpointing, the gradients of the activations and,
    # without adapters, of the weights; and the later updates score their samples again.
    passes = 4 + 2 * setup.checkpointing + 2 * (not setup.lora_rank) + 2 * (work.updates - 1) / work.updates
    computing = passes * parameters * trained / setup.gpus / gpu.rate / REACHED
    micro_batches = work.updates * math.ceil(trained / work.updates / setup.gpus / max(tokens, 1)) if tokens else 0
    talking = (4 * micro_batches + 4 * work.updates) * parameters / links if setup.gpus > 1 else 0.0
    return Estimate(
        updating=memory.updating(tokens or work.longest_prompt + work.longest),
        sampling=memory.sampling(rows or 1, work.longest_prompt, work.longest, prompts=math.ceil((rows or 1) / work.group)),
        tokens=tokens,
        rows=rows,
        sample=sample,
        update=max(computing, talking),
    )  # fmt: skip


def table(gpu: str, price: float, setups: Sequence[Setup] = SETUPS) -> list[str]:
    """The estimates as a table in Markdown."""
    work = Work()
    lines = [
        f"| Qwen3 | {gpu}s | trained | memory: an update, sampling (GB of {GPUS[gpu].memory / 1e9:.0f}) | fits | "
        f"a batch: sampling + updates (s) | {work.batches} batches (h) | GPU hours | cost |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setup in setups:
        found = estimate(setup, GPUS[gpu], work)
        memory = f"{found.updating / 1e9:.0f}, {found.sampling / 1e9:.0f}"
        row = [setup.model, str(setup.gpus), setup.words, memory]
        if found.fits:
            hours = work.batches * (found.sample + found.update) / 3600
            row += [
                f"yes: {found.tokens:,} tokens, {found.rows} rows",
                f"{found.sample:.0f} + {found.update:.0f}",
                f"{hours:.1f}",
                f"{hours * setup.gpus:.0f}",
                f"${hours * setup.gpus * price:,.0f}",
            ]
        else:
            lacking = [what for what, count in (("an update", found.tokens), ("sampling", found.rows)) if not count]
            row += [f"no: {' and '.join(lacking)}", "", "", "", ""]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def with_table(page: str) -> str:
    """A page with the table for H100s at the default price written anew between its two marks."""
    before, rest = page.split(BEGIN)
    lines = "\n".join(table("H100", PRICE))
    return f"{before}{BEGIN}\n{lines}\n{END}{rest.split(END)[1]}"


def main(argv: list[str] | None = None) -> None:
    """Print the table and what it assumes."""
    parser = argparse.ArgumentParser(prog="python -m full.doctor.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gpu", choices=sorted(GPUS), default="H100")
    parser.add_argument(
        "--price", type=float, default=PRICE, help=f"US dollars for a GPU and an hour. Default: {PRICE}."
    )
    parser.add_argument("--page", type=Path, help="Write the table into this page, between its marks, e.g. PLAN_7B.md.")
    args = parser.parse_args(argv)
    if args.page:
        args.page.write_text(with_table(args.page.read_text(encoding="utf-8")), encoding="utf-8")
        return
    print("\n".join(table(args.gpu, args.price)))
    print(f"\nMeasured on one H200: full/trainer/floor.py. Assumed: {ASSUMED}\n{Work()}, ${args.price:g} a GPU hour.")


if __name__ == "__main__":
    main()
