"""What goes wrong and is told in one line, without a traceback."""

from pathlib import Path


class UserError(Exception):
    """Something that the user can mend: printed as one line, without a traceback."""


class RewardError(RuntimeError):
    """A reward function broke its promise; names the function, the index and the value."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the run can be resumed from the one before."""


class NotFiniteError(RuntimeError):
    """A log-probability, coefficient or gradient is NaN or infinite; no update was made."""


class Stopped(Exception):
    """The run was asked to stop and left a checkpoint."""

    def __init__(self, run: Path, step: int, number: int) -> None:
        super().__init__(f"stopped after step {step}; go on with --resume {run}")
        self.code = 128 + number
