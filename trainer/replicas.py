"""Do ranks that are to hold the same numbers still do? A device that computes wrong now and then
raises no error; its copy drifts from the others' and training goes on, slightly worse.

Under FSDP no rank holds a copy of another's weights, so there is nothing to compare them with. What
there are copies of is compared bit by bit, weights with their moments: over all ranks the rotary
tables, optimiser steps, step and position in the data; over a pipeline stage's its routers' biases;
over the ranks of a tensor-parallel group norms and routers; over groups of replicas (HSDP) all
weights; over a pipeline's ends a tied embedding.
"""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainer.between_ranks import local
from trainer.mesh import Mesh
from trainer.optim import STEP, moments

CHECK_EVERY_STEPS = 100
"""And before every checkpoint, so that none holds what differs. Without HSDP the copies are small:
norms and tables, a few thousandths of the weights."""

AT_ONCE = 2**20
"""Elements of a weight that are looked at together: each takes eight bytes."""
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

EVERYWHERE = "rotary tables, optimiser steps, step or position in the data"
ROUTERS = "routers' biases"


@dataclass(frozen=True)
class Difference:
    what: str
    ranks: tuple[int, ...]
    """Those that are not as most are; all that were compared, where there is no majority."""
    by_majority: bool


def digests(
    model: nn.Module, optimizer: torch.optim.Optimizer, step: int, position: int, mesh: Mesh
) -> dict[str, str]:
    """What is held → hash of it. Ranks that have the same key are to have the same hash."""
    copies: dict[str, list[Tensor]] = defaultdict(list)
    stage = _stage(mesh)
    for name, buffer in model.named_buffers():
        of_all = ".layers." not in name
        copies[EVERYWHERE if of_all else " of ".join([ROUTERS, *stage])].append(_bits(buffer))
    for name, parameter in model.named_parameters():
        copies[EVERYWHERE].append(_bits(optimizer.state[parameter][STEP]))
        if share := _share(name, parameter, mesh):
            held = (parameter.data, *moments(optimizer, parameter).values())
            copies[share] += [_bits(local(one)) for one in held]
    # One look at the device for all: each makes the host wait for it.
    device = next(model.parameters()).device
    numbers = torch.stack([bits.to(device) for held in copies.values() for bits in held]).tolist()
    counted = iter(numbers)
    told = {what: [next(counted) for _ in held] for what, held in copies.items()}
    # Stages of a pipeline have these as often as they have weights: each value counts once.
    told[EVERYWHERE] = [*sorted(set(told[EVERYWHERE])), step, position]
    return {what: hashlib.sha256(str(held).encode()).hexdigest() for what, held in told.items()}


def difference(by_rank: list[dict[str, str]]) -> Difference | None:
    """The first between ranks, whose digests these are."""
    for what in sorted({what for told in by_rank for what in told}):
        held = {rank: told[what] for rank, told in enumerate(by_rank) if what in told}
        (common, most), *others = Counter(held.values()).most_common()
        if others:
            majority = 2 * most > len(held)
            odd = [rank for rank, value in held.items() if not majority or value != common]
            return Difference(what, tuple(odd), majority)
    return None


def _share(name: str, parameter: Tensor, mesh: Mesh) -> str:
    """Which ranks hold the same as this one, by the share that they have of the whole; empty if
    none does."""
    pipeline = mesh.weights["pipeline"]
    # Both ends of a pipeline have the embedding where it is tied; one, where it is not.
    at_the_ends = pipeline.size() > 1 and name == "model.embed_tokens.weight"
    copied, share = at_the_ends, ["the embedding"] if at_the_ends else _stage(mesh)
    if isinstance(parameter, DTensor):
        inner, names = parameter.device_mesh, parameter.device_mesh.mesh_dim_names or ()
        where: list[int] = list(inner.get_coordinate() or ())
        for placement, at, dimension in zip(parameter.placements, where, names, strict=True):
            if placement.is_replicate():
                copied = copied or inner[dimension].size() > 1
            else:
                share.append(f"{dimension} {at}")
    if not copied:
        return ""
    return " ".join(["weights or their moments", *(["of", *share] if share else [])])


def _stage(mesh: Mesh) -> list[str]:
    pipeline = mesh.weights["pipeline"]
    return [f"stage {pipeline.get_local_rank()}"] if pipeline.size() > 1 else []


def _bits(held: Tensor) -> Tensor:
    """int64, a sum of the elements' bits by odd numbers that tell their places: no single flipped
    bit leaves it as it is, since an odd number times a power of two below 2^64 is not 0 by it."""
    flat = held.detach().contiguous().reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for number, piece in enumerate(flat.view(INTEGERS[flat.element_size()]).split(AT_ONCE)):
        first = 2 * number * AT_ONCE + 1
        places = torch.arange(first, first + 2 * piece.numel(), 2, device=flat.device)
        total += places.mul_(piece).sum()
    return total
