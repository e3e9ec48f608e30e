import pytest
import torch

from smolplan.spec import ModelSpec, load_preset
from trainer.model.transformer import CausalLM, initialise
from trainer.optim import build_optimizer

SHAPE = {"layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn_hidden": 64, "vocab_size": 97}


def build(**changes: object) -> CausalLM:
    model = CausalLM(ModelSpec.model_validate(SHAPE | changes), 24)
    initialise(model, 0.2, seed=3)
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_those_of_transformers_smollm3(tied: bool) -> None:
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    model = build(tied_embeddings=tied)
    config = SmolLM3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        no_rope_layer_interval=4,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    peer = SmolLM3ForCausalLM(config)
    missing, unexpected = peer.load_state_dict(model.state_dict(), strict=False)
    assert (missing, unexpected) == ([], [])
    tokens = torch.randint(0, 97, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), peer(tokens).logits, rtol=1e-4, atol=1e-4)


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


def test_embeddings_and_norms_are_not_decayed() -> None:
    model = build()
    optimizer = build_optimizer(model, load_preset("tiny-cpu").optim)
    decayed, plain = (group["params"] for group in optimizer.param_groups)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("embed" not in names[id(p)] and p.dim() > 1 for p in decayed)
    assert "model.embed_tokens.weight" in {names[id(p)] for p in plain}
