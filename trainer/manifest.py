"""Which checkpoints are whole. Needs no torch.

A checkpoint is a folder checkpoints/step-N with a manifest, written last, that lists its files
with sizes and checksums. It is built under another name (.step-N.attempt-K) and renamed.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smolplan.rundir import RunDir, read_json
from trainer.data.dataset import file_sha256

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    step: int
    data_position: int
    """Sequences consumed."""
    tokens: int
    spec_hash: str
    world_size: int
    attempt: int
    files: dict[str, dict[str, Any]]
    """name → bytes, sha256."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verify(folder: Path) -> Manifest:
    """The manifest of a whole checkpoint. Raises ValueError that says what is wrong with it."""
    content = read_json(folder / MANIFEST)
    if content is None:
        raise ValueError("it has no readable manifest")
    try:
        manifest = Manifest(**content)
    except TypeError:
        raise ValueError("its manifest lacks fields") from None
    for name, expected in sorted(manifest.files.items()):
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected["bytes"]:
                raise ValueError(f"{name} has {size} bytes, not {expected['bytes']}")
            if file_sha256(path) != expected["sha256"]:
                raise ValueError(f"{name} does not have the checksum it was written with")
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}") from None
    return manifest


def steps_present(run: RunDir) -> list[int]:
    """Steps that have a checkpoint folder, whole or not, newest first."""
    if not run.checkpoints.is_dir():
        return []
    names = (p.name.removeprefix("step-") for p in run.checkpoints.glob("step-*"))
    return sorted((int(n) for n in names if n.isdigit()), reverse=True)


def survey(run: RunDir) -> Iterator[tuple[int, Manifest | str]]:
    """Each checkpoint, newest first: its manifest, or why it is not whole."""
    for step in steps_present(run):
        try:
            yield step, verify(run.checkpoint(step))
        except ValueError as error:
            yield step, str(error)


def clear_partial(run: RunDir, before_attempt: int) -> None:
    """Remove what earlier attempts left unfinished."""
    for path in run.checkpoints.glob(".step-*.attempt-*"):
        number = path.name.rpartition("-")[2]
        if number.isdigit() and int(number) < before_attempt:
            shutil.rmtree(path, ignore_errors=True)


def prune(run: RunDir, keep: int, whole: set[int]) -> list[int]:
    """Remove all but the newest `keep` of the checkpoints known to be whole; the steps removed.
    Those not known to be whole are left for a person to look at."""
    removed = [step for step in sorted(whole, reverse=True)[keep:] if run.checkpoint(step).exists()]
    for step in removed:
        # The manifest goes first: a removal cut short leaves no checkpoint, not half of one.
        (run.checkpoint(step) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(run.checkpoint(step), ignore_errors=True)
    return removed


def dump(manifest: Manifest) -> str:
    return json.dumps(manifest.to_json(), indent=1) + "\n"
