"""What the kernel's log tells of the GPUs: Xids, each with its meaning and what to do."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from preflight.checks.gpu.devices import no_nvidia
from preflight.context import Context
from preflight.once import ProbeError
from preflight.registry import check
from preflight.report import Finding
from preflight.summary import brief
from smolplan.machine.xid_log import Burst, Xid, bursts, parse
from smolplan.units import count_of, format_duration

RECENT_S = 2 * 3600.0
"""Azure's node health checks look back this far: with no end, a healed node stays out."""
DAY_S = 24 * 3600.0
"""What comes again on one GPU within a day is seldom chance: NVSentinel and NVIDIA's workflows for
Xid 13 and 31 count so."""
EMPTY: Mapping[str, str] = MappingProxyType({})
READ_THE_LOG = "Run this as root, or set kernel.dmesg_restrict to 0."


@check(
    "gpu.kernel_log",
    remedy="Do what stands there before a long run.",
    # NVML is asked too, for which GPU it is.
    deadline_s=30.0,
    tier="quick",
    passive=True,
)
def kernel_log(context: Context) -> Finding:
    """The kernel's log since the last boot tells of no GPU error (Xid) of late."""
    if skipped := no_nvidia(context):
        return skipped
    answer = context.kernel_log()
    if answer["error"]:
        return Finding(
            state="unknown",
            summary="the kernel's log cannot be read",
            why=answer["error"],
            remedy=READ_THE_LOG,
        )
    if mismatch := answer["lines"]["driver_mismatch"]:
        return Finding(
            state="fail",
            summary="the driver's parts are of different versions",
            why=f"{mismatch[-1]['text']}: it was changed while it was loaded, so no program can "
            "use the GPUs",
            remedy="Reboot, or unload the kernel modules (rmmod) and load them anew.",
        )
    if failed := answer["lines"]["driver_failed"]:
        recent = failed[-1]["age_s"] <= RECENT_S
        return Finding(
            state="fail" if recent else "warn",
            summary="the driver could not start a GPU",
            why=f"{failed[-1]['text']}, {format_duration(failed[-1]['age_s'])} ago: the GPU is "
            "missing to programs, though the bus has it",
            remedy="Reboot, power off and on if that does not help, and have the GPU replaced if "
            "it comes again.",
            source="table",
        )
    found = [parse(line["text"], line["age_s"]) for line in answer["lines"]["xid"]]
    finding = judge_xids([x for x in found if x is not None], _names(context))
    covers_s = answer["covers_s"]
    if finding.state == "pass" and covers_s is not None and covers_s < RECENT_S:
        said = f"no Xid within {format_duration(covers_s)}, all that is left of the log"
        return finding.model_copy(update={"summary": said})
    return finding


def _names(context: Context) -> dict[str, str]:
    """Which GPU is at which place, where the driver tells."""
    try:
        devices = context.gpus()["devices"]
    except ProbeError:
        return {}
    return {
        d["pci"].partition(".")[0]: f"GPU {d['index']} ({d['pci'].partition('.')[0]})"
        for d in devices
        if d["pci"]
    }


def judge_xids(found: Sequence[Xid], names: Mapping[str, str] = EMPTY) -> Finding:
    """A burst whose cause is hardware fails if it is recent, and warns if it is older; any other
    recent one warns, and one of a program that comes again on the same GPU. Of equal causes the
    newest is told. `names` are the GPUs' by place."""
    every = bursts(found)
    times = Counter(_key(burst) for burst in every if burst.age_s <= DAY_S)
    telling: dict[tuple[str, str], Burst] = {}
    for burst in every:
        meaning, recent = burst.cause.meaning, burst.age_s <= RECENT_S
        again = meaning.weight == "application" and times[_key(burst)] > 1
        if meaning.weight == "hardware" or again or (recent and meaning.action != "none"):
            telling.setdefault(_key(burst), burst)
    if not telling:
        return Finding(
            state="pass",
            summary=f"no Xid within {format_duration(RECENT_S)}"
            + (f", {len(found)} before or light" if found else ""),
            source="table",
        )
    shown = sorted(telling.values(), key=lambda b: (not _fails(b), b.age_s))
    return Finding(
        state="fail" if _fails(shown[0]) else "warn",
        summary=brief(", ".join(dict.fromkeys(b.cause.label for b in shown))),
        why="; ".join(_told(burst, names, times[_key(burst)]) for burst in shown),
        remedy=". ".join(dict.fromkeys(_remedy(b, times[_key(b)]) for b in shown)),
        measured={"xids": len(found)},
        source="table",
    )


def _key(burst: Burst) -> tuple[str, str]:
    return burst.cause.pci, burst.cause.label


def _fails(burst: Burst) -> bool:
    return burst.cause.meaning.weight == "hardware" and burst.age_s <= RECENT_S


def _told(burst: Burst, names: Mapping[str, str], times: int) -> str:
    cause, others = burst.cause, len(burst.xids) - 1
    where = names.get(cause.pci, cause.pci or "an unnamed GPU")
    told = f"{cause.label} on {where} {format_duration(cause.age_s)} ago: {cause.meaning.what}"
    if others:
        labels = ", ".join(dict.fromkeys(x.label for x in burst.xids))
        gpus = count_of(len(burst.places), "GPU")
        told += f" (with {others} more within minutes, on {gpus}: {labels})"
    return told + (f", {times} times in a day" if times > 1 else "")


def _remedy(burst: Burst, times: int) -> str:
    label, meaning = burst.cause.label, burst.cause.meaning
    if burst.is_the_programs:
        return f"{label} on several GPUs at once: look at the program, not at a GPU"
    if times > 1 and meaning.weight == "hardware":
        return f"{label} has come again: leave the host out, and have the GPU or its link replaced"
    if times > 1 and meaning.weight == "application":
        return f"{label} came again on one GPU: run dcgmi diag -r 3 on it before it is used"
    return f"{label}: {meaning.action}"
