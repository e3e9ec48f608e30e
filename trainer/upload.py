"""`python -m trainer.upload RUN`: copy the run's checkpoints, and how it was rolled back, to
checkpoint.upload_to. No torch.

One process a run, beside its ranks and independent of them: whoever watches the run starts it when
something is to be sent, and it ends when none is left. What it has sent is found again by the
next one, so it may be killed at any moment. The manifest is sent last, and a checkpoint without one
counts as little there as here.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from smolplan.errors import SmolplanError, UserError
from smolplan.lock import hold
from smolplan.rundir import MANIFEST, RunDir, read_json
from smolplan.spec import RunSpec, load_spec
from smolplan.uploads import Arrived, Trouble, Uploads, store_folder
from trainer.manifest import Manifest, read_manifest, wrong_sizes
from trainer.object_store import Altered, ObjectStore, StoreError, content_of

log = logging.getLogger("trainer.upload")

FILES_AT_ONCE = 4
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 600.0
GIVE_UP_S = 24 * 3600.0
"""Without any file getting through. A store that is down for a night is waited for."""

NEEDED_TO_START = ("spec.yaml", "plan.json", "environment.json", "dataset.json", "initial.json")
"""Of the run folder: what a new cluster starts the run from, beside a checkpoint."""


ROLL_BACKS = "roll-backs.json"
"""Beside them: the run's roll-backs, by attempt."""


class Damaged(Exception):
    """A checkpoint is not what its manifest says."""


class Gone(Exception):
    """A checkpoint was removed while it was being sent, or was saved anew."""


class Uploader:
    """Sends the checkpoints of one run. Only the holder of the run's upload lock may have one."""

    def __init__(self, run: RunDir, spec: RunSpec) -> None:
        """Raises UserError if the spec names no store, or the package for it is missing."""
        if spec.checkpoint.upload_to is None:
            raise UserError(
                f"the spec of {run} names no object store",
                where="checkpoint.upload_to",
                remedy="Give one, such as s3://bucket/runs.",
            )
        self._run = run
        self._store = ObjectStore(store_folder(spec.checkpoint.upload_to, run))
        self.record = Uploads.read(run, self._store.url)
        self._is_known = False
        """Whether what a new cluster needs has been sent."""

    def next_step(self) -> int | None:
        """The checkpoint to be sent now; None if all are there."""
        return next(iter(self.record.pending(self._run)), None)

    def send(self, step: int) -> None:
        """Send a checkpoint and put its arrival on record. Raises StoreError and OSError."""
        began = time.monotonic()
        if self.record.sending != step:
            self._write(replace(self.record, sending=step))
        try:
            manifest = self._send_files(self._run.checkpoint(step))
        except Damaged as damage:
            checksum = _checksum(self._run.checkpoint(step))
            self._run.record("upload_refused", "uploader", step=step, reason=str(damage))
            refused = {**self.record.refused, step: checksum}
            self._write(replace(self.record, refused=refused, sending=None))
            return
        except Gone:
            self._write(replace(self.record, sending=None))
            return
        size = sum(entry["bytes"] for entry in manifest.files.values())
        seconds = round(time.monotonic() - began, 3)
        arrived = Arrived(manifest.checksum(), size, seconds, time.time())
        self._run.record(
            "checkpoint_uploaded",
            "uploader",
            step=step,
            to=self._store.url,
            bytes=size,
            seconds=seconds,
        )
        self._write(self.record.with_arrived(step, arrived))

    def send_roll_backs(self) -> None:
        """Those that are not there yet, and put them on record. Raises StoreError and OSError."""
        try:
            wanted = self.record.roll_backs_to_be_there(self._run)
        except SmolplanError as error:
            raise StoreError(str(error)) from None
        if wanted == self.record.roll_backs:
            return
        written = json.dumps(wanted, indent=1).encode()
        self._store.write(ROLL_BACKS, written)
        if self._store.read(ROLL_BACKS) != written:
            raise StoreError(f"{self._store.url}/{ROLL_BACKS} is not what was sent")
        self._write(replace(self.record, roll_backs=wanted, trouble=None))

    def troubled(self, error: StoreError) -> Trouble:
        """Put on record that a try has failed; it is told once for each new reason."""
        before = self.record.trouble
        now = time.time()
        trouble = Trouble(
            reason=error.reason,
            remedy=error.remedy,
            since=before.since if before and not before.given_up else now,
            tries=before.tries + 1 if before and not before.given_up else 1,
        )
        if before is None or before.reason != error.reason:
            self._run.record("upload_failed", "uploader", reason=error.reason, remedy=error.remedy)
        self._write(replace(self.record, trouble=trouble))
        return trouble

    def give_up(self, trouble: Trouble) -> None:
        self._run.record("upload_given_up", "uploader", reason=trouble.reason)
        self._write(replace(self.record, trouble=replace(trouble, given_up=True)))

    def _write(self, record: Uploads) -> None:
        self.record = record
        record.write(self._run)

    def _send_files(self, folder: Path) -> Manifest:
        """Raises StoreError, Damaged and Gone."""
        try:
            manifest = read_manifest(folder)
            written = (folder / MANIFEST).read_bytes()
        except (ValueError, OSError) as error:
            raise (Damaged(str(error)) if folder.is_dir() else Gone) from None
        if problem := wrong_sizes(folder, manifest):
            raise Damaged(problem) if folder.is_dir() else Gone
        self._send_what_starts_it()
        self.send_roll_backs()  # first: this checkpoint may come after one
        there = self._manifest_there(folder.name)
        if there == written:
            return manifest  # sent whole by an uploader that could not put it on record any more
        if there is not None:
            # Of another checkpoint of this step: with other files it must not count.
            self._store.remove(f"{folder.name}/{MANIFEST}")
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            sent = [
                pool.submit(self._send_file, folder, name, expected["sha256"])
                for name, expected in sorted(manifest.files.items())
            ]
            try:
                for one in sent:
                    one.result()
            finally:
                pool.shutdown(cancel_futures=True)
        if _read(folder / MANIFEST) != written:
            raise Gone
        self._store.put(
            folder / MANIFEST, f"{folder.name}/{MANIFEST}", content_of(folder / MANIFEST)
        )
        return manifest

    def _manifest_there(self, name: str) -> bytes | None:
        try:
            return self._store.read(f"{name}/{MANIFEST}")
        except Altered:
            return b""

    def _send_file(self, folder: Path, name: str, sha256: str) -> None:
        try:
            content = content_of(folder / name)
            if content.sha256 != sha256:
                raise Damaged(f"{name} does not have the checksum it was written with")
            self._store.put(folder / name, f"{folder.name}/{name}", content)
        except FileNotFoundError:
            raise Gone from None
        except OSError as error:
            raise StoreError(f"{folder / name}: {error.strerror}") from None

    def _send_what_starts_it(self) -> None:
        for name in () if self._is_known else NEEDED_TO_START:
            path = self._run.path / name
            if path.exists():
                self._store.put(path, name, content_of(path))
        self._is_known = True


def _checksum(folder: Path) -> str:
    return str((read_json(folder / MANIFEST) or {}).get("checksum"))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def pause_s(tries: int) -> float:
    """After so many tries in a row that failed: doubled each time."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries - 1, 20))


def send_all(run: RunDir, uploader: Uploader, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Until every checkpoint and roll-back is there, trying again for GIVE_UP_S; False if given
    up, or if the run's folder is gone."""
    failing_since: float | None = None
    while run.spec.exists():
        step = uploader.next_step()
        try:
            if step is None:
                uploader.send_roll_backs()
                return True
            uploader.send(step)
            failing_since = None
        except StoreError as error:
            trouble = uploader.troubled(error)
            what = "roll-backs" if step is None else f"step {step}"
            log.warning("%s: %s (try %d)", what, error, trouble.tries)
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since > GIVE_UP_S:
                uploader.give_up(trouble)
                return False
            sleep(pause_s(trouble.tries))
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description="Copy a run's checkpoints to an object store.")
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.nice(10)  # hashing must not take a core from a rank
    try:
        spec = load_spec(run.existing().spec)
        if not hold(run.upload_lock):
            log.info("another process uploads for %s already", run)
            return 0
        return 0 if send_all(run, Uploader(run, spec)) else 1
    except (SmolplanError, OSError) as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code) if isinstance(error, SmolplanError) else 1


if __name__ == "__main__":
    sys.exit(main())
