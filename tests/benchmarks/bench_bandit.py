"""1,000 seeds x 300 steps x 16 arms through the whole APO loop; the goal is under 10 s on 2 cores.

python tests/benchmarks/bench_bandit.py
"""

import time

import torch

from apo_edu import GuardedAlpha
from toys.bandits import Loop, equal_arms, run

if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: a second thread costs more in waiting than it computes
    for dtype in (torch.float64, torch.float32):
        start = time.perf_counter()
        run(equal_arms(noise=0.1), Loop(schedule=GuardedAlpha, dtype=dtype), seeds=1000)
        seconds = time.perf_counter() - start
        print(f"{dtype}: {seconds:.1f} s for 1,000 seeds x 300 steps x 16 arms on {torch.get_num_threads()} threads")
