"""How a rank is asked to stop, and how it makes sure not to outlive its agent."""

import ctypes
import os
import signal
import sys
import types


class StopFlag:
    """Set by SIGTERM or SIGUSR1; the loop looks at it once a step, and all ranks agree."""

    def __init__(self) -> None:
        self._set = False

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def is_set(self) -> bool:
        return self._set

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
        self._set = True


def die_with_parent() -> None:
    """Have the kernel end this process when torchrun's agent ends, however it ends: a rank that
    nobody watches must not go on writing (prctl(2), PR_SET_PDEATHSIG; Linux only)."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the kernel knew
        os._exit(1)
