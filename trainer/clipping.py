"""The gradients' norm over all ranks, and what shortens them to it.

On the parts that a rank holds: torch.nn.utils does the same on DTensors, by a way that takes 2 % of
a small model's step.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from trainer.between_ranks import local


@torch.no_grad()
def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Over the ranks that hold parts of them, each part counted once. The same number on all that
    hold the same weight: they must scale it alike."""
    alike: dict[tuple[DeviceMesh | None, tuple[int, ...]], list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        if isinstance(gradient, DTensor):
            parted = tuple(d for d, p in enumerate(gradient.placements) if not p.is_replicate())
            alike[gradient.device_mesh, parted].append(gradient.to_local())
        else:
            alike[None, ()].append(gradient)
    squares = []
    for (mesh, parted), parts in alike.items():
        square = nn.utils.get_total_norm(parts).square()
        for dimension in parted:
            assert mesh is not None
            dist.all_reduce(square, group=mesh.get_group(dimension))
        squares.append(square)
    return torch.stack(squares).sum().sqrt()


@torch.no_grad()
def shorten(gradients: Iterable[Tensor], norm: Tensor, longest: float) -> None:
    """As torch.nn.utils.clip_grads_with_norm_ does."""
    held = [local(gradient) for gradient in gradients]
    torch._foreach_mul_(held, (longest / (norm + 1e-6)).clamp(max=1.0))
