"""Where each rank stands: how the ranks that there are share out a run's work."""

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from smolplan.errors import ExitCode, NamedExit
from smolplan.spec import RunSpec

WEIGHTS = ("pipeline", "replicate", "shard", "tensor")
TOKENS = ("pipeline", "data", "context", "tensor")


@dataclass(frozen=True)
class Mesh:
    """The same ranks in the same order, divided in two ways. The ranks of a tensor-parallel group
    are neighbours: on one host, where a host's ranks divide by them; so are, next, those that share
    a sequence; stages of a pipeline, which send the least, lie the furthest apart."""

    weights: DeviceMesh
    """(pipeline, replicate, shard, tensor). Data- and context-parallel ranks alike hold shards of
    the weights, in groups that replicate each other (HSDP)."""
    tokens: DeviceMesh
    """(pipeline, data, context, tensor). Those of one place in `data` read the same sequences."""

    @property
    def fsdp(self) -> DeviceMesh:
        """What FSDP2 takes: one dimension that shards, before it one that replicates if it does."""
        replicated = self.weights["replicate"].size() > 1
        return self.weights["replicate", "shard"] if replicated else self.weights["shard"]


def mesh_of(spec: RunSpec, ranks: int, kind: str) -> Mesh:
    """As many replicas as the ranks that there are make; `kind` of device. Raises NamedExit
    BAD_SPEC if they make none, the batch does not divide by them, or leaves the pipeline too few
    micro-batches."""
    parallel = spec.parallel
    pipeline, context, tensor = (
        parallel.pipeline_parallel,
        parallel.context_parallel,
        parallel.tensor_parallel,
    )
    data, left = divmod(ranks, pipeline * context * tensor)
    if left or not data:
        raise _bad(
            f"{ranks} ranks do not divide by parallel.pipeline_parallel {pipeline} × "
            f"context_parallel {context} × tensor_parallel {tensor}"
        )
    micro_batches = 0
    for phase in spec.batches.phases:
        micro_batches, left = divmod(phase.size, data * parallel.micro_batch_size)
        if left or not micro_batches:
            raise _bad(
                f"a global batch of {phase.size} does not divide by {data} data-parallel ranks × "
                f"parallel.micro_batch_size {parallel.micro_batch_size}"
            )
    if problem := parallel.misfit_of_pipeline(micro_batches):
        raise _bad(problem)
    replicas = data * context
    shard = 1 if parallel.zero_stage == 0 else parallel.shard_group or replicas
    if replicas % shard:
        raise _bad(f"{replicas} replicas do not divide by parallel.shard_group {shard}")
    world = init_device_mesh(kind, (ranks,), mesh_dim_names=("world",))
    mesh = Mesh(
        world._unflatten(0, (pipeline, replicas // shard, shard, tensor), WEIGHTS),
        world._unflatten(0, (pipeline, data, context, tensor), TOKENS),
    )
    # So that what is summed over both, as the gradients' norm is, is summed at once.
    mesh.weights["shard", "tensor"]._flatten("shard_tensor")
    return mesh


def _bad(problem: str) -> NamedExit:
    return NamedExit(ExitCode.BAD_SPEC, problem)
