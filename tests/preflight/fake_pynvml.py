"""NVML's edge, faked: as many H100s as told, with GPU 3 as told in FAKE_NVML (JSON).

Tests put it where `import pynvml` finds it, so that the real probe runs in its real process.
"""

import json
import os
from types import SimpleNamespace

FAULT = json.loads(os.environ["FAKE_NVML"])

NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
NVML_VOLATILE_ECC = 0
NVML_TEMPERATURE_GPU = 0


class NVMLError(Exception):
    pass


def _of(handle: int, name: str) -> int:
    if handle == 3 and FAULT.get("deaf") == name:
        raise NVMLError("Unknown Error")
    return int(FAULT.get(name, 0)) if handle == 3 else 0


def nvmlInit() -> None:
    if FAULT.get("hang"):
        import time

        time.sleep(600)
    if FAULT.get("no_driver"):
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown() -> None: ...


def nvmlSystemGetDriverVersion() -> str:
    return "570.86.15"


def nvmlDeviceGetCount() -> int:
    return int(FAULT.get("count", 8))


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    if index == 3 and FAULT.get("lost"):
        raise NVMLError("GPU is lost")
    return index


def nvmlDeviceGetName(handle: int) -> bytes:
    return str(FAULT.get("name", "NVIDIA H100 80GB HBM3")).encode()


def nvmlDeviceGetUUID(handle: int) -> str:
    return f"GPU-{handle}"


def nvmlDeviceGetPciInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(busId=f"0000:{handle:02x}:00.0")


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(used=1_000_000 + _of(handle, "memory"), total=80_000_000_000)


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    return 40 + _of(handle, "heat")


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: int) -> int:
    return 1 | _of(handle, "throttle")


def nvmlDeviceGetTotalEccErrors(handle: int, kind: int, counter: int) -> int:
    return _of(handle, "ecc")


def nvmlDeviceGetRemappedRows(handle: int) -> tuple[int, int, int, int]:
    return 0, _of(handle, "remaps"), _of(handle, "pending"), _of(handle, "failed")


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=_of(handle, "pid"))] if _of(handle, "pid") else []
