"""What is said before a run: whether it fits into memory and onto the disk, and about how long it takes.

The doctor says more, on demand and measured; this is what nobody should have to ask for.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from full.config import TrainConfig
from full.errors import UserError
from full.trainer.floor import GPUS, OTHERS, Gpu, work_of
from full.units import duration, size

# Share of the free disk above which it is called tight: others write too.
TIGHT_DISK = 0.9

# Mean completion over the longest that is allowed, where nothing was sampled yet: 500 of 1,280 tokens.
MEAN_OF_LONGEST = 0.4


@dataclass(frozen=True)
class Disk:
    """What a run writes, and what there is, bytes.

    checkpoint: one of them; count: how many there are at once, the one being written included.
    model: of model/.
    free: on the disk; held: by this run's checkpoints already, which new ones replace.
    folder: of the run.
    """

    checkpoint: float
    count: int
    model: float
    free: float
    held: float
    folder: Path

    @property
    def needed(self) -> float:
        """What the run will have written when it is largest."""
        return self.count * self.checkpoint + self.model

    def told(self) -> str:
        """What is needed, part by part."""
        one = "checkpoint" if self.count == 1 else "checkpoints"
        return f"{size(self.needed)} for {self.count} {one} of {size(self.checkpoint)} and model/"

    def warning(self, config: TrainConfig) -> str:
        """What to say where it is tight, else "".

        Raises:
            UserError: there is not enough.
        """
        left = self.free + self.held - self.needed
        fewer = ", --keep_checkpoints 1" * (config.keep_checkpoints > 1) + ", --lora_rank 16" * (not config.lora_rank)
        remedy = f"Make room, or take another --output_dir{fewer}."
        if left < 0:
            raise UserError(
                f"the disk of {self.folder} has {size(self.free)} free; expected {self.told()}, the one being written "
                f"included, so that no work is lost. {remedy}"
            )
        if self.needed - self.held > TIGHT_DISK * self.free:
            return f"warning: the disk is tight: {self.told()}, {size(self.free)} free. {remedy}"
        return ""


def disk_of(trainer: Any) -> Disk:
    """What a trainer's run will write: weights and moments in a checkpoint, the model at its end."""
    config: TrainConfig = trainer.config
    sizes = [
        (getattr(p, "ds_numel", p.numel()) * p.element_size(), p.requires_grad) for p in trainer.model.parameters()
    ]
    weights, trained = sum(n for n, _ in sizes), sum(n for n, wanted in sizes if wanted)
    model = trained if config.lora_rank and not config.merge_lora else weights
    if config.model_dtype == "bfloat16" and model == weights:
        model //= 2
    saves = -(-config.steps // config.save_every) if config.save_every else 1
    folder = config.run_dir
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    held = sum(path.stat().st_size for path in trainer.run.checkpoints.glob("step-*/**/*") if path.is_file())
    return Disk(
        checkpoint=weights + 2 * trained,
        count=min(config.keep_checkpoints + 1, saves),
        model=model,
        free=float(shutil.disk_usage(there).free),
        held=held,
        folder=folder,
    )


def gpu_here(name: str) -> Gpu | None:
    """What is known of a GPU of this name; a laptop's is another one, slower by half."""
    return next((gpu for gpu in (*GPUS, *OTHERS) if gpu.name in name and "Laptop" not in name), None)


def outlook(trainer: Any) -> list[str]:
    """Lines to say before the first step: on a GPU memory, disk and time; elsewhere only what is wrong.

    Raises:
        UserError: the disk has no room for the run.
    """
    config, plan, accelerator = trainer.config, trainer.memory, trainer.accelerator
    disk = disk_of(trainer)
    tight = disk.warning(config)
    on_gpu = accelerator.device.type == "cuda"
    lines = []
    for what, need in (("an update", plan.updating), ("sampling", plan.sampling)):
        if need > plan.have or (on_gpu and need > plan.share * plan.have):
            lines.append(
                f"warning: {what} needs about {size(need)} of {size(plan.have)} of memory. {plan.advice(config, what)}"
            )
    if not on_gpu:
        return lines + [tight] * bool(tight)
    lines = lines or [
        f"fits: about {size(plan.peak)} of {size(plan.have)} of the GPU's memory ({plan.peak / plan.have:.0%})"
    ]
    lines.append(tight or f"disk: {disk.told()}; {size(disk.free)} are free")
    gpu = gpu_here(torch.cuda.get_device_name(accelerator.device))
    if gpu is None or not plan.rows:
        return [*lines, "time: not estimated for this GPU and engine; --doctor measures it"]
    mean = MEAN_OF_LONGEST * config.max_completion_tokens
    prompt = sum(map(len, trainer.prompts)) / len(trainer.prompts)
    seconds = work_of(trainer, prompt=prompt, completion=mean, longest=config.max_completion_tokens).step_on(gpu)
    return [
        *lines,
        f"time: about {duration(seconds)} a step and {duration(seconds * config.steps)} for {config.steps} by arithmetic, with "
        f"completions of {mean:.0f} tokens; evaluations and checkpoints come on top. --doctor measures it",
    ]
