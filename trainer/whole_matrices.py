"""Matrices whose parts or copies several ranks hold: each is made whole on one of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


@dataclass(frozen=True)
class Shared:
    """Ranks that have the same matrices, of a stack (some, m, n)."""

    group: dist.ProcessGroup
    dimension: int | None
    """Of the stack, by which they have parts; None: copies."""
    sizes: list[int]
    """Of each rank's part, along that dimension: the last ones may be smaller, or empty."""


def shared(held: Tensor) -> list[Shared]:
    """Among whom this rank's part of a matrix, (m, n), or of a stack of them, is shared, in the
    order in which parts are put together: FSDP, whose ranks come first in a mesh, has cut last."""
    if not isinstance(held, DTensor):
        return []
    mesh, lengths, found = held.device_mesh, list(held.shape), []
    for number, placement in reversed([*enumerate(held.placements)]):
        ranks, dimension, sizes = mesh.size(number), getattr(placement, "dim", None), []
        if dimension is not None:
            cut = partial(Shard.local_shard_size_and_offset, lengths[dimension], ranks)
            sizes = [cut(rank)[0] for rank in range(ranks)]
            lengths[dimension] = sizes[mesh.get_local_rank(number)]
            dimension += 3 - held.dim()
        if ranks > 1 and dimension != 0:
            found.append(Shared(mesh.get_group(number), dimension, sizes))
    return found[::-1]


def parts(among: Sequence[Shared]) -> int:
    """How many a matrix is cut into."""
    return math.prod(len(one.sizes) for one in among if one.dimension is not None)


def of_whole(
    function: Callable[[Tensor], Tensor], held: Tensor, among: Sequence[Shared], first: int
) -> Tensor:
    """What `function` makes of whole matrices, (some, m, n), of the same shape, in parts like
    `held`, which are this rank's of them. Each is computed by one of the ranks that share it: they
    take turns, by the matrices' numbers, of which `first` is the first."""
    if not among:
        return function(held)
    one, *others = among
    ranks, mine = one.group.size(), one.group.rank()
    turns = [slice((rank - first) % ranks, None, ranks) for rank in range(ranks)]
    # The numbers of this rank's own, over how many take turns, follow one another.
    number = (first + turns[mine].start) // ranks
    found = torch.zeros_like(held, memory_format=torch.contiguous_format)
    if one.dimension is None:
        found[turns[mine]] = of_whole(function, held[turns[mine]], others, number)
        dist.all_reduce(found, group=one.group)  # a sum with zeros changes nothing
        return found
    of_each = [held[turn] for turn in turns]
    own = of_each[mine].shape
    shapes = [[*own[: one.dimension], size, *own[one.dimension + 1 :]] for size in one.sizes]
    whole = torch.cat(_exchanged(of_each, shapes, one.group), dim=one.dimension)
    cut = of_whole(function, whole, others, number).split(one.sizes, dim=one.dimension)
    back = _exchanged(cut, [part.shape for part in of_each], one.group)
    for turn, part in zip(turns, back, strict=True):
        found[turn] = part
    return found


def _exchanged(
    to_each: Sequence[Tensor], shapes: Sequence[Sequence[int]], group: dist.ProcessGroup
) -> list[Tensor]:
    """What this rank gets of each of the group, which sends it `shapes`, for `to_each`."""
    sent, going = torch.cat([part.flatten() for part in to_each]), [p.numel() for p in to_each]
    coming = [math.prod(shape) for shape in shapes]
    came = sent.new_empty(sum(coming))
    dist.all_to_all_single(came, sent, coming, going, group=group)
    return [part.view(shape) for part, shape in zip(came.split(coming), shapes, strict=True)]
