"""The batch plan: how a batch of samples is cut into updates, mini-batches, rows, and the parts of the processes."""

from collections.abc import Mapping
from typing import Any


class BatchPlan:
    """All arithmetic of batches, in one place.

    A batch of samples has `prompts` prompts with `group` completions each. It is cut into mini-batches of `mini_batch`
    prompts, one optimiser step each, and used `epochs` times. A process holds an equal part of every mini-batch, one
    mini-batch after the other, and groups stay whole.

    Args:
        config: has prompts_per_batch, mini_batch_prompts, group_size, epochs and steps, as attributes or as keys.
        processes: how many work together, >= 1.
        process: which of them this is; 0 is the first.
    """

    def __init__(self, config: Any, processes: int = 1, process: int = 0) -> None:
        names = ("prompts_per_batch", "mini_batch_prompts", "group_size", "epochs", "steps")
        sizes = [config[name] if isinstance(config, Mapping) else getattr(config, name) for name in names]
        self.prompts, self.mini_batch, self.group, self.epochs, self.steps = sizes
        self.processes, self.process = processes, process

    @property
    def mini_batches(self) -> int:
        """Mini-batches of a batch."""
        return self.prompts // self.mini_batch

    @property
    def updates(self) -> int:
        """Optimiser steps per batch of samples: mini-batches times epochs."""
        return self.mini_batches * self.epochs

    @property
    def batches(self) -> int:
        """Batches of samples in the whole run; the last one may not be used up."""
        return -(-self.steps // self.updates)

    @property
    def unused_updates(self) -> int:
        """Updates that the last batch does not get to."""
        return self.batches * self.updates - self.steps

    @property
    def completions(self) -> int:
        """Completions of a batch, over all processes."""
        return self.prompts * self.group

    @property
    def local_completions(self) -> int:
        """Completions of a batch on one process."""
        return self.completions // self.processes

    @property
    def local_mini_batch(self) -> int:
        """Completions of a mini-batch on one process."""
        return self.mini_batch // self.processes * self.group

    @property
    def splits_evenly(self) -> bool:
        """Whether every process gets whole groups, equally many of every mini-batch."""
        return self.mini_batch % self.processes == 0

    def passes(self, num_problems: int) -> float:
        """How often the run goes through so many problems."""
        return self.batches * self.prompts / num_problems

    def slots(self) -> list[int]:
        """This process's places among the batch's prompts: its part of each mini-batch in turn."""
        share = self.mini_batch // self.processes
        first = self.process * share
        return [start + first + i for start in range(0, self.prompts, self.mini_batch) for i in range(share)]

    def rows(self, update: int) -> slice:
        """The rows of this process's rollout that the batch's update number `update` (from 0) uses."""
        start = update % self.mini_batches * self.local_mini_batch
        return slice(start, start + self.local_mini_batch)
