"""Starting and stopping: processes that really talk to each other, signals that leave a resumable run, quiet errors."""

import importlib.util
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from full.errors import UserError


def start_accelerator(cpu_threads: int = 0, *, tracker: str = "none", folder: Path | None = None) -> Accelerator:
    """The Accelerator of this run, checked: as many processes as were asked for, and each hears the others.

    accelerate can start fewer processes than asked on a CPU (`--cpu --num_processes 2` starts one), or several that each
    train alone; both would run to the end and report numbers.

    Args:
        cpu_threads: threads of each process on a CPU; 0 shares the cores among the processes. accelerate would take one.
        tracker: "none", or a tracker that accelerate knows.
        folder: where the tracker may write.

    Raises:
        UserError: with the way to start it; a tracker that is not installed; weights not shared out as asked.
    """
    # accelerate leaves out a tracker that is missing, without a word.
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise UserError(f"tracker is {tracker} but its package is not installed. Install it: pip install {tracker}")
    on_cpu = not torch.cuda.is_available()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if on_cpu:
        torch.set_num_threads(cpu_threads or max(1, (psutil.cpu_count(logical=False) or 1) // world))
    # Ranks run different numbers of forward passes; a broadcast in each would hang.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    deepspeed = _asked_for("DEEPSPEED")
    if deepspeed and on_cpu:  # under cpu=True accelerate would leave DeepSpeed out
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed,
        mixed_precision="no" if on_cpu else "bf16",  # weights and optimiser stay in float32
        log_with=None if tracker == "none" else tracker,
        project_dir=folder,
        kwargs_handlers=handlers,
    )
    _check_sharding(accelerator)
    if deepspeed:
        # transformers would cut a model to pieces while loading it, which is looked at whole before it is shared out.
        from transformers.integrations import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    asked = _processes_asked_for()
    if accelerator.num_processes != world or (asked is not None and world != asked):
        raise UserError(
            f"{asked or world} processes were asked for but {accelerator.num_processes} work together; the run would not "
            "be what it says. On a CPU use --config_file full/configs/accelerate/cpu.yaml --num_processes N."
        )
    ranks = accelerator.gather(torch.tensor([accelerator.process_index], device=accelerator.device)).tolist()
    if ranks != list(range(world)):
        raise UserError(f"the processes hear {ranks} of {world} ranks; expected all. Check the network between them.")
    return accelerator


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


def _launcher() -> list[str]:
    """The words of the `accelerate launch` that started this process, or none."""
    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return []
    start = " ".join(words[:4])  # "python .../accelerate launch" or "python -m accelerate.commands.launch"
    return words if "accelerate" in start and "launch" in start else []


def _processes_asked_for() -> int | None:
    words = _launcher()
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("--num_processes", "--num-processes"):
            return int(value or words[i + 1])
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("--config_file", "--config-file"):
            with open(value or words[i + 1]) as file:
                return yaml.safe_load(file).get("num_processes")
    return None


def quiet_exit(message: str, code: int = 1) -> NoReturn:
    """Print one message and leave with a code, without a traceback; also without that of `accelerate launch`.

    A plain launcher raises CalledProcessError, which buries the message under its own traceback. It does nothing but
    wait for us, so it is ended first. In distributed runs the launcher must see the failure, and is left alone.
    """
    print(message, file=sys.stderr, flush=True)
    if "LOCAL_RANK" not in os.environ and _launcher():
        os.kill(os.getppid(), signal.SIGTERM)
    sys.stdout.flush()
    os._exit(code)


class StopRequest:
    """Whether Ctrl-C or SIGTERM asked the run to stop; the loop looks at it after each step. A second one kills."""

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number
        print("\nstopping after this step and saving a checkpoint; once more to quit at once", file=sys.stderr)

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked; the same answer on all of them."""
        heard = accelerator.gather(torch.tensor([self.signal], device=accelerator.device))
        self.signal = int(heard.max())
        return self.signal != 0
