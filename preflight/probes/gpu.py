"""`python -m preflight.probes.gpu`: what NVML says of the GPUs. In a process of its own, since
a call to a driver whose GPU fell off the bus may never return."""

import json
import sys
from typing import Any

import pynvml

from smolplan.machine.files import names_in
from smolplan.machine.nvml import QUESTIONS, or_none, text


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
        except AttributeError as error:
            answers[name] = None
            answers["errors"][name] = f"Not Supported by this nvidia-ml-py: {error}"
    return answers


def main() -> None:
    answer: dict[str, Any] = {"driver": None, "cuda_driver": None, "error": "", "devices": []}
    # Of NVSwitches; those of a virtual machine may be out of its sight.
    answer["nvswitches"] = sum(
        n.startswith("nvidia-nvswitch") and n[-1].isdigit() for n in names_in("/dev")
    )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        answer["error"] = str(error)
    else:
        try:
            answer["driver"] = text(pynvml.nvmlSystemGetDriverVersion())
            cuda = or_none(lambda: pynvml.nvmlSystemGetCudaDriverVersion())
            if cuda:
                answer["cuda_driver"] = f"{cuda // 1000}.{cuda % 1000 // 10}"
            answer["devices"] = [_device(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            answer["error"] = str(error)
        finally:
            pynvml.nvmlShutdown()
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
