"""A process that must not outlive whoever started it."""

import ctypes
import os
import signal
import sys
import threading

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


ATTENDED = b"attended\n"
"""The first line of standard input where its end is that of whoever writes it."""


def end_with_input() -> None:
    """Have this process end when whoever started it does, be that on another machine: its standard
    input is over then, which srun and ssh pass on. Where ATTENDED does not come through, as by
    `kubectl exec` without --stdin, nothing is known of them, and it goes on."""

    def watch() -> None:
        said = b""
        while len(said) < len(ATTENDED):
            if not (block := os.read(0, len(ATTENDED) - len(said))):
                return
            said += block
        while said == ATTENDED and os.read(0, 1024):
            pass
        if said == ATTENDED:
            os._exit(1)

    threading.Thread(target=watch, name="whether attended", daemon=True).start()
