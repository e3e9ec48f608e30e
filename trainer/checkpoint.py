"""The checkpoints of a run: which one is loaded, and how one is saved while training goes on.

A rank's shards are copied to the host's memory during the next passes forward and back, which do
not change them; the optimiser waits where the copies are not done yet. A thread writes them; its
ranks agree over a process group of their own, so that nothing of it mixes with training's.
"""

import errno
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from smolplan.checkpoint_request import CheckpointRequest
from smolplan.errors import ExitCode, NamedExit, SmolplanError
from smolplan.roll_back import RollBack, read_roll_backs, superseded
from smolplan.rundir import MANIFEST, RunDir, sync_folder, write_text
from smolplan.skipped import Skipped
from smolplan.spec import RunSpec
from smolplan.uploads import Uploads, kept_for_upload, store_folder
from trainer.between_ranks import local
from trainer.data.drawn import Order
from trainer.host_copies import HostCopies
from trainer.keep import held_out_scores, kept
from trainer.manifest import (
    Manifest,
    clear_partial,
    dump,
    prune,
    put_superseded_aside,
    read_manifest,
    steps_present,
    wrong_contents,
    wrong_sizes,
)
from trainer.parallel import World
from trainer.report import Reporter, fenced
from trainer.shards import load, rng_state, storage_error, tensors_of, write_shard

log = logging.getLogger("trainer")

T = TypeVar("T")
Copies = Mapping[str, Tensor]


class _StorageLost(Exception):
    """The storage would not take a checkpoint; str() is what it said."""


@dataclass
class _Saving:
    """A checkpoint on its way. Times are monotonic, in seconds."""

    step: int
    data_position: int
    request: CheckpointRequest | None
    """What it answers."""
    began: float
    stall_s: float = 0.0
    """Training stood still while it was copied."""
    awaited_since: float | None = None
    """From when on training stands still until it is written."""

    def stalled_s(self, now: float) -> float:
        return self.stall_s + (0.0 if self.awaited_since is None else now - self.awaited_since)


class Checkpoints:
    """The checkpoints of one run, as one attempt sees them."""

    def __init__(
        self, run: RunDir, spec: RunSpec, order: Order, world: World, report: Reporter, attempt: int
    ) -> None:
        self._run, self._spec, self._order = run, spec, order
        self._world, self._report, self._attempt = world, report, attempt
        self._whole: set[int] = set()
        """Steps that may be removed once there are newer ones."""
        self._beside = world.beside(spec.launch.collective_timeout_s)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._copies = HostCopies(world.device)
        self._saving: tuple[_Saving, Future[None]] | None = None
        self._copying: tuple[_Saving, Future[Copies]] | None = None
        self.skipped = Skipped()
        """What of the data is not trained on; known once the newest checkpoint is loaded."""

    def load_newest(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Manifest | None:
        """Load the newest whole checkpoint into model and optimiser; None if there is none. What
        saving needs of the host's memory is taken here, so that no step waits for it.

        Raises NamedExit BAD_SPEC if it belongs to another model or dataset, and
        CHECKPOINT_STORAGE_LOST if there is none here any longer, though one was uploaded, the run
        was rolled back to it, or of several none is whole.
        """
        if self._spec.checkpoint.asynchronous:
            self._copies.begin(tensors_of(model, optimizer)).result()
        roll_backs = self._roll_backs()
        if self._world.rank == 0:
            clear_partial(self._run, self._attempt)
            for step in put_superseded_aside(self._run, roll_backs):
                self._report.event("checkpoint_superseded", step=step)
        manifest = self._newest_whole(roll_backs)
        # Roll-backs hold all that was skipped before them; so does a manifest that came after.
        for one in roll_backs:
            self.skipped |= one.skip
        if manifest is None:
            self._refuse_to_begin_anew(roll_backs)
            return None
        self.skipped |= Skipped.of(manifest.skipped)
        if problem := self._order.refusal(self._run, manifest):
            raise NamedExit(ExitCode.BAD_SPEC, problem)
        if manifest.spec_hash != self._spec.content_hash():
            log.warning("%s changed since checkpoint %d", self._run.spec, manifest.step)
        load(self._run.checkpoint(manifest.step), manifest, model, optimizer, self._world)
        return manifest

    def _roll_backs(self) -> tuple[RollBack, ...]:
        """As rank 0 reads them: another host may not see yet what was written just now."""
        found: tuple[RollBack, ...] | str = ()
        if self._world.rank == 0:
            try:
                found = read_roll_backs(self._run, self._attempt)
            except SmolplanError as error:
                found = str(error)
        found = self._world.gather(found)[0]
        if isinstance(found, str):
            raise NamedExit(ExitCode.CHECKPOINT_STORAGE_LOST, found)
        return found

    def _refuse_to_begin_anew(self, roll_backs: tuple[RollBack, ...]) -> None:
        newest = max(self._world.gather(steps_present(self._run))[0], default=0)
        if roll_backs and roll_backs[-1].from_step > 0:
            raise NamedExit(
                ExitCode.CHECKPOINT_STORAGE_LOST,
                f"the run was rolled back to step {roll_backs[-1].from_step}, and no whole "
                f"checkpoint of it or an earlier one is left in {self._run.checkpoints}",
            )
        upload_to = self._spec.checkpoint.upload_to
        if upload_to is not None:
            there = Uploads.read(self._run, store_folder(upload_to, self._run))
            if there.arrived:
                raise NamedExit(
                    ExitCode.CHECKPOINT_STORAGE_LOST,
                    f"no whole checkpoint is left in {self._run.checkpoints}, and that of step "
                    f"{max(there.arrived)} is in {there.to}; fetch it by: "
                    f"smolplan restore {self._run.path.name}",
                )
        if self._run.origin.exists():
            raise NamedExit(
                ExitCode.CHECKPOINT_STORAGE_LOST,
                f"the run is a fork, and neither the checkpoint that it began with "
                f"({self._run.origin}) nor a later one is whole in {self._run.checkpoints}",
            )
        # The first one's steps are soon done again. What came later may be whole when the storage
        # answers again, and is for a person to give up.
        if newest > self._spec.checkpoint.every_steps:
            raise NamedExit(
                ExitCode.CHECKPOINT_STORAGE_LOST,
                f"none of the checkpoints in {self._run.checkpoints}, up to step "
                f"{newest}, is whole, as its events say; to begin anew move that folder "
                f"away",
            )

    def _newest_whole(self, roll_backs: tuple[RollBack, ...]) -> Manifest | None:
        """All ranks look, each at its share of the files, and agree."""
        newest: Manifest | None = None
        for step in self._world.gather(steps_present(self._run))[0]:
            folder = self._run.checkpoint(step)
            manifest, problem = None, ""
            try:
                manifest = read_manifest(folder)
                if superseded(roll_backs, step, manifest.attempt):
                    # It could not be read when such were put aside.
                    manifest, problem = None, "the run was rolled back behind it"
            except ValueError as error:
                problem = str(error)
            if manifest and not (problem := wrong_sizes(folder, manifest)) and newest is None:
                # Only the one to be loaded is read whole; an older one is only to be removed.
                rank, size = self._world.rank, self._world.size
                problem = wrong_contents(folder, manifest, share=rank, shares=size)
            problems = [found for found in self._world.gather(problem) if found]
            if problems:
                self._report.event("checkpoint_rejected", step=step, reason=problems[0])
            else:
                self._whole.add(step)
                newest = newest or manifest
        return newest

    def save(
        self,
        step: int,
        data_position: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        request: CheckpointRequest | None = None,
    ) -> None:
        """Begin to save, all ranks together, after the checkpoint before is there. Nothing of it
        may be changed before `await_copies`. Raises NamedExit as `finish` does, of the one before.
        """
        called = time.monotonic()
        self._await()
        saving = _Saving(step, data_position, request, began=time.monotonic())
        tensors, rng = tensors_of(model, optimizer), rng_state(self._world.device)
        if not self._spec.checkpoint.asynchronous:
            saving.awaited_since = called
            own = {name: local(tensor) for name, tensor in tensors.items()}
            done = self._thread.submit(self._write, saving, tensors, lambda: own, rng)
            self._saving = saving, done
            self._await()
            return
        copies = self._copies.begin(tensors)
        saving.stall_s = time.monotonic() - called
        self._copying = saving, copies
        done = self._thread.submit(self._write, saving, tensors, copies.result, rng)
        self._saving = saving, done

    def await_copies(self) -> None:
        """Return once what is being saved may be changed: it has been copied."""
        if self._copying is None:
            return
        (saving, copies), self._copying = self._copying, None
        began = time.monotonic()
        copies.result()
        saving.stall_s += time.monotonic() - began
        self._report.event("checkpoint_staged", step=saving.step, stall_s=round(saving.stall_s, 3))

    @property
    def answering(self) -> CheckpointRequest | None:
        """The request that the checkpoint under way is to answer."""
        if self._saving is None or self._saving[1].done():
            return None
        return self._saving[0].request

    @property
    def failed(self) -> bool:
        """Whether it is known by now that `finish` raises."""
        if self._saving is None or not self._saving[1].done():
            return False
        return self._saving[1].exception() is not None

    def finish(self) -> None:
        """Wait until the checkpoint under way, if there is one, counts. Raises NamedExit, on all
        ranks: CHECKPOINT_STORAGE_LOST, or FENCED if a newer attempt owns the run."""
        if self._saving is not None:
            self._saving[0].awaited_since = time.monotonic()
            self._await()

    def _await(self) -> None:
        if self._saving is not None:
            (_, done), self._saving = self._saving, None
            done.result()

    def _write(
        self,
        saving: _Saving,
        tensors: dict[str, Tensor],
        copied: Callable[[], Copies],
        rng: dict[str, Tensor],
    ) -> None:
        """Write it, and make it count by a rename. Raises as `finish` does."""
        staging = self._run.checkpoints / f".step-{saving.step}.attempt-{self._attempt}"
        try:
            self._together(lambda: self._make(staging))
            shards = self._together(
                lambda: write_shard(staging, tensors, copied(), rng, self._beside)
            )
            files = {name: entry for shard in shards for name, entry in shard.items()}
            self._together(lambda: self._make_count(saving, staging, files))
        except _StorageLost as lost:
            if self._world.rank == 0:
                shutil.rmtree(staging, ignore_errors=True)
            with suppress(NamedExit):
                self._report.event("checkpoint_failed", step=saving.step, reason=str(lost))
            raise NamedExit(
                ExitCode.CHECKPOINT_STORAGE_LOST,
                f"checkpoint of step {saving.step} could not be written to {staging.parent}: "
                f"{lost}",
            ) from None

    def _together(self, act: Callable[[], T]) -> list[T]:
        """What it returned on each rank, by rank. Raises on all of them what it raised on any:
        _StorageLost, NamedExit, or RuntimeError for anything else."""
        mine: T | None = None
        cause: Exception | None = None
        try:
            mine = act()
        except NamedExit as error:
            cause = error
        except (Exception, CheckpointException) as error:  # DCP's own is not an Exception
            cause = self._cause(error)
        results = self._beside.gather((mine, cause))
        for _, told in results:
            if told is not None:
                raise told
        return [result for result, _ in results]  # type: ignore[misc]

    def _cause(self, error: BaseException) -> Exception:
        try:
            fenced(self._run, self._attempt)  # a newer attempt clears away what it finds half done
        except NamedExit as ended:
            return ended
        if reason := storage_error(error):
            return _StorageLost(reason)
        log.error("a checkpoint could not be saved", exc_info=error)
        return RuntimeError(f"rank {self._world.rank} could not save: {error!r}")

    def _make(self, staging: Path) -> None:
        if self._world.rank == 0:
            shutil.rmtree(staging, ignore_errors=True)
            staging.parent.mkdir(exist_ok=True)  # one level: a deleted run stays deleted
            staging.mkdir()

    def _make_count(
        self, saving: _Saving, staging: Path, files: dict[str, dict[str, object]]
    ) -> None:
        """Rank 0 alone: publish what all have written, tell, and remove what is not kept."""
        if self._world.rank != 0:
            return
        if files.keys() != {path.name for path in staging.iterdir()}:
            raise RuntimeError(f"DCP wrote files that no rank knows of: {staging}")
        self._report.sync_metrics()
        fenced(self._run, self._attempt)
        position = saving.data_position
        manifest = Manifest(
            step=saving.step,
            data_position=position,
            tokens=(position - self.skipped.before(position)) * self._spec.data.seq_len,
            spec_hash=self._spec.content_hash(),
            dataset=self._order.dataset,
            world_size=self._world.size,
            attempt=self._attempt,
            seconds=round(time.monotonic() - saving.began, 3),
            files=files,
            skipped=self.skipped.to_json(),
            drawn=self._order.before(position),
        )
        self._publish(staging, manifest)
        self._whole.add(saving.step)
        now = time.monotonic()
        size = sum(int(str(entry["bytes"])) for entry in files.values())
        self._report.event(
            "checkpoint_saved",
            step=saving.step,
            seconds=round(now - saving.began, 3),
            stall_s=round(saving.stalled_s(now), 3),
            bytes=size,
        )
        settings = self._spec.checkpoint
        scores = held_out_scores(self._run, self._whole) if settings.keep_best else {}
        spared = kept_for_upload(self._run, settings.upload_to, size)
        spared |= kept(self._whole, settings, scores)
        for old in prune(self._run, settings.keep_last, self._whole, spared):
            self._whole.discard(old)
            self._report.event("checkpoint_removed", step=old)
        if saving.request is not None:
            self._report.answered(saving.request, saving.step)

    def _publish(self, staging: Path, manifest: Manifest) -> None:
        write_text(staging / MANIFEST, dump(manifest))
        fenced(self._run, self._attempt)  # the disk may have taken its time
        final = self._run.checkpoint(manifest.step)
        try:
            # Fails where a newer attempt began since, and cleared it away.
            staging.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Left by an earlier attempt, and not whole, or this step would not be done again.
            final.rename(final.with_name(f"rejected-{manifest.step}.attempt-{self._attempt}"))
            staging.rename(final)
        sync_folder(final.parent)
