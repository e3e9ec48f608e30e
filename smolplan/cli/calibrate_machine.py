"""What NVML and the installed packages say of this machine, for what calibrate tells beside its
figures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.calibration import Calibration

ANSWER_S = 15.0
"""A driver that does not answer for so long is done without."""


@dataclass(frozen=True)
class Machine:
    driver: str = ""
    """NVIDIA's; empty where NVML knows none."""
    gpus: tuple[str, ...] = ()
    """Names, by NVML's index."""
    busy: tuple[int, ...] = ()
    """Indices of those that processes compute on."""


def look() -> Machine:
    """NVML's word (preflight/probes/gpu.py), or nothing where it has none."""
    import json
    import subprocess
    import sys

    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "preflight.probes.gpu"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_S,
        )
        told = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return Machine()
    devices = told["devices"]
    return Machine(
        driver=told["driver"] or "",
        gpus=tuple(device["name"] or "a GPU that does not answer" for device in devices),
        busy=tuple(device["index"] for device in devices if device["pids"]),
    )


def torch_version() -> str:
    """As installed, without importing it; empty if it is not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def notes_on_measuring(measured: "Calibration", machine: Machine) -> list[str]:
    """What of this machine may have made the figures others than they should be."""
    notes = []
    kinds = tuple(dict.fromkeys(machine.gpus))
    if measured.device == "cpu" and kinds:
        notes.append(
            f"the CPU was measured, since torch {measured.torch} cannot use the GPUs that are here "
            f"({counted(machine.gpus)}): install a torch for their driver {machine.driver}"
        )
    if measured.device == "cuda" and len(kinds) > 1:
        notes.append(
            f"of the GPUs here ({counted(machine.gpus)}) the products, attention and memory are "
            f"those of one {measured.machine}; let CUDA_VISIBLE_DEVICES name GPUs of one kind"
        )
    if measured.device == "cuda" and machine.busy:
        which = ", ".join(map(str, machine.busy))
        notes.append(f"processes computed on GPU {which} before it began: measure idle GPUs")
    return notes


BOARD = re.compile(r"\b(PCIe|NVL)\b")
"""What NVIDIA calls cards that are slower than the modules of the same chip."""


def notes_on_board(measured: "Calibration") -> list[str]:
    """Whether the catalogue takes a card for the module of the same chip."""
    from planner.predict.catalog import find_accelerator

    board, row = BOARD.search(measured.machine), find_accelerator(measured.machine)
    if board is None or row is None or board[1].lower() in row.name:
        return []
    return [
        f"the catalogue has no row for {measured.machine}: what is not measured, and the last "
        f"column, are those of {row.name}"
    ]


def notes_on_age(measured: "Calibration", torch: str, driver: str) -> list[str]:
    """Which of the versions that were measured with are no longer those installed."""
    pairs = (("torch", measured.torch, torch), ("driver", measured.driver, driver))
    changed = [
        f"{name} {then} then, {now} now"
        for name, then, now in pairs
        if then and now and then != now
    ]
    return [f"{'; '.join(changed)}: measure anew"] if changed else []


def counted(names: Sequence[str]) -> str:
    """ "2 × A, 1 × B"."""
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
