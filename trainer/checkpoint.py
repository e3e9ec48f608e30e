"""Save and load: sharded by torch.distributed.checkpoint, in safetensors.

DCP's default format pickles its metadata, and reading a pickle runs whatever code it names. Its
safetensors storage holds tensors and JSON only, so a checkpoint from anywhere is safe to read.
"""

import errno
import os
import shutil
import time
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from smolplan.errors import ExitCode, NamedExit
from smolplan.rundir import RunDir, sync_folder, write_text
from smolplan.spec import RunSpec
from trainer.data.dataset import file_sha256
from trainer.manifest import MANIFEST, Manifest, clear_partial, dump, prune, survey
from trainer.parallel import World

_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE}


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """Everything that training moves, by name. A tied weight appears once."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weights.{name}"] = parameter.data
        if optimizer is not None:
            tensors[f"exp_avg.{name}"] = optimizer.state[parameter]["exp_avg"]
            tensors[f"exp_avg_sq.{name}"] = optimizer.state[parameter]["exp_avg_sq"]
    return tensors


def _rng_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


class Checkpoints:
    """The checkpoints of one run, as one attempt sees them."""

    def __init__(self, run: RunDir, spec: RunSpec, world: World, attempt: int) -> None:
        self._run, self._spec, self._world, self._attempt = run, spec, world, attempt
        self._whole: set[int] = set()

    def load_newest(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Manifest | None:
        """Load the newest whole checkpoint into model and optimiser; None if there is none.

        Rank 0 verifies and chooses; what it rejects, it records.
        """
        chosen = -1
        if self._world.rank == 0:
            clear_partial(self._run, self._attempt)
            for step, found in survey(self._run):
                if isinstance(found, Manifest):
                    self._whole.add(step)
                    chosen = max(chosen, step)
                else:
                    self._run.record(
                        "checkpoint_rejected",
                        "trainer",
                        attempt=self._attempt,
                        step=step,
                        reason=found,
                    )
        step = self._world.agree(chosen)
        if step < 0:
            return None
        return load(self._run.checkpoint(step), model, optimizer, self._world)

    def save(
        self, step: int, data_position: int, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Save, verify by size and checksum list, and make it count by a rename, all ranks
        together. Raises NamedExit: CHECKPOINT_STORAGE_LOST, or FENCED if a newer attempt owns
        the run."""
        started = time.monotonic()
        staging = self._run.checkpoints / f".step-{step}.attempt-{self._attempt}"
        try:
            self._write(step, data_position, staging, model, optimizer)
        except Exception as error:
            reason = _storage_error(error)
            if reason is None:
                raise
            shutil.rmtree(staging, ignore_errors=True)
            raise NamedExit(
                ExitCode.CHECKPOINT_STORAGE_LOST,
                f"checkpoint of step {step} could not be written to {staging.parent}: {reason}",
            ) from None
        self._world.barrier()
        if self._world.rank == 0:
            self._whole.add(step)
            folder = self._run.checkpoint(step)
            self._run.record(
                "checkpoint_saved",
                "trainer",
                attempt=self._attempt,
                step=step,
                seconds=round(time.monotonic() - started, 3),
                bytes=sum(p.stat().st_size for p in folder.iterdir()),
            )
            for old in prune(self._run, self._spec.checkpoint.keep_last, self._whole):
                self._whole.discard(old)
                self._run.record("checkpoint_removed", "trainer", attempt=self._attempt, step=old)

    def _write(
        self,
        step: int,
        data_position: int,
        staging: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        rank, size = self._world.rank, self._world.size
        if rank == 0:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self._world.barrier()
        writer = HuggingFaceStorageWriter(path=str(staging), save_distributed=True)
        save_sharded(_tensors(model, optimizer), storage_writer=writer)
        save_file(_rng_state(self._world.device), staging / f"rng-{rank}.safetensors")
        self._world.barrier()
        # Each rank vouches for its share of the files, whoever wrote them.
        mine = {
            path.name: {"bytes": path.stat().st_size, "sha256": _sync_and_hash(path)}
            for path in sorted(p for p in staging.iterdir() if p.is_file())[rank::size]
        }
        shares: list[dict[str, dict[str, object]] | None] = [None] * size
        dist.all_gather_object(shares, mine)
        if rank != 0:
            return
        fenced(self._run, self._attempt)
        manifest = Manifest(
            step=step,
            data_position=data_position,
            tokens=data_position * self._spec.data.seq_len,
            spec_hash=self._spec.content_hash(),
            world_size=size,
            attempt=self._attempt,
            files={name: entry for share in shares if share for name, entry in share.items()},
        )
        write_text(staging / MANIFEST, dump(manifest))
        final = self._run.checkpoint(step)
        if final.exists():
            # Left by an earlier attempt, and not whole, or this step would not be done again.
            final.rename(final.with_name(f"rejected-{step}.attempt-{self._attempt}"))
        staging.rename(final)
        sync_folder(final.parent)


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, world: World
) -> Manifest:
    """Load a whole checkpoint, saved by any number of ranks, into model and optimiser."""
    from trainer.manifest import verify

    manifest = verify(folder)
    tensors = _tensors(model, optimizer)
    load_sharded(tensors, storage_reader=HuggingFaceStorageReader(path=str(folder)))
    if optimizer is not None:
        for state in optimizer.state.values():
            state["step"].fill_(manifest.step)
        if manifest.world_size == world.size:
            rng = load_file(folder / f"rng-{world.rank}.safetensors")
            torch.set_rng_state(rng["cpu"])
            if "cuda" in rng and world.device.type == "cuda":
                torch.cuda.set_rng_state(rng["cuda"], world.device)
    return manifest


def fenced(run: RunDir, attempt: int) -> None:
    """Raises NamedExit FENCED if a newer attempt has begun: this one must write no more."""
    newest = run.latest_attempt()
    if newest > attempt:
        raise NamedExit(ExitCode.FENCED, f"attempt {newest} owns the run now, not {attempt}")


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_sha256(path)


def _storage_error(error: BaseException) -> str | None:
    """What the storage said, if it is at fault; DCP wraps what happened on other ranks, and
    safetensors tells of the error in words only."""
    inner = [error, *(e for e, _ in getattr(error, "failures", {}).values())]
    for cause in inner:
        if isinstance(cause, OSError) and cause.errno in _STORAGE_ERRORS:
            return os.strerror(cause.errno)
        for number in _STORAGE_ERRORS:
            if os.strerror(number) in str(cause) or f"os error {number}" in str(cause).lower():
                return os.strerror(number)
    return None
