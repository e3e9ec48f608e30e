"""A mixture of experts: each token goes through the few that its router chooses, none is dropped.

How tokens are spread evenly is the router's matter (trainer/model/router.py).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.feed_forward import FeedForward
from trainer.model.router import Router


class MixtureOfExperts(nn.Module):
    """Routed experts, and shared ones that every token goes through (DeepSeekMoE, arXiv
    2401.06066), with a learned gate where the spec has one (Qwen2-MoE)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.experts is not None
        experts = spec.experts
        self.gate = Router(experts, spec.hidden)
        self.experts = Experts(experts.routed, spec.hidden, experts.ffn_hidden, spec.gated_ffn)
        self.shared = experts.widths.get("shared", 0)
        if self.shared:
            self.shared_expert = FeedForward(
                spec.hidden, self.shared, gated=spec.gated_ffn, bias=False
            )
        self.gates_shared = experts.shared_gate
        if self.gates_shared:
            self.shared_expert_gate = nn.Linear(spec.hidden, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, seq, hidden)."""
        out: Tensor = self.experts(x, *self.gate(x))
        if self.shared:
            shared = self.shared_expert(x)
            if self.gates_shared:
                shared = shared * torch.sigmoid(self.shared_expert_gate(x))
            out = out + shared
        return out


class Experts(nn.Module):
    """The routed experts' matrices, each kind of them stacked, (experts, in, out), so that they can
    be shared out over ranks by their first dimension."""

    def __init__(self, experts: int, hidden: int, inner: int, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.product = grouped_product  # another where ranks share out the matrices
        if gated:
            self.gate_proj = nn.Parameter(torch.empty(experts, hidden, inner))
        self.up_proj = nn.Parameter(torch.empty(experts, hidden, inner))
        self.down_proj = nn.Parameter(torch.empty(experts, inner, hidden))

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """x: (batch, seq, hidden); weights and chosen: (batch, seq, k), of a token's experts."""
        by_expert, counts = sorted_by(chosen.flatten(), len(self.up_proj))
        out = self.apply_sorted(x.flatten(0, 1)[by_expert // chosen.shape[-1]], counts)
        # Each token's outputs lie side by side again: summed in one order on every device.
        apart = out[inverse(by_expert)].view(*chosen.shape, -1)
        mixed: Tensor = (apart * weights[..., None].to(apart.dtype)).sum(dim=-2)
        return mixed

    def apply_sorted(self, x: Tensor, counts: Tensor) -> Tensor:
        """x: (tokens, hidden), those of the first expert first; counts: int64 (experts), how many
        each has."""
        inner = self.product(x, counts, self.up_proj)
        if self.gated:
            inner = F.silu(self.product(x, counts, self.gate_proj)) * inner
        else:
            inner = F.gelu(inner, approximate="tanh")
        return self.product(inner, counts, self.down_proj)


def sorted_by(expert: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Places of those that go to the first expert, then to the next, each in their order; and how
    many each has, int64 (experts). expert: int64 (n)."""
    order = expert.argsort(stable=True)
    # bincount would have the host wait for the device.
    edges = torch.arange(experts + 1, device=expert.device)
    return order, torch.searchsorted(expert[order], edges).diff()


def inverse(order: Tensor) -> Tensor:
    """The order that undoes another."""
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places


def grouped_product(x: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """Rows of x, (tokens, in), by the matrix of their expert, (experts, in, out): the first
    counts[0] by the first one, and so on."""
    if x.is_cuda and has_kernel(x.dtype, weights.shape):
        ends = counts.cumsum(0).to(torch.int32)
        out: Tensor = F.grouped_mm(x, weights, offs=ends)
        return out
    parts = zip(x.split(counts.tolist()), weights.unbind(), strict=True)
    return torch.cat([part @ weight for part, weight in parts])


def has_kernel(dtype: torch.dtype, matrices: Sequence[int]) -> bool:
    """Whether torch multiplies these, (experts, in, out), together on a GPU: in bf16, and where
    rows begin at whole 16 bytes. Else it is a product an expert."""
    return dtype == torch.bfloat16 and all(side % 8 == 0 for side in matrices[1:])
