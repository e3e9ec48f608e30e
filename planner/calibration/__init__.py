"""What was measured of a machine: the constants that follow (fits), and where it is stored
(file)."""

from planner.calibration.file import FILE, check_place, parse, read, write
from planner.calibration.fits import (
    Attention,
    Calibration,
    Collective,
    Matmul,
    Memory,
    fit,
    fit_line,
    fit_link,
    fit_matmul,
)

__all__ = [
    "FILE",
    "Attention",
    "Calibration",
    "Collective",
    "Matmul",
    "Memory",
    "check_place",
    "fit",
    "fit_line",
    "fit_link",
    "fit_matmul",
    "parse",
    "read",
    "write",
]
