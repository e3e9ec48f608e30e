"""What ranks that share something tell each other in a pass forward, and how its gradient is made.

By DTensor, which has the way back of each.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)


def of_all(part: Tensor, mesh: DeviceMesh, dimension: int) -> Tensor:
    """Those of all ranks of `mesh`, side by side. Each rank has a gradient of its own for all of
    it: they are summed, and each gets what is its own."""
    shared = DTensor.from_local(part, mesh, [Shard(dimension)], run_check=False)
    return with_own_gradient(shared.redistribute(placements=[Replicate()]))


def mean_of_all(own: Tensor, mesh: DeviceMesh, *, summed: bool) -> Tensor:
    """The mean over the ranks of `mesh`. `summed`: each has a gradient of its own for it; else all
    have the same."""
    part = DTensor.from_local(own / mesh.size(), mesh, [Partial()], run_check=False)
    whole = part.redistribute(placements=[Replicate()])
    return with_own_gradient(whole) if summed else whole.to_local()


def with_own_gradient(held: Tensor) -> Tensor:
    """What every rank has all of: each has a gradient of its own for it, and they are summed."""
    assert isinstance(held, DTensor)
    return held.to_local(grad_placements=[Partial()])


def local(held: Tensor) -> Tensor:
    """What this rank holds of it."""
    return held.to_local() if isinstance(held, DTensor) else held


def share_out(
    module: nn.Module, mesh: DeviceMesh, placements: Callable[[str], Sequence[Placement]]
) -> None:
    """Leave a rank of a module's own parameters what `placements` says, by their names."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        # No source rank: every rank cuts its own part, and nothing is sent.
        held = distribute_tensor(parameter, mesh, placements(name), src_data_rank=None)
        module.register_parameter(name, nn.Parameter(held))
