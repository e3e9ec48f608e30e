"""What is wrong with GPUs, by their samples. Xids are weighed by smolplan.machine.xid."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from monitor.collect.host_sample import GpuSample, HostSample
from monitor.host_view import HostView, Symptom
from monitor.view import Finding, Severity
from smolplan.machine.xid_log import Xid, bursts, parse
from smolplan.units import count_of, format_duration

XID_TOLD_FOR_S = 600.0
"""An Xid that ends nothing counts as over after that."""

ENDS = frozenset({"reset", "reboot", "replace"})
"""What a hardware Xid must ask for to end the attempt; else its program may well go on."""

HARD_THROTTLE = {0x8: "hardware slowdown", 0x40: "hardware thermal slowdown", 0x80: "power brake"}
SOFT_THROTTLE = {0x20: "software thermal slowdown"}
"""nvmlClocksEventReason*. A power cap (0x4) is how a GPU under full load works."""
HARD_THROTTLE_S, SOFT_THROTTLE_S = 60.0, 300.0

MARGIN_C = 5
"""As preflight's gpu.temperature: less below the limit is too near."""
MEMORY_HOT_C = 95
"""HBM: from memory, as practice has it."""
HOT_S = 60.0

SLOW = 0.9
"""Of the median clock of the run's GPUs: gpu-fryer's tolerance."""
SLOW_S = 180.0
BUSY_PERCENT = 50
LEAST_PEERS = 4

LINK_ERRORS = 5
"""imbue-ai/cluster-health warns from there."""
REPLAYS = 100
"""PCIe repeats a packet now and then; a bad slot does all the time. The count is our choice."""

LEAK_SPAN_S = 3600.0
LEAK_FULL_S = 86_400.0


def gpu_symptoms(host: HostView, sample: HostSample) -> Iterator[Symptom]:
    yield from _xids(host, sample)
    before = {gpu.uuid: gpu for gpu in host.first.gpus} if host.first else {}
    for gpu in sample.gpus:
        yield from _gpu(host, gpu, before.get(gpu.uuid, gpu))


def _xids(host: HostView, sample: HostSample) -> Iterator[Symptom]:
    lines = [line for line in sample.kernel if line.kind == "xid"]
    found = [xid for line in lines if (xid := parse(line.text, sample.time - line.time))]
    for burst in bursts(found):
        ending = next((xid for xid in burst.xids if _ends(host, sample, xid)), None)
        if ending is None and burst.age_s > XID_TOLD_FOR_S:
            continue
        xid = ending or burst.cause
        severity: Severity = "critical" if ending else "warning"
        yield Symptom(
            Finding(
                "xid",
                f"{xid.label} on GPU {xid.pci or '?'} of {host.host}: {xid.meaning.what}",
                {"host": host.host, "pci": xid.pci, "xid": xid.code, "line": xid.text[:300]},
                hosts={host.host: "gpu.kernel_log"} if ending else {},
                severity=severity,
                advice=xid.meaning.action,
                key=f"{host.host} {xid.pci} {xid.code}",
            )
        )


def _ends(host: HostView, sample: HostSample, xid: Xid) -> bool:
    if xid.meaning.weight != "hardware" or xid.meaning.step not in ENDS:
        return False
    return _is_ours(host, sample, "" if xid.switch else xid.pci)


def _is_ours(host: HostView, sample: HostSample, pci: str) -> bool:
    """Whether the run uses that GPU, or any, where it is not known which. The kernel's log tells
    of all GPUs of a host, of which the run may have been given some."""
    seen = {gpu.pci_bus_id.partition(".")[0] for gpu in sample.gpus}
    if len(seen) == host.ranks:
        return not pci or pci in seen
    return len(seen) < host.ranks  # one of ours is not seen: it may well be that one


def _gpu(host: HostView, gpu: GpuSample, first: GpuSample) -> Iterator[Symptom]:
    tell = partial(_told, host, gpu)
    if gpu.lost:
        lost = tell("gpu_lost", "the driver has lost it", "Reboot the host, and test the GPU.")
        if host.sample and _is_ours(host, host.sample, ""):
            lost = replace(lost, severity="critical", hosts={host.host: "gpu.present"})
        yield Symptom(lost)
        return
    if (gpu.ecc_double_bit or 0) > (first.ecc_double_bit or 0):
        yield Symptom(
            tell(
                "gpu_ecc",
                count_of(gpu.ecc_double_bit or 0, "uncorrected memory error"),
                "Reset the GPU before the next start; replace it if there are more.",
            )
        )
    if gpu.row_remap_failed:
        yield Symptom(tell("gpu_row_remap_failed", "a row could not be remapped", "Replace it."))
    elif gpu.row_remap_pending:
        yield Symptom(
            tell(
                "gpu_row_remap_pending",
                "a row is to be remapped",
                "Reset the GPU at the next restart (nvidia-smi --gpu-reset).",
            )
        )
    reasons = gpu.throttle_reasons or 0
    for bits, after_s in ((HARD_THROTTLE, HARD_THROTTLE_S), (SOFT_THROTTLE, SOFT_THROTTLE_S)):
        if names := [name for bit, name in bits.items() if reasons & bit]:
            yield Symptom(
                tell(
                    "gpu_throttled",
                    f"held down by {', '.join(names)}",
                    "Look at its cooling and power supply: it holds all other GPUs up.",
                ),
                after_s,
            )
            break
    margin, memory_c = gpu.temperature_margin_c, gpu.memory_temperature_c
    too_near = margin is not None and margin < MARGIN_C
    # dcgm and some drivers give a huge number where there is no sensor.
    if too_near or (memory_c is not None and MEMORY_HOT_C < memory_c < 200):
        degrees = {"GPU": gpu.temperature_c, "memory": memory_c, "to its limit": margin}
        told = ", ".join(f"{what} {c:.0f} °C" for what, c in degrees.items() if c is not None)
        yield Symptom(tell("gpu_hot", told, "Look at the host's cooling."), HOT_S)
    yield from _links(gpu, first, tell)
    yield from _leak(host, gpu, tell)


def _links(gpu: GpuSample, first: GpuSample, tell: "partial[Finding]") -> Iterator[Symptom]:
    up, links = gpu.nvlinks_up, gpu.nvlinks or 0
    # A GPU none of whose links was ever up is in no NVLink domain.
    if up is not None and (up < (first.nvlinks_up or 0) or 0 < up < links):
        yield Symptom(
            tell(
                "gpu_nvlink_down",
                f"{up} of {links} NVLinks are up",
                "Leave the host out at the next restart, and test its links.",
            )
        )
    if (errors := (gpu.nvlink_errors or 0) - (first.nvlink_errors or 0)) >= LINK_ERRORS:
        yield Symptom(
            tell("gpu_nvlink_errors", f"{errors} NVLink errors", "Watch it; test its links.")
        )
    if (replays := (gpu.pcie_replays or 0) - (first.pcie_replays or 0)) >= REPLAYS:
        yield Symptom(tell("gpu_pcie_replays", f"{replays} PCIe replays", "Reseat the GPU."))
    if gpu.pcie_width and gpu.pcie_width_max and gpu.pcie_width < gpu.pcie_width_max:
        yield Symptom(
            tell(
                "gpu_pcie_narrow",
                f"{gpu.pcie_width} of {gpu.pcie_width_max} PCIe lanes",
                "Reboot the host; reseat the GPU if that does not help.",
            ),
            HOT_S,
        )


def _leak(host: HostView, gpu: GpuSample, tell: "partial[Finding]") -> Iterator[Symptom]:
    trend = host.trends.get(f"gpu {gpu.index}")
    if trend is None or trend.span_s < LEAK_SPAN_S or gpu.memory_free_mib is None:
        return
    left_s = gpu.memory_free_mib / trend.per_s if trend.per_s > 0 else float("inf")
    if left_s < LEAK_FULL_S:
        yield Symptom(
            tell(
                "gpu_memory_leak",
                f"its memory fills by {trend.per_s * 3600:.0f} MiB an hour and is full in "
                f"{format_duration(left_s)}",
                "Look at what the program keeps from step to step.",
            )
        )


def slow_gpus(hosts: Sequence[HostView]) -> Iterator[Symptom]:
    """A GPU or a host whose clock is below its fellows': every step waits for it."""
    busy = [
        (host, gpu, gpu.sm_clock_mhz)
        for host in hosts
        if host.sample
        for gpu in host.sample.gpus
        if gpu.sm_clock_mhz and (gpu.utilisation_percent or 0) >= BUSY_PERCENT
    ]
    if len(busy) < LEAST_PEERS:
        return
    median = statistics.median(clock for _, _, clock in busy)
    for host, gpu, clock in busy:
        if clock < SLOW * median:
            yield Symptom(
                _told(
                    host,
                    gpu,
                    "gpu_slow",
                    f"{clock:.0f} MHz, {1 - clock / median:.0%} below the run's median",
                    "Look at its temperature, power and throttle reasons; leave the host out at "
                    "the next restart.",
                ),
                SLOW_S,
            )


def _told(host: HostView, gpu: GpuSample, kind: str, what: str, advice: str) -> Finding:
    return Finding(
        kind,
        f"GPU {gpu.index} of {host.host}: {what}",
        {"host": host.host, "gpu": gpu.index, "uuid": gpu.uuid, "serial": gpu.serial},
        severity="warning",
        advice=advice,
        key=f"{host.host} {gpu.uuid or gpu.index}",
    )
