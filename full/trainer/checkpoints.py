"""Checkpoints: atomic, complete, verified when read; a run killed at any moment goes on as if nothing had happened."""

import contextlib
import hashlib
import itertools
import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object

from full.claims import CHECKPOINT, checkpoint_files, delete_checkpoint
from full.config import FORMAT, require_format
from full.errors import CheckpointError, UserError, one_line
from full.trainer.rollout import Rollout

MANIFEST = "manifest.json"
SCALE = "scaler.pt"  # as accelerate calls it


@dataclass
class Progress:
    """Where a run is: everything that is not weights, optimiser, schedules or RNG.

    step: optimiser steps done.  batch: index of the batch of samples in use.  update: updates made from it.
    rollout: this process's share of it while it is in use.  eval_before: the evaluation before the first step.
    seconds: spent until here, over all sittings; what a kill took back is not counted.
    unlogged: the last step's metrics while its evaluation is open, in which the run was asked to stop.
    """

    step: int = 0
    batch: int = 0
    update: int = 0
    rollout: Rollout | None = None
    eval_before: dict[str, Any] | None = None
    seconds: float = 0.0
    unlogged: dict[str, Any] | None = None

    def advance(self, updates_per_batch: int) -> None:
        """Count an optimiser step; after a batch's last update its samples are let go."""
        self.step, self.update = self.step + 1, self.update + 1
        if self.update == updates_per_batch:
            self.batch, self.update, self.rollout = self.batch + 1, 0, None


def save_checkpoint(
    folder: Path, accelerator: Accelerator, progress: Progress, *, keep: int, options: Mapping[str, Any] | None = None
) -> str:
    """Write checkpoints/step-N: aside first, synced to disk, with a manifest of hashes, then renamed.

    accelerate writes the distributed state (weights, optimiser, registered schedules, every RNG); the progress, with the
    samples in use, is added per process. Older checkpoints are removed only after the new one is in place.

    Args:
        options: of the run, compared when it is resumed.

    Returns:
        "", or what to say where it could not be written (the disk is full, say) and the run can go on because an older one
        is there, untouched. The next one is tried in its turn.

    Raises:
        CheckpointError: it could not be written, and there is no older one.
    """
    final = folder / f"step-{progress.step}"
    aside = folder / f"writing-step-{progress.step}"

    def make_folder() -> None:
        if accelerator.is_main_process:
            if aside.is_symlink() or aside.exists():
                delete_checkpoint(aside)
            aside.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        accelerator.save_state(str(aside))
        torch.save(asdict(progress), aside / f"progress-{accelerator.process_index}.pt")

    def put_in_place() -> None:
        if not accelerator.is_main_process:
            return
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        manifest = {str(path.relative_to(aside)): _hash(path) for path in files}
        about = {"format": FORMAT, "processes": accelerator.num_processes, "options": options, "files": manifest}
        (aside / MANIFEST).write_text(json.dumps(about))
        for path in [*files, aside / MANIFEST, aside]:
            _sync(path)
        _make_way(final)
        aside.rename(final)
        _sync(folder)
        # Later ones were passed over as damaged; they must not push a good one out.
        later = [path for path in checkpoints(folder) if step_of(path) > progress.step]
        for path in [*later, *checkpoints(folder)[: -keep - len(later)]]:
            delete_checkpoint(path)

    for part in (make_folder, write, put_in_place):
        fault = first_fault(part)
        if fault:
            break
    else:
        return ""
    last: list[str | None] = [None]
    if accelerator.is_main_process:
        with contextlib.suppress(OSError):
            delete_checkpoint(aside)
        last = [None, *(path.name for path in checkpoints(folder))][-1:]
    broadcast_object_list(last)
    message = f"the checkpoint of step {progress.step} could not be written ({fault})"
    if last[0] is None:
        raise CheckpointError(
            f"{message}; what was there before is untouched. Make room and go on with --resume {folder.parent}"
        )
    return f"{message}; the run goes on, and the last checkpoint is {folder / last[0]}. Make room for the next one."


def first_fault(action: Callable[[], None]) -> str:
    """Do something on all processes; what went wrong on the first of them where it did, known to all, or ""."""
    fault = ""
    try:
        action()
    except Exception as error:  # a full disk is an OSError, a RuntimeError (torch) or a SafetensorError
        fault = one_line(error)
    return next(filter(None, gather_object([fault])), "")


def load_checkpoint(
    folder: Path, accelerator: Accelerator, options: Mapping[str, Any] | None = None
) -> tuple[Progress, list[str]]:
    """Restore the newest undamaged checkpoint. Nothing in it is executed, so it may be another person's (`no_pickles`).

    Args:
        options: what the run is resumed with; must be what the checkpoint was written with.

    Returns:
        (progress, messages): messages say which newer checkpoints were damaged. Without any checkpoint the progress is
        at step 0: a run that was killed before its first one starts again from its seed.

    Raises:
        UserError: the checkpoint is of another format, or was written by another number of processes or with other options.
    """
    messages = []
    for path in reversed(checkpoints(folder)):
        manifest = _manifest(path)
        if manifest:
            require_format(manifest.get("format"), path / MANIFEST, resume=True)
        if manifest and manifest["processes"] != accelerator.num_processes:
            processes = manifest["processes"]
            raise UserError(
                f"{path} was written by {processes} processes; {accelerator.num_processes} are running. Resume with "
                f"--num_processes {processes}."
            )
        damage = _damage(path, manifest)
        if damage:
            messages.append(f"checkpoint {path} is damaged ({damage}); falling back to the one before it")
            continue
        require_same_options(options or {}, manifest.get("options") or {}, path)
        if getattr(accelerator, "scaler", None) is not None and SCALE not in manifest["files"]:
            raise UserError(
                f"{path} was written without float16's scale, in another precision than this machine's fp16. Resume with "
                "--mixed_precision bf16 or no, as the run began (accelerate launch takes it before full/train.py)."
            )
        try:
            with no_pickles(accelerator):
                accelerator.load_state(str(path))
            state = torch.load(path / f"progress-{accelerator.process_index}.pt", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path} holds Python objects that run code when they are loaded, so it was not loaded; expected tensors and "
                f"plain data ({' '.join(str(error).split())[:100]}). No version of this trainer wrote it."
            ) from None
        if state["rollout"] is not None:
            state["rollout"] = Rollout(**state["rollout"])
        return Progress(**state), messages
    if messages:
        messages.append("no checkpoint is left: starting again from the seed")
    return Progress(), messages


@contextmanager
def no_pickles(accelerator: Accelerator) -> Iterator[None]:
    """Let torch.load read tensors and plain data alone, whoever calls it.

    accelerate 1.15 loads registered objects (our schedules) with weights_only=False, and cannot be told otherwise. What
    FSDP2 and DeepSpeed write themselves cannot be read so: their checkpoints hold pickles of their own (.metadata, the
    optimiser's partition), and are to be resumed only from folders that one trusts.
    """
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        yield
        return
    original = torch.load

    def load(*args: Any, **options: Any) -> Any:
        return original(*args, **{**options, "weights_only": True})

    torch.load = load
    try:
        yield
    finally:
        torch.load = original


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first: folders called step-N, whatever else may lie beside them."""
    found = [path for path in folder.glob("step-*") if CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(path.name.removeprefix("step-"))


def _make_way(final: Path) -> None:
    """Free the name of a checkpoint: an older one is deleted; what is none keeps its content under another name."""
    if final.is_dir():
        delete_checkpoint(final)
    if final.exists():
        free = (final.with_name(f"{final.name}.set-aside-{i}") for i in itertools.count(1))
        final.rename(next(path for path in free if not path.exists()))


def require_same_options(now: Mapping[str, Any], then: Mapping[str, Any], path: Path) -> None:
    """Raise if an option of a run is not what its checkpoint was computed with: somebody has edited config.yaml."""
    now = json.loads(json.dumps(now))
    for name, value in then.items():
        if name in now and now[name] != value:
            raise UserError(
                f"{name} is {now[name]} in {path.parents[1] / 'config.yaml'} but was {value} when {path} was written; a "
                f"resumed run must compute the same. Write {name}: {value} back, or start a new run."
            )


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; {} where it is missing or no manifest."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    kinds = {"processes": int, "files": dict}
    right = isinstance(manifest, dict) and all(type(manifest.get(name)) is kind for name, kind in kinds.items())
    return manifest if right else {}


def _damage(path: Path, manifest: Mapping[str, Any]) -> str:
    """What is wrong with a checkpoint, in a few words; empty if nothing is."""
    if not manifest:
        return "its manifest is missing or unreadable"
    files = manifest["files"]
    present = {str(file.relative_to(path)) for file in checkpoint_files(path, by_kind=True)} - {MANIFEST}
    needed = {
        name.format(i) for i in range(manifest["processes"]) for name in ("progress-{}.pt", "random_states_{}.pkl")
    }
    for name in sorted((present | needed) - files.keys()):
        return f"{name} is not in its manifest"
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
