import pytest
import torch
import torch.nn.functional as F

from smolplan.spec import ModelSpec, load_preset
from trainer.model.transformer import CausalLM, initialise
from trainer.optim import build_optimizer

SHAPE = {"layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn_hidden": 64, "vocab_size": 97}


def build(**changes: object) -> CausalLM:
    model = CausalLM(ModelSpec.model_validate(SHAPE | changes), 24)
    initialise(model, 0.2, seed=3)
    return model


RECURRENT = {
    "layer_pattern": "MLlA",
    "mamba": {"heads": 4, "head_dim": 16, "state_size": 10, "groups": 2, "chunk_size": 8},
    "delta_net": {
        **{"key_heads": 2, "value_heads": 4, "key_head_dim": 6, "value_head_dim": 10},
        "chunk_size": 8,
    },
}


def test_no_layer_carries_anything_from_one_document_into_the_next() -> None:
    model = build(no_rope_every=0, **RECURRENT)
    numbers = torch.Generator().manual_seed(4)
    # Ends amid chunks, at the end of one, and in the same chunk.
    texts = [torch.randint(1, 97, (1, n), generator=numbers) for n in (4, 2, 7, 7)]
    texts = [torch.cat([text, torch.zeros(1, 1, dtype=torch.int64)], dim=1) for text in texts]
    packed = torch.cat(texts, dim=1)
    with torch.no_grad():
        apart = torch.cat([model(text, separator=0) for text in texts], dim=1)
        torch.testing.assert_close(model(packed, separator=0), apart, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(model(packed)[:, 8:], apart[:, 8:], atol=1e-2)


def test_recurrent_layers_start_with_decays_and_steps_of_their_own() -> None:
    weights = build(**RECURRENT).state_dict()
    for layer, mixer in [(0, "mamba"), (1, "linear_attn")]:
        decay = weights[f"model.layers.{layer}.{mixer}.A_log"].exp()
        step = F.softplus(weights[f"model.layers.{layer}.{mixer}.dt_bias"])
        assert ((decay >= 1) & (decay <= 16)).all() and decay.unique().numel() == 4
        assert ((step >= 0.99e-3) & (step <= 0.101)).all()


def test_packed_documents_do_not_see_each_other() -> None:
    model = build(no_rope_every=0)
    first, second = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[8, 9, 10, 0]])
    with torch.no_grad():
        packed = model(torch.cat([first, second], dim=1), separator=0)
        # RoPE sees only distances, so a document's place in the sequence does not matter.
        torch.testing.assert_close(packed[:, 4:], model(second, separator=0))
        torch.testing.assert_close(packed[:, :4], model(first, separator=0))
        across = model(torch.cat([first, second], dim=1))
    assert not torch.allclose(packed[:, 4:], across[:, 4:])


def test_initial_weights_depend_on_name_and_seed_only() -> None:
    one, two = build(), build()
    other = CausalLM(ModelSpec.model_validate(SHAPE), 24)
    initialise(other, 0.2, seed=4)
    for (name, a), b, c in zip(
        one.named_parameters(), two.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        assert a.dim() == 1 or not torch.equal(a, c), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("decay", [False, True])
def test_norms_are_not_decayed_and_embeddings_only_where_it_is_asked_for(
    optimizer: str, decay: bool
) -> None:
    changed = {"optimizer": optimizer, "embedding_decay": decay}
    spec, model = load_preset("tiny-cpu").optim.model_copy(update=changed), build()
    rates = {
        id(parameter): group["weight_decay"]
        for group in build_optimizer(model, spec).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        spared = parameter.dim() == 1 or ("embed_tokens" in name and not decay)
        assert rates[id(parameter)] == (0.0 if spared else spec.weight_decay), name
