"""`python -m preflight.probes.gpu_work UUID DTYPE SECONDS SHARE`: work for one GPU, timed and
checked. UUID is empty for a CPU.

It prints {"ready": …}, waits for a line on stdin, so that all GPUs of a host begin at once, and
prints what it measured. Each part ends by the clock, so that all GPUs are at the same part.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from smolplan.lifetime import die_with_parent

T = TypeVar("T")

MIB = 2**20
SEED = 20_231
COMPARE_EVERY = 16
"""Products between two looks at whether the result is still the first one, bit for bit: reading it
costs a twentieth of a product."""
BUSY_S = 0.2
"""Work that is given to a GPU ahead, so that it is looked at while it works."""
PATTERNS = (0x0, -0x1, 0x5555555555555555, -0x5555555555555556)
"""All bits clear, all set, and every other one each way."""


@dataclass(frozen=True)
class Sizes:
    square: int
    """Side of the matrices."""
    stream_bytes: int
    copy_bytes: int
    block_bytes: int
    """Of memory that is filled and read back at a time."""


GPU = Sizes(square=8192, stream_bytes=2048 * MIB, copy_bytes=256 * MIB, block_bytes=256 * MIB)
CPU = Sizes(square=64, stream_bytes=MIB, copy_bytes=MIB, block_bytes=MIB)
"""For tests: a CPU has no driver to blame."""


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    call: Callable[[], object], device: torch.device, seconds: float, *, batch: int
) -> list[float]:
    """Seconds of one call, averaged over batches of them, for as long as told."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(batch):
            call()
        synchronize(device)
        times.append((time.perf_counter() - began) / batch)
    return times


def while_busy(
    call: Callable[[], object], device: torch.device, call_s: float, look: Callable[[], T]
) -> T:
    """What a look finds while the device works. Calls only queue their work up there."""
    # CUDA takes some 1,000 launches before it makes the caller wait (from memory).
    for _ in range(min(512, 1 + int(BUSY_S / call_s))):
        call()
    seen = look()
    synchronize(device)
    return seen


def checksum(tensor: torch.Tensor) -> str:
    """Of the bits: equal on all GPUs of one make and one set of libraries."""
    bits = tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)
    # Weighted by place, so that two elements that change places are seen.
    places = torch.arange(bits.shape[0], device=bits.device).unsqueeze(1) % 8191 + 1
    return f"{int((bits.to(torch.int64) * places).sum()) & (2**64 - 1):016x}"


def products(
    device: torch.device,
    dtype: torch.dtype,
    side: int,
    seconds: float,
    look: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """A square matrix product again and again: FLOP/s, whether its result ever changes, and what
    `look` finds at the end. The first half warms up; what counts is what the second sustains."""
    generator = torch.Generator(device).manual_seed(SEED)
    a, b = (
        torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2)
    )
    first, out = torch.mm(a, b), torch.empty(side, side, device=device, dtype=dtype)
    # Counted on the device: asking it after each product would make it wait.
    changed = torch.zeros((), device=device, dtype=torch.int64)

    def multiply() -> None:
        torch.mm(a, b, out=out)

    def compare() -> None:
        changed.add_((out != first).any())

    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < until:
        times += timed(multiply, device, 0.0, batch=COMPARE_EVERY)
        compare()
    kept = times[len(times) // 2 :]
    return {
        "flops_per_s": 2 * side**3 * len(kept) / sum(kept),
        "products": len(times) * COMPARE_EVERY,
        "changed_products": int(changed),
        "checksum": checksum(first),
        # As hot and as slow as work makes it.
        "reading": while_busy(multiply, device, kept[-1], look),
    }


def stream(device: torch.device, size: int, seconds: float) -> float:
    """Bytes per second of a copy within the memory, read and written ones counted."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    times = timed(lambda: target.copy_(source), device, seconds, batch=10)
    return 2 * size / sorted(times)[len(times) // 2]


def copies(
    device: torch.device,
    size: int,
    seconds: float,
    look: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Bytes per second from and to the host's pinned memory, one way after the other, and what
    `look` finds of the link while it works."""
    pinned = torch.ones(size // 4, pin_memory=device.type == "cuda")
    there = torch.empty(size // 4, device=device)

    def fill() -> None:
        there.copy_(pinned, non_blocking=True)

    to_device = timed(fill, device, seconds / 2, batch=4)
    link = while_busy(fill, device, to_device[-1], look)
    from_device = timed(lambda: pinned.copy_(there, True), device, seconds / 2, batch=4)
    return {
        "to_device_bytes_per_s": size / sorted(to_device)[len(to_device) // 2],
        "from_device_bytes_per_s": size / sorted(from_device)[len(from_device) // 2],
        "link": link,
    }


def memory_pattern(device: torch.device, want_bytes: int, block_bytes: int) -> dict[str, Any]:
    """Fill memory with a pattern mixed with each word's own place, all of it before any is read
    back: a stuck bit and a wrong address are both seen."""
    words = block_bytes // 8
    blocks: list[torch.Tensor] = []
    # Where others hold more than they said, what there is gets checked.
    with suppress(torch.OutOfMemoryError):
        for _ in range(want_bytes // block_bytes):
            blocks.append(torch.empty(words, dtype=torch.int64, device=device))
        # Kept free for the comparison.
        if device.type == "cuda" and len(blocks) > 4:
            del blocks[-3:]
    places = torch.arange(words, dtype=torch.int64, device=device)
    wrong = torch.zeros((), dtype=torch.int64, device=device)
    for pattern in PATTERNS:
        for number, block in enumerate(blocks):
            torch.bitwise_xor(places + number * words, pattern, out=block)
        for number, block in enumerate(blocks):
            wrong.add_(_differing(block, places, number * words, pattern))
    return {
        "bytes": len(blocks) * block_bytes,
        "patterns": len(PATTERNS),
        "wrong_words": int(wrong),
    }


def _differing(block: torch.Tensor, places: torch.Tensor, start: int, pattern: int) -> torch.Tensor:
    return ((block ^ pattern) != places + start).sum()


def nvml_look(uuid: str, *questions: str) -> Callable[[], dict[str, Any]]:
    """Asks NVML of this GPU; what it does not answer is left out."""
    if not uuid:
        return dict
    import pynvml

    from smolplan.machine.nvml import QUESTIONS

    try:
        pynvml.nvmlInit()  # now: it takes longer than a look may
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return dict

    def look() -> dict[str, Any]:
        told: dict[str, Any] = {}
        for name in questions:
            with suppress(pynvml.NVMLError, AttributeError):
                told[name] = QUESTIONS[name](handle)
        return told

    return look


def work(
    device: torch.device, dtype: torch.dtype, sizes: Sizes, seconds: float, share: float, uuid: str
) -> dict[str, Any]:
    """All parts, one after the other. Half of the time is for products."""
    hot = nvml_look(
        uuid, *("temperature_c", "memory_temperature_c", "clocks", "power", "throttle_reasons")
    )
    found = {
        "products": products(device, dtype, sizes.square, seconds / 2, hot),
        "hbm_bytes_per_s": stream(device, sizes.stream_bytes, seconds / 8),
        "copies": copies(device, sizes.copy_bytes, seconds / 8, nvml_look(uuid, "pcie")),
    }
    free = 8 * sizes.block_bytes
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0]
    return {**found, "pattern": memory_pattern(device, int(share * free), sizes.block_bytes)}


def main() -> None:
    uuid, dtype_name, seconds, share = sys.argv[1:]
    die_with_parent()
    torch.set_num_threads(1)
    device = torch.device("cuda:0" if uuid else "cpu")
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype_name]
    torch.zeros(1, device=device)  # the driver's part of the start, before all begin
    sys.stdout.write(json.dumps({"ready": torch.__version__}) + "\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        return
    sizes = GPU if uuid else CPU
    found = work(device, dtype, sizes, float(seconds), float(share), uuid)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
