"""Starting and ending: processes that really talk to each other, and one last line for what a user can mend.

What `accelerate launch` (1.15) can be told, and what not; the trainer never ends a process that started it.

- Its exit code is 1 for every failure, whatever ours was (2 for what a user can mend, 128 + n after signal n); it cannot be
  told otherwise. `python full/train.py` keeps them.
- It prints a traceback of its own after ours has ended, unless it was started with `--quiet` (only there: no variable, no
  configuration file). So the message is said again after it has gone, see `say_last`. With several processes torchrun
  reports instead, `--quiet` or not.
- With one process, Ctrl-C: it waits a quarter of a second for us and goes, with a traceback; the shell is back while we
  still save. SIGTERM or SIGKILL: it ends without a word to us (`StopRequest` watches).
- With several, Ctrl-C or SIGTERM: torchrun passes the signal on and waits until we have saved, at most 30 seconds; then it
  kills what is left. Its traceback comes before our last line. SIGKILL: as with one process, `StopRequest` watches in each.
"""

import contextlib
import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psutil
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list

from full.claims import Claim
from full.config import TrainConfig
from full.errors import UserError, printable
from full.models.loading import EMBEDDED, number_of_parameters
from full.trainer.precision import best_precision

# Parameters that a CPU can train in a day.
LARGE = 500_000_000
FIRST_PARENT = os.getppid()  # when this module was imported


def start_accelerator(cpu_threads: int = 0, *, tracker: str = "none", folder: Path | None = None) -> Accelerator:
    """The Accelerator of this run, checked: as many processes as were asked for, and each hears the others.

    accelerate can start fewer processes than asked on a CPU (`--cpu --num_processes 2` starts one), or several that each
    train alone; both would run to the end and report numbers.

    Args:
        cpu_threads: threads of each process on a CPU; 0: see `threads_here`. accelerate would take one.
        tracker: "none", or a tracker that accelerate knows.
        folder: where the tracker may write.

    Raises:
        UserError: with the way to start it; a tracker that is not installed; weights not shared out as asked.
    """
    # accelerate leaves out a tracker that is missing, without a word.
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise UserError(f"tracker is {tracker} but its package is not installed. Install it: pip install {tracker}")
    accumulated = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if accumulated != "1":  # accelerate would divide the gradient by it
        raise UserError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS is {accumulated}; expected 1 or none. Unset it: --micro_batch_tokens cuts "
            "a step into micro-batches, and changes memory alone."
        )
    asked = asked_for_cpu()
    if asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for whatever looks for a GPU later
    on_cpu = asked or not torch.cuda.is_available()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if on_cpu:
        keep_freed_memory()
        torch.set_num_threads(cpu_threads or threads_here(world))
    # Ranks run different numbers of forward passes; a broadcast in each would hang.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    deepspeed = _asked_for("DEEPSPEED")
    if deepspeed and on_cpu:  # under cpu=True accelerate would leave DeepSpeed out
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed,
        mixed_precision=precision(on_cpu),  # weights and optimiser stay in float32
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
        kwargs_handlers=handlers,
    )
    _check_sharding(accelerator)
    if deepspeed:
        # transformers would cut a model to pieces while loading it, which is looked at whole before it is shared out.
        from transformers.integrations import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    processes = _asked_of_launcher("num_processes")
    if accelerator.num_processes != world or (processes is not None and world != int(processes)):
        raise UserError(
            f"{processes or world} processes were asked for but {accelerator.num_processes} work together; the run would not "
            "be what it says. On a CPU use --config_file full/configs/accelerate/cpu.yaml --num_processes N."
        )
    ranks = accelerator.gather(torch.tensor([accelerator.process_index], device=accelerator.device)).tolist()
    if ranks != list(range(world)):
        raise UserError(f"the processes hear {ranks} of {world} ranks; expected all. Check the network between them.")
    return accelerator


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next tensor of its size; other C libraries are left as they are.

    By default it gives tensors of a megabyte back to the system, which hands them out again page by page: 9,400 page faults
    and 17 ms of an update of 200 ms on the embedded model, 100 faults and 1 ms with these thresholds.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: the largest that glibc takes, 32 MiB
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


def threads_here(processes: int) -> int:
    """Threads of each process on a CPU where none are asked for.

    What the user set in OMP_NUM_THREADS or --num_cpu_threads_per_process; without either, the cores that this process may
    use (taskset, a job's cpuset), shared among the processes. accelerate sets OMP_NUM_THREADS for us, mostly to 1, so what
    the user set is what the launcher began with.
    """
    launcher, environment = find_launcher(), dict(os.environ)
    with contextlib.suppress(psutil.Error):
        environment = launcher.environ() if launcher else environment
    words = _launcher_words()
    given = [environment.get("OMP_NUM_THREADS", "")]
    for word, after in zip(words, [*words[1:], ""], strict=False):
        name, _, value = word.partition("=")
        if name.replace("-", "_") == "__num_cpu_threads_per_process":
            given.insert(0, value or after)
    for text in given:
        if text.isdecimal() and int(text) > 0:
            return int(text)
    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, cores // processes)


def _asked_for(kind: str) -> bool:
    """Whether the launcher said FSDP or DEEPSPEED; accelerate passes it on in the environment."""
    return os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true"


def _check_sharding(accelerator: Accelerator) -> None:
    """Raise unless the weights are shared out as asked; accelerate would go on with a whole copy on each process."""
    for kind in ("FSDP", "DEEPSPEED"):
        if _asked_for(kind) and accelerator.distributed_type.value != kind:
            raise UserError(
                f"{kind} was asked for but accelerate has made {accelerator.distributed_type.value} of it, which shares "
                "nothing out; it takes FSDP only on GPUs. On a CPU use --config_file full/configs/accelerate/cpu.yaml."
            )
    if _asked_for("FSDP") and not accelerator.is_fsdp2:
        raise UserError(
            "FSDP's first version was asked for; expected the second. Use --config_file "
            "full/configs/accelerate/fsdp2.yaml, or write fsdp_version: 2 into yours."
        )


def find_launcher() -> psutil.Process | None:
    """The `accelerate launch` or torchrun that started this process and waits for it; None if another did, or it is gone."""
    try:
        parent = psutil.Process(os.getppid())
        words = parent.cmdline()
    except psutil.Error:
        return None
    # Any program can be an elastic agent; when it is gone, the parent is whoever takes in orphans.
    is_agent = "TORCHELASTIC_RUN_ID" in os.environ and parent.pid == FIRST_PARENT
    return parent if is_agent or _is_accelerate(words) else None


def _is_accelerate(words: list[str]) -> bool:
    """Whether a command line is that of accelerate: python [options] accelerate launch, or python -m accelerate...."""
    for i, word in enumerate(words[1:], start=1):
        after = words[i + 1] if i + 1 < len(words) else ""
        if word == "-m":
            return after == "accelerate.commands.launch" or (
                after == "accelerate.commands.accelerate_cli" and words[i + 2 : i + 3] == ["launch"]
            )
        if not word.startswith("-") and words[i - 1] not in ("-X", "-W"):
            return Path(word).name == "accelerate-launch" or (Path(word).name == "accelerate" and after == "launch")
    return False


def _launcher_words() -> list[str]:
    """The command line of the launcher, or none."""
    launcher = find_launcher()
    with contextlib.suppress(psutil.Error):
        return launcher.cmdline() if launcher else []
    return []


def _asked_of_launcher(option: str) -> str | None:
    """What the launcher was given for an option: on its command line, else in the file that this names; None: nothing.

    What `accelerate config` once wrote does not count: its questions are answered without this run in mind.
    """
    words = _launcher_words()
    given: dict[str, str] = {}
    for word, after in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            given.setdefault(name[2:].replace("-", "_"), value if equals else after)
    if option in given:
        return given[option]
    if "config_file" in given:
        with open(given["config_file"]) as file:
            value = yaml.safe_load(file).get(option)
        return None if value is None else str(value)
    return None


def asked_for_cpu() -> bool:
    """Whether the launcher was told to leave the GPUs alone: --cpu, or use_cpu in its file (accelerate passes both on)."""
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes")


def precision(on_cpu: bool) -> str:
    """The mixed precision: what was asked for, else what suits the GPU (`best_precision`), and none on a CPU.

    Asked of the launcher, or by ACCELERATE_MIXED_PRECISION without one: accelerate sets it to "no" where nobody asked.

    Raises:
        UserError: fp16 where its gradient could not be scaled, or fp8.
    """
    asked = _asked_of_launcher("mixed_precision")
    if asked is None and not _is_accelerate(_launcher_words()):
        asked = os.environ.get("ACCELERATE_MIXED_PRECISION")
    asked = {"False": "no"}.get(asked or "", asked)  # YAML reads a bare no as false
    if asked not in (None, "no", "bf16", "fp16"):
        raise UserError(f"mixed_precision is {asked}; expected bf16, fp16 or no. Use --mixed_precision bf16")
    sharded = _asked_for("FSDP") or _asked_for("DEEPSPEED")
    if asked == "fp16" and (on_cpu or sharded):
        where = "a CPU" if on_cpu else "weights that processes share (FSDP2, DeepSpeed)"
        raise UserError(
            f"mixed_precision is fp16 on {where}; expected bf16 or no, since nothing scales the gradient there, which fp16 has "
            "too small a range for. Use --mixed_precision bf16"
        )
    return asked or ("no" if on_cpu else best_precision(sharded=sharded))


def unusable_gpus() -> str:
    """What keeps torch from the GPUs that nvidia-smi sees, in a few words; "" where it sees none, or they are hidden."""
    if torch.cuda.is_available() or asked_for_cpu() or os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return ""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = [line for line in done.stdout.splitlines() if "," in line]
    if done.returncode or not lines:
        return ""
    name, driver = (part.strip() for part in lines[0].rsplit(",", 1))
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
    return f"nvidia-smi sees {len(lines)} x {name} with driver {driver}, and torch {torch.__version__}, {built}, cannot use it"


def require_fitting_device(accelerator: Accelerator, model: str, name: str, *, allow_cpu: bool) -> None:
    """Raise where a run would be on a CPU by mistake: with a large model, or any but an embedded one beside an unusable GPU.

    Args:
        model: as the user calls it.
        name: the folder or hub id that it is loaded from.
        allow_cpu: the user insists.

    Raises:
        UserError: says why, and how to insist.
    """
    if accelerator.device.type != "cpu" or allow_cpu or model in EMBEDDED:
        return
    insist = "or insist on the CPU: --allow_cpu true"
    fault = unusable_gpus()
    if fault:
        remedy = "update the driver, or install a torch built for it (https://pytorch.org/get-started/locally)"
        raise UserError(f"{fault}; expected one that it can. Either {remedy}, {insist}")
    size = number_of_parameters(name)
    if size > LARGE:
        raise UserError(
            f"model {model!r} has {size / 1e9:.1f} billion parameters and no GPU is in use; expected a GPU, or at most "
            f"{LARGE / 1e9:.1f} billion on a CPU, where an optimiser step of this one takes hours. Start it where there is a "
            f"GPU, take the embedded model (--config full/configs/tiny.yaml), {insist}"
        )


@contextmanager
def claimed(config: TrainConfig, accelerator: Accelerator, *, resume: bool) -> Iterator[None]:
    """Hold the run's folder, see `Claim`; refused on one process is refused on all, so that none waits for it.

    Raises:
        UserError: see `Claim.take`.
    """
    claim = Claim(config, resume=resume)
    on_main(accelerator, claim.take)
    try:
        yield
    finally:
        claim.release()


def on_main(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Do something on the main process; its UserError is raised on all of them."""
    fault: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            action()
        except UserError as error:
            fault = [str(error)]
    broadcast_object_list(fault)
    if fault[0]:
        raise UserError(fault[0])


def quiet_exit(message: str, code: int = 1) -> NoReturn:
    """Print one message and leave with a code, without a traceback, and so that it is the last that is read."""
    message = printable(message)
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    launcher = find_launcher()
    if launcher:
        with contextlib.suppress(OSError, psutil.Error):
            say_last(message, launcher)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def say_last(message: str, launcher: psutil.Process) -> None:
    """Print a message again when the launcher has ended, whose own report would be the last thing to be read.

    A small process stays behind for it, some hundredths of a second. Not where the launcher is quiet, and on Linux only.
    """
    words = launcher.cmdline()
    script = next((i for i, word in enumerate(words) if word.endswith(Path(sys.argv[0]).name)), len(words))
    if sys.platform != "linux" or ("LOCAL_RANK" not in os.environ and {"-q", "--quiet"} & set(words[:script])):
        return
    subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("last_word.py")), str(launcher.pid), message],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # torchrun ends the group of a process that failed
    )
