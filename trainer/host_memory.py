"""Memory of the host, where it is the device that computes."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed() -> None:
    """Have glibc keep what is freed for what is asked for next, as torch's own allocator does on a
    GPU. By itself it hands large blocks back to the kernel, which clears every page of them anew:
    some 6 % of a step's time at 20M parameters. Where there is no glibc, nothing changes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
