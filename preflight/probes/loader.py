"""`python -m preflight.probes.loader measure RUN SECONDS`: how fast a rank's batches are drawn, and
what memory that takes, at the beginning, in the middle and at the end of the real run.

A loader may be quick in a short test and slow in a long run, for its index grows with the steps.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from numpy.typing import NDArray

from smolplan.rundir import RunDir, read_json
from smolplan.spec import RunSpec, load_spec
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader

PARTS = 3
MOST_BATCHES = 1000

Batch = Callable[[range], NDArray[Any]]


def own_memory_bytes() -> int:
    """What the process has for itself; pages of mapped files are not in it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(open_loader: Callable[[], Batch], spec: RunSpec, seconds: float) -> dict[str, Any]:
    """Opens the loader and draws micro-batches of a rank for `seconds`, in turn at the first, the
    middle and the last step."""
    before = own_memory_bytes() if sys.platform == "linux" else 0
    began = time.perf_counter()
    batch = open_loader()
    open_s = time.perf_counter() - began
    size = spec.parallel.micro_batch_size
    steps = [part * (spec.steps - 1) // (PARTS - 1) for part in range(PARTS)]
    spent_s: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds
    # In turn, a batch each: a machine that is slow for a while is so for all of them.
    while not spent_s[-1] or (time.perf_counter() < end and len(spent_s[-1]) < MOST_BATCHES):
        for step, spent in zip(steps, spent_s, strict=True):
            first, per_step = spec.batches.sequences(step), spec.batches.of_step(step + 1)
            start = first + len(spent) * size % max(size, per_step - per_step % size)
            began = time.perf_counter()
            batch(range(start, start + size))
            spent.append(time.perf_counter() - began)
    # The median: one batch that waited for somebody else's work says nothing of the loader.
    rates = [size / median(spent) for spent in spent_s]
    after = own_memory_bytes() if sys.platform == "linux" else 0
    return {"open_s": open_s, "sequences_per_s": rates, "memory_bytes": max(0, after - before)}


def main() -> None:
    _, folder, seconds = sys.argv[1:]
    run = RunDir(folder)
    spec, dataset = load_spec(run.spec), Dataset.from_json(read_json(run.dataset) or {})
    answer = measure(lambda: Loader.of(spec, dataset).batch, spec, float(seconds))
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
