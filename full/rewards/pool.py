"""Worker processes that compare two answers with math-verify, each under a hard limit of time and memory.

A worker is a fresh interpreter with math-verify and nothing else (no torch, no model), talked to by one JSON line each
way. A worker that takes too long or dies is killed and replaced, and its answer counts as wrong.
"""

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

START_SECONDS = 60.0  # a worker's first import, on a slow disk


MEMORY_MIB = 2048


class Verifier:
    """A pool of verifying workers; started when first used.

    Args:
        num_workers: processes.
        seconds: hard limit for one comparison; over it the worker is killed.
    """

    def __init__(self, *, num_workers: int = 1, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.killed = 0  # workers that were killed or died
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._workers = [_Worker() for _ in range(num_workers)]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers)  # they only wait for the workers
        self._cache: dict[tuple[str, str], bool] = {}

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether gold equals answer, for each (gold, answer). Never raises, never takes longer than the limits."""
        unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._cache]
        self._cache.update(zip(unknown, self._threads.map(self._verify_one, unknown), strict=True))
        return [self._cache[pair] for pair in pairs]

    def close(self) -> None:
        """Stop all workers."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.stop()

    def _verify_one(self, pair: tuple[str, str]) -> bool:
        worker = self._idle.get()
        try:
            return worker.ask(pair, self.seconds)
        except (OSError, ValueError, TimeoutError):
            self.killed += 1
            worker.stop()
            return False
        finally:
            self._idle.put(worker)


class _Worker:
    """One process; started again by the next question after it was stopped or died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, pair: tuple[str, str], seconds: float) -> bool:
        if self.process is None or self.process.poll() is not None:
            self._start()
        self.process.stdin.write(json.dumps(pair).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self._line(seconds)) is True

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> None:
        self.stop()
        script = Path(__file__).with_name("worker.py")
        # -P: full/rewards/ must not come before installed packages on the worker's path.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script), str(MEMORY_MIB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the trainer, which stops its workers itself
        )
        self._line(START_SECONDS)

    def _line(self, seconds: float) -> bytes:
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise TimeoutError(f"no answer within {seconds} seconds")
        return line
