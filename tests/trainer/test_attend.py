from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.attend import _skipping, attend
from trainer.model.places import Places, documents_of, lengths_of, rotary_table
from trainer.model.transformer import CausalLM

LENGTH = 200


def places(with_documents: bool) -> Places:
    tokens = torch.randint(0, 40, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    cos, sin = rotary_table(LENGTH, 16, 10_000.0)
    return Places(tokens.shape, cos, sin, documents_of(tokens, 0) if with_documents else None)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_layers_need_alike_is_made_before_the_first_of_them(compiled: bool) -> None:
    """In a block that is compiled or computed again it would be made in one of its passes only."""
    size = {"layers": 3, "hidden": 64, "heads": 4, "kv_heads": 2, "ffn_hidden": 32}
    spec = ModelSpec.model_validate({**size, "vocab_size": 41, "window": 7, "layer_pattern": "WAW"})
    model = CausalLM(spec, LENGTH).model
    model.alike_for_any_batch = compiled
    there: list[set[object]] = []

    def look(_: nn.Module, given: tuple[Tensor, Places]) -> None:
        there.append(set(given[1].once._made))

    for block in model.layers:
        block.register_forward_pre_hook(look)
    model(torch.randint(0, 40, (2, LENGTH)), 0)
    assert there[0] == there[1] == there[2] == ({7, None} if compiled else {7})


@pytest.mark.parametrize("window", [None, 13])
@pytest.mark.parametrize("with_documents", [True, False])
def test_every_way_to_attend_gives_what_the_mask_says(
    with_documents: bool, window: int | None
) -> None:
    numbers = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, heads, LENGTH, 16, generator=numbers) for heads in (4, 2, 2))
    where = places(with_documents)
    lengths = None if where.document is None else lengths_of(where.document)
    one_by_one = replace(where, lengths=lengths)
    scores = q @ k.repeat_interleave(2, dim=1).mT / 4
    met = scores.masked_fill(~where.mask(window), -torch.inf).softmax(dim=-1)
    expected = met @ v.repeat_interleave(2, dim=1)
    torch.testing.assert_close(attend(q, k, v, where, window), expected)
    torch.testing.assert_close(attend(q, k, v, one_by_one, window), expected)
    # A GPU's kernel, uncompiled: here it shows that its blocks leave out what they should.
    torch.testing.assert_close(_skipping(q, k, v, where, window), expected)


def test_a_gpu_takes_the_kernel_that_there_is_for_every_length() -> None:
    """By itself torch takes another for less than 128 queries, and has none for four of 64."""
    given: list[object] = []

    def kernel(q: Tensor, *_: Tensor, kernel_options: object, **__: object) -> Tensor:
        given.append(kernel_options)
        return q

    q = torch.zeros(2, 4, LENGTH, 16)
    _skipping(q, q, q, places(True), None, kernel)
    assert given == [{"BACKEND": "TRITON"}]
