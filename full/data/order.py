"""The order of the problems: a pure function of (seed, batch), so that a run can be resumed anywhere."""

import random
from functools import lru_cache


class ProblemOrder:
    """Which problems the b-th batch holds: a pure function of (seed, b), so that a run can be resumed anywhere.

    Every pass over the data is a fresh permutation; a batch may straddle two passes.
    """

    def __init__(self, num_problems: int, prompts_per_batch: int, seed: int) -> None:
        self.num_problems, self.prompts_per_batch, self.seed = num_problems, prompts_per_batch, seed

    def batch(self, index: int) -> list[int]:
        """Positions of the problems of batch `index`, prompts_per_batch of them."""
        places = range(index * self.prompts_per_batch, (index + 1) * self.prompts_per_batch)
        passes = {n: permutation(self.num_problems, self.seed, n) for n in {k // self.num_problems for k in places}}
        return [passes[k // self.num_problems][k % self.num_problems] for k in places]


@lru_cache(maxsize=2)  # a batch may need two
def permutation(num_problems: int, seed: int, number: int) -> list[int]:
    """The order of the problems in one pass over the data."""
    order = list(range(num_problems))
    random.Random(f"{seed}/{number}").shuffle(order)
    return order
