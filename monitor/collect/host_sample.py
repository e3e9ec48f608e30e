"""What a host says of itself and its GPUs: `heartbeat/host-N.json`, N the node, replaced whole.

Written on the host, read by the monitor wherever it is. A figure that a device does not give is
None, and is then not exported.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from smolplan.json_records import filled
from smolplan.rundir import RunDir, read_json, write_text


@dataclass(frozen=True)
class GpuSample:
    """One GPU, in the units of dcgm-exporter."""

    index: int
    uuid: str
    pci_bus_id: str = ""
    model: str = ""
    serial: str = ""
    lost: bool = False
    """The driver says that it is there no longer."""
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    temperature_margin_c: float | None = None
    """Below its highest operating temperature, or below where it slows down."""
    memory_temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_mj: float | None = None
    """Millijoules since the driver was loaded."""
    utilisation_percent: float | None = None
    memory_utilisation_percent: float | None = None
    memory_free_mib: float | None = None
    memory_used_mib: float | None = None
    pcie_replays: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    """What GPU and slot can do together."""
    nvlinks: int | None = None
    nvlinks_up: int | None = None
    nvlink_errors: int | None = None
    """Of all links and kinds, since the driver was loaded."""
    throttle_reasons: int | None = None
    """Bits, as nvmlDeviceGetCurrentClocksThrottleReasons gives them."""
    ecc_single_bit: int | None = None
    ecc_double_bit: int | None = None
    remapped_rows_uncorrectable: int | None = None
    remapped_rows_correctable: int | None = None
    row_remap_pending: bool | None = None
    row_remap_failed: bool | None = None
    last_xid: int | None = None
    """0 before the first."""
    xids: Mapping[str, int] = field(default_factory=dict)
    """Code → times since the sampler began."""


@dataclass(frozen=True)
class DiskSample:
    """The file system that holds a folder of the run."""

    path: str
    total_bytes: int
    free_bytes: int
    """For this user."""
    free_inodes_percent: float | None = None


@dataclass(frozen=True)
class InterfaceSample:
    """A network interface or a port of an InfiniBand adapter, counted since it came up."""

    name: str
    up: bool
    errors: int
    link_losses: int


@dataclass(frozen=True)
class ClockSample:
    """What the kernel knows of its clock (adjtimex(2))."""

    synchronised: bool
    offset_s: float
    max_error_s: float


@dataclass(frozen=True)
class RankSample:
    rank: int
    pid: int
    resident_bytes: int


@dataclass(frozen=True)
class KernelLine:
    """A line of the kernel's log that bears on a run."""

    kind: str
    """smolplan.machine.kernel_log.KINDS."""
    time: float
    """Seconds since the epoch, by the host's clock."""
    text: str


@dataclass(frozen=True)
class Blindness:
    """A source that tells nothing: that is unknown, and no fault."""

    source: str
    since: float
    """Seconds since the epoch, by the host's clock."""
    why: str


@dataclass(frozen=True)
class HostSample:
    host: str
    node: int
    time: float
    """Seconds since the epoch, by the host's clock."""
    attempt: int = 0
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    """To a new process; less where a control group allows less."""
    load_1min: float | None = None
    oom_kills: int | None = None
    """Since the host was started."""
    hung_processes: tuple[str, ...] = ()
    """That have waited in the kernel (state D) for minutes without using the CPU."""
    gpus: tuple[GpuSample, ...] = ()
    disks: tuple[DiskSample, ...] = ()
    interfaces: tuple[InterfaceSample, ...] = ()
    clock: ClockSample | None = None
    ranks: tuple[RankSample, ...] = ()
    kernel: tuple[KernelLine, ...] = ()
    """The newest, since the sampler began."""
    blind: tuple[Blindness, ...] = ()


_PARTS: Mapping[str, type[Any]] = {
    "gpus": GpuSample,
    "disks": DiskSample,
    "interfaces": InterfaceSample,
    "ranks": RankSample,
    "kernel": KernelLine,
    "blind": Blindness,
}
"""Fields that hold several of something."""

_NAMES = {
    kind: frozenset(one.name for one in fields(kind))
    for kind in (HostSample, ClockSample, *_PARTS.values())
}


def sample_path(run: RunDir, node: int) -> Path:
    return run.path / "heartbeat" / f"host-{node}.json"


def write_host_sample(run: RunDir, sample: HostSample) -> None:
    """Raises OSError."""
    # In one line: with an indent, Python's encoder is ten times as slow, once a second.
    write_text(sample_path(run, sample.node), json.dumps(asdict(sample)) + "\n", durable=False)


def read_host_samples(run: RunDir, *, most: float = math.inf) -> list[HostSample]:
    """The last sample of every host that has one, by node; one that cannot be read is left out.
    None of more than `most` hosts."""
    paths = list((run.path / "heartbeat").glob("host-*.json"))
    found = [read_host_sample(path) for path in paths] if len(paths) <= most else []
    return sorted((sample for sample in found if sample), key=lambda sample: sample.node)


def read_host_sample(path: Path | str) -> HostSample | None:
    """None if it is missing, or not what it should be."""
    content = read_json(path)
    if content is None:
        return None
    try:
        parts: dict[str, Any] = {
            name: tuple(_made(kind, part) for part in content.get(name, ()))
            for name, kind in _PARTS.items()
        }
        clock = content.get("clock")
        parts["clock"] = None if clock is None else _made(ClockSample, clock)
        parts["hung_processes"] = tuple(content.get("hung_processes", ()))
        sample: HostSample = _made(HostSample, {**content, **parts})
    except (TypeError, AttributeError):
        return None
    return sample if str(path).endswith(f"/host-{sample.node}.json") else None


def _made(kind: type[Any], content: Mapping[str, Any]) -> Any:
    """Fields that a newer writer has and we do not know are left out. Raises TypeError."""
    try:
        return filled(kind, content)
    except TypeError:
        known = _NAMES[kind]
        return kind(**{name: value for name, value in content.items() if name in known})
