"""Where things are computed: the only module that knows of more than one rank."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils.checkpoint import checkpoint

from smolplan.errors import ExitCode, NamedExit
from smolplan.spec import RunSpec
from smolplan.units import count_of
from trainer.context_parallel import share_sequence
from trainer.expert_parallel import spread
from trainer.fp8 import multiply_in_fp8
from trainer.mesh import Mesh, mesh_of
from trainer.model.attention import Attention
from trainer.model.block import Block
from trainer.model.delta_net import GatedDeltaNet
from trainer.model.experts import Experts
from trainer.model.latent import LatentAttention
from trainer.model.mamba import Mamba2
from trainer.model.transformer import CausalLM
from trainer.recurrent_parallel import SharedHeads
from trainer.report import peak_resident_bytes
from trainer.stages import Stage, cut
from trainer.tensor_parallel import split_layers

log = logging.getLogger("trainer")

T = TypeVar("T")

LEAST_GATHERED = 1_000_000
"""Parameters. What is gathered or reduced in less takes as long as if it carried nothing: smaller
blocks go together. Of models that are trained for use each block is larger."""


@dataclass(frozen=True)
class World:
    """This rank among all, its device, and the mesh over them."""

    rank: int
    size: int
    device: torch.device
    mesh: Mesh
    group: dist.ProcessGroup | None = None
    """Over which values are gathered; None: training's own."""

    @property
    def data_rank(self) -> int:
        """Which share of a batch this rank reads: the same as all that hold parts of its replica of
        the model, or parts of its sequences."""
        return self.mesh.tokens.get_local_rank("data")

    @property
    def data_size(self) -> int:
        return self.mesh.tokens["data"].size()

    @property
    def leads(self) -> bool:
        """Whether it speaks for those that read the same."""
        return not any(map(self.mesh.tokens.get_local_rank, ("pipeline", "context", "tensor")))

    @property
    def part_of_loss(self) -> float:
        """What of the batch's mean loss this rank's is, where all are summed up: nothing, if it
        does not end a pipeline or a neighbour in its tensor-parallel group tells the same."""
        at, tokens = self.mesh.tokens.get_local_rank, self.mesh.tokens
        if at("tensor") or at("pipeline") + 1 < tokens["pipeline"].size():
            return 0.0
        return 1 / (tokens["data"].size() * tokens["context"].size())

    @property
    def part_of_sequence(self) -> float:
        """What of a sequence's loss this rank's is, where all are summed up."""
        return self.part_of_loss * self.data_size

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over all ranks, in float64 (exact for integers below 2**53)."""
        # NCCL has no float64 trouble; a device tensor is needed because it cannot see host memory.
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        result: list[float] = tensor.tolist()
        return result

    def sum_and_max(self, values: list[float], own: list[float]) -> tuple[list[float], list[float]]:
        """Of `values` the sums over all ranks, of `own` the largest of each; by one collective, in
        which every rank has places for its own: 16 bytes a rank for two of them."""
        places = [0.0] * (len(own) * self.size)
        places[self.rank * len(own) : (self.rank + 1) * len(own)] = own
        found = self.sum([*values, *places])
        sums, by_rank = found[: len(values)], found[len(values) :]
        return sums, [max(by_rank[n :: len(own)]) for n in range(len(own))]

    def gather(self, value: T) -> list[T]:
        """Each rank's value, by rank, on every rank. For small things: it goes by pickle."""
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values  # type: ignore[return-value]

    def beside(self, timeout_s: float) -> "World":
        """The same ranks in a group of their own, over gloo: what a thread gathers there while
        training goes on mixes with nothing of it. All ranks call this, at the same point."""
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        return replace(self, group=group)

    def peak_memory_bytes(self) -> int:
        """Peak of the device's allocator, or of the process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return peak_resident_bytes()

    def barrier(self) -> None:
        self.sum([0.0])


def join(spec: RunSpec) -> World:
    """Join the process group that torchrun's environment describes. Raises NamedExit BAD_SPEC
    if the spec's layout does not go with it."""
    cuda = torch.cuda.is_available() and spec.cluster.gpu != "cpu"
    if cuda:
        local_rank, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= devices:
            raise NamedExit(
                ExitCode.BAD_SPEC,
                f"this host has {count_of(devices, 'GPU')}, too few for rank {local_rank}",
            )
        # cuBLAS is deterministic with a workspace of its own only (its documentation, "Results
        # reproducibility"), and reads this when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(local_rank)
    elif spec.cluster.gpu != "cpu":
        log.warning("cluster.gpu is %s, but there is no GPU: using the CPU", spec.cluster.gpu)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        timeout=timedelta(seconds=spec.launch.collective_timeout_s),
        **_loopback_store(),
    )
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    size, rank = dist.get_world_size(), dist.get_rank()
    return World(rank, size, device, mesh_of(spec, size, device.type))


def _loopback_store() -> dict[str, Any]:
    """Rank 0's store on 127.0.0.1 where that is where the ranks meet without an agent: a store
    that torch opens itself listens on every interface. Empty where torch is to see to it."""
    host, rank = os.environ.get("MASTER_ADDR"), int(os.environ["RANK"])
    if host != "127.0.0.1" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return {}
    size, port = int(os.environ["WORLD_SIZE"]), int(os.environ["MASTER_PORT"])
    descriptor = None
    if rank == 0:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(512)
            port, descriptor = listener.getsockname()[1], listener.detach()
    store = TCPStore(host, port, size, rank == 0, master_listen_fd=descriptor)
    return {"store": store, "rank": rank, "world_size": size}


def distribute(
    model: CausalLM, spec: RunSpec, mesh: Mesh, stage: Stage | None = None, separator: int = 0
) -> None:
    """Have blocks multiply in fp8 where the spec says so; share sequences out over the
    context-parallel ranks, layers over the tensor-parallel ones and experts over the
    expert-parallel ones; keep what a stage of a pipeline holds; then shard parameters, gradients
    and optimiser state over the others (FSDP2), a block at a time or a few small ones. Stage 2
    keeps gathered weights between forward and backward."""
    context, tensor = mesh.tokens["context"], mesh.weights["tensor"]
    recurrent = [m for m in model.modules() if isinstance(m, Mamba2 | GatedDeltaNet)]
    if recurrent and context.size() * tensor.size() > 1:
        heads = SharedHeads(mesh.sequence)
        for mixer in recurrent:
            mixer.heads = heads
    if context.size() > 1:
        share_sequence(model, context)
    if spec.optim.precision == "fp8":  # before tensor parallelism, which goes by modules
        multiply_in_fp8(_blocks(model), spec, mesh.weights.device_type)
    if tensor.size() > 1:
        split_layers(model, tensor)
    if stage is not None:
        cut(model, stage, separator)
    experts = [module for module in model.modules() if isinstance(module, Experts)]
    if (ranks := mesh.spreads_experts) is not None:
        for module in experts:
            spread(module, ranks)
    blocks = _blocks(model)  # those that are here
    policy = MixedPrecisionPolicy(
        param_dtype=None if spec.optim.precision == "fp32" else torch.bfloat16,
        reduce_dtype=torch.float32,
    )
    reshard = spec.parallel.zero_stage == 3
    model.model.alike_for_any_batch = spec.launch.compile
    for block in blocks:
        if spec.launch.compile:
            # The forward pass alone: FSDP's hooks, which gather and reduce, stay outside.
            block.forward = torch.compile(block.forward)  # type: ignore[method-assign]
        recompute(block, spec.parallel.recompute)
    shard = partial(fully_shard, mp_policy=policy, reshard_after_forward=reshard)
    if mesh.experts is not None:
        for module in experts:  # before the block, which then takes what is left
            shard(module, mesh=mesh.experts_fsdp, shard_placement_fn=_evenly(mesh.experts_fsdp))
    for together in _gathered_together(blocks):
        shard(together, mesh=mesh.fsdp)
    # What is in no block: the backward pass begins with it, so that it is not given up before.
    shard(model, mesh=mesh.fsdp, reshard_after_forward=False)


def _blocks(model: CausalLM) -> list[Block]:
    return [block for block in model.model.layers if isinstance(block, Block)]


def _evenly(mesh: DeviceMesh) -> Callable[[nn.Parameter], Shard]:
    """Shards experts' matrices by their first dimension that the ranks divide. FSDP2 asks that of
    all dimensions but the first; and of the first, which is spread over ranks already, DTensor
    knows no uneven parts."""

    def shard(matrices: nn.Parameter) -> Shard:
        assert isinstance(matrices, DTensor)
        sizes = matrices.to_local().shape
        return next(Shard(dim) for dim, size in enumerate(sizes) if size % mesh.size(-1) == 0)

    return shard


def _gathered_together(blocks: Sequence[Block]) -> Iterator[list[nn.Module]]:
    group: list[nn.Module] = []
    parameters = 0
    for block in blocks:
        group.append(block)
        parameters += sum(parameter.numel() for parameter in block.parameters())
        if parameters >= LEAST_GATHERED:
            yield group
            group, parameters = [], 0
    if group:
        yield group


def shard_of(whole: Tensor, parameter: Tensor) -> Tensor:
    """The part of a value, known whole on every rank, that this rank's parameter holds."""
    if not isinstance(parameter, DTensor):
        return whole
    mesh, placements = parameter.device_mesh, parameter.placements
    # No source rank: every rank cuts its own part, and nothing is sent.
    return distribute_tensor(whole.to(parameter.device), mesh, placements, src_data_rank=None)


def recompute(block: Block, what: Literal["none", "selective", "full"]) -> None:
    """Have the backward pass compute again all of a block, or of its attention what lies between
    queries, keys and values and their mix (Korthikanti et al. 2022, arXiv 2205.05198, section 5):
    what the planner means by the same words."""
    mixer = getattr(block, block.mixer)
    if what == "full":
        block.forward = partial(  # type: ignore[method-assign]
            checkpoint, block.forward, use_reentrant=False
        )
    elif what == "selective" and isinstance(mixer, Attention | LatentAttention):
        mixer.attend = partial(checkpoint, mixer.attend, use_reentrant=False)
