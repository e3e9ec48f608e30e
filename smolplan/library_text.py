"""Python's own standard library as text that is on every machine."""

import os
import sysconfig
from pathlib import Path

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


def library_files() -> list[Path]:
    """Its .py files, sorted, without its tests and what is installed beside it. Those folders may
    hold many times as many files, and are not entered."""
    found: list[Path] = []
    for folder, folders, names in os.walk(sysconfig.get_path("stdlib")):
        folders[:] = [name for name in folders if name not in _NOT_LIBRARY]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)
