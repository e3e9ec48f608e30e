"""Gated DeltaNet (Yang et al. 2024, arXiv 2412.06464): linear attention whose state forgets, and
is corrected by the delta rule, computed chunk by chunk (arXiv 2406.06484)."""

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

NORM_EPS = 1e-6
"""Of queries and keys of length one: transformers' Qwen3NextGatedDeltaNet."""


class GatedDeltaNet(nn.Module):
    """Parameters are named and laid out as in transformers' Qwen3NextGatedDeltaNet."""

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        assert spec.delta_net is not None
        self.spec = net = spec.delta_net
        self.heads = Heads()
        """Others where ranks share them out."""
        key = net.key_heads, net.key_head_dim
        self.channels = [key, key, (net.value_heads, net.value_head_dim)]
        self.per_head = [(net.value_heads, 1)]
        keys, values = net.key_heads * net.key_head_dim, net.value_heads * net.value_head_dim
        self.in_proj_qkvz = nn.Linear(spec.hidden, 2 * keys + 2 * values, bias=False)
        self.in_proj_ba = nn.Linear(spec.hidden, 2 * net.value_heads, bias=False)
        self.conv1d = CausalConvolution(2 * keys + values, net.conv_kernel, bias=False)
        self.dt_bias = nn.Parameter(torch.empty(net.value_heads))
        self.A_log = nn.Parameter(torch.empty(net.value_heads))
        self.norm = nn.RMSNorm(net.value_head_dim, eps=spec.norm_eps)
        self.out_proj = nn.Linear(values, spec.hidden, bias=False)

    def first_value(self, name: str, generator: torch.Generator) -> Tensor | None:
        """Of the step's bias and the decay; None: as any other parameter."""
        return first_decay_or_step(name, self.spec.value_heads, generator)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """x: (batch, seq, hidden)."""
        net = self.spec
        # A key head lies there with its value heads: query, key, values, gates; writes, decays.
        each = net.value_heads // net.key_heads
        parts = [net.key_head_dim, net.key_head_dim, *(each * net.value_head_dim,) * 2]
        q, k, v, gate = self._by_key_head(self.in_proj_qkvz(x)).split(parts, dim=-1)
        write, step = self._by_key_head(self.in_proj_ba(x)).split([each, each], dim=-1)
        mixed = torch.cat([part.flatten(2) for part in (q, k, v, write, step)], dim=-1)
        mixed = self.heads.gather(mixed, self.channels + 2 * self.per_head, places)
        out = self._recurrence(mixed, places).flatten(2).to(x.dtype)
        out = self.heads.scatter(out, places).unflatten(-1, (net.value_heads, -1))
        gate = gate.unflatten(-1, (each, -1)).flatten(2, 3).float()
        normed = self.norm(out) * F.silu(gate)
        back: Tensor = self.out_proj(normed.to(x.dtype).flatten(2))
        return back

    def _recurrence(self, mixed: Tensor, places: Places) -> Tensor:
        """(batch, all tokens, channels, writes and steps), of some heads → (batch, all tokens,
        value heads, width), in fp32."""
        net = self.spec
        keys, values = map(self.heads.share, (net.key_heads, net.value_heads))
        mixed, write, step = mixed.split([mixed.shape[-1] - 2 * values, values, values], dim=-1)
        of_channels = partial(self.heads.own, rows=self.channels)
        mixed = F.silu(self.conv1d(mixed, places, of_channels)).float()
        wide = keys * net.key_head_dim
        q, k, v = mixed.split([wide, wide, values * net.value_head_dim], dim=-1)
        q, k = (part.unflatten(-1, (keys, -1)) for part in (q, k))
        q, k = (_of_length_one(part).repeat_interleave(values // keys, dim=2) for part in (q, k))
        step_bias, decay = (
            self.heads.own(parameter, self.per_head).float()
            for parameter in (self.dt_bias, self.A_log)
        )
        step = F.softplus(step.float() + step_bias)
        return delta_rule(
            q * net.key_head_dim**-0.5,
            k,
            v.unflatten(-1, (values, -1)),
            write.float().sigmoid(),
            decays(-decay.exp() * step, places, net.chunk_size),
            net.chunk_size,
        )

    def _by_key_head(self, projected: Tensor) -> Tensor:
        apart: Tensor = projected.unflatten(-1, (self.spec.key_heads, -1))
        return apart


def _of_length_one(x: Tensor) -> Tensor:
    return x * (x.square().sum(dim=-1, keepdim=True) + NORM_EPS).rsqrt()


def delta_rule(q: Tensor, k: Tensor, v: Tensor, write: Tensor, left: Decays, size: int) -> Tensor:
    """S_t = decay_t·S_(t-1)·(I − β_t·k_t·k_tᵀ) + β_t·v_t·k_tᵀ, and of it S_t·q_t. q and k: (batch,
    seq, heads, key width); v: (batch, seq, heads, value width); write, β: (batch, seq, heads); in
    fp32 → as v."""
    length = v.shape[1]
    q, k, v, write = (in_chunks(part, size).movedim(3, 1) for part in (q, k, v, write[..., None]))
    # What each token writes depends on what the tokens before it in the chunk have written: a
    # triangular system, for the values and for what the state before the chunk held already.
    written = write * k
    system = (written @ k.mT) * left.within
    values, known = (
        torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        for right in (write * v, written * left.from_before[..., None])
    )
    scores = (q @ k.mT) * left.within
    asked = q * left.from_before[..., None]
    kept = (k * left.to_end[..., None]).mT
    state = k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
    out = []
    for chunk in range(k.shape[2]):
        new = values[:, :, chunk] - known[:, :, chunk] @ state
        out.append(asked[:, :, chunk] @ state + scores[:, :, chunk] @ new)
        state = left.across[:, :, chunk, None, None] * state + kept[:, :, chunk] @ new
    return torch.cat(out, dim=2)[:, :, :length].movedim(1, 2)
