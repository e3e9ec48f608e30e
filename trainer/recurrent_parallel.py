"""Recurrent layers on several ranks, put on the model from outside.

Each rank of those that share a sequence, by context and sequence parallelism, projects its own
tokens. In between shares of the sequence are exchanged for shares of the heads, all to all
(DeepSpeed Ulysses, arXiv 2309.14509), so that a rank takes some heads through the whole sequence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from trainer.between_ranks import with_own_gradient
from trainer.model.places import Places
from trainer.model.recurrence import Heads, Rows


@dataclass(frozen=True)
class SharedHeads(Heads):
    """Those of one rank: as many heads as any other has, and of what groups of heads share as many
    groups, or where there are more ranks than groups one, which then several ranks take."""

    mesh: DeviceMesh
    """Of one dimension: the ranks in the order in which keys of context parallelism are gathered,
    and of one context-parallel rank those that share its tokens out."""

    def share(self, count: int) -> int:
        return max(count // self.mesh.size(), 1)

    def gather(self, x: Tensor, rows: Rows, places: Places) -> Tensor:
        came = self._exchange(_by_rank(x, rows, self.mesh.size()))
        by_rank = came.movedim(0, 1).flatten(1, 2)
        return by_rank[:, places.positions()[1].argsort()] if places.shared else by_rank

    def scatter(self, x: Tensor, places: Places) -> Tensor:
        by_rank = x[:, places.positions()[1]] if places.shared else x
        came = self._exchange(by_rank.unflatten(1, (self.mesh.size(), -1)).movedim(1, 0))
        return came.movedim(0, 2).flatten(2)

    def own(self, parameter: Tensor, rows: Rows) -> Tensor:
        if isinstance(parameter, DTensor):
            # Each tensor-parallel rank has all of it, and the gradient of its heads.
            parameter = with_own_gradient(parameter)
        mine = self.mesh.get_local_rank()
        return _by_rank(parameter.movedim(0, -1), rows, self.mesh.size())[mine].movedim(-1, 0)

    def _exchange(self, by_rank: Tensor) -> Tensor:
        """(to ranks, …) → (from ranks, …)."""
        return all_to_all_single_autograd(by_rank.contiguous(), None, None, self.mesh.get_group())


def _by_rank(x: Tensor, rows: Rows, ranks: int) -> Tensor:
    """(…, all rows) → (ranks, …, rows of one). What several ranks take is there for each of them,
    so that its gradient is the sum of theirs."""
    shares = []
    kinds = x.split([count * width for count, width in rows], dim=-1)
    for (count, width), kind in zip(rows, kinds, strict=True):
        heads = kind.unflatten(-1, (count, width))
        if count < ranks:
            heads = heads.repeat_interleave(ranks // count, dim=-2)
        shares.append(heads.unflatten(-2, (ranks, -1)).flatten(-2).movedim(-2, 0))
    return torch.cat(shares, dim=-1)
