"""What a host says of itself and its GPUs: `heartbeat/host-N.json`, N the node, replaced whole.

Written on the host, read by the monitor wherever it is. A figure that a device does not give is
None, and is then not exported.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from smolplan.rundir import RunDir, read_json, write_json


@dataclass(frozen=True)
class GpuSample:
    """One GPU, in the units of dcgm-exporter."""

    index: int
    uuid: str
    pci_bus_id: str = ""
    model: str = ""
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    memory_temperature_c: float | None = None
    power_w: float | None = None
    energy_mj: float | None = None
    """Millijoules since the driver was loaded."""
    utilisation_percent: float | None = None
    memory_utilisation_percent: float | None = None
    memory_free_mib: float | None = None
    memory_used_mib: float | None = None
    pcie_replays: int | None = None
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
class HostSample:
    host: str
    node: int
    time: float
    """Seconds since the epoch, by the host's clock."""
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    load_1min: float | None = None
    gpus: tuple[GpuSample, ...] = ()


def sample_path(run: RunDir, node: int) -> Path:
    return run.path / "heartbeat" / f"host-{node}.json"


def write_host_sample(run: RunDir, sample: HostSample) -> None:
    """Raises OSError."""
    write_json(sample_path(run, sample.node), asdict(sample), durable=False)


def read_host_samples(run: RunDir) -> list[HostSample]:
    """The last sample of every host that has one, by node; one that cannot be read is left out."""
    found = []
    for path in (run.path / "heartbeat").glob("host-*.json"):
        content = read_json(path)
        if content is None:
            continue
        try:
            gpus = tuple(_made(GpuSample, gpu) for gpu in content.get("gpus", ()))
            sample = _made(HostSample, {**content, "gpus": gpus})
        except (TypeError, AttributeError):
            continue
        if not all(isinstance(gpu.xids, dict) for gpu in gpus):
            continue
        if path.name == f"host-{sample.node}.json":
            found.append(sample)
    return sorted(found, key=lambda sample: sample.node)


def _made(kind: type[Any], content: Mapping[str, Any]) -> Any:
    """Fields that a newer writer has and we do not know are left out. Raises TypeError."""
    known = {one.name for one in fields(kind)}
    return kind(**{name: value for name, value in content.items() if name in known})
