"""The new lines of a file that grows, by byte offset: what was read is not read again."""

import json
from pathlib import Path
from typing import Any

LOOK_BYTES = 4_000_000
"""Of a file in one look, about 10,000 steps: a monitor that starts beside a run of weeks catches up
over several looks, and its other runs are not kept waiting."""


class Tail:
    """The JSON lines of one file, in order, each once. Torn lines are left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.behind = True
        """Whether there is more than the last look has read."""

    def read(self) -> list[dict[str, Any]]:
        """Those of the next LOOK_BYTES; none where the file cannot be read. One that has become
        shorter was replaced, and is read from its start."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                self._offset = 0 if size < self._offset else self._offset
                file.seek(self._offset)
                block = file.read(LOOK_BYTES)
        except FileNotFoundError:
            self.behind = False
            return []
        except OSError:
            self.behind = True
            return []
        # The last line may be half written; one longer than a whole block is nobody's.
        end = block.rfind(b"\n") + 1 or (len(block) if len(block) == LOOK_BYTES else 0)
        self._offset += end
        self.behind = self._offset + len(block) - end < size
        return [line for raw in block[:end].splitlines() if (line := _parsed(raw)) is not None]


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(raw)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
