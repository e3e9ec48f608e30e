"""The file that a calibration is stored in."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from planner.calibration.fits import Attention, Calibration, Collective, Matmul, Memory, fit
from smolplan.errors import UserError

FORMAT = 1
"""Of the stored file; another one is refused."""
FILE = "calibration.json"
REMEDY = "Run smolplan calibrate."
LEAST_S, MOST_S, LARGEST = 1e-9, 1e6, 2**50
"""What no sample is as short, as long or as large as: beyond them fits leave a float's range."""


def check_place(path: Path) -> None:
    """Raises UserError if `write` could not put a file there; makes nothing."""
    remedy = "Set SMOLPLAN_STATE to a folder that can be written."
    try:
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UserError("no file can be written there", where=str(path), remedy=remedy)
    except OSError as error:
        raise UserError(
            f"no file can be written there: {error.strerror}", where=str(path), remedy=remedy
        ) from None


def write(measured: Calibration, path: Path) -> None:
    """Replaces the file as a whole or not at all. Raises UserError."""
    from smolplan.rundir import write_json

    content = {"format": FORMAT, **asdict(measured), "fits": asdict(fit(measured))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # a new home has no ~/.local/state yet
        write_json(path, content)
    except OSError as error:
        raise UserError(f"cannot write it: {error.strerror}", where=str(path)) from None


def read(path: Path) -> Calibration:
    """Raises UserError if there is none, or it is damaged or of another format."""
    import json

    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError("no calibration is stored", where=str(path), remedy=REMEDY) from None
    except OSError as error:
        raise UserError(f"cannot read it: {error.strerror}", where=str(path)) from None
    except ValueError:
        raise _damaged(path, "it is no JSON") from None
    if not isinstance(content, dict):
        raise _damaged(path, "it is no JSON object")
    if content.get("format") != FORMAT:
        raise UserError(
            f"this calibration is of format {content.get('format')!r}, not {FORMAT}",
            where=str(path),
            remedy="Run smolplan calibrate anew.",
        )
    try:
        return parse(content)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"this calibration is damaged ({why})",
        where=str(path),
        remedy="Run smolplan calibrate anew.",
    )


def parse(content: dict[str, Any]) -> Calibration:
    """Raises KeyError, TypeError or ValueError for what `write` would not have written."""
    texts = {name: content[name] for name in ("date", "device", "machine", "torch")}
    texts["driver"] = content.get("driver", "")
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError(f"{', '.join(texts)} are texts")

    def rows(name: str, make: Callable[..., Any]) -> tuple[Any, ...]:
        made = tuple(make(**row) for row in content[name])
        for row in made:
            for field, value in asdict(row).items():
                if field in ("kind", "precision"):
                    good = isinstance(value, str)
                elif field == "seconds":
                    good = isinstance(value, float) and LEAST_S < value < MOST_S
                else:
                    good = type(value) is int and 0 < value < LARGEST
                if not good:
                    raise ValueError(f"{name}: {field} is {value!r}")
        return made

    return Calibration(
        **texts,
        matmul=rows("matmul", Matmul),
        attention=rows("attention", Attention),
        memory=rows("memory", Memory),
        collective=rows("collective", Collective),
    )
