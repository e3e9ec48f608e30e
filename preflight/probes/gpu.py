"""`python -m preflight.probes.gpu`: what NVML says of the GPUs. In a process of its own, since
a call to a driver whose GPU fell off the bus may never return."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pynvml


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _memory(handle: Any) -> dict[str, int]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {"used": memory.used, "total": memory.total}


def _remapped(handle: Any) -> dict[str, int]:
    correctable, uncorrectable, pending, failed = pynvml.nvmlDeviceGetRemappedRows(handle)
    return {
        "correctable": correctable,
        "uncorrectable": uncorrectable,
        "pending": int(pending),
        "failed": int(failed),
    }


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "name": lambda h: _text(pynvml.nvmlDeviceGetName(h)),
    "uuid": lambda h: _text(pynvml.nvmlDeviceGetUUID(h)),
    "pci": lambda h: _text(pynvml.nvmlDeviceGetPciInfo(h).busId),
    "memory": _memory,
    "temperature_c": lambda h: pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU),
    "throttle_reasons": lambda h: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(h),
    "ecc_uncorrected": lambda h: pynvml.nvmlDeviceGetTotalEccErrors(
        h, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    ),
    "remapped_rows": _remapped,
    "pids": lambda h: [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(h)],
}


def _device(index: int) -> dict[str, Any]:
    """Answers by question; None, and the reason under "errors", where this GPU gives none."""
    answers: dict[str, Any] = {"index": index, "errors": {}}
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return {**answers, **dict.fromkeys(QUESTIONS), "errors": {"handle": str(error)}}
    for name, question in QUESTIONS.items():
        try:
            answers[name] = question(handle)
        except pynvml.NVMLError as error:
            answers[name] = None
            answers["errors"][name] = str(error)
    return answers


def main() -> None:
    answer: dict[str, Any] = {"driver": None, "error": "", "devices": []}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        answer["error"] = str(error)
    else:
        try:
            answer["driver"] = _text(pynvml.nvmlSystemGetDriverVersion())
            answer["devices"] = [_device(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            answer["error"] = str(error)
        finally:
            pynvml.nvmlShutdown()
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
