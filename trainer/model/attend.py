"""Attention itself: every mixer that attends calls this one function."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from trainer.model.places import Lengths, Places

Attend = Callable[[Tensor, Tensor, Tensor, Places, int | None], Tensor]

LEAST_WIDTH = 16
"""Of a head, for FlexAttention's kernels (torch/_inductor/kernel/flex/flex_attention.py)."""

KERNEL = {"BACKEND": "TRITON"}
"""Not the one that torch takes by itself for less than 128 queries: that finds none that fits where
these, times the queries a key serves, are more than 128 (flex_decoding.py beside that file)."""


def attend(q: Tensor, k: Tensor, v: Tensor, places: Places, window: int | None = None) -> Tensor:
    """softmax(q·kᵀ/√d)·v over the keys that a token may meet.

    q: (batch, heads, seq, d), of the tokens that are computed here; k: (batch, kv heads, all, d),
    of those of `places.everywhere`, each of which serves heads / kv heads queries; v: (batch, kv
    heads, all, value dim) → (batch, heads, seq, value dim).
    """
    match _way(places, window, min(q.shape[-1], v.shape[-1])):
        case "causal":
            return _causal(q, k, v)
        case "by document":
            assert places.lengths is not None
            return _by_document(q, k, v, places.lengths)
        case "by blocks":
            return _skipping(q, k, v, places, window, *_compiled())
    # All scores are computed, masked or not.
    groups = q.shape[1] // k.shape[1]
    k, v = (part.repeat_interleave(groups, dim=1) for part in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=places.mask(window))


def make_ready(places: Places, window: int | None, width: int) -> None:
    """Make what all layers of this window need alike, before the first of them, by the narrowest
    of their heads. A block that is compiled, or computed again, may not make it for the others:
    what it does would depend on who came before."""
    match _way(places, window, width):
        case "by blocks":
            _blocks(places, window, _compiled()[1])
        case "masked":
            places.mask(window)


def _way(
    places: Places, window: int | None, width: int
) -> Literal["causal", "by document", "by blocks", "masked"]:
    if places.document is None and window is None and not places.shared:
        return "causal"
    if places.cos.is_cuda and width >= LEAST_WIDTH:
        return "by blocks"
    if places.lengths is not None and window is None and not places.shared:
        return "by document"
    return "masked"


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Without a mask torch takes a kernel that skips what is not met."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def _by_document(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths) -> Tensor:
    rows = []
    for number, documents in enumerate(lengths):
        of_row = (part[number : number + 1].split(documents, dim=2) for part in (q, k, v))
        rows.append(torch.cat([_causal(*document) for document in zip(*of_row, strict=True)], 2))
    return torch.cat(rows)


Kernel = Callable[..., Any]


@cache
def _compiled() -> tuple[Kernel, Kernel]:
    """FlexAttention is one kernel only when compiled, and its backward pass adds in one order."""
    return torch.compile(flex_attention), torch.compile(create_block_mask)


def _skipping(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    places: Places,
    window: int | None,
    attention: Kernel = flex_attention,
    blocks: Kernel = create_block_mask,
) -> Tensor:
    """By FlexAttention (Dong et al. 2024, arXiv 2412.05496), which leaves out blocks of keys that
    no query of a block may meet: other documents and what is outside the window."""
    mask = _blocks(places, window, blocks)
    out: Tensor = attention(q, k, v, block_mask=mask, enable_gqa=True, kernel_options=KERNEL)
    return out


def _blocks(places: Places, window: int | None, make: Kernel) -> Any:
    """Made once."""
    return places.once.made(("blocks", window), lambda: _blocks_of(places, window, make))


def _blocks_of(places: Places, window: int | None, make: Kernel) -> Any:
    here, there = places.positions()
    document = None if places.document is None else places.document.int()

    def met(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if places.shared:
            query, key = here[query], there[key]
        allowed = query >= key
        if window is not None:
            allowed = allowed & (query - key < window)
        if document is not None:
            allowed = allowed & (document[row, query] == document[row, key])
        return allowed

    rows = None if document is None else places.shape[0]
    return make(met, rows, None, len(here), len(there), device=places.cos.device)
