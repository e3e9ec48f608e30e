"""RUN/uploads.json: what has arrived in the object store of checkpoints and roll-backs, and what
holds it up.

Written by the one process that uploads (python -m trainer.upload), replaced by rename; read by all.
A checkpoint is known by the checksum in its manifest, so that a step that was done again, and
saved anew, is uploaded again.
"""

import shutil
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Self

from smolplan.checksums import checksum
from smolplan.errors import SmolplanError, UserError
from smolplan.roll_back import read_roll_backs
from smolplan.rundir import RunDir, read_json, write_json
from smolplan.spec.checkpoint import STORE_PACKAGES

ROOM = 1.2
"""Sizes of a checkpoint that must be free for the next one."""


@dataclass(frozen=True)
class Arrived:
    """A checkpoint that was verified in the store."""

    checksum: str
    bytes: int
    seconds: float
    at: float
    """Wall time, seconds since the epoch."""


@dataclass(frozen=True)
class Trouble:
    """What keeps checkpoints from being uploaded now."""

    reason: str
    remedy: str
    since: float
    tries: int
    given_up: bool = False


@dataclass(frozen=True)
class Uploads:
    to: str = ""
    """URL of the run's own folder in the store."""
    arrived: dict[int, Arrived] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    """Checkpoints that are damaged here, by the checksum in their manifest: not uploaded."""
    roll_backs: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Those that are there, by attempt."""
    sending: int | None = None
    trouble: Trouble | None = None

    @classmethod
    def read(cls, run: RunDir, to: str) -> Self:
        """What is on record of the store `to`; nothing has arrived where nothing can be read."""
        content: dict[str, Any] = read_json(run.uploads) or {}
        if content.get("to") != to:
            return cls(to=to)
        try:
            return cls(
                to=to,
                arrived={int(s): Arrived(**told) for s, told in content["arrived"].items()},
                refused={int(s): str(made) for s, made in content["refused"].items()},
                # Not in a record that was written before they were sent.
                roll_backs={int(k): dict(one) for k, one in content.get("roll_backs", {}).items()},
                sending=content["sending"],
                trouble=Trouble(**content["trouble"]) if content["trouble"] else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls(to=to)  # what is there is found again by asking the store

    def write(self, run: RunDir) -> None:
        """Raises OSError."""
        write_json(run.uploads, asdict(self))

    def with_arrived(self, step: int, told: Arrived) -> "Uploads":
        return replace(self, arrived={**self.arrived, step: told}, sending=None, trouble=None)

    def pending(self, run: RunDir) -> list[int]:
        """Steps whose checkpoints are here and not yet there, newest first: should this storage
        be lost, that one counts most."""
        return [
            step
            for step, made in sorted(checkpoints_here(run).items(), reverse=True)
            if self.refused.get(step) != made
            and (step not in self.arrived or self.arrived[step].checksum != made)
        ]

    def roll_backs_to_be_there(self, run: RunDir) -> dict[int, dict[str, Any]]:
        """By attempt: those of the run folder, and those that were sent before. Raises
        SmolplanError where one cannot be read."""
        here = read_roll_backs(run, run.latest_attempt())
        return {**self.roll_backs, **{one.attempt: one.to_json() for one in here}}

    def is_complete(self, run: RunDir) -> bool:
        """Whether all checkpoints are there, and all roll-backs: without one, another cluster would
        go on from what the run went back behind."""
        try:
            return not self.pending(run) and self.roll_backs_to_be_there(run) == self.roll_backs
        except SmolplanError:
            return False  # whoever sends it says so


def check_package(url: str) -> None:
    """Raises UserError if this machine lacks the package for a store."""
    scheme = url.partition("://")[0]
    package = STORE_PACKAGES[scheme]
    if find_spec(package) is None:
        extra = "'smolplan[object-store]'" if package in ("s3fs", "fsspec") else package
        raise UserError(
            f"{scheme}:// needs the package {package}, which is not installed here",
            where="checkpoint.upload_to",
            remedy=f"Install it: pip install {extra}",
        )


def store_folder(upload_to: str, run: RunDir) -> str:
    """URL of a run's folder in the store."""
    return f"{upload_to}/{run.path.name}"


def checkpoints_here(run: RunDir) -> dict[int, str]:
    """Step → checksum in the manifest of each checkpoint that has one, whole or not."""
    told = {step: checksum(run, step) for step in run.saved_steps()}
    return {step: text for step, text in told.items() if text is not None}


def kept_for_upload(run: RunDir, upload_to: str | None, checkpoint_bytes: int) -> frozenset[int]:
    """Steps whose checkpoints must not be removed here, since they are nowhere else.

    Where there is no room for another checkpoint the oldest of them is given up: training goes on.
    """
    if upload_to is None:
        return frozenset()
    pending = Uploads.read(run, store_folder(upload_to, run)).pending(run)
    if shutil.disk_usage(run.checkpoints).free < ROOM * checkpoint_bytes:
        pending = pending[:-1]
    return frozenset(pending)


def lost_here(run: RunDir, upload_to: str | None) -> int | None:
    """The newest checkpoint in the store of a run that has none here any longer; None if it has
    one, or never had."""
    if upload_to is None:
        return None
    arrived = Uploads.read(run, store_folder(upload_to, run)).arrived
    return max(arrived) if arrived and not checkpoints_here(run) else None
