"""The training loss, and with it the gradients of what it is made of."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.between_ranks import with_own_gradient

CHUNK_TOKENS = 2048
"""Logits of this many tokens are held at a time: 1 GB of fp32 at a vocabulary of 128,256."""


def next_token_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    z_loss: float,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """(2, batch): of each sequence the cross-entropy in nats, a mean over its tokens, which has no
    gradient; and, at each, what is minimised, a mean over all tokens: the same with z_loss ·
    logsumexp² (PaLM, arXiv 2204.02311).

    hidden: (batch, seq, hidden); weight, of the head: (vocab, hidden); targets: int64 (batch, seq).
    Both of the first may be DTensors: hidden states whole, the vocabulary shared out over ranks.
    Logits are made a chunk of tokens at a time and never held together, and made once: gradients
    are made with the losses (Liger Kernel, arXiv 2410.10989, section 3.2).
    """
    share = WHOLE
    if isinstance(weight, DTensor):
        share = Share.of(weight)
        hidden, weight = with_own_gradient(hidden), weight.to_local()
    with_gradients = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    cross_entropy, objective = _Losses.apply(
        hidden.flatten(0, 1),
        weight,
        targets.flatten(),
        z_loss,
        chunk_tokens,
        share,
        with_gradients,
    )
    by_sequence = cross_entropy.unflatten(0, targets.shape).mean(dim=1)
    return torch.stack([by_sequence, objective.expand_as(by_sequence)])


@dataclass(frozen=True)
class Share:
    """The entries of the vocabulary that this rank has, from `first` on."""

    first: int = 0
    group: dist.ProcessGroup | None = None
    """Of the ranks that have the others; None: this one has all."""

    @classmethod
    def of(cls, weight: DTensor) -> "Share":
        mesh = weight.device_mesh
        a_rank = -(-len(weight) // mesh.size())  # DTensor's, as torch.chunk
        return cls(mesh.get_local_rank() * a_rank, mesh.get_group())


WHOLE = Share()


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_loss: float,
        chunk_tokens: int,
        share: Share,
        with_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        """hidden: (tokens, hidden); weight: (this rank's entries, hidden); targets: (tokens)."""
        of_hidden = torch.empty_like(hidden) if with_gradients else None
        of_weight = None
        cross_entropies, objectives = [], []
        pieces = hidden.split(chunk_tokens), targets.split(chunk_tokens)
        for number, (piece, wanted) in enumerate(zip(*pieces, strict=True)):
            chunk = _Chunk(F.linear(piece, weight).float(), wanted, share)
            cross_entropies.append(chunk.cross_entropy)
            objectives.append(chunk.objective(z_loss))
            if of_hidden is None:
                continue
            of_logits = chunk.gradient(z_loss).to(weight.dtype)
            torch.mm(of_logits, weight, out=of_hidden.split(chunk_tokens)[number])
            if of_weight is None:
                of_weight = of_logits.T @ piece
                if len(hidden) > chunk_tokens:
                    of_weight = of_weight.float()  # added up in it, as one product would
            elif weight.dtype == torch.float32:
                of_weight.addmm_(of_logits.T, piece)
            else:
                of_weight += of_logits.T @ piece
            del chunk, of_logits  # before the next one's logits are made
        if of_hidden is not None and of_weight is not None:
            ctx.save_for_backward(of_hidden, of_weight.to(weight.dtype))
        ctx.tokens = len(hidden)
        cross_entropy = torch.cat(cross_entropies)
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy, torch.stack(objectives).sum() / len(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_weight = ctx.saved_tensors
        times = gradients[1] / ctx.tokens
        return of_hidden * times, of_weight * times, None, None, None, None, None


class _Chunk:
    """What is made of some tokens' logits, fp32 (tokens, this rank's entries)."""

    def __init__(self, logits: Tensor, targets: Tensor, share: Share) -> None:
        entries = logits.shape[1]
        own = targets - share.first
        self._is_here = ((own >= 0) & (own < entries))[:, None]
        self._at = own.clamp(0, entries - 1)[:, None]
        self._log_probabilities = logits.log_softmax(dim=1)
        target = logits.gather(1, self._at)
        of_target = self._log_probabilities.gather(1, self._at)
        self._logsumexp = target - of_target
        self.cross_entropy = -of_target[:, 0]
        if share.group is not None:
            self._share(target, share.group)

    def _share(self, target: Tensor, group: dist.ProcessGroup) -> None:
        """Take in what the other ranks have of the logits."""
        own = self._logsumexp
        told = torch.stack([own, target.masked_fill(~self._is_here, -torch.inf)])
        of_all = told.new_empty(dist.get_world_size(group), *told.shape)
        dist.all_gather(list(of_all), told, group=group)
        self._logsumexp = of_all[:, 0].logsumexp(dim=0)
        self._log_probabilities += own - self._logsumexp
        self.cross_entropy = (self._logsumexp - of_all[:, 1].amax(dim=0))[:, 0]

    def objective(self, z_loss: float) -> Tensor:
        """The sum over the tokens."""
        total = self.cross_entropy.sum()
        return total + z_loss * self._logsumexp.square().sum() if z_loss else total

    def gradient(self, z_loss: float) -> Tensor:
        """Of that sum by the logits, in the place of their log-probabilities."""
        found = self._log_probabilities.exp_()
        of_target = found.gather(1, self._at)
        if z_loss:
            more = 1.0 + 2.0 * z_loss * self._logsumexp
            found *= more
            of_target *= more
        # scatter_, made deterministic, would have the host wait for the device.
        rows = torch.arange(len(found), device=found.device)
        found[rows, self._at[:, 0]] = (of_target - self._is_here.float())[:, 0]
        return found
