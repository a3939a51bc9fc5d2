"""Peak memory of the LM head's log-probabilities, forward and backward, against log_softmax and gather.

    python tests/benchmarks/bench_head_memory.py

Qwen3-1.7B's head: vocabulary 151,936, width 2,048, float32. Each measurement is a process of its own; what counts is the
peak above the inputs, the weight and one buffer for the weight's gradient, and how fast it grows with the tokens.
"""

import json
import resource
import subprocess
import sys
import time

VOCABULARY, WIDTH = 151_936, 2_048
TOKENS = (1_024, 4_096)


def measure(kind: str, tokens: int) -> None:
    import torch

    from full.logprobs.lm_head import head_logps

    torch.set_num_threads(2)
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)
    with torch.no_grad():
        head.weight.normal_(std=0.02)
    hidden = torch.randn(tokens, WIDTH, requires_grad=True)
    targets = torch.randint(VOCABULARY, (tokens,))
    buffer = torch.ones_like(head.weight)  # touched, so that the base includes one gradient of the weight
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del buffer
    started = time.process_time()
    if kind == "plain":
        logps = torch.log_softmax(head(hidden), -1).gather(-1, targets[:, None]).squeeze(-1)
    else:
        logps, _ = head_logps(head, hidden, targets)
    logps.mean().backward()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checks = [logps.sum().item(), hidden.grad.norm().item(), head.weight.grad.norm().item()]
    print(json.dumps({"peak_mib": (peak - base) / 1024, "cpu_seconds": seconds, "checks": checks}))


def main() -> None:
    results = {}
    for kind in ("plain", "ours"):
        for tokens in TOKENS:
            out = subprocess.run(
                [sys.executable, __file__, kind, str(tokens)], check=True, capture_output=True, text=True
            )
            results[kind, tokens] = got = json.loads(out.stdout)
            print(
                f"{kind:>5} {tokens:>5} tokens: {got['peak_mib']:8.0f} MiB above the base, {got['cpu_seconds']:.1f} CPU s"
            )
    rate = {
        kind: (results[kind, TOKENS[1]]["peak_mib"] - results[kind, TOKENS[0]]["peak_mib"]) / (TOKENS[1] - TOKENS[0])
        for kind in ("plain", "ours")
    }
    print(
        f"growth: plain {1024 * rate['plain']:.0f} KiB a token, ours {1024 * rate['ours']:.1f} KiB a token: "
        f"{rate['ours'] / rate['plain']:.4f} of it (goal: at most 0.05)"
    )
    for tokens in TOKENS:
        pairs = zip(results["plain", tokens]["checks"], results["ours", tokens]["checks"], strict=True)
        print(f"largest relative difference at {tokens} tokens: {max(abs(a - b) / abs(a) for a, b in pairs):.1e}")


if __name__ == "__main__":
    measure(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
