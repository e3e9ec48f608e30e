"""`python -m preflight.probes.calibrate SECONDS FOLDER [quick]`: this machine's speeds, measured.

Prints JSON objects, a line each: {"doing": …} as it goes on, {"measured": …} at the end. Uses the
GPUs if torch finds any, else the CPU. No size is begun after SECONDS, ranks apart.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from smolplan.lifetime import die_with_parent

MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    """What is measured, the small before the large."""

    squares: tuple[int, ...]
    shaped: tuple[tuple[int, int, int], ...]
    """Tokens, outputs, inputs of a transformer's linear layers."""
    heads: int
    seq_lens: tuple[int, ...]
    stream_bytes: int
    """Of each array that is streamed through."""
    collective_bytes: tuple[int, ...]
    size_s: float
    """Repeats of one size end after so long."""


GPU = Sizes(
    squares=(2048, 4096, 8192, 16384),  # one of 1,024 ends before the next is launched
    shaped=((2048, 6144, 4096), (8192, 6144, 4096), (8192, 28672, 4096), (8192, 4096, 14336)),
    heads=32,
    seq_lens=(1024, 2048, 4096, 8192),
    stream_bytes=1024 * MIB,
    collective_bytes=tuple(2**power for power in range(14, 29, 2)),
    size_s=0.5,
)
CPU = Sizes(
    squares=(256, 512, 1024, 2048, 4096),
    shaped=((512, 768, 2048), (512, 2048, 768), (1024, 4096, 1024)),
    heads=8,
    seq_lens=(256, 512, 1024, 2048),
    stream_bytes=128 * MIB,
    collective_bytes=tuple(2**power for power in range(10, 25, 2)),
    size_s=1.0,
)
QUICK_GPU = Sizes(
    squares=(2048, 4096, 8192),
    shaped=((8192, 6144, 4096),),
    heads=32,
    seq_lens=(2048, 4096),
    stream_bytes=512 * MIB,
    collective_bytes=(2**16, 2**22, 2**27),
    size_s=0.2,
)
QUICK_CPU = Sizes(
    squares=(256, 512, 1024),
    shaped=((512, 768, 2048),),
    heads=4,
    seq_lens=(256, 512),
    stream_bytes=64 * MIB,
    collective_bytes=(2**12, 2**18, 2**23),
    size_s=0.2,
)
HEAD_DIM = 128
WARM_UP_S = 1.0
"""Of products on a GPU before anything is timed: an idle one clocks down. Assumed."""
REPEATS = 9
BATCH_S = 2e-3
"""Calls are timed together for so long, so that launching one is hidden behind another."""


def sizes(kind: str, quick: bool) -> Sizes:
    if kind == "cuda":
        return QUICK_GPU if quick else GPU
    return QUICK_CPU if quick else CPU


def say(**content: Any) -> None:
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")
    sys.stdout.flush()


def median_s(call: Callable[[], Any], kind: str, size_s: float) -> float:
    """Of several batches of calls after a warm-up; at least one, then until `size_s` is over."""

    def batch_s(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            call()
        if kind == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / count

    batch_s(1)
    count = max(1, min(100, int(BATCH_S / batch_s(1))))
    times: list[float] = []
    until = time.perf_counter() + size_s
    while not times or (len(times) < REPEATS and time.perf_counter() < until):
        times.append(batch_s(count))
    return sorted(times)[len(times) // 2]


def warm_up(kind: str) -> None:
    """Have an idle GPU clock up."""
    if kind != "cuda":
        return
    say(doing="warming up")
    a = torch.ones(4096, 4096, device=kind)
    until = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < until:
        torch.mm(a, a)
        torch.cuda.synchronize()


def has_bf16(kind: str) -> bool:
    """Whether bfloat16 is multiplied in hardware: emulated, its times say nothing."""
    return kind != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def matmuls(kind: str, of: Sizes, deadline: float) -> Iterator[dict[str, Any]]:
    """A precision whose last size took longer than `size_s` a product is taken no further."""
    shapes = sorted(
        (*((n, n, n) for n in of.squares), *of.shaped), key=lambda s: s[0] * s[1] * s[2]
    )
    precisions = [("bf16", torch.bfloat16)] if has_bf16(kind) else []
    for precision, dtype in (*precisions, ("fp32", torch.float32)):
        for m, n, k in shapes:
            if time.perf_counter() > deadline:
                return
            say(doing=f"{precision} product of {m} × {k} and {k} × {n}")
            try:
                a = torch.randn(m, k, device=kind, dtype=dtype)
                b = torch.randn(k, n, device=kind, dtype=dtype)
                out = torch.empty(m, n, device=kind, dtype=dtype)
                seconds = median_s(partial(torch.mm, a, b, out=out), kind, of.size_s)
            except torch.OutOfMemoryError:
                if (m, n, k) == shapes[0]:
                    raise
                break  # the sizes before it are enough
            yield {"precision": precision, "m": m, "n": n, "k": k, "seconds": seconds}
            if seconds > of.size_s:
                break


def attentions(kind: str, of: Sizes, deadline: float) -> Iterator[dict[str, Any]]:
    attend = torch.nn.functional.scaled_dot_product_attention
    if not has_bf16(kind):
        return
    for seq_len in of.seq_lens:
        if time.perf_counter() > deadline:
            return
        say(doing=f"causal attention over {seq_len} tokens")
        batch = max(of.seq_lens) // seq_len
        shape = (batch, of.heads, seq_len, HEAD_DIM)
        q, k, v = (torch.randn(shape, device=kind, dtype=torch.bfloat16) for _ in range(3))
        seconds = median_s(partial(attend, q, k, v, is_causal=True), kind, of.size_s)
        yield {
            "batch": batch,
            "heads": of.heads,
            "head_dim": HEAD_DIM,
            "seq_len": seq_len,
            "seconds": seconds,
        }


def streams(kind: str, of: Sizes, deadline: float) -> Iterator[dict[str, Any]]:
    """STREAM's copy and triad, counting what the program reads and writes."""
    if time.perf_counter() > deadline:
        return
    say(doing="memory bandwidth")
    a, b, c = (torch.ones(of.stream_bytes // 4, device=kind) for _ in range(3))
    calls: tuple[tuple[str, int, Callable[[], Any]], ...] = (
        ("copy", 2, lambda: a.copy_(b)),
        ("triad", 3, lambda: torch.add(b, c, alpha=3.0, out=a)),
    )
    for name, passes, call in calls:
        seconds = median_s(call, kind, of.size_s)
        yield {"kind": name, "bytes": passes * of.stream_bytes, "seconds": seconds}


def collectives(kind: str, of: Sizes) -> Iterator[dict[str, Any]]:
    """On every rank; a rank's buffer holds the whole of what is reduced or gathered."""
    ranks = dist.get_world_size()
    for size in of.collective_bytes:
        whole = torch.ones(size // 4 // ranks * ranks, device=kind)
        part = torch.ones(whole.numel() // ranks, device=kind)
        calls: tuple[tuple[str, Callable[[], Any]], ...] = (
            ("all_reduce", partial(dist.all_reduce, whole)),
            (
                "all_gather",
                partial(dist.all_gather_into_tensor, whole, part),
            ),
            (
                "reduce_scatter",
                partial(dist.reduce_scatter_tensor, part, whole),
            ),
        )
        for name, call in calls:
            times = []
            for _ in range(REPEATS):
                dist.barrier()
                began = time.perf_counter()
                call()
                if kind == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
            yield {
                "kind": name,
                "bytes": whole.numel() * 4,
                "ranks": ranks,
                # The first sets the connections up.
                "seconds": sorted(times[1:])[len(times) // 2],
            }


def rank(out: Path, kind: str, quick: bool) -> None:
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(1)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    rows = list(collectives(kind, sizes(kind, quick)))
    if dist.get_rank() == 0:
        out.write_text(json.dumps(rows), "utf-8")
    dist.barrier()
    dist.destroy_process_group()


def measured_collectives(ranks: int, kind: str, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Over ranks of this machine; none from one rank. Raises SystemExit if a rank fails."""
    if ranks < 2:
        return []
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs

    from launcher.agent import Node, run_ranks

    say(doing=f"collectives among {ranks} ranks")
    out = folder / "collectives.json"
    program = ["-P", "-m", "preflight.probes.calibrate", "rank", str(out), kind]
    failures = run_ranks(
        [*program, *(["quick"] if quick else [])],
        ranks=ranks,
        name=f"calibrate-{os.getpid()}",
        logs=DefaultLogsSpecs(os.devnull),
        node=Node(),
    )
    if failures:
        sys.exit(f"a rank that measured collectives failed: {failures}")
    rows: list[dict[str, Any]] = json.loads(out.read_text("utf-8"))
    return rows


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def main() -> None:
    die_with_parent()
    if sys.argv[1] == "rank":
        rank(Path(sys.argv[2]), sys.argv[3], "quick" in sys.argv[4:])
        return
    seconds, folder, quick = float(sys.argv[1]), Path(sys.argv[2]), "quick" in sys.argv[3:]
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    of, deadline = sizes(kind, quick), time.perf_counter() + seconds
    warm_up(kind)
    memory = list(streams(kind, of, deadline))
    # Attention before products: those take what is left.
    attention = list(attentions(kind, of, deadline))
    matmul = list(matmuls(kind, of, deadline))
    ranks = 2
    if kind == "cuda":
        torch.cuda.empty_cache()  # the ranks need the memory
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        # Links between GPUs of several kinds are those of none.
        ranks = len(names) if len(set(names)) == 1 else 1
    say(
        measured={
            "device": kind,
            "machine": torch.cuda.get_device_name(0) if kind == "cuda" else cpu_model(),
            "torch": torch.__version__,
            "matmul": matmul,
            "attention": attention,
            "memory": memory,
            "collective": measured_collectives(ranks, kind, folder, quick),
        }
    )


if __name__ == "__main__":
    main()
