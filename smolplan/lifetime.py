"""A process that must not outlive whoever started it."""

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "SMOLPLAN_PARENT"
"""Where whoever starts a process says which one it is: a parent may be gone before its child has
come far enough to ask, and then the child would take its heir for it."""


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that ends: a rank that nobody
    watches must not go on writing (prctl(2), PR_SET_PDEATHSIG; Linux only)."""
    told = os.environ.pop(PARENT_VARIABLE, "")  # for this process, and not for what it starts
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    parent = int(told) if told.isdecimal() else os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the kernel knew
        os._exit(1)
