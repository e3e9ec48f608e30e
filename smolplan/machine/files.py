"""Files of the running system: /proc, /sys, /dev. Under another root if SMOLPLAN_SYSTEM_ROOT names
one, so that a machine's files can be looked at elsewhere, and faults be planted."""

import os
from pathlib import Path

ROOT_VARIABLE = "SMOLPLAN_SYSTEM_ROOT"


def is_real() -> bool:
    """Whether it is this machine that is looked at, so that its programs may be asked as well."""
    return not os.environ.get(ROOT_VARIABLE)


def system_path(path: str) -> Path:
    """Where the absolute path is to be read."""
    return Path(os.environ.get(ROOT_VARIABLE) or "/") / path.lstrip("/")


def read_text(path: str) -> str | None:
    """The text without blanks around it; None if there is no such file or it cannot be read."""
    try:
        return system_path(path).read_text("utf-8", errors="replace").strip()
    except OSError:
        return None


def read_bytes(path: str) -> bytes:
    """What is in it; nothing if there is no such file or it cannot be read."""
    try:
        return system_path(path).read_bytes()
    except OSError:
        return b""


def read_int(path: str) -> int | None:
    """The number; None if there is none."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def names_in(folder: str) -> list[str]:
    """What is in the folder, sorted; nothing if it is not there."""
    try:
        return sorted(entry.name for entry in system_path(folder).iterdir())
    except OSError:
        return []
