"""Where the time of sampling goes: milliseconds a token, by completions at once and by tokens already in the cache; on a GPU
without and with CUDA graphs.

    python tests/benchmarks/bench_decode.py [--model FOLDER] [--rows 32 288 144] [--prompts 64 64 640] [--profile]

Without a model: Qwen3-1.7B's shape with random weights on a GPU, the embedded shape on a CPU. As in a run: float32 weights,
on a GPU under bfloat16 autocast. Beside the sampler's time stands the floor: weights, keys and values read once a token.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def inputs(rows: int, prompt: int, group: int, *, mixed: bool) -> tuple[list[list[int]], list[tuple[int, int, int]]]:
    """Prompts of one length, or of lengths from half of it, `group` completions each, and their keys."""
    lengths = [prompt - (i * 7 % (prompt // 2)) * mixed for i in range(-(-rows // group))]
    prompts = [[10 + (i * 13 + j) % 200 for j in range(length)] for i, length in enumerate(lengths)]
    return [prompts[i // group] for i in range(rows)], [(0, i // group, i % group) for i in range(rows)]


def main() -> None:
    from full.engines.hf import Sampler
    from full.models.tiny import make_model, make_tokenizer
    from full.trainer.memory import cache_bytes
    from tests.benchmarks.bench_trl import make_large

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 288, 144])
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 64, 640])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--profile", action="store_true", help="Also the kernels of the last case, by device time.")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        where = a.model or (make_large(Path(folder)) if gpu else None)
        if where is None:
            tokenizer = make_tokenizer()
            model = make_model(tokenizer, 0)
        else:
            model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(where)
    model.to(device)
    model.requires_grad_(True)
    precision = torch.bfloat16 if gpu else None
    weights = sum(p.numel() for p in model.parameters()) * (2 if gpu else 4)
    cache = cache_bytes(model, precision)

    def seconds(rows: int, prompt: int, tokens: int, *, mixed: bool, graphs: bool) -> float:
        sampler = Sampler(model, tokenizer, 0, 1.0, tokens, rows, graphs=graphs)
        sampler.eos_ids = [len(tokenizer) + 1]  # none ends
        prompts, keys = inputs(rows, prompt, 6, mixed=mixed)
        started = time.perf_counter()
        with torch.autocast("cuda", precision) if gpu else contextlib.nullcontext():
            sampler.sample(prompts, keys)
        return time.perf_counter() - started

    seconds(6, 16, 4, mixed=False, graphs=False)
    found = []
    for rows, prompt in zip(a.rows, a.prompts, strict=True):
        for graphs in (False, True)[: 1 + gpu]:
            tokens = a.tokens * (8 if graphs else 1)  # two to three graphs, whose capture counts
            first = seconds(rows, prompt, 1, mixed=True, graphs=graphs)
            whole = seconds(rows, prompt, tokens + 1, mixed=True, graphs=graphs)
            row = {
                "rows": rows, "prompt": prompt, "graphs": graphs, "tokens": tokens, "prefill_ms": 1e3 * first,
                "token_ms": 1e3 * (whole - first) / tokens,
                "read_gb": (weights + rows * (prompt + tokens / 2) * cache) / 1e9,
            }  # fmt: skip
            found.append(row)
            print(
                f"{rows:>5} rows, prompts of up to {prompt:>4} tokens, {'with' if graphs else 'without'} graphs: prefill "
                f"{row['prefill_ms']:.0f} ms, a token {row['token_ms']:.2f} ms (of {tokens}); a token reads "
                f"{row['read_gb']:.2f} GB",
                flush=True,
            )
    if a.profile:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
        with profile(activities=activities) as seen:
            seconds(a.rows[-1], a.prompts[-1], 80 if gpu else 9, mixed=True, graphs=gpu)
        key = "self_cuda_time_total" if gpu else "self_cpu_time_total"
        print(seen.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=60))
    if a.json:
        a.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
