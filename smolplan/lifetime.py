"""A process that must not outlive whoever started it."""

import ctypes
import os
import signal
import sys


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that ends: a rank that nobody
    watches must not go on writing (prctl(2), PR_SET_PDEATHSIG; Linux only)."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the kernel knew
        os._exit(1)
