"""The dense feed-forward part of a block."""

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202), or without a gate GELU, by tanh as in GPT-2."""

    def __init__(self, hidden: int, inner: int, *, gated: bool, bias: bool) -> None:
        super().__init__()
        self.gated = gated
        if gated:
            self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        else:
            out = self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))
        return out
