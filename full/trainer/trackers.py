"""What follows a run from outside: trackers through accelerate, callbacks of the user, and the hub."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub import HfApi

from full.errors import UserError

RECORD = "tracker.json"

Callback = Callable[[Any, Mapping[str, Any]], None]


def start_tracker(
    accelerator: Accelerator, tracker: str, folder: Path, *, project: str, options: Mapping[str, Any], resume: bool
) -> str | None:
    """Start a run's tracker; return the address where it can be seen, None where it has none.

    A resumed run goes on as the same run of the tracker: W&B knows it by an id and trackio by its name, both kept in
    tracker.json beside the metrics. TensorBoard reads all files of the folder as one run.

    Args:
        tracker: "none", "tensorboard", "wandb" or "trackio".
        folder: the run's.
        project: what the tracker files the run under.
        options: of the run, for the tracker's own table.
    """
    if tracker == "none":
        return None
    path = folder / RECORD
    known = json.loads(path.read_text()) if resume and path.exists() else {}
    same = known.get("tracker") == tracker and known.get("project") == project
    named = {"name": folder.resolve().name, "id": uuid.uuid4().hex[:12]}
    record = known if same else {"tracker": tracker, "project": project, **named, "url": None}
    of_tracker = {
        "wandb": {"name": record["name"], "id": record["id"], "resume": "allow"},
        # trackio gives a new run of a known name another one, which is the one to go on with.
        "trackio": {"name": record["name"], "resume": "allow" if same else "never"},
    }
    init = {tracker: of_tracker[tracker]} if tracker in of_tracker else {}
    accelerator.init_trackers(project, {key: str(value) for key, value in options.items()}, init_kwargs=init)
    if accelerator.is_main_process:
        own = accelerator.get_tracker(tracker, unwrap=True)
        record["url"] = getattr(own, "url", None)
        if tracker == "trackio":
            record["name"] = own.name
        path.write_text(json.dumps(record, indent=1) + "\n")
    return record["url"]


def load_callbacks(names: Sequence[str]) -> list[Callback]:
    """The functions that `--callback module:function ...` names.

    Raises:
        UserError: one that cannot be imported or called; says why.
    """
    from apo_edu.records import import_attribute

    found = []
    for name in names:
        if ":" not in name:
            raise UserError(f"callback is {name!r}; expected module:function, e.g. my_code:after_step.")
        try:
            function = import_attribute("callback", name)
        except ValueError as error:
            raise UserError(str(error)) from None
        if not callable(function):
            raise UserError(f"callback {name} is a {type(function).__name__}; expected a function(trainer, metrics).")
        found.append(function)
    return found


def require_hub(repository: str | None) -> None:
    """Raise before the run unless the hub knows who would upload to it at the end."""
    if repository is None:
        return
    if repository.count("/") != 1:
        raise UserError(f"push_to_hub is {repository!r}; expected OWNER/NAME, e.g. me/qwen3-apo.")
    try:
        HfApi().whoami()
    except Exception as error:  # no token, a wrong one, no network: all mean that the upload would fail
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"push_to_hub is {repository!r} but the hub does not know this machine ({reason}). Log in first (hf auth login), "
            "or leave --push_to_hub out; model/ can be uploaded later."
        ) from None


def push(model: Path, repository: str) -> str:
    """Upload a run's model/ and return what to tell of it; a failure loses nothing and is told, not raised."""
    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True, private=True)
        api.upload_folder(repo_id=repository, folder_path=str(model), commit_message="Trained by apo_edu")
    except Exception as error:  # the run is finished and on disk, whatever the network does
        reason = " ".join(str(error).split())[:160]
        return f"warning: {model} was not uploaded ({reason}). Later: hf upload {repository} {model}"
    return f"uploaded {model} to {repository} on the hub, as a private repository"
