"""On every rank (ranks.py): exit 0 if some steps of Muon on a model that is shared out give,
bit for bit, the weights and moments that one rank with the whole model gets of the same gradients.
The arguments are layouts, as JSON, with changes of the model."""

import json
import os
import sys
from typing import Any

import torch

from preflight.small_run_layouts import with_parts
from smolplan.spec import RunSpec
from tests.trainer.sharded_weights import a_spec, gathered, whole_and_shared
from trainer import muon
from trainer.mesh import mesh_of
from trainer.model.experts import Experts
from trainer.optim import build_optimizer, moments
from trainer.parallel import join, shard_of

STEPS = 3


def spec_of(layout: dict[str, Any]) -> RunSpec:
    ranks, tensor = int(os.environ["WORLD_SIZE"]), layout.get("tensor_parallel", 1)
    spec = a_spec(ranks, tensor, **layout.pop("model", {}))
    return with_parts(spec, optim={"optimizer": "muon"}, parallel=layout)


def check(spec: RunSpec) -> None:
    mesh = mesh_of(spec, int(os.environ["WORLD_SIZE"]), "cpu")
    whole, model = whole_and_shared(spec, mesh)
    alone, shared = build_optimizer(whole, spec.optim), build_optimizer(model, spec.optim)
    names = dict(model.named_parameters())
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        for name, weight in whole.named_parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
            names[name].grad = shard_of(weight.grad, names[name])
        alone.step()
        shared.step()
    stacks = {p for m in whole.modules() if isinstance(m, Experts) for p in m.parameters()}
    for name, weight in whole.named_parameters():
        held = moments(shared, names[name])
        by_muon = weight in stacks or (weight.dim() == 2 and "layers" in name)
        assert ("momentum" in held) == by_muon
        # The CPU's AdamW kernel rounds the last elements of a shard in another way.
        tolerance = 0.0 if by_muon else 1e-6
        for one, other in (
            (names[name], weight),
            *zip(held.values(), moments(alone, weight).values(), strict=True),
        ):
            torch.testing.assert_close(
                gathered(one), other, rtol=tolerance, atol=tolerance, msg=name
            )


def main() -> int:
    muon.AT_ONCE = 2  # so that stacks are gone through piece by piece
    specs = [spec_of(json.loads(layout)) for layout in sys.argv[1:]]
    world = join(specs[0])
    for spec in specs:
        check(spec)
    world.barrier()
    return 0


if __name__ == "__main__":
    sys.exit(main())
