"""CPU seconds and memory of one optimiser step: our trainer beside TRL's GRPOTrainer with transformers' generate.

    python tests/benchmarks/bench_trl.py [--pairs 5] [--threads 1] [--only short]

Same model, problems, prompts x group, completion lengths, rewards, objective (GRPO, one update a batch), optimiser, tokens a
micro-batch and number of steps; ours and theirs in turn, each in a process of its own. Counted is the CPU time of the process
and its children between optimiser steps, without set-up, evaluation and saving; memory is the most that was resident before
the last step ended.

    short   the embedded model, warm-started: completions of at most 8 tokens that end by themselves
    tailed  a random one that ends with probability 1/45 at every token: mean 45, at most 192
    fixed   one that never ends: 192 tokens each

Rewards are drawn by a fixed rule, the same for both, so that every group trains; the learning rate is small enough that
lengths stay what they are. The floor is the time that the step's matrix products alone would take at the rate of a large
one, the prompt computed once per group. With a GPU the same is done for the Qwen3-1.7B shape with random weights in
bfloat16 ("large"), in wall seconds.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LEFT_OUT = 3  # steps before the clock is read: caches, lazy imports
PROMPT = 18  # tokens of an embedded problem in its chat template
NEVER = "\u0100"  # how byte-level BPE spells the byte 0, which no completion contains

# prompts, group, longest completion, steps; the goal is a ratio of medians.
CASES = {
    "short": {"prompts": 32, "group": 8, "tokens": 8, "steps": 15, "goal": 2.8},
    "tailed": {"prompts": 16, "group": 8, "tokens": 192, "steps": 9, "goal": 2.5},
    "fixed": {"prompts": 16, "group": 8, "tokens": 192, "steps": 7, "goal": 1.1},
    "large": {"prompts": 16, "group": 8, "tokens": 256, "steps": 5, "goal": 1.1},
}


def drawn(count: int) -> list[float]:
    """The reward of each completion of a batch: multiples of the golden ratio modulo 1, all different within a group."""
    return [(i + 1) * 0.6180339887498949 % 1.0 for i in range(count)]


def reward(prompts, completions, rows) -> list[float]:
    """`drawn`, as our trainer calls a reward."""
    return drawn(len(completions))


class Clock:
    """CPU seconds of this process and its living children, and wall seconds, at each step."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.peak = 0.0

    def tick(self) -> None:
        import psutil

        from full.report.console import peak_memory_bytes

        children = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
        self.cpu.append(time.process_time() + sum(t.user + t.system for t in children))
        self.wall.append(time.perf_counter())
        self.peak = peak_memory_bytes() / 2**20

    def report(self, tokens: float, model: str, case: dict[str, int]) -> dict[str, float]:
        cpu, wall = (
            statistics.median(b - a for a, b in zip(t[LEFT_OUT - 1 :], t[LEFT_OUT:], strict=False))
            for t in (self.cpu, self.wall)
        )
        import torch

        gpu = torch.cuda.is_available()
        peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else self.peak
        seconds = wall if gpu else cpu
        floor = matmul_operations(model, case, tokens) / matmul_rate(gpu)
        return {"seconds": seconds, "peak_mib": peak, "tokens": tokens, "gpu": gpu, "floor": floor / seconds}


def matmul_operations(model: str, case: dict[str, int], tokens: float) -> float:
    """Floating-point operations of a step's matrix products: sampling, forward and twice that backward, each token once."""
    from transformers import AutoConfig

    c = AutoConfig.from_pretrained(model)
    width = c.num_attention_heads * c.head_dim
    layer = c.hidden_size * (2 * width + 2 * c.num_key_value_heads * c.head_dim + 3 * c.intermediate_size)
    body, head = 2 * c.num_hidden_layers * layer, 2 * c.hidden_size * c.vocab_size
    seen = PROMPT + tokens / (case["prompts"] * case["group"]) / 2  # by a token on average
    attention = 4 * c.num_hidden_layers * width * seen  # scores and values
    return 4 * (tokens * (body + head + attention) + case["prompts"] * PROMPT * body)


def matmul_rate(gpu: bool) -> float:
    """Operations a second of a large product, in bfloat16 on a GPU."""
    import torch

    size, kind = (8192, {"device": "cuda", "dtype": torch.bfloat16}) if gpu else (1024, {})
    a, b = torch.randn(size, size, **kind), torch.randn(size, size, **kind)
    best = 0.0
    for _ in range(8):
        if gpu:
            torch.cuda.synchronize()
        started = time.perf_counter() if gpu else time.process_time()
        a @ b
        if gpu:
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / ((time.perf_counter() if gpu else time.process_time()) - started))
    return best


def ours(folder: Path, data: Path, case: dict[str, int], a: argparse.Namespace) -> dict[str, float]:
    from full import train
    from full.runs import RunFolder

    clock, append = Clock(), RunFolder.append

    def ticking(self, name, rows):
        append(self, name, rows)
        if name == "metrics.jsonl":
            clock.tick()

    RunFolder.append = ticking
    with tempfile.TemporaryDirectory() as run:
        options = {
            "model": folder, "data": "arithmetic", "level": "all", "output_dir": f"{run}/run", "objective": "grpo",
            "reward": "tests.benchmarks.bench_trl:reward", "group_size": case["group"],
            "prompts_per_batch": case["prompts"], "mini_batch_prompts": case["prompts"],
            "max_completion_tokens": case["tokens"], "max_prompt_tokens": 4096, "steps": case["steps"], "lr": a.lr,
            "warmup_steps": 0, "micro_batch_tokens": a.micro_tokens, "eval_every": 0, "eval_problems": 1, "save_every": 0,
            "cpu_threads": a.threads, "generation_rows": 4096,
        }  # fmt: skip
        train.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
        rows = [json.loads(line) for line in Path(run, "run", "metrics.jsonl").read_text().splitlines()]
    assert all(row["rows_with_gradient"] == 1.0 for row in rows), "a group did not train"
    return clock.report(statistics.fmean(row["tokens"] for row in rows), str(folder), case)


def trl(folder: Path, data: Path, case: dict[str, int], a: argparse.Namespace) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(a.threads)
    gpu = torch.cuda.is_available()
    problems = [json.loads(line) for line in data.read_text().splitlines()]
    clock, tokens = Clock(), []

    def reward(completions, completion_ids, **kwargs):
        tokens.append(sum(map(len, completion_ids)))
        return drawn(len(completions))

    class Ticking(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            clock.tick()

    rows_per_step = case["prompts"] * case["group"]
    micro = min(rows_per_step, max(case["group"], a.micro_tokens // (case["tokens"] + PROMPT)))
    while rows_per_step % micro:
        micro -= 1
    with tempfile.TemporaryDirectory() as run:
        config = GRPOConfig(
            output_dir=run, per_device_train_batch_size=micro, gradient_accumulation_steps=rows_per_step // micro,
            num_generations=case["group"], max_completion_length=case["tokens"], max_steps=case["steps"],
            learning_rate=a.lr, lr_scheduler_type="constant", warmup_steps=0, beta=0.0, temperature=1.0, loss_type="grpo",
            num_iterations=1, use_cpu=not gpu, bf16=gpu, gradient_checkpointing=False, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, max_grad_norm=1.0, adam_beta2=0.95,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in problems]),
            processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
            callbacks=[Ticking()],
        )
        trainer.train()
    return clock.report(sum(tokens) / len(clock.cpu), str(folder), case)


def make_problems(where: Path) -> dict[str, Path]:
    """The problems that ours generates by itself, as a file for the peer."""
    from full.data.sources import load_problems

    load_problems("arithmetic", split="train").to_json(where / "problems.jsonl")
    return {"problems": where / "problems.jsonl"}


def make_models(where: Path) -> dict[str, Path]:
    """The folders of the embedded models: warm-started, never ending, ending at random."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from full.engines.hf import Sampler
    from full.models.tiny import warm_start

    short = warm_start(0.35, 0, Sampler)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(short), AutoTokenizer.from_pretrained(short)
    tokenizer.eos_token = NEVER
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    for part in (model, tokenizer):
        part.save_pretrained(where / "fixed")

    tokenizer = AutoTokenizer.from_pretrained(short)
    torch.manual_seed(0)
    config = type(model.config)(
        **model.config.to_dict() | {"tie_word_embeddings": False, "eos_token_id": tokenizer.eos_token_id}
    )
    tailed = type(model)(config)
    with torch.no_grad():
        # The first dimension is one large constant all the way through, so the head's weight there is a bias: it gives
        # the end 1/45 of the probability, where each token would have 1/289.
        tailed.model.embed_tokens.weight[:, 0] = 100.0
        tailed.lm_head.weight[:, 0] = 0.0
        others = len(tailed.lm_head.weight) - 1
        tailed.lm_head.weight[tokenizer.eos_token_id] = 0.0
        tailed.lm_head.weight[tokenizer.eos_token_id, 0] = math.log(others / 44) / config.hidden_size**0.5
    tailed.save_pretrained(where / "tailed")
    tokenizer.save_pretrained(where / "tailed")
    return {name: where / name for name in ("fixed", "tailed")} | {"short": short}


def make_large(where: Path) -> Path:
    """The Qwen3-1.7B shape with random weights, and the embedded model's tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from full.models.tiny import make_tokenizer

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True, eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # two billion normal draws
        model = Qwen3ForCausalLM(config)
    model.to("cpu", torch.bfloat16).save_pretrained(where / "large")
    make_tokenizer().save_pretrained(where / "large")
    return where / "large"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro_tokens", type=int, help="Tokens a micro-batch, of both; default 2048, on a GPU 16384.")
    parser.add_argument("--model", type=Path, help="Of the large case: a folder, as make_large writes it.")
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--json", type=Path, help="Also write all figures to this file.")
    parser.add_argument("--run", nargs=4, metavar=("WHO", "CASE", "MODEL", "DATA"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(who: str, case: str, inputs: dict[str, Path], a: argparse.Namespace) -> dict[str, float]:
    """One of the two in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--run", who, case, str(inputs[case]), str(inputs["problems"])]
    environment = os.environ | {"OMP_NUM_THREADS": str(a.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    out = subprocess.run(command, env=environment, capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(f"{who} failed on {case}:\n{out.stderr[-3000:]}")
    return json.loads(out.stdout.splitlines()[-1])


def main(a: argparse.Namespace) -> None:
    import torch

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = make_problems(Path(folder))
        if torch.cuda.is_available():
            names, inputs["large"] = ["large"], a.model or make_large(Path(folder))
        else:
            names, inputs = ["short", "tailed", "fixed"], inputs | make_models(Path(folder))
        for name in names:
            if a.only and a.only != name:
                continue
            pairs = results[name] = []
            for _ in range(a.pairs):
                pairs.append({who: measure(who, name, inputs, a) for who in ("trl", "ours")})
                parts = [
                    f"{who} {got['seconds']:.3f} {'wall' if got['gpu'] else 'CPU'} s a step, {got['tokens']:.0f} tokens, "
                    f"peak {got['peak_mib']:.0f} MiB, {got['floor']:.0%} of it floor"
                    for who, got in pairs[-1].items()
                ]
                ratio = pairs[-1]["trl"]["seconds"] / pairs[-1]["ours"]["seconds"]
                print(f"{name:>6}: {'; '.join(parts)}; ratio {ratio:.2f}", flush=True)
            ratios = [pair["trl"]["seconds"] / pair["ours"]["seconds"] for pair in pairs]
            peaks = {who: statistics.median(pair[who]["peak_mib"] for pair in pairs) for who in ("trl", "ours")}
            print(
                f"{name:>6}: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) over "
                f"{len(ratios)} pairs (goal: at least {CASES[name]['goal']}); peak memory {peaks['ours']:.0f} MiB, TRL's "
                f"{peaks['trl']:.0f} (goal: below it)",
                flush=True,
            )
    if a.json:
        a.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    arguments = parse()
    if arguments.run:
        who, case, model, data = arguments.run
        arguments.micro_tokens = arguments.micro_tokens or (16384 if case == "large" else 2048)
        print(json.dumps({"ours": ours, "trl": trl}[who](Path(model), Path(data), CASES[case], arguments)))
    else:
        main(arguments)
