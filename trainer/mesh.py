"""Where each rank stands: how the ranks that there are share out a run's work."""

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from smolplan.errors import ExitCode, NamedExit
from smolplan.spec import RunSpec
from smolplan.units import count_of

WEIGHTS = ("pipeline", "replicate", "shard", "tensor")
TOKENS = ("pipeline", "data", "context", "tensor")
EXPERTS = ("pipeline", "expert_replicate", "expert_shard", "expert", "tensor")


@dataclass(frozen=True)
class Mesh:
    """The same ranks in the same order, divided in several ways. The ranks of a tensor-parallel
    group are neighbours: on one host, where a host's ranks divide by them; so are, next, those that
    share a sequence, or a layer's experts; stages of a pipeline, which send the least, lie the
    furthest apart."""

    weights: DeviceMesh
    """(pipeline, replicate, shard, tensor). Data- and context-parallel ranks alike hold shards of
    the weights, in groups that replicate each other (HSDP)."""
    tokens: DeviceMesh
    """(pipeline, data, context, tensor). Those of one place in `data` read the same sequences."""
    experts: DeviceMesh | None
    """(pipeline, expert_replicate, expert_shard, expert, tensor): as `weights`, for experts. Those
    of one place in `expert` alone hold the same ones. None without expert parallelism."""

    @property
    def fsdp(self) -> DeviceMesh:
        """What FSDP2 takes: one dimension that shards, before it one that replicates if it does."""
        return _sharding(self.weights, "replicate", "shard")

    @property
    def sequence(self) -> DeviceMesh:
        """Of one dimension: the ranks that have parts of the same sequences between them. All
        ranks are to ask for it at the same point: it is made then."""
        return self.tokens["context", "tensor"]._flatten("sequence")

    @property
    def spreads_experts(self) -> DeviceMesh | None:
        """Over what experts are shared out: "expert", "tensor" or both; None: over nothing."""
        layers_shared = self.weights["tensor"].size() > 1
        if self.experts is None:
            return self.weights["tensor"] if layers_shared else None
        return self.experts["expert", "tensor"] if layers_shared else self.experts["expert"]

    @property
    def experts_fsdp(self) -> DeviceMesh:
        """As `fsdp`, for experts that are spread over ranks."""
        assert self.experts is not None
        return _sharding(self.experts, "expert_replicate", "expert_shard")


def _sharding(mesh: DeviceMesh, replicate: str, shard: str) -> DeviceMesh:
    return mesh[replicate, shard] if mesh[replicate].size() > 1 else mesh[shard]


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
            f"parallel.pipeline_parallel {pipeline} × context_parallel {context} × tensor_parallel "
            f"{tensor} does not divide {count_of(ranks, 'rank')}"
        )
    for phase in spec.batches.phases:
        if phase.size % (data * parallel.micro_batch_size):
            raise _bad(
                f"a global batch of {phase.size} does not divide by "
                f"{count_of(data, 'data-parallel rank')} × "
                f"parallel.micro_batch_size {parallel.micro_batch_size}"
            )
    if problem := spec.misfit_of_pipeline(data):
        raise _bad(problem)
    replicas = data * context
    shard, expert = parallel.shards(replicas), parallel.expert_parallel
    if replicas % shard:
        raise _bad(f"parallel.shard_group {shard} does not divide {count_of(replicas, 'replica')}")
    if problem := spec.misfit_of_experts(replicas):
        raise _bad(problem)
    world = init_device_mesh(kind, (ranks,), mesh_dim_names=("world",))
    experts = None
    if expert > 1:
        of_each = parallel.expert_shards(replicas)
        copies = replicas // (of_each * expert)
        experts = world._unflatten(0, (pipeline, copies, of_each, expert, tensor), EXPERTS)
    mesh = Mesh(
        world._unflatten(0, (pipeline, replicas // shard, shard, tensor), WEIGHTS),
        world._unflatten(0, (pipeline, data, context, tensor), TOKENS),
        experts,
    )
    # So that what is summed over both, as the gradients' norm is, is summed at once.
    mesh.weights["shard", "tensor"]._flatten("shard_tensor")
    return mesh


def _bad(problem: str) -> NamedExit:
    return NamedExit(ExitCode.BAD_SPEC, problem)
