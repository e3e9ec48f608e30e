import torch

from smolplan.spec import ModelSpec, load_preset
from trainer.model.transformer import CausalLM, initialise
from trainer.optim import build_optimizer

SHAPE = {"layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn_hidden": 64, "vocab_size": 97}


def build(**changes: object) -> CausalLM:
    model = CausalLM(ModelSpec.model_validate(SHAPE | changes), 24)
    initialise(model, 0.2, seed=3)
    return model


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
