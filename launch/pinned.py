"""Become another program, on some cores only, that does not outlive its parent.

python -m launch.pinned PARENT CORES WORD... where PARENT is a process id and CORES are numbers between commas, or
empty for all of them. Done between fork and exec, it would not be safe beside the threads of the parent.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Of <linux/prctl.h>: the signal that comes when the parent ends; exec keeps it."""
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    parent, cores, *words = sys.argv[1:]
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})  # XLA sizes its pool by this
    if cores:
        os.environ |= dict.fromkeys(POOLS, str(cores.count(",") + 1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before it could be watched
            sys.exit(f"process {parent} has ended")
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
