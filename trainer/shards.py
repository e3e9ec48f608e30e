"""A rank's part of a checkpoint: its tensors, and how they are written and loaded. Sharded by
torch.distributed.checkpoint (DCP), in safetensors.

DCP's default format pickles its metadata, and reading a pickle runs whatever code it names. Its
safetensors storage holds tensors and JSON only, so a checkpoint from anywhere is safe to read.
"""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from smolplan.errors import ExitCode, NamedExit
from trainer.data.dataset import file_sha256
from trainer.manifest import Manifest
from trainer.muon import MOMENTUM
from trainer.optim import STEP, moments
from trainer.parallel import World

_STORAGE_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE),
    *(errno.EACCES, errno.EPERM),
}


class _FolderThatIsThere(FileSystem):
    """torch's writer makes its folder with all that is above it, and so a run anew that somebody
    has deleted."""

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        pass


class _Writer(HuggingFaceStorageWriter):
    """Writes a rank's tensors from where they lie. torch's own puts the whole file together in
    memory first, and holds the interpreter's lock meanwhile: training would stand still."""

    def __init__(self, folder: Path, copies: Mapping[str, Tensor]) -> None:
        super().__init__(path=str(folder), save_distributed=True)
        self._copies = copies
        self.fs = _FolderThatIsThere()
        self.written: list[Path] = []

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        tensors: dict[str, Tensor] = {}
        offsets = {}
        for item in plan.items:
            name = item.index.fqn
            assert item.tensor_data is not None and name not in tensors  # of each, one piece a rank
            tensors[name] = self._copies[name].cpu().contiguous()
            offsets[name] = {"saved_offsets": list(item.tensor_data.chunk.offsets)}
        if tensors:
            path = Path(self.path) / f"shard-{plan.storage_data['shard_index']:05d}.safetensors"
            # As HuggingFaceStorageReader looks for it.
            sharding = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0"}
            save_file(tensors, path, metadata={**sharding, "format": "pt"})
            self.written.append(path)
        done: Future[list[WriteResult]] = Future()
        done.set_result([])  # what is where, each file says itself
        return done


def write_shard(
    folder: Path,
    tensors: dict[str, Tensor],
    copies: Mapping[str, Tensor],
    rng: dict[str, Tensor],
    world: World,
) -> dict[str, dict[str, object]]:
    """Write this rank's files, while the others write theirs; name → size and SHA-256 of them, all
    on disk. What the tensors hold is taken from `copies` of the rank's own parts; of themselves
    only which part that is. Raises CheckpointException on all ranks where DCP failed on any, and
    OSError."""
    writer = _Writer(folder, copies)
    save_sharded(tensors, storage_writer=writer, process_group=world.group)
    own = folder / f"rng-{world.rank}.safetensors"
    save_file(rng, own)
    # A rank vouches for what it wrote: only its host is sure to flush it, and has it cached.
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": _sync_and_hash(path)}
        for path in (own, *writer.written)
    }


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
            tensors_of(model, optimizer), storage_reader=HuggingFaceStorageReader(path=str(folder))
        )
    except CheckpointException as error:
        causes = [str(cause) for cause, _ in error.failures.values()]
        if any("Missing key" in cause and f": {MOMENTUM}." in cause for cause in causes):
            raise NamedExit(
                ExitCode.BAD_SPEC,
                f"checkpoint {manifest.step} holds no moments of Muon for some weights: AdamW "
                "moved them, as it did experts in earlier versions. Go on with the optim.optimizer "
                "or the version that saved it, or start a run from its exported weights "
                "(model.init_from)",
            ) from None
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
        state[STEP].fill_(manifest.step)
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


def tensors_of(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """Everything that training moves, by name."""
    tensors = saved_tensors(model)
    for name, parameter in model.named_parameters() if optimizer is not None else ():
        assert optimizer is not None
        for moment, held in moments(optimizer, parameter).items():
            tensors[f"{moment}.{name}"] = held
    return tensors


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """This rank's, in the host's memory."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def storage_error(error: BaseException) -> str | None:
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


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_sha256(path)
