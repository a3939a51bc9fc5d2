"""Who may write in a run's folder, and what in it may be deleted: one process, and only the files of a run.

A lock (filelock: flock, which ends with its process, however that ends) keeps a second process out. `--overwrite true`
deletes the files that this trainer writes, by name, in a folder that it wrote; everything else stays.
"""

import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from full.config import TrainConfig
from full.errors import UserError

LOCK, HOLDER = ".lock", ".holder"

# The files of a run by folder; config.yaml is replaced, never deleted, so that a run stays one at every moment.
_FILES = {
    ".": r"(metrics|completions)\.jsonl(\.writing|\.damaged.*)?|(config\.yaml|report\.html|summary\.json)\.writing"
    r"|summary\.json|eval\.json|tracker\.json|curves\.png|report\.html|failed-batch-\d+\.pt",
    "model": r"(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|preprocessor_config|processor_config)\.json|(model|adapter_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
    r"|merges\.txt|vocab\.txt|chat_template\.jinja|(tokenizer|spiece|sentencepiece\.bpe)\.model",
}
_TENSORBOARD = r"events\.out\.tfevents\..*|hparams\.yml"  # in a folder named after the tracker's project
# What accelerate, torch and DeepSpeed write into a checkpoint, for those without a readable manifest.
_STATE = re.compile(
    r"((pytorch_model|optimizer)(_fsdp)?(_\d+)?/)?([^/]*\.(safetensors|bin|pkl|pt|distcp|index\.json)|manifest\.json|\.metadata"
    r"|latest|zero_to_fp32\.py)"
)
CHECKPOINT = re.compile(r"step-(0|[1-9]\d*)")


class Claim:
    """The right of one process to write in a run's folder, from `take` to `release`.

    Args:
        config: names the folder.
        resume: whether the folder must hold a run, or must not.
    """

    def __init__(self, config: TrainConfig, *, resume: bool) -> None:
        self.config, self.resume, self.path = config, resume, config.run_dir
        self._lock: FileLock | None = None
        self._made: list[Path] = []  # folders that were not there before, innermost first

    def take(self) -> None:
        """Make the folder, lock it, and look at what it holds; nothing of it is changed.

        Raises:
            UserError: a bad name, a folder that cannot be written, that another process works in, or that must stay.
        """
        require_plain_name(self.config)
        try:
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK, blocking=False, thread_local=False)
            lock.acquire()
            self._lock = lock
            (self.path / HOLDER).write_text(json.dumps(_this_process()), encoding="utf-8")
        except Timeout:
            raise UserError(in_use(self.path)) from None
        except (OSError, ValueError) as error:
            self.release()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UserError(
                f"{self.path} cannot be written ({reason}); expected a folder for the run. Choose another --output_dir or "
                "--name."
            ) from None
        try:
            self._require_free()
        except UserError:
            self.release()
            raise

    def release(self) -> None:
        """Let others in; a folder made by `take` in which nothing was written is removed again."""
        if self._lock is not None:
            # Removed while locked: who opened the file in the meantime finds it gone and opens the next one.
            for name in (HOLDER, LOCK):
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()
            self._lock.release(force=True)
            self._lock = None
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def _require_free(self) -> None:
        # A kill before the first config.yaml leaves an empty folder and a part of it.
        begun = {LOCK, HOLDER, "config.yaml.writing"} | (
            {"checkpoints"} if _is_empty(self.path / "checkpoints") else set()
        )
        found = sorted(path.name for path in self.path.iterdir() if path.name not in begun)
        if self.resume or not found:
            return
        if not holds_run(self.path):
            raise UserError(
                f"{self.path} holds {found[0]}{' and more' * (len(found) > 1)} and no run; expected a new or an empty folder. "
                "Choose another --name or --output_dir; --overwrite true replaces runs and nothing else."
            )
        if not self.config.overwrite:
            raise UserError(
                f"{self.path} already holds a run. Go on with it by --resume {self.path}, choose another --name, or "
                "replace it with --overwrite true."
            )
        for path in run_files(self.path):
            linked = next((p for p in (path, *path.parents) if p.is_symlink() and self.path in p.parents), None)
            if linked:
                raise UserError(
                    f"{linked} is a link; --overwrite true deletes nothing behind a link inside a run. Remove the link, or "
                    "choose another --name."
                )


def require_plain_name(config: TrainConfig) -> None:
    """Raise unless --name stays below runs/, and neither name nor folder holds what a terminal would obey."""
    for option in ("name", "output_dir"):
        value = getattr(config, option)
        if value is not None and (value.strip() == "" or not value.isprintable()):
            raise UserError(
                f"--{option} is {value!r}; expected a name of printable characters. Leave --{option} out for the default."
            )
    if config.name is None or config.output_dir is not None:
        return
    parts = Path(config.name).parts
    if not parts or ".." in parts or Path(config.name).is_absolute():
        raise UserError(
            f"--name is {config.name!r}; expected a folder below runs/, e.g. my-run. Give other places by --output_dir."
        )


def holds_run(path: Path) -> bool:
    """Whether a folder holds a run of this trainer: a config.yaml with the origin of its data, which only it writes."""
    try:
        content = read_config(path)
    except UserError:
        return False
    return isinstance(content.get("provenance"), dict) and "objective" in content


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml of a run's folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        content = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(
            f"{path} holds no readable config.yaml; expected the folder of a run, e.g. runs/apo-guarded-s0."
        )
    return content


def run_files(path: Path) -> Iterator[Path]:
    """The files of the run in a folder but config.yaml, known by their names; a link counts as what its name says."""
    for folder, names in _FILES.items():
        yield from (p for p in _inside(path / folder) if re.fullmatch(names, p.name) and not _is_folder(p))
    card = path / "model" / "README.md"
    if card.is_file() and "- apo_edu" in card.read_text(encoding="utf-8", errors="replace"):
        yield card
    project = _project(path)
    for place in (project, *_inside(project)):  # hyper-parameters are one folder further in
        yield from (p for p in _inside(place) if re.fullmatch(_TENSORBOARD, p.name) and not _is_folder(p))
    for checkpoint in _inside(path / "checkpoints"):
        if CHECKPOINT.fullmatch(checkpoint.name.removeprefix("writing-")) and checkpoint.is_dir():
            yield from checkpoint_files(checkpoint)


def checkpoint_files(path: Path, *, by_kind: bool = False) -> list[Path]:
    """The files of one checkpoint: those that its manifest lists.

    Args:
        by_kind: those that look like a part of it instead, as is done where there is no readable manifest.
    """
    manifest = path / "manifest.json"
    listed: set[Path] = set()
    if not by_kind:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            listed = {path / name for name in json.loads(manifest.read_text(encoding="utf-8"))["files"]}
    found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    if listed:
        return [p for p in found if p in listed or p == manifest]
    return [p for p in found if _STATE.fullmatch(p.relative_to(path).as_posix())]


def delete_checkpoint(path: Path) -> None:
    """Delete a checkpoint file by file; what else lies in its folder stays. Of a link to one only the link goes."""
    if path.is_symlink():
        path.unlink()
    else:
        _delete(checkpoint_files(path), [path])


def delete_run(path: Path) -> None:
    """Delete the run in a folder, file by file, but for its config.yaml; the checkpoints go first."""
    files = sorted(run_files(path), key=lambda p: p.parts[len(path.parts)] != "checkpoints")
    _delete(files, [path / "checkpoints", path / "model", _project(path)])


def _delete(files: list[Path], folders: list[Path]) -> None:
    """Delete files, and what is empty then of the folders and those inside them."""
    for file in files:
        file.unlink(missing_ok=True)
    for folder in folders:
        for inner, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):  # it holds something else
                Path(inner).rmdir()


def _project(path: Path) -> Path:
    """Where tensorboard's files of a run are."""
    with contextlib.suppress(UserError):
        name = read_config(path).get("project", "apo_edu")
        if isinstance(name, str) and Path(name).name == name:
            return path / name
    return path / "apo_edu"


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_empty(folder: Path) -> bool:
    return _is_folder(folder) and not any(folder.iterdir())


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def write_aside(path: Path, text: str) -> None:
    """Write a file such that a kill leaves the old one or the new one, never a part."""
    aside = path.with_name(f"{path.name}.writing")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv),
    }


def in_use(path: Path) -> str:
    """Who works in a folder that is locked, and what can be done."""
    try:
        holder = json.loads((path / HOLDER).read_text(encoding="utf-8"))
        pid, host, since, command = (holder[name] for name in ("pid", "host", "since", "command"))
    except (OSError, ValueError, KeyError, TypeError):  # it has only just locked the folder
        return f"{path} is in use by another process; two would mix their runs. Wait for it, or choose another --name."
    if len(command) > 120:
        command = command[:120] + "..."
    return (
        f"{path} is in use by process {pid} on {host} since {since} ({command}); two would mix their runs. Wait until it "
        f"has ended, stop it (kill {pid}), or choose another --name."
    )
