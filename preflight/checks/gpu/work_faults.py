"""What is wrong with GPUs that were put to work: pure, from what preflight/probes/gpu_work.py
measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from preflight.catalog import GpuLimits, limits_of
from preflight.checks.gpu.devices import Device, named, without_place
from preflight.checks.gpu.heat import BAD_THROTTLE, SOFT_THROTTLE
from preflight.report import Finding, Source
from preflight.summary import brief
from smolplan.units import format_bytes

SLOWER_THAN_PEERS = 0.9
"""Of the median of this host's GPUs: the ten per cent rule of practice (a GPU that slow holds up
all others; from memory)."""
SLOWER_THAN_PLANNED = 0.9
"""Of the product rate that the planner's catalogue has: a tenth is within what shapes do."""

Pair = tuple[Device, dict[str, Any]]
"""A GPU, and what preflight/probes/gpu_work.py found on it."""


@dataclass(frozen=True)
class Fault:
    text: str
    """Begins with its GPU."""
    source: Source
    grave: bool = True


def working_of(pairs: Sequence[Pair]) -> list[Pair]:
    return [(device, answer) for device, answer in pairs if "error" not in answer]


def broken(pairs: Sequence[Pair]) -> list[Fault]:
    """GPUs that could not be put to work while others here could."""
    return [
        Fault(f"{named(device)}: {answer['error']}", "none")
        for device, answer in pairs
        if "error" in answer
    ]


def slow(
    pairs: Sequence[Pair],
    figure: Callable[[dict[str, Any]], float],
    unit: str,
    *,
    planned: float | None = None,
    floor: Callable[[GpuLimits], float | None] = lambda limits: None,
) -> list[Fault]:
    """GPUs below what the plan counts on, below this host's others, or below the catalogue's floor.
    The plan alone is no proof of a fault: its rate may be of a better shape."""
    working = working_of(pairs)
    usual = median(figure(answer) for _, answer in working) if len(working) > 1 else None
    found = []
    for device, answer in working:
        rate, least = figure(answer), floor(limits_of(device["name"]))
        limits: list[tuple[Source, float | None, float, str]] = [
            ("plan", planned, SLOWER_THAN_PLANNED, "the plan counts on {}"),
            ("fleet", usual, SLOWER_THAN_PEERS, "the others' median {}"),
            ("table", least, 1.0, "usual {} and more"),
        ]
        missed = [
            (source, words.format(format_rate(limit, unit)))
            for source, limit, share, words in limits
            if limit is not None and rate < share * limit
        ]
        if missed:
            said = ", ".join([format_rate(rate, unit), *(words for _, words in missed)])
            grave = any(source != "plan" for source, _ in missed)
            found.append(Fault(f"{named(device)}: {said}", missed[0][0], grave))
    return found


def format_rate(rate: float, unit: str) -> str:
    return f"{rate / 1e12:.3g} TFLOP/s" if unit == "FLOP" else f"{format_bytes(rate)}/s"


def wrong(pairs: Sequence[Pair]) -> list[Fault]:
    """GPUs whose result changed, or is not what most of their make give."""
    working, found = working_of(pairs), []
    for device, answer in working:
        products = answer["products"]
        if products["changed_products"]:
            found.append(
                Fault(
                    f"{named(device)}: the same product gave another result "
                    f"{products['changed_products']} times",
                    "none",
                )
            )
        alike = [a["products"]["checksum"] for d, a in working if d["name"] == device["name"]]
        # Of two that differ nobody knows which one is right, so both are named.
        if len(set(alike)) > 1 and alike.count(products["checksum"]) * 2 <= len(alike):
            found.append(
                Fault(f"{named(device)}: another result than the others of its make", "fleet")
            )
    return found


def forgetful(pairs: Sequence[Pair]) -> list[Fault]:
    """GPUs whose memory gave back something else than was written to it."""
    return [
        Fault(
            f"{named(device)}: {pattern['wrong_words']} words of "
            f"{format_bytes(pattern['bytes'])} read back wrong",
            "none",
        )
        for device, answer in working_of(pairs)
        if (pattern := answer["pattern"])["wrong_words"]
    ]


def throttled(pairs: Sequence[Pair]) -> list[Fault]:
    """GPUs that heat or power slowed down while they worked, or whose link did not speed up."""
    found = []
    for device, answer in working_of(pairs):
        told, link = answer["products"]["reading"], answer["copies"]["link"].get("pcie")
        clocks, reasons = told.get("clocks"), told.get("throttle_reasons") or 0
        at = f" at {told['temperature_c']} °C" if told.get("temperature_c") else ""
        at += f", {clocks['sm_mhz']} MHz" if clocks else ""
        for bit, what in (*BAD_THROTTLE.items(), *SOFT_THROTTLE.items()):
            if reasons & bit:
                grave = bit in BAD_THROTTLE
                found.append(Fault(f"{named(device)}: {what} under load{at}", "table", grave))
        if link and link["generation"] < link["max_generation"]:
            found.append(
                Fault(
                    f"{named(device)}: PCIe generation {link['generation']} of "
                    f"{link['max_generation']} under load",
                    "none",
                    grave=False,
                )
            )
    return found


def judge(faults: Sequence[Fault], good: str, follows: str, **figures: Any) -> Finding:
    """One finding of them all; its source is that of the first grave one."""
    if not faults:
        return Finding(state="pass", summary=good, **figures)
    ordered = sorted(faults, key=lambda fault: not fault.grave)
    return Finding(
        state="fail" if ordered[0].grave else "warn",
        summary=brief(without_place(ordered[0].text), len(faults) - 1),
        why="; ".join(fault.text for fault in ordered) + f": {follows}",
        **{**figures, "source": ordered[0].source},
    )
