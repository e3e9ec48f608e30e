"""What NVML is asked of one GPU. An answer is JSON; a question raises NVMLError where it has none.

Names of functions and structures are those of NVIDIA's nvidia-ml-py 13.615 (pynvml.py). One that
an older nvidia-ml-py does not know is an AttributeError.
"""

from collections.abc import Callable
from ctypes import byref
from functools import partial
from typing import Any

import pynvml

from smolplan.machine.pci import short

LINK_ERRORS = {"replay": 0, "recovery": 1, "crc_flit": 2, "crc_data": 3, "ecc_data": 4}
"""NVML_NVLINK_ERROR_DL_*. NVLink 5 has none of them: its errors are Xids 144 to 150."""

SILENT = ("Not Supported", "Function Not Found", "Invalid Argument", "Not Found")
"""NVML's words where a GPU or driver simply has no such thing."""


def text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def or_none(question: Callable[[], Any]) -> Any:
    """The answer; None where this GPU, driver or library has no such thing."""
    try:
        return question()
    except AttributeError:
        return None
    except pynvml.NVMLError as error:
        if str(error) in SILENT:
            return None
        raise


def _memory(handle: Any) -> dict[str, Any]:
    """Version 1 counts what the driver keeps for itself as used: some 500 MiB on an H100."""
    exact = or_none(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2))
    memory = exact or pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {"used": memory.used, "total": memory.total, "used_is_exact": exact is not None}


def _remapped(handle: Any) -> dict[str, Any]:
    correctable, uncorrectable, pending, failed = pynvml.nvmlDeviceGetRemappedRows(handle)
    banks = or_none(lambda: pynvml.nvmlDeviceGetRowRemapperHistogram(handle))
    return {
        "correctable": correctable,
        "uncorrectable": uncorrectable,
        "pending": int(pending),
        "failed": int(failed),
        "banks_exhausted": None if banks is None else banks.none,
        "banks_low": None if banks is None else banks.low,
    }


def _retired(handle: Any) -> dict[str, int]:
    """Page retirement: before Ampere; since then rows are remapped."""
    single, double = (
        len(pynvml.nvmlDeviceGetRetiredPages(handle, cause))
        for cause in (
            pynvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
            pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
        )
    )
    pending = pynvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)
    return {"single_bit": single, "double_bit": double, "pending": pending}


def _ecc_errors(handle: Any, kind: int, counter: int) -> int:
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, counter))


def _sram(handle: Any) -> dict[str, int]:
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    pynvml.nvmlDeviceGetSramEccErrorStatus(handle, byref(status))
    return {
        "uncorrected": status.aggregateUncParity + status.aggregateUncSecDed,
        "corrected": status.aggregateCor,
        "threshold_exceeded": int(status.bThresholdExceeded),
    }


def _field(handle: Any, field: int) -> int | None:
    """An unsigned value by NVML's field id; None where there is none."""
    (value,) = pynvml.nvmlDeviceGetFieldValues(handle, [field])
    return int(value.value.uiVal) if value.nvmlReturn == pynvml.NVML_SUCCESS else None


def _temperature_limits(handle: Any) -> dict[str, int | None]:
    """In °C. `margin` is how far it is below its highest operating temperature; newer GPUs tell it
    in place of the others."""

    def limit(which: int) -> Any:
        return or_none(lambda: pynvml.nvmlDeviceGetTemperatureThreshold(handle, which))

    return {
        "shutdown": limit(pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
        "slowdown": limit(pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        "memory_max": limit(pynvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX),
        "operating_max": limit(pynvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX),
        "margin": or_none(lambda: pynvml.nvmlDeviceGetMarginTemperature(handle)),
    }


def _throttle_reasons(handle: Any) -> int:
    newer = or_none(lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) if newer is None else newer)


def _power(handle: Any) -> dict[str, float | None]:
    def watts(question: Callable[[Any], int]) -> float | None:
        milliwatts = or_none(lambda: question(handle))
        return None if milliwatts is None else milliwatts / 1000

    return {
        "usage_w": watts(pynvml.nvmlDeviceGetPowerUsage),
        "limit_w": watts(pynvml.nvmlDeviceGetPowerManagementLimit),
        "default_limit_w": watts(pynvml.nvmlDeviceGetPowerManagementDefaultLimit),
        "enforced_limit_w": watts(pynvml.nvmlDeviceGetEnforcedPowerLimit),
    }


def _clocks(handle: Any) -> dict[str, int]:
    return {
        "sm_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "sm_max_mhz": pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_mhz": pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "memory_max_mhz": pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM),
    }


def _pcie(handle: Any) -> dict[str, int | None]:
    """`max_width` and `max_generation` are what GPU and slot can do together."""
    return {
        "width": pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
        "max_width": pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle),
        "generation": pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
        "max_generation": pynvml.nvmlDeviceGetMaxPcieLinkGeneration(handle),
        "gpu_max_generation": or_none(lambda: pynvml.nvmlDeviceGetGpuMaxPcieLinkGeneration(handle)),
        "replays": or_none(lambda: pynvml.nvmlDeviceGetPcieReplayCounter(handle)),
    }


def _nvlinks(handle: Any) -> list[dict[str, Any]]:
    """The links that the GPU has, each with whether it is up and its errors by kind."""
    links = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        up = or_none(partial(pynvml.nvmlDeviceGetNvLinkState, handle, link))
        if up is None:
            continue  # beyond what this GPU has
        errors = {
            kind: or_none(partial(pynvml.nvmlDeviceGetNvLinkErrorCounter, handle, link, counter))
            for kind, counter in (LINK_ERRORS.items() if up else ())
        }
        counted = {kind: count for kind, count in errors.items() if count}
        links.append({"link": link, "up": bool(up), "errors": counted})
    return links


def _fabric(handle: Any) -> dict[str, int]:
    """Of GPUs behind NVSwitches (Hopper and newer): how far they are in joining it."""
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    pynvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info))
    return {"state": info.state, "status": info.status, "health_mask": info.healthMask}


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "name": lambda h: text(pynvml.nvmlDeviceGetName(h)),
    "uuid": lambda h: text(pynvml.nvmlDeviceGetUUID(h)),
    "compute_capability": lambda h: list(pynvml.nvmlDeviceGetCudaComputeCapability(h)),
    "serial": lambda h: text(pynvml.nvmlDeviceGetSerial(h)),
    "pci": lambda h: short(text(pynvml.nvmlDeviceGetPciInfo(h).busId)),
    "vbios": lambda h: text(pynvml.nvmlDeviceGetVbiosVersion(h)),
    "gsp": lambda h: text(pynvml.nvmlDeviceGetGspFirmwareVersion(h)),
    "memory": _memory,
    "temperature_c": lambda h: pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU),
    "memory_temperature_c": lambda h: _field(h, pynvml.NVML_FI_DEV_MEMORY_TEMP),
    "temperature_limits": _temperature_limits,
    "throttle_reasons": _throttle_reasons,
    "clocks": _clocks,
    "power": _power,
    "ecc_mode": lambda h: list(pynvml.nvmlDeviceGetEccMode(h)),
    "ecc_uncorrected": lambda h: _ecc_errors(
        h, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    ),
    "ecc_uncorrected_ever": lambda h: _ecc_errors(
        h, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_AGGREGATE_ECC
    ),
    "ecc_corrected": lambda h: _ecc_errors(
        h, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_VOLATILE_ECC
    ),
    "sram": _sram,
    "remapped_rows": _remapped,
    "retired_pages": _retired,
    "recovery_action": lambda h: _field(h, pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
    "pcie": _pcie,
    "nvlinks": _nvlinks,
    "fabric": _fabric,
    "persistence": lambda h: pynvml.nvmlDeviceGetPersistenceMode(h),
    "mig": lambda h: list(pynvml.nvmlDeviceGetMigMode(h)),
    "compute_mode": lambda h: pynvml.nvmlDeviceGetComputeMode(h),
    "pids": lambda h: [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(h)],
}
