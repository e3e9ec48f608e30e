"""Under torchrun, on every rank: all-reduce by size, timed, its sums checked; rank 0 writes JSON.

`python -m preflight.probes.all_reduce OUT cpu|cuda`
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from smolplan.lifetime import die_with_parent

SIZES_BYTES = {"gloo": (8, 2**16, 2**24), "nccl": (8, 2**20, 2**30)}
REPEATS = 5


def measure(size: int, device: torch.device) -> dict[str, Any]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    times, correct = [], True
    for repeat in range(REPEATS + 1):
        # Another sum each time: a stale buffer would be seen.
        tensor = torch.full((size // 4,), float(rank + repeat), device=device)
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        correct &= bool((tensor == ranks * (ranks - 1) / 2 + ranks * repeat).all())
    seconds = sorted(times[1:])[REPEATS // 2]  # the first sets the connections up
    return {
        "bytes": size,
        "seconds": seconds,
        # nccl-tests, doc/PERFORMANCE.md: bus bandwidth = S/t · 2(n−1)/n
        "busbw_bytes_per_s": size / seconds * 2 * (ranks - 1) / ranks,
        "correct": correct,
    }


def main() -> None:
    die_with_parent()
    out, kind = Path(sys.argv[1]), sys.argv[2]
    device = torch.device(kind)
    if kind == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend)
    rows = [measure(size, device) for size in SIZES_BYTES[backend]]
    correct = torch.tensor([float(all(row["correct"] for row in rows))], device=device)
    dist.all_reduce(correct, op=dist.ReduceOp.MIN)  # wrong on one rank is wrong
    if dist.get_rank() == 0:
        answer = {
            "backend": backend,
            "ranks": dist.get_world_size(),
            "correct": bool(correct.item()),
            "rows": rows,
        }
        out.write_text(json.dumps(answer), "utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
