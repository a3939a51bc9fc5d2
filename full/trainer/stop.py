"""Requests to stop: Ctrl-C, SIGTERM, a closed terminal, a launcher that is gone. Each leaves a run that can go on."""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator

from full.errors import Stopped
from full.trainer.launch import find_launcher

STEP = "after this step and saving a checkpoint"
# Ctrl-C reaches the trainer from the terminal and, a moment later, from a launcher that passes its own on.
SAME_REQUEST = 2.0  # seconds


class Interrupted(KeyboardInterrupt):
    """A request that ends what is being done; no library takes it for an error of its own."""


class StopRequest:
    """Whether the run was asked to stop. A second request kills.

    Where nothing would be lost a request ends the work where it is (`at_once`). Elsewhere it is noted, and the loop looks
    at it after each step (`agreed`).

    A launcher that is killed leaves its trainer behind, which would train on and meet the run that resumes it; so a thread
    looks whether the launcher is there, and its end is a request too. (Linux can send a signal when a parent ends, but
    sends it when the parent's *thread* ends, and other systems cannot.) A trainer started by hand has no launcher: under
    nohup it outlives its shell, as it should.

    Args:
        started_by: the parent's process id when this process began, if known. It may have ended since.
    """

    def __init__(self, started_by: int | None = None) -> None:
        self.signal = 0
        self.when = STEP  # what is announced
        self._noted_at: float | None = None
        self._raises = False
        self._why = ""
        self._closed = threading.Event()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # under nohup it is ignored
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        launcher = find_launcher()
        is_launched = not os.environ.keys().isdisjoint(("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"))
        if started_by is not None and os.getppid() != started_by and is_launched:
            self._launcher_gone(started_by)
        elif launcher:
            threading.Thread(target=self._watch, args=(launcher.pid,), daemon=True).start()

    def close(self) -> None:
        """Leave the signals as they were found."""
        self._closed.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self, outcome: str) -> Iterator[None]:
        """A block that a request ends where it is; one made earlier ends it before it begins.

        Raises:
            Stopped: with the outcome, what is true of the run then.
        """
        before = self.when, self._raises
        self.when, self._raises = "now", True
        try:
            self._raise_if_asked()
            yield
            self._raise_if_asked()  # a library may have swallowed it
        except Interrupted:
            raise Stopped(outcome, self.signal) from None
        except Exception:
            if self.signal:  # another process stopped first, and this one missed it
                raise Stopped(outcome, self.signal) from None
            raise
        finally:
            self.when, self._raises = before

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked; the same answer on all of them."""
        heard = accelerator.gather(torch.tensor([self.signal], device=accelerator.device))
        self.signal = int(heard.max())
        return self.signal != 0

    def _raise_if_asked(self) -> None:
        if self.signal:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted_at is not None:
            if time.monotonic() - self._noted_at > SAME_REQUEST:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.signal, self._noted_at = number, time.monotonic()
        _let_go_of_closed_output()
        if os.environ.get("RANK", "0") == "0":
            # Not print, which may be at work already where the signal came.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{self._why}stopping {self.when}; once more to quit at once\n".encode())
        if self._raises:
            self._raises = False  # once
            raise Interrupted

    def _watch(self, launcher: int) -> None:
        while os.getppid() == launcher:
            if self._closed.wait(0.2):
                return
        if not self.signal:  # after Ctrl-C the launcher leaves before us; that is one request
            self._launcher_gone(launcher)

    def _launcher_gone(self, launcher: int) -> None:
        self._why = f"the launcher (process {launcher}) is gone: "
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _let_go_of_closed_output() -> None:
    """Point output that nobody reads any more (a closed terminal, a `| tee` that got the same Ctrl-C) to nowhere.

    Writing to it would raise, and end the run before its checkpoint.
    """
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)  # errors and hang-ups are told unasked
    for descriptor, event in poll.poll(0):
        if event & (select.POLLERR | select.POLLHUP):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
