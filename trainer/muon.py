"""Muon for the matrices of the blocks, of experts each its own, AdamW for all else (Jordan et al.
2024, https://kellerjordan.github.io/posts/muon/; scaled as in Moonlight, Liu et al. 2025, arXiv
2502.16982, so that both go by one learning rate and one weight decay)."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainer.between_ranks import local
from trainer.whole_matrices import of_whole, parts, shared

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration (Jordan et al.): steepest at 0, so that five steps are enough."""
ITERATIONS = 5
RMS = 0.2
"""Of an update's elements, as AdamW's usually are (Moonlight, section 2.2)."""
TINY = 1e-7
MOMENTUM = "momentum"
"""Of its state of a matrix: the one moment."""
AT_ONCE = 4
"""Matrices that are whole on a rank at a time, in bf16."""


class Muon(torch.optim.AdamW):
    """Groups with `muon` are of matrices and stacks of them, with one moment each; the rest is
    AdamW's. A matrix is orthogonalised whole, by one of the ranks that hold its shards, so that the
    layout matters for rounding only."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        number = 0  # of a matrix: its ranks take turns by it
        for group in self.param_groups:
            if group.get("muon"):
                alike: dict[tuple[Any, ...], list[nn.Parameter]] = defaultdict(list)
                for parameter in group["params"]:
                    placements = getattr(parameter, "placements", None)
                    alike[parameter.shape, placements].append(parameter)
                for parameters in alike.values():
                    self._step_of(parameters, group, number)
                    # Of all ranks: of experts this one may hold fewer than its neighbour.
                    number += sum(math.prod(p.shape[:-2]) for p in parameters)
        return super().step(closure)  # which passes over what has no gradient any more

    def _step_of(self, alike: list[nn.Parameter], group: dict[str, Any], number: int) -> None:
        """Matrices, or stacks of them, of one shape, whose parts lie on the ranks in one way;
        `number`: of the first one."""
        lr, momentum, among = group["lr"], group[MOMENTUM], shared(alike[0])
        at_once = AT_ONCE * parts(among)
        pieces = [piece for parameter in alike for piece in self._pieces(parameter, at_once)]
        together = max(1, at_once // max(1, len(pieces[0][0])))
        for begin in range(0, len(pieces), together):
            some = zip(*pieces[begin:][:together], strict=True)
            weights, gradients, averaged = map(list, some)
            torch._foreach_lerp_(averaged, gradients, 1 - momentum)
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
            ahead = torch._foreach_lerp(gradients, averaged, momentum)  # Nesterov's
            told = torch.cat([one.bfloat16() for one in ahead])
            updates = of_whole(orthogonal, told, among, number).to(weights[0].dtype)
            sizes = [len(one) for one in weights]
            torch._foreach_add_(weights, updates.split(sizes), alpha=-lr * _scale(alike[0]))
            number += len(told)
        for parameter in alike:
            self.state[parameter]["step"] += 1
            parameter.grad = None

    def _pieces(self, parameter: nn.Parameter, size: int) -> Iterator[tuple[Tensor, ...]]:
        """What this rank holds of a weight, its gradient and its moment, as stacks of matrices, at
        most `size` in each."""
        assert parameter.grad is not None
        held = map(local, (parameter, parameter.grad, self.state[parameter][MOMENTUM]))
        stacks = [one if one.dim() == 3 else one[None] for one in held]
        return zip(*(stack.split(size) for stack in stacks), strict=True)


def _scale(matrix: Tensor) -> float:
    return RMS * math.sqrt(max(matrix.shape[-2:]))


def orthogonal(matrices: Tensor) -> Tensor:
    """Of each, (some, m, n) in bf16, the nearest half-orthogonal one, nearly: singular values
    become 0.7 to 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.size(-2) > matrices.size(-1)
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        higher = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.baddbmm(wide, higher, wide, beta=a)
    return wide.mT if tall else wide
