"""Experts shared out over ranks, put on the model from outside.

Ranks of an expert-parallel group hold different experts of each layer, whole or, with tensor
parallelism, a share of each one's width. Tokens go to where their experts are, and come back, each
time all to all (GShard, arXiv 2006.16668). None is dropped, so how many go where is told first.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed._functional_collectives import (
    all_to_all_single,
    all_to_all_single_autograd,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Shard

from trainer.between_ranks import local, mean_of_all, of_all, share_out
from trainer.model.experts import Experts, grouped_product, inverse, sorted_by
from trainer.model.router import Router


def spread(experts: Experts, mesh: DeviceMesh) -> None:
    """Leave this rank its experts, of each its share. mesh: of the dimensions "expert", "tensor" or
    both, which divide the experts and their inner width (RunSpec sees to it)."""
    names = mesh.mesh_dim_names or ()

    def placements(matrix: str) -> list[Placement]:
        inner = Shard(1) if matrix == "down_proj" else Shard(2)
        return [Shard(0) if dimension == "expert" else inner for dimension in names]

    share_out(experts, mesh, placements)
    ranks = mesh["expert"].size() if "expert" in names else 1

    def product(x: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
        own = local(weights)
        return grouped_product(x, counts, _Averaged.apply(own, ranks) if ranks > 1 else own)

    experts.product = product
    if ranks > 1:
        experts.apply_sorted = partial(  # type: ignore[method-assign]
            _there_and_back, experts.apply_sorted, mesh["expert"]
        )
    if "tensor" in names:
        experts.forward = partial(  # type: ignore[method-assign]
            _of_whole_sequence, experts.forward, mesh["tensor"]
        )


class _Averaged(torch.autograd.Function):
    """A matrix as it is; its gradient, which came of the tokens of all ranks of an expert-parallel
    group, as their mean: FSDP makes the mean over the other ranks, which have other tokens."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, ranks: int) -> Tensor:
        ctx.ranks = ranks
        return matrix.view_as(matrix)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.ranks, None


def _there_and_back(
    apply_sorted: Callable[[Tensor, Tensor], Tensor], mesh: DeviceMesh, x: Tensor, counts: Tensor
) -> Tensor:
    """As Experts.apply_sorted, whose experts are spread over the ranks of `mesh`."""
    ranks, group = mesh.size(), mesh.get_group()
    going = counts.view(ranks, -1)
    coming = all_to_all_single(counts, None, None, group).view_as(going)
    # The host has to know, and so waits for the device, once.
    sent, received = torch.stack([going.sum(1), coming.sum(1)]).tolist()
    there = all_to_all_single_autograd(x, received, sent, group)
    # What came from a rank is sorted by expert; so is to be what came from all.
    expert = torch.arange(going.shape[1], device=x.device).repeat(ranks)
    met = expert.repeat_interleave(coming.flatten(), output_size=sum(received))
    by_expert, of_each = sorted_by(met, going.shape[1])
    out = apply_sorted(there[by_expert], of_each)
    return all_to_all_single_autograd(out[inverse(by_expert)], sent, received, group)


def _of_whole_sequence(
    forward: Callable[[Tensor, Tensor, Tensor], Tensor],
    mesh: DeviceMesh,
    x: Tensor,
    weights: Tensor,
    chosen: Tensor,
) -> Tensor:
    """As Experts.forward, of this rank's share of the sequence, where each rank of `mesh` has a
    share of the experts' width: they meet all tokens, and what they make is summed up."""
    met = [of_all(part, mesh, 1) for part in (x, weights, chosen)]
    out = DTensor.from_local(forward(*met), mesh, [Partial()], run_check=False)
    return out.redistribute(placements=[Shard(1)]).to_local()


def share_choice(router: Router, mesh: DeviceMesh, *, averaged: bool) -> None:
    """Have a router, which chooses for this rank's tokens, keep even what the ranks of `mesh`
    choose for a sequence together. `averaged`: gradients are averaged over them, else summed."""
    before = router.over_sequence
    router.over_sequence = lambda mean: mean_of_all(before(mean), mesh, summed=averaged)
