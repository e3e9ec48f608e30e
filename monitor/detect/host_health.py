"""What is wrong with hosts, by their samples: disks, memory, clocks, network, the kernel's log."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monitor.collect.host_sample import DiskSample, HostSample
from monitor.host_view import HostView, Symptom
from monitor.view import Finding, Severity
from smolplan.units import count_of, format_bytes, format_duration

DISK_LEFT = 0.02
INODES_LEFT_PERCENT = 2.0
DISK_WARN_S, DISK_TELL_S = 86_400.0, 7 * 86_400.0
"""Full within a day is to be seen to today; within a week it is good to know."""
DISK_SPAN_S = 600.0

MEMORY_LEFT = 0.05
MEMORY_S = 60.0
LEAK_SPAN_S = 3600.0
LEAK_FULL_S = 86_400.0

CLOCK_APART_S = 1.0
"""Between hosts: logs and time-outs no longer fit together (preflight's host.clock fails there)."""
UNSYNCHRONISED_S = 600.0

LINE_TOLD_FOR_S = 600.0

KERNEL: Mapping[str, tuple[str, str]] = {
    "machine_check": ("a hardware error", "Have its memory and CPUs tested."),
    "storage": ("a disk error", "Look at the disk: smartctl, dmesg."),
    "pcie": ("a PCIe error", "Look at which device it is, and reseat it."),
    "hung": ("a task that hangs", "Look at what it waits for: a disk, or a file server."),
    "driver_failed": ("the GPU driver could not start a GPU", "Reboot the host."),
    "out_of_memory": ("a process was killed for want of memory", "See what grows there."),
}
"""Kind of line → what it is, and what to do."""


def host_symptoms(host: HostView, sample: HostSample) -> Iterator[Symptom]:
    yield from _memory(host, sample)
    yield from _kernel(host, sample)
    yield from _network(host, sample)
    if sample.hung_processes:
        yield _symptom(
            "hung_processes",
            host.host,
            f"{', '.join(sample.hung_processes[:3])} on {host.host} wait in the kernel and "
            f"cannot be ended",
            {"host": host.host, "processes": list(sample.hung_processes)},
            "Look for a disk or a file server that does not answer; reboot if it stays so.",
        )


def shared_symptoms(hosts: Sequence[HostView]) -> Iterator[Symptom]:
    """What shows only beside the other hosts."""
    sampled = [(host, host.sample) for host in hosts if host.sample]
    yield from _disks(sampled)
    if len(hosts) > 1:
        yield from _clocks(sampled)


def _symptom(
    kind: str,
    key: str,
    summary: str,
    evidence: dict[str, Any],
    advice: str,
    *,
    severity: Severity = "warning",
    after_s: float = 0.0,
) -> Symptom:
    finding = Finding(kind, summary, evidence, severity=severity, advice=advice, key=key)
    return Symptom(finding, after_s)


def _disks(sampled: list[tuple[HostView, HostSample]]) -> Iterator[Symptom]:
    """A folder that many hosts share is told of once: by the host that sees it worst."""
    worst: dict[str, tuple[float, HostView, DiskSample]] = {}
    for host, sample in sampled:
        for disk in sample.disks:
            left_s = _full_in_s(host, disk)
            if disk.path not in worst or left_s < worst[disk.path][0]:
                worst[disk.path] = (left_s, host, disk)
    for path, (left_s, host, disk) in worst.items():
        share = disk.free_bytes / disk.total_bytes if disk.total_bytes else 1.0
        few_inodes = (disk.free_inodes_percent or 100.0) < INODES_LEFT_PERCENT
        if left_s > DISK_TELL_S and not few_inodes:
            continue
        when = "is full" if share < DISK_LEFT or few_inodes else "will be full in "
        if when.endswith(" in "):
            when += format_duration(left_s)
        what = "files" if few_inodes else f"{format_bytes(disk.free_bytes)} free"
        yield _symptom(
            "disk_full",
            path,
            f"the disk of {path} {when} ({what}, as {host.host} sees it)",
            {"host": host.host, "path": path, "free_bytes": disk.free_bytes, "full_in_s": left_s},
            "Free space there, keep fewer checkpoints (checkpoint.keep_last), or move them.",
            severity="warning" if left_s < DISK_WARN_S or few_inodes else "info",
        )


def _full_in_s(host: HostView, disk: DiskSample) -> float:
    """0 where it is full; infinite where it does not fill up."""
    if disk.free_bytes < DISK_LEFT * disk.total_bytes:
        return 0.0
    trend = host.trends.get(f"disk {disk.path}")
    if trend is None or trend.span_s < DISK_SPAN_S or trend.per_s >= 0:
        return float("inf")
    return disk.free_bytes / -trend.per_s


def _memory(host: HostView, sample: HostSample) -> Iterator[Symptom]:
    total, left = sample.memory_total_bytes, sample.memory_available_bytes
    where = {"host": host.host}
    if total and left is not None and left < MEMORY_LEFT * total:
        yield _symptom(
            "memory_low",
            host.host,
            f"{host.host} has {format_bytes(left)} of memory left, of {format_bytes(total)}",
            {**where, "available_bytes": left},
            "The kernel will kill something there, most likely a rank. See what grows.",
            after_s=MEMORY_S,
        )
    before = host.first.oom_kills if host.first else None
    if sample.oom_kills is not None and before is not None and sample.oom_kills > before:
        yield _symptom(
            "out_of_memory",
            host.host,
            f"the kernel of {host.host} killed a process for want of memory",
            {**where, "oom_kills": sample.oom_kills - before},
            "See what grows there: a loader's caches, checkpoints in memory, another program.",
        )
    growth = [
        host.trends[key] for rank in sample.ranks if (key := f"rank {rank.rank}") in host.trends
    ]
    per_s = sum(trend.per_s for trend in growth)
    span_s = min((trend.span_s for trend in growth), default=0.0)
    if left and per_s > 0 and span_s >= LEAK_SPAN_S and left / per_s < LEAK_FULL_S:
        yield _symptom(
            "memory_leak",
            host.host,
            f"the ranks on {host.host} grow by {format_bytes(per_s * 3600)} an hour: memory is "
            f"full in {format_duration(left / per_s)}",
            {**where, "bytes_per_s": per_s, "available_bytes": left},
            "Look at what the loader keeps; a restart from a checkpoint starts small again.",
        )


def _kernel(host: HostView, sample: HostSample) -> Iterator[Symptom]:
    for line in sample.kernel:
        if line.kind in KERNEL and sample.time - line.time <= LINE_TOLD_FOR_S:
            what, advice = KERNEL[line.kind]
            yield _symptom(
                f"kernel_{line.kind}",
                host.host,
                f"the kernel of {host.host} tells of {what}: {line.text[:160]}",
                {"host": host.host, "line": line.text},
                advice,
            )


def _network(host: HostView, sample: HostSample) -> Iterator[Symptom]:
    before = {i.name: i for i in host.first.interfaces} if host.first else {}
    for interface in sample.interfaces:
        first = before.get(interface.name)
        if first is None:
            continue
        lost = interface.link_losses - first.link_losses
        if (first.up and not interface.up) or lost > 0:
            state = "is down" if not interface.up else f"lost its link {count_of(lost, 'time')}"
            yield _symptom(
                "link_lost",
                f"{host.host} {interface.name}",
                f"{interface.name} of {host.host} {state}",
                {"host": host.host, "interface": interface.name, "link_losses": lost},
                "Look at its cable, transceiver and switch port.",
            )


def _clocks(sampled: list[tuple[HostView, HostSample]]) -> Iterator[Symptom]:
    ahead = {h.host: h.clock_ahead_s for h, _ in sampled if h.clock_ahead_s is not None}
    median = statistics.median(ahead.values()) if ahead else 0.0
    for host, sample in sampled:
        apart_s = ahead.get(host.host, median) - median
        if abs(apart_s) > CLOCK_APART_S:
            yield _symptom(
                "clock_drift",
                host.host,
                f"the clock of {host.host} is {abs(apart_s):.1f} s "
                f"{'ahead' if apart_s > 0 else 'behind'} the other hosts'",
                {"host": host.host, "ahead_s": round(apart_s, 3)},
                "Start or mend chrony there.",
            )
        if sample.clock and not sample.clock.synchronised:
            yield _symptom(
                "clock_unsynchronised",
                host.host,
                f"the clock of {host.host} follows no time server",
                {"host": host.host, "max_error_s": sample.clock.max_error_s},
                "Start or mend chrony there.",
                severity="info",
                after_s=UNSYNCHRONISED_S,
            )
