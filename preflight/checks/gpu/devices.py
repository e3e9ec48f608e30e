"""What the GPU checks share: the devices that NVML tells of, and one verdict over all of them."""

import re
from collections.abc import Sequence
from typing import Any

from preflight.context import Context
from preflight.report import Finding, Source
from preflight.summary import brief

DEADLINE_S = 25.0
"""Beyond the 20 s that the probe has: a driver in trouble takes seconds to answer."""

Device = dict[str, Any]
"""The answers to smolplan/machine/nvml.py by question; None where there is none."""

_NO_SUCH_THING = re.compile("Not Supported|Function Not Found|Not Found|Invalid Argument")


def no_nvidia(context: Context) -> Finding | None:
    """`skipped` if the spec asks for no GPU that NVML could know."""
    if context.spec.cluster.gpu == "cpu":
        return Finding(state="skipped", summary="the spec runs on CPUs")
    if context.spec.cluster.gpu.lower().startswith("mi"):  # AMD's Instinct
        return Finding(state="skipped", summary="not made for AMD's GPUs")
    return None


def devices_of(context: Context) -> list[Device] | Finding:
    """The GPUs, or why there is nothing to look at."""
    if skipped := no_nvidia(context):
        return skipped
    devices: list[Device] = context.gpus()["devices"]
    return devices or Finding(state="skipped", summary="no GPU here: see gpu.present")


def named(device: Device) -> str:
    return f"GPU {device['index']} ({device['pci'] or 'unknown place'})"


def figures_of(devices: Sequence[Device], question: str, figure: str) -> list[Any]:
    """A figure of an answer, of all GPUs that tell it."""
    answers = (device[question] for device in devices)
    told = (answer.get(figure) for answer in answers if answer is not None)
    return [value for value in told if value is not None]


def none_tells(devices: Sequence[Device], question: str, what: str) -> Finding | None:
    """`skipped` if no GPU here has such a thing, and none failed to answer."""
    if any(d[question] is not None for d in devices) or unasked(devices, question):
        return None
    return Finding(state="skipped", summary=f"these GPUs have no {what}")


def unasked(devices: Sequence[Device], *questions: str) -> str:
    """Which of the questions a GPU would not answer; "Not Supported" is an answer."""
    return "; ".join(
        f"{named(d)}: {question}: {error}"
        for d in devices
        for question, error in d["errors"].items()
        if question in (*questions, "handle") and not _NO_SUCH_THING.search(error)
    )


def verdict(
    devices: Sequence[Device],
    good: str,
    bad: Sequence[str],
    soft: Sequence[str],
    *questions: str,
    follows: str = "",
    source: Source = "table",
    **figures: Any,
) -> Finding:
    """`fail` if anything is bad, `warn` if soft; each begins with its GPU and a colon. `follows`
    is what that means for the run. A GPU that did not answer makes a pass `unknown`."""
    silent = unasked(devices, *questions)
    if bad or soft:
        return Finding(
            state="fail" if bad else "warn",
            summary=brief(without_place((*bad, *soft)[0]), len(bad) + len(soft) - 1),
            why="; ".join([*bad, *soft, *([silent] if silent else [])])
            + (f": {follows}" if follows else ""),
            source=source,
            **figures,
        )
    if silent:
        return Finding(state="unknown", summary="not all GPUs answer", why=silent, **figures)
    return Finding(state="pass", summary=good, source=source, **figures)


def without_place(said: str) -> str:
    """Of "GPU 3 (0000:03:00.0): what": "GPU 3: what"."""
    return re.sub(r"^(GPU \d+) \([^)]*\)", r"\1", said)
