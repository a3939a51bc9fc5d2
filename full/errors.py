"""What goes wrong and is told in one line, without a traceback."""


class UserError(Exception):
    """Something that the user can mend: printed as one line, without a traceback."""


class RewardError(RuntimeError):
    """A reward function broke its promise; names the function, the index and the value."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the run can be resumed from the one before."""


class NoRoomError(RuntimeError):
    """Memory ran out where nothing could be halved; says what to try."""


class NotFiniteError(RuntimeError):
    """A log-probability, coefficient or gradient is NaN or infinite; no update was made."""


class Stopped(Exception):
    """The run was asked to stop, and has; says where it stands, and how to go on.

    Args:
        outcome: for the user.
        number: of the signal that asked.
    """

    def __init__(self, outcome: str, number: int) -> None:
        super().__init__(outcome)
        self.code = 128 + number


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of bearable length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


# What a terminal would obey, or a reader cannot see, and what stands for it. Tab and newline stay.
_UNSEEN = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_UNSEEN |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], 0xFFFD)


def printable(text: str) -> str:
    """The text with control characters as their pictures, and halves of characters as the replacement character.

    Prompts, completions and labels are other people's text: their terminal escapes are shown, not obeyed.
    """
    return text.translate(_UNSEEN)
