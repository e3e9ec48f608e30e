"""A forked process that looks, to the outside, as one that was started: ps and /proc/PID/environ
show what the kernel was given at the start, and an attempt's processes are found by what they
show there."""

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path


def put_on(words: Sequence[str], environment: dict[str, str]) -> None:
    """Show these as arguments and environment, as far as there is room. os.environ must have been
    set anew before: what it was is written over. Linux only."""
    if sys.platform != "linux":
        return
    # proc(5): arg_start, arg_end, env_start and env_end are fields 48 to 51.
    fields = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()
    arg_start, arg_end, env_start, env_end = map(int, fields[45:49])
    shown = b"".join(word.encode() + b"\0" for word in words)
    ctypes.memmove(arg_start, *_fitted(shown, arg_end - arg_start))
    shown = b"".join(f"{name}={value}".encode() + b"\0" for name, value in environment.items())
    ctypes.memmove(env_start, *_fitted(shown, env_end - env_start))


def _fitted(shown: bytes, room: int) -> tuple[bytes, int]:
    return (shown + b"\0" * room)[: room - 1] + b"\0", room
