"""The new lines of a file that grows, by byte offset: what was read is not read again."""

from pathlib import Path
from typing import Any

from smolplan.json_records import json_object

LOOK_BYTES = 4_000_000
"""Of a file in one look, about 10,000 steps: a monitor that starts beside a run of weeks catches up
over several looks, and its other runs are not kept waiting."""


class Tail:
    """The JSON lines of one file, in order, each once. Torn lines are left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0
        """As far as it has been read, in bytes."""
        self.behind = True
        """Whether there is more than the last look has read."""

    def read(self) -> list[dict[str, Any]]:
        """Those of the next LOOK_BYTES; none where the file cannot be read. One that has become
        shorter was replaced, and is read from its start."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                self.offset = 0 if size < self.offset else self.offset
                file.seek(self.offset)
                # No more than is there: for a read of N bytes Python sets N aside beforehand, and
                # 4 MB at each look, cut down at once, leave holes that the heap grows around.
                block = file.read(min(LOOK_BYTES, size - self.offset))
        except FileNotFoundError:
            self.behind = False
            return []
        except OSError:
            self.behind = True
            return []
        # The last line may be half written; one longer than a whole block is nobody's.
        end = block.rfind(b"\n") + 1 or (len(block) if len(block) == LOOK_BYTES else 0)
        self.offset += end
        self.behind = self.offset + len(block) - end < size
        return [line for raw in block[:end].splitlines() if (line := json_object(raw)) is not None]
