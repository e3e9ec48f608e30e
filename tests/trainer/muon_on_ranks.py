"""Under torchrun, on every rank: exit 0 if some steps of Muon on a model that is shared out give,
bit for bit, the weights and moments that one rank with the whole model gets of the same gradients.
The argument is the number of ranks in a tensor-parallel group."""

import os
import sys

import torch

from preflight.small_run_layouts import with_parts
from tests.trainer.sharded_weights import a_spec, gathered, whole_and_shared
from trainer.optim import build_optimizer, moments
from trainer.parallel import shard_of

STEPS = 3


def main() -> int:
    spec = with_parts(
        a_spec(int(os.environ["WORLD_SIZE"]), int(sys.argv[1])), optim={"optimizer": "muon"}
    )
    whole, model, world = whole_and_shared(spec)
    alone, shared = build_optimizer(whole, spec.optim), build_optimizer(model, spec.optim)
    names = dict(model.named_parameters())
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        for name, weight in whole.named_parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
            names[name].grad = shard_of(weight.grad, names[name])
        alone.step()
        shared.step()
    for name, weight in whole.named_parameters():
        held = moments(shared, names[name])
        by_muon = weight.dim() == 2 and "layers" in name
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
    world.barrier()
    return 0


if __name__ == "__main__":
    code = main()
    os._exit(code)
