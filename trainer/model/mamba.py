"""Mamba-2 (Dao & Gu 2024, arXiv 2405.21060), by matrix products within chunks (its listing 1)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.places import Places
from trainer.model.recurrence import (
    CausalConvolution,
    Decays,
    Heads,
    decays,
    first_decay_or_step,
    in_chunks,
)


class Mamba2(nn.Module):
    """Parameters are named and laid out as in transformers' BambaMixer."""

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        assert spec.mamba is not None
        self.spec = mamba = spec.mamba
        self.heads = Heads()
        """Others where ranks share them out."""
        self.inner = mamba.heads * mamba.head_dim
        shared = mamba.groups, mamba.state_size
        self.channels = [(mamba.heads, mamba.head_dim), shared, shared]
        self.per_head = [(mamba.heads, 1)]
        channels = sum(count * width for count, width in self.channels)
        bias = mamba.projection_bias
        self.parts = [self.inner, channels + mamba.heads]
        self.in_proj = nn.Linear(spec.hidden, sum(self.parts), bias=bias)
        self.conv1d = CausalConvolution(channels, mamba.conv_kernel, bias=mamba.conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(mamba.heads))
        self.A_log = nn.Parameter(torch.empty(mamba.heads))
        self.D = nn.Parameter(torch.empty(mamba.heads))
        self.norm = NormOfGroups(self.inner, mamba.groups, spec.norm_eps)
        self.out_proj = nn.Linear(self.inner, spec.hidden, bias=bias)

    def first_value(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Of the step's bias and the decay; None: as any other parameter."""
        return first_decay_or_step(name, self.spec.heads, generator)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """x: (batch, seq, hidden)."""
        gate, mixed = self.in_proj(x).split(self.parts, dim=-1)
        mixed = self.heads.gather(mixed, self.channels + self.per_head, places)
        out = self.heads.scatter(self._recurrence(mixed, places), places)
        normed = self.norm(out * F.silu(gate.float())).to(x.dtype)
        back: Tensor = self.out_proj(normed)
        return back

    def _recurrence(self, mixed: Tensor, places: Places) -> Tensor:
        """(batch, all tokens, channels and steps), of some heads → (batch, all tokens, inner width
        of these), in fp32."""
        mamba = self.spec
        heads, groups = map(self.heads.share, (mamba.heads, mamba.groups))
        mixed, step = mixed.split([mixed.shape[-1] - heads, heads], dim=-1)
        of_channels = partial(self.heads.own, rows=self.channels)
        mixed = F.silu(self.conv1d(mixed, places, of_channels)).float()
        shared = groups * mamba.state_size
        values, b, c = mixed.split([heads * mamba.head_dim, shared, shared], dim=-1)
        step_bias, decay, skip = (
            self.heads.own(parameter, self.per_head).float()
            for parameter in (self.dt_bias, self.A_log, self.D)
        )
        step = F.softplus(step.float() + step_bias)
        left = decays(-decay.exp() * step, places, mamba.chunk_size)
        values = values.unflatten(-1, (heads, -1))
        b, c = (part.unflatten(-1, (groups, -1)) for part in (b, c))
        scanned = scan(values * step[..., None], b, c, left, mamba.chunk_size)
        out: Tensor = scanned + skip[:, None] * values
        return out.flatten(2)


def scan(x: Tensor, b: Tensor, c: Tensor, left: Decays, size: int) -> Tensor:
    """C_t·Σ_s decay(s → t)·B_s·x_s. x: (batch, seq, heads, width); b and c: (batch, seq, groups,
    state), each for heads / groups heads side by side → as x."""
    length, groups = x.shape[1], b.shape[2]
    x, b, c = (in_chunks(part, size) for part in (x, b, c))
    x = x.unflatten(3, (groups, -1))

    def by_group(decay: Tensor) -> Tensor:
        """(batch, heads, chunks, …) → (batch, chunks, groups, heads of it, …)."""
        grouped: Tensor = decay.unflatten(1, (groups, -1)).movedim(3, 1)
        return grouped

    # z batch, l chunks, q and k tokens of a chunk, g groups, h heads of a group, n state, p width.
    scores = torch.einsum("zlqgn,zlkgn->zlgqk", c, b)[:, :, :, None] * by_group(left.within)
    within = torch.einsum("zlghqk,zlkghp->zlqghp", scores, x)
    to_end = by_group(left.to_end).movedim(-1, 2)[..., None]
    added = torch.einsum("zlkgn,zlkghp->zlghnp", b, x * to_end)
    before = torch.stack(_before_each(added, by_group(left.across)[..., None, None]), dim=1)
    reached = torch.einsum("zlqgn,zlghnp->zlqghp", c, before)
    out = within + reached * by_group(left.from_before).movedim(-1, 2)[..., None]
    return out.flatten(3, 4).flatten(1, 2)[:, :length]


def _before_each(added: Tensor, across: Tensor) -> list[Tensor]:
    """The state before each chunk. added: (batch, chunks, …), what a chunk adds to it."""
    states = [torch.zeros_like(added[:, 0])]
    for chunk in range(added.shape[1] - 1):
        states.append(across[:, chunk] * states[-1] + added[:, chunk])
    return states


class NormOfGroups(nn.Module):
    """RMSNorm of each group by itself."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.groups, self.eps = groups, eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, seq, width); in fp32."""
        grouped = x.unflatten(-1, (self.groups, -1))
        normed = F.rms_norm(grouped, grouped.shape[-1:], eps=self.eps)
        return self.weight.float() * normed.flatten(-2)
