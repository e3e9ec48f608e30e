"""On every rank, in torchrun's environment: collectives by size, timed, what they give checked;
rank 0 writes JSON.

`python -m preflight.probes.collectives_rank OUT cpu|cuda KIND,… [BYTES,…]`
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from smolplan.lifetime import die_with_parent

SIZES_BYTES = {"gloo": (8, 2**16, 2**22), "nccl": (8, 2**20, 2**26, 2**30)}
REPEATS = 5

Prepared = tuple[Callable[[], None], Callable[[], bool]]
"""The collective, and whether what it gave is right."""


def all_reduce(count: int, repeat: int, device: torch.device) -> Prepared:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    tensor = torch.full((count,), float(rank + repeat), device=device)
    expected = ranks * (ranks - 1) / 2 + ranks * repeat
    return lambda: dist.all_reduce(tensor), lambda: bool((tensor == expected).all())


def all_gather(count: int, repeat: int, device: torch.device) -> Prepared:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    mine = torch.full((count // ranks,), float(rank + repeat), device=device)
    whole = torch.empty(count, device=device)
    expected = torch.arange(ranks, device=device).float() + repeat
    return (
        lambda: dist.all_gather_into_tensor(whole, mine),
        lambda: bool((whole.view(ranks, -1) == expected[:, None]).all()),
    )


def reduce_scatter(count: int, repeat: int, device: torch.device) -> Prepared:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    whole = torch.full((count,), float(rank + repeat), device=device)
    mine = torch.empty(count // ranks, device=device)
    expected = ranks * (ranks - 1) / 2 + ranks * repeat
    return (
        lambda: dist.reduce_scatter_tensor(mine, whole),
        lambda: bool((mine == expected).all()),
    )


def all_to_all(count: int, repeat: int, device: torch.device) -> Prepared:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    others = torch.arange(ranks, device=device).float()
    # For each other rank a number of who sends and who receives.
    outgoing = (rank * ranks + others + repeat).repeat_interleave(count // ranks)
    incoming = torch.empty(count, device=device)
    expected = others * ranks + rank + repeat
    return (
        lambda: dist.all_to_all_single(incoming, outgoing),
        lambda: bool((incoming.view(ranks, -1) == expected[:, None]).all()),
    )


KINDS = {
    "all_reduce": all_reduce,
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
}


def bus_share(kind: str, ranks: int) -> float:
    """Bus bandwidth over bytes per second, of the whole that each rank has before or after:
    2(n−1)/n of an all-reduce, (n−1)/n of the others (NVIDIA/nccl-tests, doc/PERFORMANCE.md)."""
    return (2.0 if kind == "all_reduce" else 1.0) * (ranks - 1) / ranks


def measure(kind: str, size: int, device: torch.device) -> dict[str, Any]:
    """The median of several, slowest rank each; the first one sets the connections up."""
    ranks = dist.get_world_size()
    count = max(size // 4 // ranks, 1) * ranks
    if kind == "all_reduce":
        count = max(size // 4, 1)
    times, correct = [], True
    for repeat in range(REPEATS + 1):
        # Other numbers each time: a stale buffer would be seen.
        run, is_right = KINDS[kind](count, repeat, device)
        dist.barrier()
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        correct &= is_right()
    seconds = sorted(times[1:])[REPEATS // 2]
    told = torch.tensor([seconds, float(not correct)], dtype=torch.float64, device=device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    seconds = float(told[0])
    return {
        "kind": kind,
        "bytes": 4 * count,
        "seconds": seconds,
        "busbw_bytes_per_s": 4 * count / seconds * bus_share(kind, ranks),
        "correct": not told[1],
    }


def main() -> None:
    die_with_parent()
    # The names that torch 2.11 knows; newer ones say that they will go.
    warnings.filterwarnings("ignore", category=FutureWarning)
    out, device_kind, kinds = Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")
    backend = "nccl" if device_kind == "cuda" else "gloo"
    sizes = [int(size) for size in sys.argv[4].split(",")] if sys.argv[4:] else SIZES_BYTES[backend]
    device = torch.device(device_kind)
    if device_kind == "cuda":
        if not torch.cuda.is_available():
            sys.exit("torch finds no GPU here")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=90))
    rows = [
        measure(kind, size, device)
        for kind in kinds
        # Of a size so small only the latency counts, and that of one kind is enough.
        for size in (sizes if kind == kinds[0] else sizes[1:] or sizes)
    ]
    if dist.get_rank() == 0:
        answer = {
            "backend": backend,
            "ranks": dist.get_world_size(),
            "correct": all(row["correct"] for row in rows),
            "rows": rows,
        }
        out.write_text(json.dumps(answer), "utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
