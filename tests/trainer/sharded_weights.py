"""On every rank (ranks.py): exit 0 if a model that was shared out before it had weights has
the weights of one that was not, still tied, and gives its logits, losses, gradients and their norm.
The arguments: the number of ranks in a tensor-parallel group, and changes of the model (JSON)."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from preflight.small_run_layouts import with_parts
from smolplan.spec import RunSpec
from tests.support import make_spec
from trainer.loss import next_token_loss
from trainer.mesh import Mesh
from trainer.model import transformer
from trainer.model.transformer import CausalLM, initialise
from trainer.parallel import distribute, join, shard_of

SEPARATOR = 3


def a_spec(ranks: int, tensor: int, **changes: Any) -> RunSpec:
    """None of its lengths divides evenly by four ranks. It attends within documents, and has a
    z-loss, since logits that lie on several ranks are summed up for it too."""
    shape = {"vocab_size": 402, "ffn_hidden": 66, "hidden": 36, "head_dim": 6, "z_loss": 1e-3}
    return with_parts(
        make_spec(Path("/unused"), ranks=ranks),
        model=shape | changes,
        parallel={"tensor_parallel": tensor, "data_parallel": ranks // tensor, "recompute": "full"},
    )


def whole_and_shared(spec: RunSpec, mesh: Mesh) -> tuple[CausalLM, CausalLM]:
    """The model whole, and the same one shared out over the ranks as the spec says."""
    whole = CausalLM(spec.model, spec.data.seq_len)
    initialise(whole, 0.02, seed=5)
    with torch.device("meta"):
        model = CausalLM(spec.model, spec.data.seq_len)
    distribute(model, spec, mesh)
    model.materialise(torch.device("cpu"))
    initialise(model, 0.02, 5, shard_of)
    return whole, model


def backward(model: CausalLM, tokens: Tensor, mean: Callable[[float], float]) -> list[float]:
    """Loss, what is minimised, and the gradients' norm; `mean` is that over the ranks."""
    losses = model(tokens, SEPARATOR, tokens.roll(-1, dims=1)).mean(dim=1)
    losses[1].backward()
    total = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    return [*(mean(loss.item()) for loss in losses.detach()), gathered(total).item()]


def gathered(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _named(name: str, told: str) -> str:
    return f"{name}: {told}"


def main() -> int:
    spec = a_spec(int(os.environ["WORLD_SIZE"]), int(sys.argv[1]), **json.loads(sys.argv[2]))
    # Several chunks of few tokens.
    vars(transformer)["next_token_loss"] = partial(next_token_loss, chunk_tokens=20)
    world = join(spec)
    whole, model = whole_and_shared(spec, world.mesh)

    names = dict(model.named_parameters())
    assert names.keys() == dict(whole.named_parameters()).keys()
    for name, parameter in whole.named_parameters():
        assert torch.equal(gathered(names[name]), parameter), name

    tokens = torch.arange(4 * spec.data.seq_len).view(4, -1) * 7 % 401
    share = 4 // world.data_size
    mine = tokens[world.data_rank * share :][:share]
    with torch.no_grad():
        torch.testing.assert_close(gathered(model(mine)), whole(mine), rtol=1e-5, atol=1e-6)
    expected = backward(whole, tokens, lambda value: value)
    got = backward(model, mine, lambda value: world.sum([value])[0] / world.size)
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-5, atol=0.0)
    for name, parameter in whole.named_parameters():
        gradient, expected_gradient = gathered(names[name].grad), gathered(parameter.grad)
        rounding = 1e-4 * expected_gradient.abs().max().item()  # sums may cancel out
        torch.testing.assert_close(
            gradient,
            expected_gradient,
            rtol=1e-4,
            atol=rounding,
            msg=partial(_named, name),
        )
    world.barrier()
    return 0


if __name__ == "__main__":
    sys.exit(main())
