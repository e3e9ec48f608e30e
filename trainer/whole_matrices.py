"""Matrices of a stack, as experts have them, whose parts several ranks hold: each is made whole on
one of them."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

Shared = tuple[dist.ProcessGroup, int | None]
"""Ranks that have the same matrices of a stack: parts of each, by a dimension, or, None, copies."""


def shared(stack: Tensor) -> list[Shared]:
    """Among whom this rank's matrices of a stack, (matrices, m, n), are shared, in the order in
    which their parts are put together: FSDP, whose ranks come first in a mesh, has cut last."""
    if not isinstance(stack, DTensor):
        return []
    mesh = stack.device_mesh
    by_dimension = [getattr(placement, "dim", None) for placement in stack.placements]
    return [
        (mesh.get_group(number), dimension)
        for number, dimension in enumerate(by_dimension)
        if dimension != 0 and mesh.size(number) > 1
    ]


def parts(among: Sequence[Shared]) -> int:
    """How many a matrix is cut into."""
    return math.prod(group.size() for group, dimension in among if dimension is not None)


def of_whole(function: Callable[[Tensor], Tensor], held: Tensor, among: Sequence[Shared]) -> Tensor:
    """What `function` makes of whole matrices, (some, m, n), of the same shape, in parts like
    `held`, which are this rank's of them. Each is computed by one of the ranks that share it."""
    if not among:
        return function(held)
    (group, dimension), *others = among
    ranks, mine = group.size(), group.rank()
    of_each = [len(some) for some in held.tensor_split(ranks)]
    if dimension is None:
        found = torch.zeros_like(held)
        own = of_whole(function, held.tensor_split(ranks)[mine], others)
        found.tensor_split(ranks)[mine].copy_(own)
        dist.all_reduce(found, group=group)  # a sum with zeros changes nothing
        return found
    own_of_all = [of_each[mine]] * ranks
    came = held.new_empty(sum(own_of_all), *held.shape[1:])
    dist.all_to_all_single(came, held.contiguous(), own_of_all, of_each, group=group)
    whole = torch.cat(came.split(own_of_all), dim=dimension)
    cut = of_whole(function, whole, others).chunk(ranks, dim=dimension)
    found = torch.empty_like(held, memory_format=torch.contiguous_format)
    dist.all_to_all_single(found, torch.cat(cut), of_each, own_of_all, group=group)
    return found
