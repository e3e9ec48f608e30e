from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from smolplan.spec import ModelSpec
from tests.trainer.one_rank import OneRank
from trainer.balance import balance, share_losses
from trainer.model.experts import grouped_product, has_kernel
from trainer.model.router import routers
from trainer.model.transformer import CausalLM, initialise

EXPERTS = {"routed": 8, "per_token": 2, "ffn_hidden": 12}
TOKENS = torch.randint(0, 97, (4, 16), generator=torch.Generator().manual_seed(2))


def spec_with(**experts: Any) -> ModelSpec:
    shape = {"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn_hidden": 0}
    return ModelSpec.model_validate({**shape, "vocab_size": 97, "experts": EXPERTS | experts})


def build(**experts: Any) -> CausalLM:
    model = CausalLM(spec_with(**experts), 16)
    initialise(model, 0.2, seed=3)
    return model


def gradients(model: CausalLM, pieces: int) -> dict[str, Tensor]:
    """Of the batch in so many micro-batches."""
    model.zero_grad()
    share_losses(model, pieces)
    for piece in TOKENS.split(len(TOKENS) // pieces):
        (model(piece, None, piece.roll(-1, 1))[1].mean() / pieces).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_balancing_loss_is_the_same_in_any_number_of_micro_batches() -> None:
    model = build(auxiliary_loss=0.5)
    without = gradients(build(balance="none"), 1)
    at_once, apart = gradients(model, 1), gradients(model, 4)
    for name, gradient in at_once.items():
        torch.testing.assert_close(apart[name], gradient, rtol=1e-4, atol=1e-6)
    router = "model.layers.0.mlp.gate.weight"
    assert not torch.allclose(at_once[router], without[router], rtol=0.01)


def test_a_balancing_loss_spreads_tokens_evenly() -> None:
    fullest = []
    for coefficient in (0.0, 1.0):
        model = build(auxiliary_loss=coefficient)
        optimizer = torch.optim.SGD([r.weight for r in routers(model)], lr=1.0)
        for _ in range(30):
            gradients(model, 1)
            optimizer.step()
            told = balance(model, spec_with(auxiliary_loss=coefficient), OneRank())
        assert told is not None
        fullest.append(told)
    assert fullest[1] < fullest[0]


def test_the_bias_rises_for_experts_with_fewer_tokens_and_changes_the_choice_alone() -> None:
    model = build(balance="bias", bias_step=0.25)
    gradients(model, 2)
    counts = [router.chosen_tokens.clone() for router in routers(model)]
    fullest = balance(model, spec_with(balance="bias", bias_step=0.25), OneRank())
    mean = TOKENS.numel() * 2 / 8
    assert fullest == sum(c.max().item() / mean for c in counts) / 2
    for router, count in zip(routers(model), counts, strict=True):
        assert count.sum() == TOKENS.numel() * 2  # none is dropped
        expected = 0.25 * torch.sign(mean - count)
        assert torch.equal(router.e_score_correction_bias, expected)
        assert not router.chosen_tokens.any()
    router = routers(model)[0]
    x = torch.randn(1, 16, 32)
    router.e_score_correction_bias.zero_()
    plain, _ = router(x)
    router.e_score_correction_bias.fill_(1.0)
    assert torch.equal(router(x)[0], plain)


def test_what_is_computed_again_is_not_counted_again_nor_is_an_evaluation() -> None:
    model = build(auxiliary_loss=0.5)
    plain = gradients(model, 1)
    counted = [router.chosen_tokens.clone() for router in routers(model)]
    for block in model.model.layers:
        forward = block.forward
        block.forward = lambda *a, forward=forward: checkpoint(forward, *a, use_reentrant=False)
    balance(model, spec_with(auxiliary_loss=0.5), OneRank())
    with torch.no_grad():
        model(TOKENS)
    for name, gradient in gradients(model, 1).items():
        assert torch.equal(gradient, plain[name]), name
    for router, count in zip(routers(model), counted, strict=True):
        assert torch.equal(router.chosen_tokens, count)


def test_an_expert_without_tokens_has_no_part_in_a_product() -> None:
    x, weights = torch.randn(5, 3), torch.randn(4, 3, 2)
    out = grouped_product(x, torch.tensor([2, 0, 3, 0]), weights)
    torch.testing.assert_close(out, torch.cat([x[:2] @ weights[0], x[2:] @ weights[2]]))


def test_a_gpu_multiplies_together_what_its_kernel_takes() -> None:
    """Of other widths it raises "strides should be multiple of 16 bytes"."""
    assert has_kernel(torch.bfloat16, (4, 128, 64))
    assert not has_kernel(torch.bfloat16, (4, 128, 36))
    assert not has_kernel(torch.bfloat16, (4, 100, 64))
    assert not has_kernel(torch.float32, (4, 128, 64))
