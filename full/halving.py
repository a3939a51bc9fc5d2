"""When memory runs out: what is computed at once is halved, and the run goes on to the same numbers.

Rows that are sampled together and tokens of a micro-batch decide memory and speed; the result depends on neither but for
rounding. So a failed attempt is made again in halves, with the same random numbers and from the same gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from tqdm import tqdm

from full.config import TrainConfig
from full.errors import NoRoomError

Value = TypeVar("Value")


class NothingToHalveError(torch.OutOfMemoryError):
    """Memory ran out where half as much cannot be tried; its message says why."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, Exception) and should_reduce_batch_size(error)
    )


class Halving:
    """How much is computed at once; halved for good when it does not fit.

    option: the option that sets it.
    size: what is computed at once from now on.
    count: how often it was halved.
    """

    def __init__(self, option: str, size: int) -> None:
        self.option, self.size, self.count = option, size, 0

    def attempt(self, action: Callable[[], Value]) -> tuple[Value | None, str]:
        """(what the action returns, ""), or (None, why) where memory ran out; what it held is free again then."""
        try:
            return action(), ""
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            why = first_sentence(error)
        # Only here, where the error and with it the frames that hold its tensors are gone.
        clear_device_cache(garbage_collection=True)
        return None, why

    def halve(self, why: str, *, tried: int, whole: bool) -> None:
        """Compute half of what was tried from now on, and say so.

        Args:
            why: from `attempt`.
            tried: how much did not fit.
            whole: whether that cannot be cut further.

        Raises:
            NothingToHalveError: it cannot.
        """
        if whole:
            raise NothingToHalveError(f"{why}; {self.option} cannot be smaller: this was one completion alone")
        self.size, self.count = max(1, min(self.size, tried) // 2), self.count + 1
        with suppress(OSError):  # nobody may be reading any more
            tqdm.write(
                f"warning: memory ran out ({why}); {self.option} is {self.size} from here on, which changes no result but by "
                f"rounding. Start the next run with --{self.option} {self.size}."
            )


def first_sentence(error: BaseException) -> str:
    """What was asked for when memory ran out; torch's message goes on about its allocator."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:160] or type(error).__name__


class Advice:
    """What to say when a run's memory is out for good.

    finding: of the run's memory plan; None before there is one.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.finding: Callable[[], str] | None = None

    def __str__(self) -> str:
        if self.finding is not None:
            return self.finding()
        return f"Try {', or '.join(remedies(self.config))}; --doctor says what each needs."


@contextmanager
def room_or_advice(config: TrainConfig) -> Iterator[Advice]:
    """Within it running out of memory is one error that says what to try; give it the memory plan's finding when there is one.

    Raises:
        NoRoomError: memory ran out where nothing could be halved.
    """
    advice = Advice(config)
    try:
        yield advice
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        why = str(error) if isinstance(error, NothingToHalveError) else first_sentence(error)
        raise NoRoomError(f"memory ran out: {why}. {advice}") from None


def remedies(config: TrainConfig) -> list[str]:
    """What takes less memory, the cheapest first, before anything is known of the model."""
    found = []
    if not config.gradient_checkpointing:
        found.append("--gradient_checkpointing true")
    if not config.lora_rank:
        found.append("--lora_rank 16, which needs neither gradients nor moments of the weights")
    return [
        *found,
        "a smaller --max_completion_tokens",
        "several GPUs that share the weights (FSDP)",
        "a smaller model",
    ]
