from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from smolplan.spec import ModelSpec
from trainer.model.block import Block
from trainer.model.transformer import CausalLM, initialise
from trainer.parallel import recompute

SHAPE = {"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn_hidden": 48, "vocab_size": 97}
LENGTH = 64
MODELS: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "windows": {"layer_pattern": "WA", "window": 9},
    "latent attention": {
        "kv_heads": 4,
        "latent_attention": {
            **{"kv_rank": 16, "q_rank": 12},
            **{"nope_head_dim": 8, "rope_head_dim": 4, "value_head_dim": 8},
        },
    },
    "experts": {"ffn_hidden": 0, "experts": {"routed": 4, "per_token": 2, "ffn_hidden": 12}},
    "recurrent layers": {
        "layer_pattern": "MA",
        "mamba": {"heads": 4, "head_dim": 16, "state_size": 10, "groups": 2, "chunk_size": 8},
    },
}


def passed(model: dict[str, Any], what: Any) -> tuple[int, dict[str, Tensor]]:
    """Bytes that autograd keeps through the forward pass, beside the weights, and the gradients."""
    built = CausalLM(ModelSpec.model_validate(SHAPE | model), LENGTH)
    initialise(built, 0.2, seed=3)
    built.model.alike_for_any_batch = True  # whole masks, of which each layer keeps a copy
    for block in built.model.layers:
        assert isinstance(block, Block)
        recompute(block, what)
    weights = {p.untyped_storage().data_ptr() for p in built.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(0, 97, (2, LENGTH + 1), generator=torch.Generator().manual_seed(5))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _, objective = built(tokens[:, :-1], 0, tokens[:, 1:])
    objective.mean().backward()
    found = {n: p.grad for n, p in built.named_parameters() if p.grad is not None}
    return sum(kept.values()), found


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_more_is_computed_again_the_less_is_kept_and_gradients_are_the_same_bits(
    model: dict[str, Any],
) -> None:
    (none, expected), (selective, attention), (full, block) = (
        passed(model, what) for what in ("none", "selective", "full")
    )
    # Of each of two sequences at least one layer's copy of the mask, in fp32.
    assert none - selective >= 2 * LENGTH**2 * 4
    assert selective > full
    for name, gradient in expected.items():
        assert torch.equal(attention[name], gradient), name
        assert torch.equal(block[name], gradient), name
