"""Under torchrun, on every rank: exit 0 if a model that was sharded before it had weights has the
weights of one that was not, still tied, and gives its logits."""

import os
from pathlib import Path
from typing import cast

import torch
from torch.distributed.tensor import DTensor

from tests.support import make_spec
from trainer.model.transformer import CausalLM, initialise
from trainer.parallel import distribute, join, shard_of


def main() -> int:
    spec = make_spec(Path("/unused"), ranks=2)
    whole = CausalLM(spec.model, spec.data.seq_len)
    initialise(whole, 0.02, seed=5)
    with torch.device("meta"):
        model = CausalLM(spec.model, spec.data.seq_len)
    world = join(spec)
    distribute(model, spec, world.mesh)
    model.materialise(world.device)
    initialise(model, 0.02, 5, shard_of)
    names = dict(model.named_parameters())
    same = names.keys() == dict(whole.named_parameters()).keys() and all(
        torch.equal(cast(DTensor, names[name]).full_tensor(), parameter)
        for name, parameter in whole.named_parameters()
    )
    tokens = torch.arange(2 * spec.data.seq_len).view(2, -1) % spec.model.vocab_size
    with torch.no_grad():
        same = same and torch.equal(model(tokens), whole(tokens))
    world.barrier()
    return 0 if same else 1


if __name__ == "__main__":
    code = main()
    # As the trainer ends: gloo may abort where one rank is gone a moment before the other.
    os._exit(code)
