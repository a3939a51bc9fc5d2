"""The worker of full/rewards/pool.py: answers [number, gold, answer, CPU seconds] with [number, verdict], one JSON line each.

It executes no model text. The verdict is that of the function it is started for (true or false, or a score), or null where
the comparison ran out of memory; out of CPU seconds the kernel ends the process.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

# This checkout's own code, whatever else is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    is_limited = limit_memory(int(sys.argv[1]) * 2**20)
    # Whatever a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    import logging

    module, _, name = sys.argv[2].partition(":")
    judging = importlib.import_module(module)
    judge = getattr(judging, name)
    logging.disable(logging.CRITICAL)
    judge(*judging.EXAMPLE)  # what is imported when first needed is no part of an answer's time
    # What goes wrong until here is repeated in the trainer's error; later nobody reads it, and a full pipe would block.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    print("ready" if is_limited else "ready without a memory limit", file=answers)
    for line in sys.stdin:
        number, gold, answer, seconds = json.loads(line)
        limit_time(seconds)
        verdict: float | None
        try:
            verdict = judge(gold, answer)
        except MemoryError:
            verdict = None
        except Exception:  # undecidable counts as wrong
            verdict = False
        limit_time(0.0)
        print(json.dumps([number, verdict]), file=answers)


def limit_memory(size: int) -> bool:
    """Whether the system took the limit: macOS refuses it and Windows has none."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (ImportError, AttributeError, ValueError, OSError):
        return False
    return True


def limit_time(seconds: float) -> None:
    """CPU seconds until the kernel ends this process, also in the middle of a C function; 0 is no limit."""
    timer: Any = getattr(signal, "setitimer", None)
    if timer is not None:
        timer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
