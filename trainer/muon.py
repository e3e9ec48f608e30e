"""Muon for the matrices of the blocks, of experts each its own, AdamW for all else (Jordan et al.
2024, https://kellerjordan.github.io/posts/muon/; scaled as in Moonlight, Liu et al. 2025, arXiv
2502.16982, so that both go by one learning rate and one weight decay)."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate

from trainer.between_ranks import local
from trainer.parallel import shard_of
from trainer.whole_matrices import of_whole, parts, shared

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration (Jordan et al.): steepest at 0, so that five steps are enough."""
ITERATIONS = 5
RMS = 0.2
"""Of an update's elements, as AdamW's usually are (Moonlight, section 2.2)."""
TINY = 1e-7
MOMENTUM = "momentum"
"""Of its state of a matrix: the one moment."""
AT_ONCE = 16
"""Matrices that are whole on each rank at a time, in bf16: those that are shared out over the ranks
of a mesh, or of a stack as many as one rank works out."""


class Muon(torch.optim.AdamW):
    """Groups with `muon` are of matrices and stacks of them, with one moment each; the rest is
    AdamW's. A matrix is orthogonalised whole, by one of the ranks that hold its shards, so that the
    layout matters for rounding only."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if group.get("muon"):
                matrices = [matrix for matrix in group["params"] if matrix.dim() == 2]
                for first in range(0, len(matrices), AT_ONCE):
                    self._step_of(matrices[first : first + AT_ONCE], group)
                for stack in group["params"]:
                    if stack.dim() == 3:
                        self._step_of_stack(stack, group)
        return super().step(closure)  # which passes over what has no gradient any more

    def _step_of(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group[MOMENTUM]
        for matrix, update in zip(matrices, self._updates(matrices, momentum), strict=True):
            matrix.mul_(1 - lr * group["weight_decay"])
            matrix.add_(update.to(matrix.dtype), alpha=-lr * _scale(matrix))
            self.state[matrix]["step"] += 1
            matrix.grad = None

    def _step_of_stack(self, stack: nn.Parameter, group: dict[str, Any]) -> None:
        """Of (matrices, m, n), each by itself."""
        lr, momentum, among = group["lr"], group[MOMENTUM], shared(stack)
        assert stack.grad is not None
        held, gradient, moment = map(local, (stack, stack.grad, self.state[stack][MOMENTUM]))
        moment.lerp_(gradient, 1 - momentum)
        held.mul_(1 - lr * group["weight_decay"])
        some = AT_ONCE * parts(among)
        pieces = zip(*(whole.split(some) for whole in (held, gradient, moment)), strict=True)
        for weights, new, averaged in pieces:
            update = of_whole(orthogonal, new.lerp(averaged, momentum).bfloat16(), among)
            weights.add_(update.to(weights.dtype), alpha=-lr * _scale(stack))
        self.state[stack]["step"] += 1
        stack.grad = None

    def _updates(self, matrices: list[nn.Parameter], momentum: float) -> Iterator[Tensor]:
        """Of each its orthogonalised momentum (Nesterov's), sharded as the matrix is."""
        wholes = []
        for matrix in matrices:
            gradient, moment = matrix.grad, self.state[matrix][MOMENTUM]
            assert gradient is not None
            moment.lerp_(gradient, 1 - momentum)
            wholes.append(_whole(gradient.lerp(moment, momentum).bfloat16()))
        solved = [
            orthogonal(whole) if _is_mine(matrix, number) else torch.zeros_like(whole)
            for number, (matrix, whole) in enumerate(zip(matrices, wholes, strict=True))
        ]
        for matrix, whole in zip(matrices, solved, strict=True):
            yield shard_of(_from_its_rank(whole, matrix), matrix)


def _scale(matrix: Tensor) -> float:
    return RMS * math.sqrt(max(matrix.shape[-2:]))


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest half-orthogonal one, nearly: singular values become 0.7 to 1.2. (m, n) or, each
    by itself, (some, m, n), bf16."""
    a, b, c = NEWTON_SCHULZ
    addmm = torch.addmm if matrix.dim() == 2 else torch.baddbmm
    tall = matrix.size(-2) > matrix.size(-1)
    wide = matrix.mT if tall else matrix
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        higher = addmm(gram, gram, gram, beta=b, alpha=c)
        wide = addmm(wide, higher, wide, beta=a)
    return wide.mT if tall else wide


def _whole(held: Tensor) -> Tensor:
    return held.full_tensor() if isinstance(held, DTensor) else held


def _is_mine(matrix: Tensor, number: int) -> bool:
    """Whether this rank is the one, among those that hold its shards, to work it out."""
    if not isinstance(matrix, DTensor):
        return True
    ranks = matrix.device_mesh.mesh.flatten().tolist()
    return bool(ranks[number % len(ranks)] == dist.get_rank())


def _from_its_rank(whole: Tensor, matrix: Tensor) -> Tensor:
    """From the rank that worked it out to all: a sum with zeros changes nothing."""
    if not isinstance(matrix, DTensor):
        return whole
    mesh = matrix.device_mesh
    summed = DTensor.from_local(whole.contiguous(), mesh, [Partial()] * mesh.ndim, run_check=False)
    return summed.redistribute(mesh, [Replicate()] * mesh.ndim).to_local()
