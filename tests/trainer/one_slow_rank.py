"""`python -m trainer`, but that rank 1 reads slowly and tells of much memory."""

import os
import time

from trainer.__main__ import main
from trainer.data.loader import Loader
from trainer.parallel import World

WAIT_S, MEMORY_BYTES = 0.3, 7 * 10**15


def slow_down() -> None:
    batch = Loader.batch

    def slow_batch(self: Loader, positions: object) -> object:
        time.sleep(WAIT_S)
        return batch(self, positions)  # type: ignore[arg-type]

    Loader.batch = slow_batch  # type: ignore[method-assign, assignment]
    World.peak_memory_bytes = lambda self: MEMORY_BYTES  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        slow_down()
    main()
