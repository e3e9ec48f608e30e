"""What GPUs do when all of them work at once: how fast, how hot, and whether rightly."""

from collections.abc import Callable, Sequence
from typing import Any

from planner.catalog import find_gpu
from preflight.checks.gpu.devices import devices_of, named
from preflight.checks.gpu.work_faults import (
    SLOWER_THAN_PLANNED,
    Fault,
    Pair,
    broken,
    forgetful,
    format_rate,
    judge,
    slow,
    throttled,
    working_of,
    wrong,
)
from preflight.context import Context
from preflight.once import ProbeError
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of, format_bytes

STANDARD_S, STANDARD_SHARE = 24.0, 0.1
"""Seconds of work in all, half of it products; share of the free memory that is checked."""
BURN_S, BURN_SHARE = 600.0, 0.95
UNASKED_S = 215.0
"""Starting all workers, and the memory check at the end (preflight/probes/gpu_load.py)."""


def _load(context: Context, seconds: float, share: float) -> list[Pair] | Finding:
    """All GPUs' answers, or why there are none. Raises ProbeError."""
    devices = devices_of(context)
    if isinstance(devices, Finding):
        return devices
    if busy := [d for d in devices if d["pids"]]:
        return Finding(state="skipped", summary=f"{named(busy[0])} is in use: see gpu.idle")
    usable = [d for d in devices if d["uuid"]]
    answers = context.once(
        f"gpu_load {seconds:g}",
        lambda: context.probe(
            "gpu_load",
            *(_multiplied_in(context), str(seconds), str(share)),
            *(d["uuid"] for d in usable),
            timeout_s=seconds + UNASKED_S,
        )["gpus"],
    )
    if all("error" in answer for answer in answers):
        raise ProbeError(answers[0]["error"] if answers else "no GPU tells its UUID")
    return list(zip(usable, answers, strict=True))


def figures(
    pairs: Sequence[Pair], name: str, unit: str, figure: Callable[[dict[str, Any]], float]
) -> dict[str, float]:
    return {f"{name}_gpu{d['index']}_{unit}": figure(answer) for d, answer in working_of(pairs)}


def _flops(answer: dict[str, Any]) -> float:
    return float(answer["products"]["flops_per_s"])


def _hbm(answer: dict[str, Any]) -> float:
    return float(answer["hbm_bytes_per_s"])


def _least_copy(answer: dict[str, Any]) -> float:
    copies = answer["copies"]
    return float(min(copies["to_device_bytes_per_s"], copies["from_device_bytes_per_s"]))


def _multiplied_in(context: Context) -> str:
    """The format of the products given to GPUs. In bf16 where the run's are in fp8, too: what a
    sound GPU reaches in that is not known as well, and one slow in the one is so in the other."""
    return "fp32" if context.spec.optim.precision == "fp32" else "bf16"


def _planned(context: Context) -> float | None:
    """FLOP/s of a product that the plan's step time rests on, where it was measured."""
    if _multiplied_in(context) != "bf16":
        return None
    return find_gpu(context.spec.cluster.gpu).achievable_bf16_flops


def _slow_products(context: Context, pairs: Sequence[Pair]) -> list[Fault]:
    if _multiplied_in(context) != "bf16":
        return slow(pairs, _flops, "FLOP")
    return slow(
        *(pairs, _flops, "FLOP"),
        planned=_planned(context),
        floor=lambda limits: limits.gemm_flops_per_s,
    )


DEADLINE_S = STANDARD_S + UNASKED_S + 5
_HOLDS_UP = "every step waits for the slowest GPU of all hosts"


@check(
    "gpu.gemm",
    remedy="Compare its power limit, clocks and temperature with its neighbours' under load "
    "(nvidia-smi dmon); run dcgmi diag -r 3; leave the host out until it is as fast.",
    peers={"gemm_*_flops_per_s": "higher"},
    deadline_s=DEADLINE_S,
    needs_torch=True,
)
def gemm(context: Context) -> Finding:
    """Each GPU sustains the matrix products that the plan counts on, all at work at once."""
    pairs = _load(context, STANDARD_S, STANDARD_SHARE)
    if isinstance(pairs, Finding):
        return pairs
    rates, planned = figures(pairs, "gemm", "flops_per_s", _flops), _planned(context)
    return judge(
        [*broken(pairs), *_slow_products(context, pairs)],
        f"{format_rate(min(rates.values()), 'FLOP')} and more of {_multiplied_in(context)}",
        _HOLDS_UP,
        measured=rates,
        needed={"gemm_flops_per_s": SLOWER_THAN_PLANNED * planned} if planned else {},
        source="plan" if planned else "fleet",
    )


@check(
    "gpu.hbm",
    remedy="Look for row remaps (gpu.memory_errors) and memory clocks below the maximum "
    "(nvidia-smi -q -d CLOCK); run dcgmi diag -r 3.",
    peers={"hbm_*_bytes_per_s": "higher"},
    deadline_s=DEADLINE_S,
    needs_torch=True,
)
def hbm(context: Context) -> Finding:
    """Each GPU's memory is as fast as its fellows' and the catalogue's."""
    pairs = _load(context, STANDARD_S, STANDARD_SHARE)
    if isinstance(pairs, Finding):
        return pairs
    rates = figures(pairs, "hbm", "bytes_per_s", _hbm)
    return judge(
        slow(pairs, _hbm, "B", floor=lambda limits: limits.hbm_bytes_per_s),
        f"{format_bytes(min(rates.values()))}/s and more",
        _HOLDS_UP,
        measured=rates,
        source="table",
    )


@check(
    "gpu.copies",
    severity="advisory",
    remedy="Look at PCIe width and generation (gpu.pcie), at NUMA binding, and at whether the host "
    "has memory in all channels.",
    # Not of a table: where GPUs share the way to the CPU, 14 GB/s are sound as well as 55.
    peers={"copy_*_bytes_per_s": "higher"},
    deadline_s=DEADLINE_S,
    needs_torch=True,
)
def copies(context: Context) -> Finding:
    """Copies between host and GPU are as fast on each GPU, all at once."""
    pairs = _load(context, STANDARD_S, STANDARD_SHARE)
    if isinstance(pairs, Finding):
        return pairs
    rates = figures(pairs, "copy", "bytes_per_s", _least_copy)
    return judge(
        slow(pairs, _least_copy, "B"),
        f"{format_bytes(min(rates.values()))}/s and more each way",
        "data, checkpoints and what goes to the network take longer on this GPU",
        measured=rates,
        source="fleet",
    )


@check(
    "gpu.results",
    remedy="Do not train on this GPU: run dcgmi diag -r 4, and have it replaced.",
    deadline_s=DEADLINE_S,
    needs_torch=True,
)
def results(context: Context) -> Finding:
    """The same product gives the same bits, each time and on each GPU, and memory keeps them."""
    pairs = _load(context, STANDARD_S, STANDARD_SHARE)
    if isinstance(pairs, Finding):
        return pairs
    working = working_of(pairs)
    return judge(
        [*wrong(pairs), *forgetful(pairs)],
        f"equal on {count_of(len(working), 'GPU')}, {_checked(working)} of memory each",
        "it silently spoils the weights",
        facts={"product": ", ".join(sorted({a["products"]["checksum"] for _, a in working}))},
    )


def _checked(working: Sequence[Pair]) -> str:
    return format_bytes(min(answer["pattern"]["bytes"] for _, answer in working))


@check(
    "gpu.under_load",
    remedy="Look at cooling and power of this node under load (nvidia-smi -q -d PERFORMANCE, "
    "TEMPERATURE, POWER), and compare it with its neighbours.",
    peers={"sm_*_mhz": "higher"},
    deadline_s=DEADLINE_S,
    needs_torch=True,
)
def under_load(context: Context) -> Finding:
    """While all GPUs work, none is slowed down by heat or power."""
    pairs = _load(context, STANDARD_S, STANDARD_SHARE)
    if isinstance(pairs, Finding):
        return pairs
    readings = [(d, told) for d, a in working_of(pairs) if (told := a["products"]["reading"])]
    if not readings:
        return Finding(
            state="unknown",
            summary="NVML told nothing",
            why="the GPUs worked, and NVML gave no temperature and no clock meanwhile",
        )
    hottest = max(told.get("temperature_c") or 0 for _, told in readings)
    clocks = {f"sm_gpu{d['index']}_mhz": c["sm_mhz"] for d, t in readings if (c := t.get("clocks"))}
    return judge(
        throttled(pairs),
        f"{hottest} °C at most" + (f", {min(clocks.values())} MHz at least" if clocks else ""),
        _HOLDS_UP,
        measured={**clocks, "temperature_celsius": hottest},
    )


@check(
    "gpu.burn",
    remedy="Leave this host out; run dcgmi diag -r 4 on it, and have what it names replaced.",
    tier="burn",
    deadline_s=BURN_S + UNASKED_S + 5,
    needs_torch=True,
    peers={"gemm_*_flops_per_s": "higher"},
)
def burn(context: Context) -> Finding:
    """Ten minutes of work on all GPUs, and nearly all of their memory checked."""
    pairs = _load(context, BURN_S, BURN_SHARE)
    if isinstance(pairs, Finding):
        return pairs
    rates, working = figures(pairs, "gemm", "flops_per_s", _flops), working_of(pairs)
    faults = [
        *(*broken(pairs), *wrong(pairs), *forgetful(pairs)),
        *(*throttled(pairs), *_slow_products(context, pairs)),
    ]
    return judge(
        faults,
        f"{format_rate(min(rates.values()), 'FLOP')} and more, {_checked(working)} checked",
        "it will not last a long run",
        measured=rates,
        source="table",
    )
