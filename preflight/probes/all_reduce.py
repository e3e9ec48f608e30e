"""Under torchrun: time all-reduce by size and check its sums; rank 0 writes them as JSON."""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist


def main() -> None:
    out, gpu = Path(sys.argv[1]), sys.argv[2]
    cuda = torch.cuda.is_available() and gpu != "cpu"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend)
    rank, size = dist.get_rank(), dist.get_world_size()
    rows = []
    for count in (2, 2**14, 2**22):
        times, correct = [], True
        for _ in range(5):
            tensor = torch.full((count,), float(rank + 1), device=device)
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            if cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
            correct &= bool((tensor == size * (size + 1) / 2).all())
        seconds = sorted(times)[len(times) // 2]
        rows.append(
            {
                "backend": backend,
                "bytes": 4 * count,
                "seconds": seconds,
                # nccl-tests, PERFORMANCE.md: busbw = S/t · 2(n−1)/n
                "busbw_bytes_per_s": 4 * count / seconds * 2 * (size - 1) / size,
                "correct": correct,
            }
        )
    if rank == 0:
        out.write_text(json.dumps(rows))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
