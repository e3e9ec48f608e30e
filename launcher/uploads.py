"""Checkpoints go to the object store, and come back, by processes of their own beside a run.

They run on the machine that launches and watches, with its credentials, and belong to no attempt:
no attempt's end ends them. A lock in the run folder lets one be at work at a time.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from launcher.helpers import Helpers
from smolplan.errors import SmolplanError, UserError
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec
from smolplan.uploads import Uploads, check_package, lost_here, store_folder


def check_store(upload_to: str | None) -> None:
    """Raises UserError if this machine lacks the package for it, or a folder that it names."""
    if upload_to is None:
        return
    check_package(upload_to)
    parts = urlsplit(upload_to)
    if parts.scheme == "file" and not Path(parts.path).is_dir():
        raise UserError(
            f"{parts.path} is no folder of this machine",
            where="checkpoint.upload_to",
            remedy="Make it, or mount what it is on.",
        )


class Transfers:
    """What one daemon has started."""

    def __init__(self, helpers: Helpers) -> None:
        self._helpers = helpers

    def upload(self, run: RunDir, spec: RunSpec, *, is_over: bool = False) -> bool:
        """See to it that the checkpoints and roll-backs that are here get there; whether any still
        has to. For a run that is over, none does once it was given up."""
        upload_to = spec.checkpoint.upload_to
        if upload_to is None or not run.spec.exists():
            return False
        record = Uploads.read(run, store_folder(upload_to, run))
        if record.is_complete(run):
            return False
        if is_over and record.trouble is not None and record.trouble.given_up:
            return False
        # Of a run that is over only what was saved last is missing: nothing is gained by a pause.
        self._start("trainer.upload", run, at_once=is_over and record.trouble is None)
        return True

    def fetch_what_is_lost(self, run: RunDir, spec: RunSpec) -> str:
        """What an uploaded run that has no checkpoint here any longer has to wait for before it
        starts; empty if for nothing."""
        step = lost_here(run, spec.checkpoint.upload_to)
        if step is None:
            return ""
        self._start("trainer.restore", run)
        return f"checkpoint {step} is fetched from {spec.checkpoint.upload_to}"

    def _start(self, module: str, run: RunDir, *, at_once: bool = False) -> None:
        lock, output = run.upload_lock, run.path / "upload.log"
        self._helpers.start(module, str(run.path), lock=lock, output=output, at_once=at_once)


def fetch_now(run: RunDir, spec: RunSpec, on_progress: Callable[[str], None]) -> None:
    """As fetch_what_is_lost, waiting for it. Raises SmolplanError with what the process said."""
    if lost_here(run, spec.checkpoint.upload_to) is None:
        return
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "trainer.restore", str(run.path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert process.stderr is not None
    last = ""
    for line in process.stderr:
        last = line.strip()
        on_progress(last)
    if process.wait():
        raise SmolplanError(last.removeprefix("smolplan: "))
