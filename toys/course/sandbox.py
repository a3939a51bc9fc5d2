"""Run untrusted Python in a forked process with limits, and say which limits the system gave.

The process is forked from one that has loaded torch, so a start costs milliseconds. What it gets:

- *time, memory, file size, open files, number of processes*: by resource limits (Linux, macOS); at the end of the time,
  and at the end of the work, the process and everything it started is killed;
- *files*: Linux with Landlock lets it write in its own temporary folder only, and read only that, Python and this package;
- *network*: a network namespace of its own where one may be made, else Landlock's ban on TCP where the kernel has it;
- *processes of others*: a process namespace of its own, where one may be made;
- *root*: where the caller is root, another user with at most the right to read.

`Isolation` says what was given. What is never given: a wall between the student's code and the checks in the same process
(see `runner`), a limit on the number of files, and protection from faults of the kernel. Who needs more runs the
command in a container or a virtual machine that is thrown away.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows: `run_isolated` says so
    resource = None  # type: ignore[assignment]

Message = dict[str, Any]
Work = Callable[[Callable[[Message], None]], None]  # gets `send`, which hands a message (JSON) to the caller

ONLY_POSIX = "grading needs fork and resource limits, which this system lacks. Use Linux or macOS; on Windows, WSL."


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one submission may use."""

    seconds: float = 300.0
    """Wall-clock time for everything; processor time is limited to the same."""
    memory_gb: float = 3.0
    """Address space beyond what the process has at its start, GiB."""
    processes: int = 48
    """Processes and threads at once."""
    file_mb: float = 64.0
    """Size of a file it writes, MiB."""
    open_files: int = 256
    """Open files at once."""


@dataclass
class Ending:
    """How the process ended: None where it ended by itself, else why, in words."""

    why: str | None
    seconds: float
    messages: list[Message] = field(default_factory=list)


@dataclass
class _Running:
    key: Any
    pid: int
    pipe: int
    folder: str
    started: float
    text: bytes = b""
    messages: list[Message] = field(default_factory=list)
    killed: bool = False


def run_isolated(jobs: Iterable[tuple[Any, Work]], *, limits: Limits, workers: int = 2) -> Iterator[tuple[Any, Ending]]:
    """Run each job in a process of its own, at most `workers` at once; yields (key, Ending) in the order they end."""
    if not hasattr(os, "fork") or sys.platform == "win32":
        raise RuntimeError(ONLY_POSIX)
    waiting, running = deque(jobs), {}  # type: ignore[var-annotated]
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                slots = set(range(workers)) - set(running)
                while waiting and slots:
                    key, work = waiting.popleft()
                    slot = slots.pop()
                    running[slot] = _start(key, work, limits, slot)
                    selector.register(running[slot].pipe, selectors.EVENT_READ, slot)
                now = time.monotonic()
                for job in running.values():
                    if not job.killed and now - job.started > limits.seconds:
                        job.killed = True
                        _kill(job.pid)
                for ready, _ in selector.select(timeout=0.25):
                    slot = ready.data
                    job = running[slot]
                    data = os.read(job.pipe, 1 << 16)
                    job.text += data
                    *lines, job.text = job.text.split(b"\n")
                    job.messages += [json.loads(line) for line in lines if line]
                    if not data:
                        selector.unregister(job.pipe)
                        yield job.key, _finish(running.pop(slot), limits)
        finally:
            for job in running.values():
                _kill(job.pid)
                _finish(job, limits)


def _start(key: Any, work: Work, limits: Limits, slot: int) -> _Running:
    folder = tempfile.mkdtemp(prefix="apo-edu-grading-")
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            _confine(folder, writing, limits, slot)
            with os.fdopen(writing, "w", encoding="utf-8", closefd=False) as pipe:

                def send(message: Message) -> None:
                    pipe.write(json.dumps(message) + "\n")
                    pipe.flush()

                work(send)
            status = 0
        except BaseException as error:
            with contextlib.suppress(BaseException):
                os.write(writing, (json.dumps({"died": f"{type(error).__name__}: {error}"}) + "\n").encode())
        finally:
            os._exit(status)
    os.close(writing)
    return _Running(key, pid, reading, folder, time.monotonic())


def _kill(pid: int) -> None:
    """The process, and all of its session."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _finish(job: _Running, limits: Limits) -> Ending:
    os.close(job.pipe)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(job.pid, signal.SIGKILL)  # what it left behind
    _, status = os.waitpid(job.pid, 0)
    shutil.rmtree(job.folder, ignore_errors=True)
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else code - 128 if code > 128 else 0
    died = [message["died"] for message in job.messages if "died" in message]
    why: str | None = None
    if job.killed:
        why = f"stopped after {limits.seconds:g} s"
    elif number:
        why = f"ended by signal {signal.Signals(number).name}"
        if number in (signal.SIGKILL, signal.SIGXCPU):
            why += " (memory or processor time)"
    elif died:
        why = died[0]
    elif code or not any(message.get("done") for message in job.messages):
        why = "the code ended the whole process"
    return Ending(why, time.monotonic() - job.started, job.messages)


# From here on everything runs in the child, before the work.

_NEW_USER, _NEW_PID, _NEW_NET, _NEW_IPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 1, 8, 38
_CAP_DAC_READ_SEARCH = 2
_FIRST_USER = 64100  # of the users that a grading root becomes, one a worker


def _confine(folder: str, pipe: int, limits: Limits, slot: int) -> None:
    """Session, descriptors, namespaces, user, limits, files: in this order, since each step needs what the next takes."""
    os.setsid()
    os.chdir(folder)
    empty = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(empty, descriptor)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 4096)
    os.environ.update(
        APO_EDU_SANDBOX="1", HOME=folder, TMPDIR=folder, TMP=folder, MPLCONFIGDIR=folder, IPYTHONDIR=folder
    )
    tempfile.tempdir = folder
    given = {"time, memory, file size": True, "network": False, "other processes": False, "files": False}
    libc = ctypes.CDLL(None, use_errno=True)
    linux = sys.platform == "linux"
    if linux:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        uid, gid = os.getuid(), os.getgid()
        spaces = _NEW_PID | _NEW_NET | _NEW_IPC
        made = libc.unshare(spaces) == 0
        if not made and libc.unshare(spaces | _NEW_USER) == 0:
            made = True
            with contextlib.suppress(OSError):
                Path("/proc/self/setgroups").write_text("deny")
                Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
                Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        if made:
            given["network"] = given["other processes"] = True
            _become_first_process()
        given["processes"] = uid != 0 or _leave_root(libc, folder, _FIRST_USER + slot)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # again: it is lost with a change of process or user
    _limit(limits, count_others=linux and os.getuid() < _FIRST_USER)
    if linux:
        version = _landlock(libc, folder)
        given["files"] = version > 0
        given["network"] = given["network"] or version >= 4
    message = {"isolation": given}
    os.write(pipe, (json.dumps(message) + "\n").encode())


def _become_first_process() -> None:
    """Go on as the first process of the new process namespace: when it ends, the kernel kills all others in it."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _leave_root(libc: ctypes.CDLL, folder: str, user: int) -> bool:
    """Become another user that keeps at most the right to read; limits on processes do not count for root."""
    os.chown(folder, user, user)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError:
        return False
    header, data = _CapHeader(0x20080522, 0), (_CapData * 2)()
    data[0].effective = data[0].permitted = 1 << _CAP_DAC_READ_SEARCH
    if libc.capset(ctypes.byref(header), data) != 0:
        data[0].effective = data[0].permitted = 0
        libc.capset(ctypes.byref(header), data)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which a change of user clears: /proc/self is ours again
    return True


def _limit(limits: Limits, *, count_others: bool) -> None:
    def at_most(name: str, value: float) -> None:
        which = getattr(resource, name, None)
        if which is not None:
            hard = resource.getrlimit(which)[1]
            bound = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(which, (bound, bound))

    at_most("RLIMIT_AS", _address_space() + limits.memory_gb * 2**30)
    at_most("RLIMIT_CPU", limits.seconds + 1)
    at_most("RLIMIT_FSIZE", limits.file_mb * 2**20)
    at_most("RLIMIT_NOFILE", limits.open_files)
    at_most("RLIMIT_CORE", 0)
    at_most("RLIMIT_NPROC", limits.processes + (_threads_of(os.getuid()) if count_others else 0))


def _address_space() -> int:
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 2 * 2**30


def _threads_of(user: int) -> int:
    """How many threads the user has: RLIMIT_NPROC counts them all, not only ours."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, StopIteration):
            lines = status.read_text().splitlines()
            if next(line for line in lines if line.startswith("Uid:")).split()[1] == str(user):
                total += int(next(line for line in lines if line.startswith("Threads:")).split()[1])
    return total


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


_EXECUTE, _WRITE, _READ, _READ_DIR = 1, 2, 4, 8


def _landlock(libc: ctypes.CDLL, folder: str) -> int:
    """Confine reading and writing by Landlock; returns the kernel's version of it, 0 where there is none.

    https://docs.kernel.org/userspace-api/landlock.html
    """
    create, add, restrict = 444, 445, 446
    version = libc.syscall(create, None, 0, 1)
    if version < 1:
        return 0
    everything = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _Ruleset(everything, 3, 3)  # TCP bind and connect; abstract sockets and signals stay inside
    rules = libc.syscall(create, ctypes.byref(ruleset), size, 0)
    if rules < 0:
        return 0

    def allow(path: str, what: int) -> None:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        if not os.path.isdir(path):
            what &= _EXECUTE | _WRITE | _READ
        libc.syscall(add, rules, 1, ctypes.byref(_Beneath(what, opened)), 0)
        os.close(opened)

    for path in _readable():
        allow(path, _EXECUTE | _READ | _READ_DIR)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
        allow(device, _READ | _WRITE)
    allow(folder, everything)
    confined = libc.syscall(restrict, rules, 0) == 0
    os.close(rules)
    return version if confined else 0


def _readable() -> list[str]:
    """What Python itself needs: its installation, the packages on its path, this project's packages, the system's."""
    import apo_edu

    root = Path(apo_edu.__file__).parent.parent
    packages = [str(root / name) for name in ("apo_edu", "toys", "full")]
    on_path = [path for path in sys.path if path and os.path.isdir(path) and "packages" in os.path.basename(path)]
    system = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc",
        "/opt",
        "/proc/self",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/sys/devices",
    ]
    real = [os.path.realpath(path) for path in (sys.prefix, sys.base_prefix)]
    return [*packages, *on_path, *real, sys.prefix, *system]
