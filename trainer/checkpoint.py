"""Save and load: sharded by torch.distributed.checkpoint (DCP), in safetensors.

DCP's default format pickles its metadata, and reading a pickle runs whatever code it names. Its
safetensors storage holds tensors and JSON only, so a checkpoint from anywhere is safe to read.
"""

import errno
import logging
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from smolplan.errors import ExitCode, NamedExit, SmolplanError
from smolplan.roll_back import RollBack, read_roll_backs
from smolplan.rundir import RunDir, sync_folder, write_text
from smolplan.skipped import Skipped
from smolplan.spec import RunSpec
from smolplan.uploads import Uploads, kept_for_upload, store_folder
from trainer.data.dataset import file_sha256
from trainer.manifest import (
    MANIFEST,
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

log = logging.getLogger("trainer")

_STORAGE_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE),
    *(errno.EACCES, errno.EPERM),
}


class _FolderThatIsThere(FileSystem):
    """torch's writer makes its folder with all that is above it, and so a run anew that somebody
    has deleted."""

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        pass


class Checkpoints:
    """The checkpoints of one run, as one attempt sees them."""

    def __init__(
        self, run: RunDir, spec: RunSpec, dataset: str, world: World, report: Reporter, attempt: int
    ) -> None:
        self._run, self._spec, self._dataset = run, spec, dataset
        self._world, self._report, self._attempt = world, report, attempt
        self._whole: set[int] = set()
        """Steps that may be removed once there are newer ones."""
        self.skipped = Skipped()
        """What of the data is not trained on; known once the newest checkpoint is loaded."""

    def load_newest(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Manifest | None:
        """Load the newest whole checkpoint into model and optimiser; None if there is none.

        Raises NamedExit BAD_SPEC if it belongs to another model or dataset, and
        CHECKPOINT_STORAGE_LOST if there is none here any longer, though one was uploaded or the
        run was rolled back to it.
        """
        roll_backs = self._roll_backs()
        if self._world.rank == 0:
            clear_partial(self._run, self._attempt)
            for step in put_superseded_aside(self._run, roll_backs):
                self._report.event("checkpoint_superseded", step=step)
        manifest = self._newest_whole()
        # Roll-backs hold all that was skipped before them; so does a manifest that came after.
        for one in roll_backs:
            self.skipped |= one.skip
        if manifest is None:
            self._refuse_to_begin_anew(roll_backs)
            return None
        self.skipped |= Skipped.of(manifest.skipped)
        if manifest.dataset != self._dataset:
            raise NamedExit(
                ExitCode.BAD_SPEC,
                f"{self._run.dataset} names other data ({self._dataset}) than checkpoint "
                f"{manifest.step} was trained on ({manifest.dataset}): its position in the data "
                f"means nothing here",
            )
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
        if roll_backs and roll_backs[-1].from_step > 0:
            raise NamedExit(
                ExitCode.CHECKPOINT_STORAGE_LOST,
                f"the run was rolled back to step {roll_backs[-1].from_step}, and no whole "
                f"checkpoint of it or an earlier one is left in {self._run.checkpoints}",
            )
        upload_to = self._spec.checkpoint.upload_to
        if upload_to is None:
            return
        there = Uploads.read(self._run, store_folder(upload_to, self._run))
        if there.arrived:
            raise NamedExit(
                ExitCode.CHECKPOINT_STORAGE_LOST,
                f"no whole checkpoint is left in {self._run.checkpoints}, and that of step "
                f"{max(there.arrived)} is in {there.to}; fetch it by: "
                f"smolplan restore {self._run.path.name}",
            )

    def _newest_whole(self) -> Manifest | None:
        """All ranks look, each at its share of the files, and agree."""
        newest: Manifest | None = None
        for step in self._world.gather(steps_present(self._run))[0]:
            folder = self._run.checkpoint(step)
            manifest, problem = None, ""
            try:
                manifest = read_manifest(folder)
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
        self, step: int, data_position: int, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Save, all ranks together, and make it count by a rename. Raises NamedExit:
        CHECKPOINT_STORAGE_LOST, or FENCED if a newer attempt owns the run."""
        started_s = time.monotonic()
        staging = self._run.checkpoints / f".step-{step}.attempt-{self._attempt}"
        try:
            files = self._write_shards(staging, model, optimizer)
            if self._world.rank == 0:
                self._report.sync_metrics()
                fenced(self._run, self._attempt)
                manifest = Manifest(
                    step=step,
                    data_position=data_position,
                    tokens=(data_position - self.skipped.before(data_position))
                    * self._spec.data.seq_len,
                    spec_hash=self._spec.content_hash(),
                    dataset=self._dataset,
                    world_size=self._world.size,
                    attempt=self._attempt,
                    seconds=round(time.monotonic() - started_s, 3),
                    files=files,
                    skipped=self.skipped.to_json(),
                )
                self._publish(staging, manifest)
        except (Exception, CheckpointException) as error:
            reason = _storage_error(error)
            if reason is None:
                raise
            shutil.rmtree(staging, ignore_errors=True)
            with suppress(NamedExit):
                self._report.event("checkpoint_failed", step=step, reason=reason)
            raise NamedExit(
                ExitCode.CHECKPOINT_STORAGE_LOST,
                f"checkpoint of step {step} could not be written to {staging.parent}: {reason}",
            ) from None
        self._world.barrier()
        self._whole.add(step)
        if self._world.rank == 0:
            size = sum(int(str(entry["bytes"])) for entry in files.values())
            seconds = round(time.monotonic() - started_s, 3)
            self._report.event("checkpoint_saved", step=step, seconds=seconds, bytes=size)
            settings = self._spec.checkpoint
            unsent = kept_for_upload(self._run, settings.upload_to, size)
            for old in prune(self._run, settings.keep_last, self._whole, unsent):
                self._whole.discard(old)
                self._report.event("checkpoint_removed", step=old)

    def _write_shards(
        self, staging: Path, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, dict[str, object]]:
        """Name → size and checksum of every rank's files, all of them on disk."""
        rank = self._world.rank
        if rank == 0:
            shutil.rmtree(staging, ignore_errors=True)
            staging.parent.mkdir(exist_ok=True)  # one level: a deleted run stays deleted
            staging.mkdir()
        self._world.barrier()
        writer = HuggingFaceStorageWriter(path=str(staging), save_distributed=True)
        writer.fs = _FolderThatIsThere()
        save_sharded(_tensors(model, optimizer), storage_writer=writer)
        rng = staging / f"rng-{rank}.safetensors"
        rng.write_bytes(to_safetensors(_rng_state(self._world.device)))
        # A rank vouches for what it wrote: only its host is sure to flush it, and has it cached.
        mine = {
            path.name: {"bytes": path.stat().st_size, "sha256": _sync_and_hash(path)}
            for path in [rng, *staging.glob(f"shard-{rank + 1:05d}-*")]
        }
        files = {name: entry for share in self._world.gather(mine) for name, entry in share.items()}
        if rank == 0 and files.keys() != {path.name for path in staging.iterdir()}:
            raise RuntimeError(f"DCP wrote files that no rank knows of: {staging}")
        return files

    def _publish(self, staging: Path, manifest: Manifest) -> None:
        write_text(staging / MANIFEST, dump(manifest))
        fenced(self._run, self._attempt)  # the disk may have taken its time
        final = self._run.checkpoint(manifest.step)
        if final.exists():
            # Left by an earlier attempt, and not whole, or this step would not be done again.
            final.rename(final.with_name(f"rejected-{manifest.step}.attempt-{self._attempt}"))
        staging.rename(final)
        sync_folder(final.parent)


def load(
    folder: Path,
    manifest: Manifest,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    world: World,
) -> None:
    """Load a checkpoint known to be whole, saved by any number of ranks. Raises NamedExit
    BAD_SPEC if it holds another model."""
    try:
        load_sharded(
            _tensors(model, optimizer), storage_reader=HuggingFaceStorageReader(path=str(folder))
        )
    except CheckpointException as error:
        causes = [str(cause) for cause, _ in error.failures.values()]
        if any("Size mismatch" in cause or "Missing key" in cause for cause in causes):
            raise NamedExit(
                ExitCode.BAD_SPEC,
                f"checkpoint {manifest.step} holds another model than the spec describes: "
                f"{causes[0]}",
            ) from None
        raise RuntimeError(f"cannot load {folder}") from error
    if optimizer is None:
        return
    for state in optimizer.state.values():
        state["step"].fill_(manifest.step)
    if manifest.world_size == world.size:
        rng = load_file(folder / f"rng-{world.rank}.safetensors")
        torch.set_rng_state(rng["cpu"])
        if "cuda" in rng and world.device.type == "cuda":
            torch.cuda.set_rng_state(rng["cuda"], world.device)


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What of a model a checkpoint holds, by weights.NAME and buffers.NAME. A tied weight appears
    once."""
    persistent = model.state_dict().keys()
    weights = {f"weights.{name}": p.data for name, p in model.named_parameters()}
    buffers = {f"buffers.{name}": b for name, b in model.named_buffers() if name in persistent}
    return weights | buffers


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """Everything that training moves, by name."""
    tensors = saved_tensors(model)
    for name, parameter in model.named_parameters() if optimizer is not None else ():
        assert optimizer is not None
        tensors[f"exp_avg.{name}"] = optimizer.state[parameter]["exp_avg"]
        tensors[f"exp_avg_sq.{name}"] = optimizer.state[parameter]["exp_avg_sq"]
    return tensors


def _rng_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_sha256(path)


def _storage_error(error: BaseException) -> str | None:
    """What the storage said, if it is at fault. DCP tells every rank of each rank's errors."""
    causes: list[BaseException] = [error]
    if isinstance(error, CheckpointException):
        causes += [cause for cause, _ in error.failures.values()]
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _STORAGE_ERRORS:
            return os.strerror(cause.errno)
        if isinstance(cause, SafetensorError):
            for number in _STORAGE_ERRORS:
                if f"os error {number})" in str(cause):
                    return os.strerror(number)
    return None
