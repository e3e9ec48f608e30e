"""What a disk may do to a file of a checkpoint."""

import os
from pathlib import Path

WAYS = ["cut", "flip", "remove"]


def damage(file: Path, how: str) -> None:
    """Cut it to its half, flip a bit in its middle, or remove it. Raises OSError."""
    if how == "remove":
        file.unlink()
    elif how == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
