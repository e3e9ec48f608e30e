"""NVML's edge, faked: as many H100s as told, with GPU 3 as told in FAKE_NVML (JSON).

Tests put it where `import pynvml` finds it, so that the real probe runs in its real process. Its
functions take, return and raise what those of nvidia-ml-py 13.615 do.
"""

import json
import os
import time
from ctypes import Structure, c_uint, c_uint32, c_ulonglong
from types import SimpleNamespace
from typing import Any

FAULT = json.loads(os.environ["FAKE_NVML"])

NVML_SUCCESS = 0
NVML_MEMORY_ERROR_TYPE_CORRECTED = 0
NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
NVML_VOLATILE_ECC = 0
NVML_AGGREGATE_ECC = 1
NVML_TEMPERATURE_GPU = 0
NVML_TEMPERATURE_THRESHOLD_SHUTDOWN = 0
NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1
NVML_TEMPERATURE_THRESHOLD_MEM_MAX = 2
NVML_TEMPERATURE_THRESHOLD_GPU_MAX = 3
NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS = 0
NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR = 1
NVML_CLOCK_SM = 1
NVML_CLOCK_MEM = 2
NVML_NVLINK_MAX_LINKS = 36
NVML_FI_DEV_MEMORY_TEMP = 82
NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230
nvmlMemory_v2 = 0x02000028
nvmlEventTypeXidCriticalError = 8

LINKS = 18
HOPPER = not FAULT.get("ampere")


class NVMLError(Exception):
    pass


class c_nvmlEccSramErrorStatus_v1_t(Structure):
    _fields_ = (
        *((name, c_ulonglong) for name in ("aggregateUncParity", "aggregateUncSecDed")),
        ("aggregateCor", c_ulonglong),
        ("bThresholdExceeded", c_uint),
    )


class c_nvmlGpuFabricInfo_v2_t(Structure):
    _fields_ = (("state", c_uint32), ("status", c_uint32), ("healthMask", c_uint32))


def _of(handle: int, name: str, sound: int = 0) -> int:
    if handle == 3 and FAULT.get("deaf") == name:
        raise NVMLError("Unknown Error")
    return int(FAULT.get(name, sound)) if handle == 3 else sound


def _only(has: bool) -> None:
    if not has:
        raise NVMLError("Not Supported")


def nvmlInit() -> None:
    if FAULT.get("hang"):
        time.sleep(600)
    if FAULT.get("no_driver"):
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown() -> None: ...


def nvmlSystemGetDriverVersion() -> str:
    return str(FAULT.get("driver", "570.86.15"))


def nvmlSystemGetCudaDriverVersion() -> int:
    return 12080


def nvmlDeviceGetCount() -> int:
    return int(FAULT.get("count", 8))


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    if index == 3 and FAULT.get("lost"):
        raise NVMLError("GPU is lost")
    return index


def nvmlDeviceGetHandleByUUID(uuid: str) -> int:
    return int(uuid.removeprefix("GPU-"))


def nvmlDeviceGetName(handle: int) -> bytes:
    return str(FAULT.get("name", "NVIDIA H100 80GB HBM3")).encode()


def nvmlDeviceGetUUID(handle: int) -> str:
    return f"GPU-{handle}"


def nvmlDeviceGetCudaComputeCapability(handle: int) -> list[int]:
    return [_of(handle, "capability", 9), 0]


def nvmlDeviceGetSerial(handle: int) -> bytes:
    return f"165{FAULT.get('host', 0)}{handle:09d}".encode()


def nvmlDeviceGetPciInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(busId=f"00000000:{0xA0 + handle:02X}:00.0".encode())


def nvmlDeviceGetVbiosVersion(handle: int) -> str:
    return f"96.00.{0x74 + _of(handle, 'vbios'):02X}.00.01"


def nvmlDeviceGetGspFirmwareVersion(handle: int) -> bytes:
    return b"570.86.15"


def nvmlDeviceGetMemoryInfo(handle: int, version: int | None = None) -> SimpleNamespace:
    used = 1_000_000 + _of(handle, "memory")
    return SimpleNamespace(used=used, total=_of(handle, "total", 85_000_000_000))


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    return 40 + _of(handle, "heat")


def nvmlDeviceGetTemperatureThreshold(handle: int, threshold: int) -> int:
    return (95, 92, 95, 87)[threshold]


def nvmlDeviceGetMarginTemperature(handle: int) -> int:
    _only(HOPPER)
    return 47 - _of(handle, "heat")


def nvmlDeviceGetFieldValues(handle: int, fields: list[int]) -> list[SimpleNamespace]:
    known = {
        NVML_FI_DEV_MEMORY_TEMP: 50 + _of(handle, "memory_heat"),
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: _of(handle, "recovery"),
    }
    return [
        SimpleNamespace(nvmlReturn=NVML_SUCCESS, value=SimpleNamespace(uiVal=known[f]))
        for f in fields
    ]


def nvmlDeviceGetCurrentClocksEventReasons(handle: int) -> int:
    return _of(handle, "throttle", 1)


def nvmlDeviceGetClockInfo(handle: int, kind: int) -> int:
    if handle == 3 and FAULT.get("stuck"):
        time.sleep(600)
    return 345


def nvmlDeviceGetMaxClockInfo(handle: int, kind: int) -> int:
    return 1980


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return 70_000


def nvmlDeviceGetPowerManagementLimit(handle: int) -> int:
    return _of(handle, "power_limit", 700_000)


def nvmlDeviceGetEnforcedPowerLimit(handle: int) -> int:
    return _of(handle, "power_limit", 700_000)


def nvmlDeviceGetPowerManagementDefaultLimit(handle: int) -> int:
    return 700_000


def nvmlDeviceGetEccMode(handle: int) -> list[int]:
    on = _of(handle, "ecc_on", 1)
    return [on, on]


def nvmlDeviceGetTotalEccErrors(handle: int, kind: int, counter: int) -> int:
    return _of(handle, "ecc" if kind == NVML_MEMORY_ERROR_TYPE_UNCORRECTED else "ecc_corrected")


def nvmlDeviceGetSramEccErrorStatus(handle: int, status: Any) -> int:
    # byref() of a structure hands the structure itself on as _obj.
    status._obj.aggregateUncParity = _of(handle, "sram")
    return NVML_SUCCESS


def nvmlDeviceGetRemappedRows(handle: int) -> tuple[int, int, int, int]:
    return 0, _of(handle, "remaps"), _of(handle, "pending"), _of(handle, "failed")


def nvmlDeviceGetRowRemapperHistogram(handle: int) -> SimpleNamespace:
    none = _of(handle, "exhausted")
    return SimpleNamespace(max=1024 - none, high=0, partial=0, low=0, none=none)


def nvmlDeviceGetRetiredPages(handle: int, cause: int) -> list[int]:
    _only(not HOPPER)
    return []


def nvmlDeviceGetRetiredPagesPendingStatus(handle: int) -> int:
    _only(not HOPPER)
    return _of(handle, "pages_pending")


def nvmlDeviceGetCurrPcieLinkWidth(handle: int) -> int:
    return _of(handle, "lanes", 16)


def nvmlDeviceGetMaxPcieLinkWidth(handle: int) -> int:
    return 16


def nvmlDeviceGetCurrPcieLinkGeneration(handle: int) -> int:
    return 1  # it rests


def nvmlDeviceGetMaxPcieLinkGeneration(handle: int) -> int:
    return _of(handle, "generation", 5)


def nvmlDeviceGetGpuMaxPcieLinkGeneration(handle: int) -> int:
    return 5


def nvmlDeviceGetPcieReplayCounter(handle: int) -> int:
    return 0


def nvmlDeviceGetNvLinkState(handle: int, link: int) -> int:
    if link >= LINKS:
        raise NVMLError("Invalid Argument")
    return int(link < _of(handle, "links", LINKS))


def nvmlDeviceGetNvLinkErrorCounter(handle: int, link: int, counter: int) -> int:
    return _of(handle, "replays") if (link, counter) == (7, 0) else 0


def nvmlDeviceGetGpuFabricInfoV(handle: int, info: Any) -> int:
    _only(HOPPER)
    # 2 in each field of the mask: asked, and nothing the matter.
    info._obj.state, info._obj.healthMask = _of(handle, "fabric", 3), _of(handle, "health", 0x1AA)
    return NVML_SUCCESS


def nvmlDeviceGetPersistenceMode(handle: int) -> int:
    return _of(handle, "persistence", 1)


def nvmlDeviceGetMigMode(handle: int) -> list[int]:
    return [_of(handle, "mig")] * 2


def nvmlDeviceGetComputeMode(handle: int) -> int:
    return _of(handle, "compute_mode")


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=_of(handle, "pid"))] if _of(handle, "pid") else []


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    return SimpleNamespace(gpu=97, memory=41)


def nvmlDeviceGetTotalEnergyConsumption(handle: int) -> int:
    return 3_600_000


def nvmlEventSetCreate() -> list[int]:
    return [FAULT["xid"]] if FAULT.get("xid") else []


def nvmlDeviceRegisterEvents(handle: int, kinds: int, events: list[int]) -> None: ...


def nvmlEventSetWait_v2(events: list[int], timeout_ms: int) -> SimpleNamespace:
    """An Xid of GPU 3, once."""
    if events:
        return SimpleNamespace(device=3, eventData=events.pop())
    time.sleep(timeout_ms / 1000)
    raise NVMLError("Timeout")
