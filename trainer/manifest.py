"""Which checkpoints are whole. Needs no torch.

A checkpoint is a folder checkpoints/step-N with a manifest, written last, that lists its files
with sizes and checksums. It is built under another name (.step-N.attempt-K) and renamed.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smolplan.roll_back import RollBack, superseded
from smolplan.rundir import MANIFEST, RunDir
from trainer.data.dataset import file_sha256


@dataclass(frozen=True)
class Manifest:
    step: int
    data_position: int
    """Sequences consumed."""
    tokens: int
    spec_hash: str
    dataset: str
    """Fingerprint of the tokens that data_position counts in."""
    world_size: int
    attempt: int
    seconds: float
    """What writing the files took."""
    files: dict[str, dict[str, Any]]
    """name → bytes, sha256."""
    skipped: list[list[int]] = field(default_factory=list)
    """Ranges of the data's positions, first and last, that the run does not train on."""
    drawn: dict[str, Any] = field(default_factory=dict)
    """What the sequences below data_position follow from (trainer/data/drawn.py)."""

    def content(self) -> dict[str, Any]:
        content = asdict(self)
        for name in ("skipped", "drawn"):
            if not content[name]:  # as manifests were written, and their checksums made, before
                del content[name]
        return content

    def checksum(self) -> str:
        """SHA-256 (hex) of all the above: a flipped digit of data_position must not pass."""
        canonical = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def dump(manifest: Manifest) -> str:
    return json.dumps({**manifest.content(), "checksum": manifest.checksum()}, indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the checkpoint step-N. Raises ValueError that says what is wrong with it."""
    if not (folder / MANIFEST).exists():
        raise ValueError("it has no manifest")
    try:
        text = (folder / MANIFEST).read_text("utf-8")
    except (OSError, ValueError):
        raise ValueError("its manifest cannot be read") from None
    return parse_manifest(text, folder.name)


def parse_manifest(text: str, folder_name: str) -> Manifest:
    """Raises ValueError that says what is wrong with it."""
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("its manifest cannot be read")
    checksum = content.pop("checksum", None)
    try:
        manifest = Manifest(**content)
    except TypeError:
        raise ValueError("its manifest lacks fields") from None
    if manifest.checksum() != checksum:
        raise ValueError("its manifest does not have the checksum it was written with")
    if folder_name != f"step-{manifest.step}":
        raise ValueError(f"its manifest is of step {manifest.step}")
    for name in manifest.files:
        # One from a store of somebody else's must write into no other folder.
        if name != Path(name).name or name.startswith("."):
            raise ValueError(f"its manifest names {name!r}, which is no file of a checkpoint")
    return manifest


def wrong_sizes(folder: Path, manifest: Manifest) -> str:
    """What is missing, cut short, or not of this checkpoint; empty if nothing."""
    try:
        present = {path.name for path in folder.iterdir() if _counts(path.name)}
    except OSError as error:
        return f"{folder.name}: {error.strerror}"
    # Whatever tensors lie in the folder are loaded, so none may have been put there since.
    if strange := sorted(present - manifest.files.keys() - {MANIFEST}):
        return f"{strange[0]} is not among the files that were written"
    for name, expected in sorted(manifest.files.items()):
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            return f"{name}: {error.strerror}"
        if size != expected["bytes"]:
            return f"{name} has {size} bytes, not {expected['bytes']}"
    return ""


def _counts(name: str) -> bool:
    """Hidden files are the storage's own business, but for those that are loaded all the same."""
    return not name.startswith(".") or name.endswith(".safetensors")


def wrong_contents(folder: Path, manifest: Manifest, *, share: int = 0, shares: int = 1) -> str:
    """Which file's checksum differs; empty if none does. Reads every `shares`-th file, so that
    the ranks can divide the work."""
    for name, expected in sorted(manifest.files.items())[share::shares]:
        try:
            if file_sha256(folder / name) != expected["sha256"]:
                return f"{name} does not have the checksum it was written with"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return ""


def verify(folder: Path) -> Manifest:
    """The manifest of a whole checkpoint. Raises ValueError that says what is wrong with it."""
    manifest = read_manifest(folder)
    if problem := wrong_sizes(folder, manifest) or wrong_contents(folder, manifest):
        raise ValueError(problem)
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


def clear_partial(run: RunDir, attempt: int) -> None:
    """Remove what attempts up to this one left half written or half removed."""
    for path in run.checkpoints.glob(".step-*.attempt-*"):
        number = path.name.rpartition("-")[2]
        if number.isdigit() and int(number) <= attempt:
            shutil.rmtree(path, ignore_errors=True)
    for path in run.checkpoints.glob(".removed-*"):
        shutil.rmtree(path, ignore_errors=True)


def put_superseded_aside(run: RunDir, roll_backs: Iterable[RollBack]) -> list[int]:
    """Take checkpoints that a roll-back went behind out of the way, whole as they are; their
    steps, newest first."""
    aside = []
    for step in steps_present(run):
        folder = run.checkpoint(step)
        try:
            by = read_manifest(folder).attempt
        except ValueError:
            continue  # it is not whole, and counts for nothing
        if superseded(roll_backs, step, by):
            folder.rename(folder.with_name(f"superseded-{step}.attempt-{by}"))
            aside.append(step)
    return aside


def prune(
    run: RunDir, keep: int, whole: set[int], spared: frozenset[int] = frozenset()
) -> list[int]:
    """Remove what is older than the newest `keep` of the checkpoints known to be whole, damaged
    and superseded ones included, and `spared` ones not; the steps removed. A damaged one stays
    that long for a person to look at."""
    kept = sorted(whole, reverse=True)[:keep]
    if len(kept) < keep:
        return []
    removed = []
    kinds = ("step-*", "rejected-*", "superseded-*")
    for folder in [path for kind in kinds for path in run.checkpoints.glob(kind)]:
        kind, _, number = folder.name.partition(".")[0].partition("-")
        if not number.isdigit() or int(number) >= kept[-1]:
            continue
        if kind == "step" and int(number) in spared:
            continue
        # By rename: a removal cut short must not leave what looks like a damaged checkpoint. What
        # one of the same name left, such as files that are open on NFS, may be there still.
        doomed = folder.with_name(f".removed-{folder.name}.{secrets.token_hex(4)}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        if kind == "step":
            removed.append(int(number))
    return sorted(removed)
