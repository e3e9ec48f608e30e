"""Context parallelism, put on the model from outside: ranks that share a sequence's tokens.

Each computes all layers for its own tokens. Attention looks further: it meets the keys and values
of all of them, gathered before it and, as gradients, summed and scattered behind it (Llama 3, arXiv
2407.21783, section 3.3.2); so do recurrent layers, in their way (trainer/recurrent_parallel.py).
Masks are made of the tokens' places, which every rank knows whole, so documents and windows mean
what they mean on one rank.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from trainer.between_ranks import of_all
from trainer.expert_parallel import share_choice
from trainer.model.places import Places
from trainer.model.router import routers
from trainer.model.transformer import CausalLM


def positions_of(rank: int, ranks: int, seq_len: int) -> Tensor:
    """Of a sequence's tokens those of one rank, int64 (seq_len / ranks,). Cut into 2 × ranks
    chunks, the nth from the beginning goes with the nth from the end: a token meets those before
    it, so that all ranks have the same to do. seq_len divides by 2 × ranks (RunSpec sees to it)."""
    chunks = torch.arange(seq_len).view(2 * ranks, -1)
    return torch.cat([chunks[rank], chunks[2 * ranks - 1 - rank]])


@cache
def on_device(rank: int, ranks: int, seq_len: int, device: torch.device) -> Tensor:
    """`positions_of`, sent there once: the host waits for what it sends."""
    return positions_of(rank, ranks, seq_len).to(device)


@dataclass(frozen=True, kw_only=True)
class SharedPlaces(Places):
    """Those of a micro-batch that several ranks compute. Its angles are of this rank's tokens."""

    mine: Tensor
    """Positions, int64, as `all_ranks`: by rank, in the order in which keys are gathered."""
    all_ranks: Tensor
    mesh: DeviceMesh

    @property
    def shared(self) -> bool:
        return True

    def positions(self) -> tuple[Tensor, Tensor]:
        return self.mine, self.all_ranks

    def everywhere(self, part: Tensor) -> Tensor:
        return of_all(part, self.mesh, 2)


def share_sequence(model: CausalLM, mesh: DeviceMesh) -> None:
    """Have it compute this rank's tokens of the sequences that it is given, and their part of the
    loss: the mean over the ranks is that of all tokens. mesh: of one dimension."""
    decoder, ranks = model.model, mesh.size()
    places, forward = decoder.places, model.forward

    def shared(tokens: Tensor, separator: int | None) -> SharedPlaces:
        whole, length = places(tokens, separator), tokens.shape[1]
        mine = on_device(mesh.get_local_rank(), ranks, length, tokens.device)
        all_ranks = torch.cat([on_device(r, ranks, length, tokens.device) for r in range(ranks)])
        angles = {"cos": whole.cos[mine], "sin": whole.sin[mine]}
        here = {"mine": mine, "all_ranks": all_ranks, "mesh": mesh}
        return SharedPlaces(**{**vars(whole), **angles, **here})

    def own(tokens: Tensor) -> Tensor:
        return tokens[:, on_device(mesh.get_local_rank(), ranks, tokens.shape[1], tokens.device)]

    def of_own_tokens(
        tokens: Tensor, separator: int | None = None, targets: Tensor | None = None
    ) -> Tensor:
        return forward(tokens, separator, None if targets is None else own(targets))

    def embed_own(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        return (own(given[0]),)

    for router in routers(model):
        share_choice(router, mesh, averaged=True)
    decoder.places = shared  # type: ignore[method-assign]
    decoder.embed_tokens.register_forward_pre_hook(embed_own)
    model.forward = of_own_tokens  # type: ignore[method-assign]
