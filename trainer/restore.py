"""`python -m trainer.restore RUN`: fetch the newest whole checkpoint from checkpoint.upload_to.

It is built under another name, held against its manifest file by file, and renamed: what is half
fetched is never loaded, and is gone on with by the next try. Needs no torch.
"""

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from smolplan.errors import SmolplanError, UserError
from smolplan.lock import hold
from smolplan.roll_back import (
    RollBack,
    parse_roll_backs,
    read_roll_backs,
    superseded,
    write_roll_backs,
)
from smolplan.rundir import MANIFEST, RunDir, sync_folder, write_text
from smolplan.spec import load_spec
from smolplan.uploads import store_folder
from trainer.data.dataset import file_sha256
from trainer.manifest import Manifest, dump, parse_manifest, verify
from trainer.object_store import Altered, ObjectStore
from trainer.upload import FILES_AT_ONCE, ROLL_BACKS

log = logging.getLogger("trainer.restore")

FETCHING = ".fetching"
"""Below checkpoints/: where a checkpoint is put together."""


def steps_there(store: ObjectStore) -> list[int]:
    """Steps that have anything in the store, newest first. Raises StoreError."""
    numbers = [name.removeprefix("step-") for name in store.names() if name.startswith("step-")]
    return sorted((int(n) for n in numbers if n.isdigit()), reverse=True)


def restore(
    run: RunDir,
    store: ObjectStore,
    step: int | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """The newest whole checkpoint of the store, or that of `step`, in its place in the run, whole.
    One that is not whole, or that a roll-back went behind, is told of, and the one before is
    taken, unless a step was asked for. The run's roll-backs come first.

    Raises UserError if there is none, StoreError, SmolplanError where a roll-back cannot be read,
    and OSError where it cannot be written.
    """
    found = steps_there(store)
    roll_backs = _take_over(run, store, found)
    wanted = found if step is None else [s for s in found if s == step]
    for number in wanted:
        try:
            return _restore_step(run, store, number, roll_backs, on_progress)
        except ValueError as error:
            run.record("restore_refused", "restore", step=number, reason=str(error))
            on_progress(f"step {number} is not taken: {error}")
            if step is not None:
                raise UserError(
                    f"checkpoint {number} in {store.url} cannot be taken: {error}",
                    remedy="Leave --step out to take the newest whole one.",
                ) from None
    there = ", ".join(map(str, found)) or "none"
    asked = "whole checkpoint" if step is None else f"checkpoint of step {step}"
    raise UserError(
        f"there is no {asked}", where=store.url, remedy=f"Steps that are there: {there}."
    )


def _take_over(run: RunDir, store: ObjectStore, steps: Sequence[int]) -> tuple[RollBack, ...]:
    """Lay down the store's roll-backs, and have the run's next attempt numbered above all that the
    store knows: by a lower number, what it saves would count as saved before a roll-back. Those of
    here and there. Raises StoreError, OSError, and SmolplanError where one cannot be read."""

    def saved_by(step: int) -> int:
        try:
            return _manifest_there(store, step).attempt
        except ValueError:
            return 0

    written = store.read(ROLL_BACKS)  # none, in a store from before they were sent
    theirs = () if written is None else parse_roll_backs(written, f"{store.url}/{ROLL_BACKS}")
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        newest = max(pool.map(saved_by, steps), default=0)
    write_roll_backs(run, theirs)
    if newest > run.latest_attempt():
        run.begin_attempt(newest)
    return (*read_roll_backs(run, run.latest_attempt()), *theirs)


def _manifest_there(store: ObjectStore, step: int) -> Manifest:
    """Raises StoreError, and ValueError that says what is wrong with it."""
    name = f"step-{step}"
    try:
        written = store.read(f"{name}/{MANIFEST}")
    except Altered:
        raise ValueError("its manifest does not have the checksum it was written with") from None
    if written is None:
        raise ValueError("it has no manifest")
    return parse_manifest(written.decode("utf-8", "replace"), name)


def _restore_step(
    run: RunDir,
    store: ObjectStore,
    step: int,
    roll_backs: tuple[RollBack, ...],
    on_progress: Callable[[str], None],
) -> Manifest:
    """Raises ValueError that says what is wrong with the one in the store."""
    name, manifest = f"step-{step}", _manifest_there(store, step)
    if superseded(roll_backs, step, manifest.attempt):
        raise ValueError("the run was rolled back behind it")
    final = run.checkpoint(step)
    try:
        if verify(final) == manifest:
            return manifest  # it is here
    except ValueError:
        pass
    partial = run.checkpoints / FETCHING / name
    for folder in (run.checkpoints, partial.parent, partial):
        folder.mkdir(exist_ok=True)  # one level each: a deleted run stays deleted
    for stray in partial.iterdir():
        if stray.name not in manifest.files:
            stray.unlink()
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        fetched = [
            pool.submit(_fetch, store, f"{name}/{file}", partial / file, str(entry["sha256"]))
            for file, entry in sorted(manifest.files.items())
        ]
        try:
            for number, one in enumerate(fetched, 1):
                one.result()
                on_progress(f"step {step}: {number} of {len(fetched)} files")
        finally:
            pool.shutdown(cancel_futures=True)
    write_text(partial / MANIFEST, dump(manifest))
    verify(partial)
    if final.exists():
        aside = final.with_name(f"rejected-{step}.restored")
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
    partial.rename(final)
    sync_folder(run.checkpoints)
    shutil.rmtree(partial.parent, ignore_errors=True)
    size = sum(entry["bytes"] for entry in manifest.files.values())
    run.record("checkpoint_fetched", "restore", step=step, bytes=size, source_url=store.url)
    return manifest


def _fetch(store: ObjectStore, name: str, local: Path, sha256: str) -> None:
    """Raises ValueError if it is not what the manifest says."""
    if local.exists() and file_sha256(local) == sha256:
        return  # by an earlier try
    try:
        store.fetch(name, local)
        whole = file_sha256(local) == sha256
    except Altered:
        whole = False
    if not whole:
        local.unlink(missing_ok=True)
        raise ValueError(f"{local.name} does not have the checksum it was written with")
    with local.open("rb") as file:
        os.fsync(file.fileno())


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch a run's newest checkpoint.")
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        upload_to = load_spec(run.existing().spec).checkpoint.upload_to
        if upload_to is None:
            raise UserError("it names no object store", where="checkpoint.upload_to")
        if not hold(run.upload_lock):
            log.info("another process uploads or fetches for %s already", run)
            return 0
        manifest = restore(run, ObjectStore(store_folder(upload_to, run)), on_progress=log.info)
    except (SmolplanError, OSError) as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code) if isinstance(error, SmolplanError) else 1
    log.info("checkpoint %d is here, whole", manifest.step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
