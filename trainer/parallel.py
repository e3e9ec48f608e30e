"""Where things are computed: the only module that knows of more than one rank."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from smolplan.errors import ExitCode, NamedExit
from smolplan.spec import RunSpec
from trainer.model.block import Block
from trainer.model.transformer import CausalLM


@dataclass(frozen=True)
class World:
    """This rank among all, its device, and the mesh over them."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over all ranks, in float64 (exact for integers below 2**53)."""
        # NCCL has no float64 trouble; a device tensor is needed because it cannot see host memory.
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        result: list[float] = tensor.tolist()
        return result

    def agree(self, value: int) -> int:
        """Rank 0's value, on every rank."""
        return int(self.sum([float(value) if self.rank == 0 else 0.0])[0])

    def barrier(self) -> None:
        self.sum([0.0])


def join(spec: RunSpec) -> World:
    """Join the process group that torchrun's environment describes. Raises NamedExit BAD_SPEC
    if it has another size than the spec's layout allows."""
    cuda = torch.cuda.is_available() and spec.cluster.gpu != "cpu"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(
        "nccl" if cuda else "gloo", timeout=timedelta(seconds=spec.launch.collective_timeout_s)
    )
    size, rank = dist.get_world_size(), dist.get_rank()
    share = size * spec.parallel.micro_batch_size
    if spec.optim.global_batch_size % share:
        raise NamedExit(
            ExitCode.BAD_SPEC,
            f"optim.global_batch_size {spec.optim.global_batch_size} does not divide by "
            f"{size} ranks × parallel.micro_batch_size {spec.parallel.micro_batch_size}",
        )
    kind = "cuda" if cuda else "cpu"
    mesh = init_device_mesh(kind, (size,), mesh_dim_names=("data",))
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return World(rank, size, device, mesh)


def distribute(model: CausalLM, spec: RunSpec, mesh: DeviceMesh) -> None:
    """Shard parameters, gradients and optimiser state over the data-parallel ranks (FSDP2), a
    block at a time; stage 2 keeps gathered weights between forward and backward."""
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if spec.optim.precision == "bf16" else None,
        reduce_dtype=torch.float32,
    )
    reshard = spec.parallel.zero_stage == 3
    for block in model.model.layers:
        if spec.parallel.recompute == "full":
            _recompute(block)
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)


def _recompute(block: nn.Module) -> None:
    assert isinstance(block, Block)
    forward = block.forward

    def recomputed(x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        out: Tensor = checkpoint(forward, x, mask, cos, sin, use_reentrant=False)
        return out

    block.forward = recomputed  # type: ignore[method-assign]
