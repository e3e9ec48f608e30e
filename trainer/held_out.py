"""Bits per byte of the held-out text."""

import math
import statistics
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from smolplan.errors import UserError
from smolplan.spec import RunSpec
from trainer.data.dataset import Dataset
from trainer.model.transformer import CausalLM

VERSION = 1

BATCH_TOKENS = 16_384
"""Of one forward pass, padding included: a mask of 268 MB if it is one sequence."""


@dataclass(frozen=True)
class Text:
    """Part of the held-out text, or all of it."""

    stretches: tuple[tuple[int, int], ...]
    """First token and number of tokens of each; there is more than one where sources share a
    name."""
    tokens: int
    bytes: int

    def firsts(self, length: int, most: int) -> list[int]:
        """Where up to so many of its sequences begin, spread over it; neighbours share a token."""
        found = [range(first, first + tokens - length, length) for first, tokens in self.stretches]
        ends = list(accumulate(map(len, found)))
        count = min(most, ends[-1])
        numbers = [index * ends[-1] // count for index in range(count)]
        places = [(number, bisect_right(ends, number)) for number in numbers]
        return [found[place][number - ends[place]] for number, place in places]  # from its end


def held_out_score(model: CausalLM, spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """Mean loss of held-out sequences, and bits per byte: nats per token over ln 2,
    times tokens per byte of the held-out text; of each source too where there are several. Raises
    UserError if there is not one sequence."""
    length, tokens = spec.data.seq_len, len(dataset.held_out)
    text = Text(((0, tokens),), dataset.held_out_tokens, dataset.held_out_bytes)
    firsts = text.firsts(length, spec.eval.sequences)
    if not firsts:
        raise UserError(
            f"the held-out text has {tokens} tokens, less than one sequence",
            where="data.held_out_fraction",
            remedy="Raise it, or add text.",
        )
    return {
        "task": "held_out_bits_per_byte",
        "version": VERSION,
        **_score(model, spec, dataset, text, firsts),
        **_of_sources(model, spec, dataset),
    }


def _of_sources(model: CausalLM, spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """Nothing of one source. Several share as many sequences as the whole has, on top of those: it
    takes about twice as long, however many they are."""
    texts = by_source(dataset)
    if len(texts) < 2:
        return {}
    found = {}
    for name, text in texts.items():
        firsts = text.firsts(spec.data.seq_len, -(-spec.eval.sequences // len(texts)))
        if firsts:
            score = _score(model, spec, dataset, text, firsts)
            found[name] = {**score, "tokens": text.tokens, "bytes": text.bytes}
    return {"sources": found}


def by_source(dataset: Dataset) -> dict[str, Text]:
    """The held-out text of each name of a source."""
    found: dict[str, Text] = {}
    first = 0
    for source in dataset.sources:
        before = found.get(source.name, Text((), 0, 0))
        found[source.name] = Text(
            (*before.stretches, (first, source.held_out_tokens)),
            before.tokens + source.held_out_tokens,
            before.bytes + source.held_out_bytes,
        )
        first += source.held_out_tokens
    return found


def _score(
    model: CausalLM, spec: RunSpec, dataset: Dataset, text: Text, firsts: Sequence[int]
) -> dict[str, Any]:
    losses = list(_losses(model, dataset, spec.data.seq_len, firsts))
    loss = statistics.fmean(losses)
    tokens_per_byte = text.tokens / text.bytes
    return {
        "loss": loss,
        "bits_per_byte": loss / math.log(2) * tokens_per_byte,
        "chance_bits_per_byte": math.log2(spec.model.vocab_size) * tokens_per_byte,
        "sequences": len(losses),
        "standard_error": _standard_error(losses) / math.log(2) * tokens_per_byte,
    }


@torch.no_grad()
def _losses(
    model: CausalLM, dataset: Dataset, length: int, firsts: Sequence[int]
) -> Iterator[float]:
    """In nats, of the sequences of the held-out text that begin at these tokens; as many at a time
    as BATCH_TOKENS hold."""
    device, held_out = model.lm_head.weight.device, dataset.held_out
    at_a_time = max(1, BATCH_TOKENS // length)
    for start in range(0, len(firsts), at_a_time):
        batch = firsts[start : start + at_a_time]
        rows = np.stack([held_out.read(first, first + length + 1) for first in batch])
        tokens = torch.from_numpy(rows).to(device)
        yield from model(tokens[:, :-1], dataset.separator, tokens[:, 1:])[0].tolist()


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values: s / √n; 0 for one alone, of which nothing can be told."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
