"""glibc's heap, set so that a tensor fits the hole that one of its size has left; before anything slow is loaded."""

import os
import platform
import sys
from pathlib import Path

# torch aligns tensors to 64 bytes, for which glibc asks 96 more and gives back what is left over at both ends. Those ends
# wait in a cache of small blocks, apart from their neighbours, and the hole of a freed tensor is 96 bytes too small for the
# next one of its size: two updates of a 24 M model grew the process by 1,684 and 1,617 MB with adapters (all weights 1,500 and
# 1,469, gradient checkpointing 936 and 940). Without the cache most ends join their holes again: 999 (1,321, 647), in the same
# seconds; the embedded model's 12 steps took 13.2 CPU seconds without it and 13.3 with it.
SETTINGS = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
VARIABLE = "GLIBC_TUNABLES"

# A GPU's memory is not glibc's, and each of its kernels is started through many small blocks.
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def begin_with_whole_holes() -> None:
    """Start this program anew, as the same process, with the heap's settings, which glibc reads when a program starts.

    Not where they are set already, the user's own included, on a machine with a GPU, with another C library, or where something
    else runs this file (a notebook's %run, a test).
    """
    if may_begin_again():
        os.environ[VARIABLE] = SETTINGS
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def may_begin_again() -> bool:
    """Whether the program can be started anew with the heap's settings, and they would help."""
    ours = sys.orig_argv[-len(sys.argv) :] == sys.argv  # `python [options] full/train.py ...` and nothing else
    glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    return ours and glibc and VARIABLE not in os.environ and not any(Path(device).exists() for device in GPUS)
