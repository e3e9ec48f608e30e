"""What a layout's first weights look like: `python -m trainer.first_weights RUN` on every rank, as
torchrun starts the trainer. Rank 0 writes a line of JSON: parameter → its statistics."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from smolplan.rundir import RunDir
from smolplan.spec import load_spec
from trainer.parallel import join
from trainer.passes import Passes


@dataclass(frozen=True)
class Statistics:
    mean: float
    std: float
    alike: float
    """Largest correlation of two tensor-parallel ranks' shares: near 0 where each was drawn for
    itself, 1 where they are the same; 0 where there is one, or shares that do not vary."""


def statistics(model: nn.Module) -> dict[str, Statistics]:
    """Of the weights as the ranks hold them, put together. All ranks of a stage call it."""
    return {name: _of(parameter.detach()) for name, parameter in model.named_parameters()}


def _of(parameter: Tensor) -> Statistics:
    shares = [parameter]
    if isinstance(parameter, DTensor):
        mesh, placed = parameter.device_mesh, parameter.placements
        parameter = parameter.full_tensor()
        tensor_parallel = "tensor" in (mesh.mesh_dim_names or ())
        if tensor_parallel and placed[-1].is_shard():
            shares = list(parameter.chunk(mesh["tensor"].size(), placed[-1].dim))  # type: ignore[attr-defined]
    alike = [_correlation(one, other) for one, other in combinations(shares, 2)]
    whole = parameter.double()
    spread = whole.std(correction=0)
    return Statistics(whole.mean().item(), spread.item(), max(alike, default=0.0))


def _correlation(one: Tensor, other: Tensor) -> float:
    pair = torch.stack([one.double().flatten(), other.double().flatten()])
    if (pair.std(dim=1) == 0).any():
        return 0.0
    return float(pair.corrcoef()[0, 1].abs().item())


def main() -> None:
    spec = load_spec(RunDir(Path(sys.argv[1])).spec)
    torch.set_num_threads(spec.launch.threads_per_rank)
    world = join(spec)
    passes = Passes(spec, world, separator=0)
    passes.initialise()
    found = statistics(passes.model)
    # Stages of a pipeline know their own only.
    by_rank = world.gather({name: asdict(told) for name, told in found.items()})
    if world.rank == 0:
        together = {name: told for rank in by_rank for name, told in rank.items()}
        sys.stdout.write(json.dumps(together) + "\n")
        sys.stdout.flush()
    world.barrier()
    # As the trainer ends: gloo may abort where one rank is gone a moment before the other.
    os._exit(0)


if __name__ == "__main__":
    main()
