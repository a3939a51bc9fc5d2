"""Worker processes that compare two answers (full/rewards/equality.py), each question under hard limits.

A worker is a fresh interpreter with math-verify and nothing else (no torch, no model), talked to by one JSON line each
way. What is a verdict and what is a fault is kept apart:

* A question that used up its CPU seconds or the worker's memory is wrong, and counted (`timeouts`). A model's text can make
  any symbolic comparison run for ever, so the limit is part of the reward. CPU seconds, not wall clock: a busy machine must
  not make a right answer wrong.
* A worker that died of anything else (killed, out of the machine's memory) says nothing about the answer: it is replaced,
  counted (`deaths`) and the question asked again. A question that ends its worker every time, where the next worker answers
  another question, is over a limit too. Where workers keep dying, or none can start, the run stops with a RewardError that
  repeats what the worker said.

Only verdicts are cached, never timeouts or faults.
"""

import contextlib
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from full.errors import RewardError

START_SECONDS = 120.0  # wall clock for a worker's first import, on a slow disk and a busy machine


# Most answers need hundredths of a second: each gets a first, short turn before the slow ones get theirs, so that a batch
# whose limit runs out loses only what was slow.
FIRST_SECONDS = 1.0


# A worker that gets no CPU at all (stopped, swapped out) is killed after so many times its limit of wall clock.
WALL_FACTOR = 20.0


MEMORY_MIB = 2048


# Workers that one question may end, and starts in a row that may fail.
MAX_DEATHS = 10


MAX_FAILED_STARTS = 10


# What a worker answers by, unless told otherwise.
EQUALITY = "full.rewards.equality:equal"


# What any worker answers at once: asked where a question has ended several workers, to see which of the two is at fault.
PROBE = (r"\frac{1}{2}", "0.5")


class Verifier:
    """A pool of verifying workers; each is started when first needed.

    Attributes:
        timeouts: questions that hit a limit, of their own or of their batch. They count as wrong.
        deaths: workers that died of something else, and were replaced.

    Args:
        num_workers: processes; None is one for each core that this process may use.
        seconds: hard limit for one comparison, CPU seconds.
        judge: module:function that a worker answers by, (gold, answer) -> truth or score; its module's EXAMPLE is a first pair.
        batch_seconds: hard limit for one call of `verify`, wall clock seconds from when a worker is ready; None is 12 times
            `seconds` and half a second for each pair.
    """

    def __init__(
        self,
        *,
        num_workers: int | None = None,
        seconds: float = 5.0,
        batch_seconds: float | None = None,
        judge: str = EQUALITY,
    ) -> None:
        self.judge = judge
        self.seconds = seconds
        self.batch_seconds = batch_seconds
        self.timeouts = 0
        self.deaths = 0
        self._taken = (0, 0)  # what `take_counts` has given out
        self._workers = [_Worker(judge) for _ in range(num_workers or available_cores())]
        self._cache: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether gold equals answer, for each (gold, answer), within the limits.

        Raises:
            RewardError: no worker can start, or workers keep dying.
        """
        return [bool(score) for score in self.scores(pairs)]

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """What the judge says of each (gold, answer), as a number; 0 where a limit was hit. Raises as `verify` does."""
        with self._lock:
            if os.getpid() != self._owner:  # the pipes belong to the process that this one was forked from
                self._workers, self._owner = [_Worker(self.judge) for _ in self._workers], os.getpid()
            unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._cache]
            try:
                verdicts = _Batch(self, unknown).run() if unknown else {}
            finally:
                for worker in self._workers:
                    if worker.question is not None:  # interrupted: its answer must not be taken for the next one's
                        worker.stop()
            self._cache.update({pair: verdict for pair, verdict in verdicts.items() if verdict is not None})
            return [float(self._cache.get(pair, 0.0)) for pair in pairs]

    def take_counts(self) -> tuple[int, int]:
        """(timeouts, deaths) since the last call, for the log."""
        counts, before = (self.timeouts, self.deaths), self._taken
        self._taken = counts
        return counts[0] - before[0], counts[1] - before[1]

    def close(self) -> None:
        """Stop all workers."""
        if os.getpid() == self._owner:
            for worker in self._workers:
                worker.stop()


def available_cores() -> int:
    """Cores that this process may use (taskset and containers count), shared between the ranks of one machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class _Batch:
    """One call of `verify`: its questions over the workers."""

    def __init__(self, verifier: Verifier, pairs: list[tuple[str, str]]) -> None:
        self.verifier = verifier
        self.pairs = pairs
        first = min(FIRST_SECONDS, verifier.seconds)
        self.waiting = deque((index, first) for index in range(len(pairs)))
        self.verdicts: dict[tuple[str, str], float | None] = {}
        self.deaths = [0] * len(pairs)
        self.probes: dict[int, int] = {}  # a probe's question: the question it is asked for
        self.failed_starts = 0
        limit = verifier.batch_seconds
        self.seconds = 12.0 * verifier.seconds + 0.5 * len(pairs) if limit is None else limit
        is_ready = any(worker.ready and worker.is_alive() for worker in verifier._workers)
        self.deadline = time.monotonic() + self.seconds + (0.0 if is_ready else START_SECONDS)
        self.is_waiting = not is_ready  # for the first worker's start

    def run(self) -> dict[tuple[str, str], float | None]:
        """The verdict for each pair; None where a limit was hit."""
        workers = self.verifier._workers
        # poll has no limit on descriptors' numbers, as select has at 1,024, and needs none of its own, as epoll does.
        with getattr(selectors, "PollSelector", selectors.DefaultSelector)() as selector:
            while self.waiting or any(worker.question is not None for worker in workers):
                for worker in workers:
                    if self.waiting and worker.question is None:
                        self._ask(worker, selector)
                now = time.monotonic()
                busy = [worker for worker in workers if worker.question is not None]
                if not busy:
                    continue  # no start succeeded: try again until it is an error
                wake = min([self.deadline, *(worker.deadline for worker in busy)])
                for key, _ in selector.select(max(0.0, wake - now)):
                    self._hear(key.data, selector)
                now = time.monotonic()
                for worker in busy:
                    if worker.question is not None and now >= worker.deadline:
                        self._overdue(worker, selector)
                if now >= self.deadline:
                    self._give_up(selector)
        return self.verdicts

    def _ask(self, worker: "_Worker", selector: selectors.BaseSelector) -> None:
        question, seconds = self.waiting.popleft()
        try:
            if not worker.is_alive():
                self.verifier.deaths += worker.process is not None  # while it had nothing to do
                worker.start()
            worker.ask(question, self.pairs[question], seconds)
        except (OSError, ValueError) as error:
            worker.stop()
            self.waiting.appendleft((question, seconds))
            self._start_failed(f"{type(error).__name__}: {error}")
        else:
            selector.register(worker.stdout, selectors.EVENT_READ, worker)

    def _hear(self, worker: "_Worker", selector: selectors.BaseSelector) -> None:
        """Take in what a worker wrote; nothing written and the pipe closed is a death."""
        try:
            lines = worker.read()
        except OSError:
            lines = None
        if lines is None:
            selector.unregister(worker.stdout)
            self._died(worker)
            return
        for line in lines:
            if line.startswith("ready"):
                self._is_ready(worker, line)
            elif worker.question is not None:
                number, verdict = json.loads(line)
                if number != worker.question:
                    continue
                selector.unregister(worker.stdout)
                self._decide(worker.question, verdict)
                worker.question = None

    def _is_ready(self, worker: "_Worker", line: str) -> None:
        self.failed_starts = 0
        worker.became_ready()
        if self.is_waiting:
            self.is_waiting, self.deadline = False, time.monotonic() + self.seconds
        if line != "ready":
            _say_once(
                "this system refuses a memory limit for the verifying workers; a hostile answer may use all memory."
            )

    def _decide(self, question: int, verdict: float | None) -> None:
        if question in self.probes:
            question, verdict = self.probes.pop(question), None
        if verdict is None:
            self.verifier.timeouts += 1
        self.verdicts[self.pairs[question]] = verdict

    def _died(self, worker: "_Worker") -> None:
        question, seconds, was_ready = worker.question, worker.seconds, worker.ready
        code, said = worker.stop(ending=True)
        if question is None:
            return
        if was_ready and code == -_OUT_OF_TIME:
            if seconds < self.verifier.seconds:
                self.waiting.append((question, self.verifier.seconds))
            else:
                self._decide(question, None)
            return
        self.verifier.deaths += 1
        if not was_ready:
            self.waiting.append((question, seconds))
            self._start_failed(said or _how_it_ended(code))
            return
        self.deaths[question] += 1
        if self.deaths[question] < MAX_DEATHS:
            self.waiting.append((question, seconds))
        elif question not in self.probes:
            self.pairs.append(PROBE)
            self.deaths.append(0)
            self.probes[len(self.pairs) - 1] = question
            self.waiting.append((len(self.pairs) - 1, self.verifier.seconds))
        else:
            raise RewardError(
                f"verifying workers keep dying: {_how_it_ended(code)}, {MAX_DEATHS} times over a question that is none. A "
                "reward cannot be given. Look for what ends them: the machine's memory, a job's limit. Then --resume."
            )

    def _start_failed(self, why: str) -> None:
        self.failed_starts += 1
        if self.failed_starts >= MAX_FAILED_STARTS:
            raise RewardError(
                f"no verifying worker can start: {why}. {self.failed_starts} starts failed, so rewards cannot be given. Check "
                "math-verify (pip install 'apo_edu[full]'), free memory and the limits of `ulimit -n` and `ulimit -u`; then "
                "--resume."
            )
        time.sleep(0.02 * self.failed_starts)

    def _overdue(self, worker: "_Worker", selector: selectors.BaseSelector) -> None:
        """A worker over its wall clock: it did not start, or it gets no CPU."""
        question, seconds, was_ready = worker.question, worker.seconds, worker.ready
        selector.unregister(worker.stdout)
        worker.stop()
        assert question is not None
        if not was_ready:
            self.waiting.append((question, seconds))
            self._start_failed(f"it was not ready within {START_SECONDS:.0f} seconds")
        elif seconds < self.verifier.seconds:
            self.waiting.append((question, self.verifier.seconds))
        else:
            self._decide(question, None)

    def _give_up(self, selector: selectors.BaseSelector) -> None:
        """The batch's limit is over: what is not decided is wrong, unless it is the machine's doing."""
        if sum(self.deaths):
            raise RewardError(
                f"verifying workers died {sum(self.deaths)} times within {self.seconds:.0f} seconds, and "
                f"{len(self.waiting)} answers could not be compared. Look for what ends them: the machine's memory, a job's "
                "limit. Then --resume."
            )
        for worker in self.verifier._workers:
            if worker.question is not None:
                self._decide(worker.question, None)
                selector.unregister(worker.stdout)
                worker.stop()
        for question, _ in self.waiting:
            self._decide(question, None)
        self.waiting.clear()


@functools.cache
def _say_once(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)


class _Worker:
    """One process, and the question it is at."""

    def __init__(self, judge: str = EQUALITY) -> None:
        self.judge = judge
        self.process: subprocess.Popen[bytes] | None = None
        self.question: int | None = None
        self.seconds = 0.0
        self.deadline = 0.0
        self.ready = False
        self._buffer = b""

    @property
    def stdout(self) -> int:
        assert self.process is not None and self.process.stdout is not None
        return self.process.stdout.fileno()

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        self.stop()
        script = Path(__file__).with_name("worker.py")
        # -P: full/rewards/ must not come before installed packages on the worker's path.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script), str(MEMORY_MIB), self.judge],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the trainer, which stops its workers itself
        )

    def ask(self, question: int, pair: tuple[str, str], seconds: float) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.question, self.seconds = question, seconds
        # The first question waits in the pipe for the worker's imports; their time is not its own.
        self.deadline = time.monotonic() + (WALL_FACTOR * seconds if self.ready else START_SECONDS)
        self.process.stdin.write(json.dumps([question, *pair, seconds]).encode() + b"\n")

    def became_ready(self) -> None:
        self.ready = True
        self.deadline = time.monotonic() + WALL_FACTOR * self.seconds

    def read(self) -> list[str] | None:
        """The complete lines that have arrived; None at the end of the pipe."""
        data = os.read(self.stdout, 65536)
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [line.decode() for line in lines]

    def stop(self, *, ending: bool = False) -> tuple[int, str]:
        """Kill and forget the process. Returns its exit code and the last line it said about its end.

        Args:
            ending: it has closed its pipe, so its own exit code is on its way.
        """
        process, self.process, self.question, self.ready, self._buffer = self.process, None, None, False, b""
        if process is None:
            return 0, ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5.0 if ending else 0.0)
        process.kill()
        code = process.wait()
        said = b""
        with contextlib.suppress(OSError, ValueError):
            assert process.stderr is not None
            os.set_blocking(process.stderr.fileno(), False)
            said = process.stderr.read() or b""
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        lines = said.decode(errors="replace").strip().splitlines()
        return code, lines[-1].strip() if lines else ""


# The kernel sends it when a question's CPU seconds are used up (worker.py); no library handles it.
_OUT_OF_TIME = int(getattr(signal, "SIGPROF", 0)) or -1


def _how_it_ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}"
