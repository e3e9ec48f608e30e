"""Bits per byte of the held-out text."""

import math
import statistics
from collections.abc import Iterator, Sequence
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


def held_out_score(model: CausalLM, spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """Mean loss of held-out sequences, and bits per byte: nats per token over ln 2,
    times tokens per byte of the held-out text. Raises UserError if there is not one sequence."""
    length, held_out = spec.data.seq_len, dataset.held_out
    there_are = (len(held_out) - 1) // length
    count = min(spec.eval.sequences, there_are)
    if count < 1:
        raise UserError(
            f"the held-out text has {len(held_out)} tokens, less than one sequence",
            where="data.held_out_fraction",
            remedy="Raise it, or add text.",
        )
    # Spread over the whole held-out text.
    firsts = [index * there_are // count * length for index in range(count)]
    losses = list(_losses(model, dataset, length, firsts))
    loss = statistics.fmean(losses)
    tokens_per_byte = dataset.held_out_tokens / dataset.held_out_bytes
    return {
        "task": "held_out_bits_per_byte",
        "version": VERSION,
        "loss": loss,
        "bits_per_byte": loss / math.log(2) * tokens_per_byte,
        "chance_bits_per_byte": math.log2(spec.model.vocab_size) * tokens_per_byte,
        "sequences": count,
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
