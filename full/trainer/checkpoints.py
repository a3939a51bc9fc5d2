"""Checkpoints: atomic, complete, verified when read; a run killed at any moment goes on as if nothing had happened."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from full.config import FORMAT, require_format
from full.errors import CheckpointError, UserError
from full.trainer.rollout import Rollout

MANIFEST = "manifest.json"


@dataclass
class Progress:
    """Where a run is: everything that is not weights, optimiser, schedules or RNG.

    step: optimiser steps done.  batch: index of the batch of samples in use.  update: updates made from it.
    rollout: this process's share of it while it is in use.  eval_before: the evaluation before the first step.
    seconds: spent until here, over all sittings; what a kill took back is not counted.
    """

    step: int = 0
    batch: int = 0
    update: int = 0
    rollout: Rollout | None = None
    eval_before: dict[str, Any] | None = None
    seconds: float = 0.0

    def advance(self, updates_per_batch: int) -> None:
        """Count an optimiser step; after a batch's last update its samples are let go."""
        self.step, self.update = self.step + 1, self.update + 1
        if self.update == updates_per_batch:
            self.batch, self.update, self.rollout = self.batch + 1, 0, None


def save_checkpoint(folder: Path, accelerator: Accelerator, progress: Progress, *, keep: int) -> None:
    """Write checkpoints/step-N: aside first, synced to disk, with a manifest of hashes, then renamed.

    accelerate writes the distributed state (weights, optimiser, registered schedules, every RNG); the progress, with the
    samples in use, is added per process. Older checkpoints are removed only after the new one is in place.

    Raises:
        CheckpointError: the disk is full or broken; what was there before is untouched.
    """
    final = folder / f"step-{progress.step}"
    aside = folder / f"writing-step-{progress.step}"
    if accelerator.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(aside))
        torch.save(asdict(progress), aside / f"progress-{accelerator.process_index}.pt")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            files = sorted(path for path in aside.rglob("*") if path.is_file())
            manifest = {str(path.relative_to(aside)): _hash(path) for path in files}
            about = {"format": FORMAT, "processes": accelerator.num_processes, "files": manifest}
            (aside / MANIFEST).write_text(json.dumps(about))
            for path in [*files, aside / MANIFEST, aside]:
                _sync(path)
            if final.exists():
                shutil.rmtree(final)
            aside.rename(final)
            _sync(folder)
            # Later ones were passed over as damaged; they must not push a good one out.
            later = [path for path in checkpoints(folder) if step_of(path) > progress.step]
            for path in [*later, *checkpoints(folder)[: -keep - len(later)]]:
                shutil.rmtree(path)
    except Exception as error:  # a full disk is an OSError, a RuntimeError (torch) or a SafetensorError
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {progress.step} could not be written ({' '.join(str(error).split())[:200]}); what was "
            f"there before is untouched. Make room and go on with --resume {folder.parent}"
        ) from error
    accelerator.wait_for_everyone()


def load_checkpoint(folder: Path, accelerator: Accelerator) -> tuple[Progress, list[str]]:
    """Restore the newest undamaged checkpoint.

    Returns:
        (progress, messages): messages say which newer checkpoints were damaged. Without any checkpoint the progress is
        at step 0: a run that was killed before its first one starts again from its seed.

    Raises:
        UserError: the checkpoint is of another format or was written by another number of processes.
    """
    messages = []
    for path in reversed(checkpoints(folder)):
        damage = _damage(path)
        if damage:
            messages.append(f"checkpoint {path} is damaged ({damage}); falling back to the one before it")
            continue
        manifest = json.loads((path / MANIFEST).read_text())
        require_format(manifest.get("format"), path / MANIFEST, resume=True)
        processes = manifest["processes"]
        if processes != accelerator.num_processes:
            raise UserError(
                f"{path} was written by {processes} processes; {accelerator.num_processes} are running. Resume with "
                f"--num_processes {processes}."
            )
        accelerator.load_state(str(path))
        state = torch.load(path / f"progress-{accelerator.process_index}.pt", weights_only=False)
        if state["rollout"] is not None:
            state["rollout"] = Rollout(**state["rollout"])
        return Progress(**state), messages
    return Progress(), messages


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*"), key=step_of)


def step_of(path: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(path.name.removeprefix("step-"))


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty if nothing is."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return "its manifest is missing or unreadable"
    for name, expected in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _hash(path / name) != expected:
            return f"{name} has changed"
    return ""


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
