"""Do ranks that are to hold the same numbers still do? A device that computes wrong now and then
raises no error; its copy drifts from the others' and training goes on, slightly worse.

Under FSDP no rank holds a copy of another's weights, so there is nothing to compare them with. What
there are copies of is compared bit by bit: over all ranks the rotary tables, routers' biases,
optimiser steps, step and position in the data; over the ranks of a tensor-parallel group the norms
with their moments.
"""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.model.transformer import CausalLM

CHECK_EVERY_STEPS = 100
"""And before every checkpoint, so that none holds what differs. The copies are small: norms and
tables, a few thousandths of the weights."""

EVERYWHERE = "rotary tables, routers' biases, optimiser steps, step or position in the data"


@dataclass(frozen=True)
class Difference:
    what: str
    ranks: tuple[int, ...]
    """Those that are not as most are; all that were compared, where there is no majority."""
    by_majority: bool


def digests(
    model: CausalLM, optimizer: torch.optim.Optimizer, step: int, position: int
) -> dict[str, str]:
    """What is held → hash of it. Ranks that have the same key are to have the same hash."""
    copies: dict[str, list[Tensor]] = defaultdict(list)
    copies[EVERYWHERE] += [_bits(buffer) for buffer in model.buffers()]
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        copies[EVERYWHERE].append(_bits(state["step"]))
        if share := _share(parameter):
            moments = (state["exp_avg"], state["exp_avg_sq"])
            copies[share] += [_bits(_local(held)) for held in (parameter.data, *moments)]
    # One look at the device for all: each makes the host wait for it.
    device = next(model.parameters()).device
    numbers = torch.stack([bits.to(device) for held in copies.values() for bits in held]).tolist()
    counted = iter(numbers)
    told = {what: [next(counted) for _ in held] for what, held in copies.items()}
    told[EVERYWHERE] += [step, position]
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


def _share(parameter: Tensor) -> str:
    """Which ranks hold the same as this one, by the share that they have of the whole; empty if
    none does."""
    if not isinstance(parameter, DTensor):
        return ""
    mesh, names = parameter.device_mesh, parameter.device_mesh.mesh_dim_names or ()
    where: list[int] = list(mesh.get_coordinate() or ())
    placed = list(zip(parameter.placements, where, names, strict=True))
    copied = [mesh[name].size() for placement, _, name in placed if placement.is_replicate()]
    if max(copied, default=1) == 1:
        return ""
    share = [f"{name} {at}" for placement, at, name in placed if not placement.is_replicate()]
    return " ".join(["norms or their moments", *(["of", *share] if share else [])])


def _local(held: Tensor) -> Tensor:
    return held.to_local() if isinstance(held, DTensor) else held


def _bits(held: Tensor) -> Tensor:
    """int64, a sum of the bytes by their places: no single flipped bit leaves it as it is."""
    octets = held.detach().contiguous().reshape(-1).view(torch.uint8).to(torch.int64)
    places = torch.arange(1, octets.numel() + 1, device=octets.device)
    return (octets * places).sum()
