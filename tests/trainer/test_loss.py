"""The loss and the gradients that are made with it, beside those that torch makes by itself."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.loss import next_token_loss

BATCH, LENGTH, HIDDEN, VOCABULARY = 3, 10, 16, 37


def parts() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(BATCH, LENGTH, HIDDEN, generator=generator, dtype=torch.float32)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    targets = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def by_torch(hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, ...]:
    logits = F.linear(hidden, weight)
    entropy = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    objective = entropy.mean() + z_loss * logits.logsumexp(dim=-1).square().mean()
    return entropy.unflatten(0, targets.shape).mean(dim=1), objective


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("chunk_tokens", [7, 30, 100])
def test_losses_and_gradients_are_those_that_torch_makes(z_loss: float, chunk_tokens: int) -> None:
    hidden, weight, targets = parts()
    expected, objective = by_torch(hidden, weight, targets, z_loss)
    (0.25 * objective).backward()
    wanted = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    losses = next_token_loss(hidden, weight, targets, z_loss, chunk_tokens=chunk_tokens)
    (0.25 * losses[1].mean()).backward()
    torch.testing.assert_close(losses[0], expected)
    torch.testing.assert_close(losses[1], objective.expand(BATCH))
    torch.testing.assert_close((hidden.grad, weight.grad), wanted)


def test_of_a_bf16_head_logits_are_looked_at_in_fp32() -> None:
    hidden, weight, targets = parts()
    half = hidden.detach().bfloat16().requires_grad_(), weight.detach().bfloat16().requires_grad_()
    losses = next_token_loss(*half, targets, 0.0, chunk_tokens=8)
    assert losses.dtype == torch.float32
    losses[1].mean().backward()
    by_torch(hidden, weight, targets, 0.0)[1].backward()
    for found, exact in zip(half, (hidden, weight), strict=True):
        assert found.grad is not None and exact.grad is not None
        assert found.grad.dtype == torch.bfloat16
        apart = (found.grad.float() - exact.grad).norm() / exact.grad.norm()
        assert apart < 0.02


def test_a_bf16_head_s_gradient_is_as_exact_over_many_chunks_as_over_one() -> None:
    numbers = torch.Generator().manual_seed(5)
    hidden = torch.randn(1, 4096, HIDDEN, generator=numbers)
    weight = 0.02 * torch.randn(VOCABULARY, HIDDEN, generator=numbers)
    targets = torch.randint(VOCABULARY, (1, 4096), generator=numbers)

    def gradient(dtype: torch.dtype, chunk_tokens: int) -> Tensor:
        head = weight.detach().to(dtype).requires_grad_()
        losses = next_token_loss(hidden.to(dtype), head, targets, 0.0, chunk_tokens=chunk_tokens)
        losses[1].mean().backward()
        assert head.grad is not None and head.grad.dtype == dtype
        return head.grad.float()

    exact = gradient(torch.float32, 64)
    whole, chunks = ((gradient(torch.bfloat16, tokens) - exact).norm() for tokens in (4096, 64))
    assert chunks < 1.5 * whole  # each is rounded by itself; added up in bf16 it is 3.7 times


def test_each_token_s_logits_are_made_once_and_none_but_a_chunk_s_are_held() -> None:
    hidden, weight, targets = parts()
    made: list[int] = []
    real = F.linear

    def linear(piece: Tensor, head: Tensor) -> Tensor:
        made.append(len(piece))
        return real(piece, head)

    with patch("trainer.loss.F.linear", linear):
        losses = next_token_loss(hidden, weight, targets, 0.0, chunk_tokens=8)
        losses[1].mean().backward()
    assert made == [8, 8, 8, 6]


def test_without_gradients_none_are_made() -> None:
    hidden, weight, targets = parts()
    with torch.no_grad(), patch("torch.mm", side_effect=AssertionError):
        losses = next_token_loss(hidden, weight, targets, 0.0, chunk_tokens=8)
    torch.testing.assert_close(losses[0], by_torch(hidden, weight, targets, 0.0)[0].detach())
    assert not losses.requires_grad
