"""The new lines of a log that grows, read by byte offset: a log of weeks is never read again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolplan.json_records import json_object


def lines_after(path: Path, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(where the line ends, its content) of each whole JSON line after `offset`; what is no JSON
    object is left out, and a line that has not ended yet is for the next time. Nothing if the file
    is missing. Raises OSError for other trouble."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            if (content := json_object(line)) is not None:
                yield offset, content
