"""What NVML tells of this host's GPUs, for a sampler: often what changes often, seldom the rest."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pynvml

from monitor.collect.host_sample import GpuSample
from monitor.collect.kernel import NvmlXid
from monitor.collect.source import Source
from smolplan.machine.nvml import QUESTIONS, or_none

EVERY_S = 1.0
SELDOM = 30
"""Rounds between two looks at what changes by faults only, such as error counters and links."""

RETRY_S = 30.0
EVENT_WAIT_MS = 1000

LOST = "GPU is lost"
"""NVML's words for a GPU that has fallen off the bus."""

MIB = 2**20


class Gpu:
    """One GPU, read in rounds."""

    def __init__(self, index: int) -> None:
        self._handle: Any = None
        self._round = 0
        self._known = GpuSample(index=index, uuid="")

    def look(self) -> GpuSample:
        """Raises RuntimeError where the GPU tells nothing."""
        try:
            if self._handle is None:
                self._known = self._introduced()
            if self._round % SELDOM == 0:
                self._known = replace(self._known, **self._seldom())
            self._round += 1
            return replace(self._known, **self._often())
        except pynvml.NVMLError as error:
            if str(error) == LOST:
                return replace(self._known, lost=True)
            raise RuntimeError(str(error)) from None

    def _introduced(self) -> GpuSample:
        handle = pynvml.nvmlDeviceGetHandleByIndex(self._known.index)
        names = {"uuid": "uuid", "pci_bus_id": "pci", "model": "name", "serial": "serial"}
        told: dict[str, Any] = {
            field: _told(partial(QUESTIONS[name], handle)) or "" for field, name in names.items()
        }
        self._handle = handle
        return replace(self._known, **told)

    def _often(self) -> dict[str, Any]:
        handle = self._handle
        use = or_none(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
        memory = QUESTIONS["memory"](handle)
        power = or_none(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
        clock = pynvml.nvmlDeviceGetClockInfo
        return {
            "sm_clock_mhz": or_none(lambda: clock(handle, pynvml.NVML_CLOCK_SM)),
            "memory_clock_mhz": or_none(lambda: clock(handle, pynvml.NVML_CLOCK_MEM)),
            "temperature_c": QUESTIONS["temperature_c"](handle),
            "memory_temperature_c": QUESTIONS["memory_temperature_c"](handle),
            "power_w": None if power is None else power / 1000,
            "energy_mj": or_none(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
            "utilisation_percent": None if use is None else use.gpu,
            "memory_utilisation_percent": None if use is None else use.memory,
            "memory_used_mib": memory["used"] / MIB,
            "memory_free_mib": (memory["total"] - memory["used"]) / MIB,
            "throttle_reasons": or_none(lambda: QUESTIONS["throttle_reasons"](handle)),
        }

    def _seldom(self) -> dict[str, Any]:
        def ask(question: str) -> Any:
            return _told(lambda: QUESTIONS[question](self._handle))

        rows, pcie, links = ask("remapped_rows") or {}, ask("pcie") or {}, ask("nvlinks") or []
        limits = ask("temperature_limits") or {}
        margin = limits.get("margin")
        if margin is None and (limit := limits.get("operating_max") or limits.get("slowdown")):
            margin = limit - (ask("temperature_c") or 0)
        return {
            "temperature_margin_c": margin,
            "power_limit_w": (ask("power") or {}).get("enforced_limit_w"),
            "pcie_replays": pcie.get("replays"),
            "pcie_width": pcie.get("width"),
            "pcie_width_max": pcie.get("max_width"),
            "nvlinks": len(links),
            "nvlinks_up": sum(link["up"] for link in links),
            "nvlink_errors": sum(sum(link["errors"].values()) for link in links),
            "ecc_single_bit": ask("ecc_corrected"),
            "ecc_double_bit": ask("ecc_uncorrected"),
            "remapped_rows_correctable": rows.get("correctable"),
            "remapped_rows_uncorrectable": rows.get("uncorrectable"),
            "row_remap_pending": bool(rows["pending"]) if rows else None,
            "row_remap_failed": bool(rows["failed"]) if rows else None,
        }


def _told(question: Callable[[], Any]) -> Any:
    """The answer; None where this GPU has none. Raises NVMLError where it is lost."""
    try:
        return or_none(question)
    except pynvml.NVMLError as error:
        if str(error) == LOST:
            raise
        return None


class Nvml:
    """The host's GPUs, each read by a thread of its own once NVML has told of them."""

    def __init__(self, on_xid: Callable[[NvmlXid], None]) -> None:
        self.gpus: list[Source[GpuSample]] = []
        self._on_xid = on_xid
        self._started = threading.Event()
        self._count = Source("nvml", self._find, every_s=RETRY_S)
        self._events: Source[None] | None = None

    @property
    def sources(self) -> list[Source[Any]]:
        events = [self._events] if self._events else []
        # Once the GPUs are found, each tells of its own blindness.
        return [*self.gpus, *events] if self._started.is_set() else [self._count]

    def samples(self) -> tuple[GpuSample, ...]:
        found = [source.value for source in self.gpus]
        return tuple(sample for sample in found if sample is not None)

    def _find(self) -> int:
        if not self._started.is_set():
            try:
                pynvml.nvmlInit()
                count = pynvml.nvmlDeviceGetCount()
            except pynvml.NVMLError as error:
                raise RuntimeError(str(error)) from None
            self.gpus = [
                Source(f"gpu {index}", Gpu(index).look, every_s=EVERY_S) for index in range(count)
            ]
            self._events = Source("nvml events", _Events(self._on_xid).wait, every_s=0.01)
            self._started.set()
        return len(self.gpus)


class _Events:
    """Xids as NVML hands them on."""

    def __init__(self, on_xid: Callable[[NvmlXid], None]) -> None:
        self._on_xid = on_xid
        self._set: Any = None

    def wait(self) -> None:
        """For a second, or until there is one. Raises RuntimeError where NVML hands none on."""
        try:
            if self._set is None:
                self._set = self._registered()
            event = pynvml.nvmlEventSetWait_v2(self._set, EVENT_WAIT_MS)
            self._on_xid(NvmlXid(int(event.eventData), QUESTIONS["pci"](event.device)))
        except pynvml.NVMLError as error:
            if str(error) != "Timeout":
                raise RuntimeError(str(error)) from None
        except AttributeError as error:
            raise RuntimeError(f"this nvidia-ml-py has no events: {error}") from None

    def _registered(self) -> Any:
        events = pynvml.nvmlEventSetCreate()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
        return events
