"""A multiple-choice task of the run's own held-out text, which needs no network: which of four
pieces goes on a document, the others being from elsewhere in the text. Chance is a quarter."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from smolplan.errors import UserError
from smolplan.spec.eval import CONTINUATION
from trainer.data.dataset import Dataset

VERSION = 1

CONTEXT_TOKENS, CONTINUATION_TOKENS = 32, 16
"""All four continuations have as many tokens, so that none is likelier for being shorter."""

CHOICES = 4

MOST_QUESTIONS = 512
"""Standard error of an accuracy of one half: 0.022."""


def config(dataset: Dataset, tokenizer: Tokenizer) -> dict[str, Any]:
    """The task as lm-eval takes it. Raises UserError where there is too little held-out text."""
    found = list(questions(dataset, tokenizer))

    def as_dataset(**_: object) -> dict[str, Any]:
        from datasets import Dataset as Table

        return {"test": Table.from_list(found)}

    return {
        "task": CONTINUATION,
        "custom_dataset": as_dataset,
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": VERSION},
    }


def questions(dataset: Dataset, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """Each with a context, choices, and the number of the right one. Raises UserError."""
    pieces = list(_pieces(dataset, tokenizer))
    if len(pieces) < CHOICES:
        raise UserError(
            f"{CONTINUATION} needs {CHOICES} pieces of {CONTEXT_TOKENS + CONTINUATION_TOKENS} "
            f"tokens, each within a document; the held-out text of "
            f"{dataset.held_out_tokens:,} tokens has {len(pieces)}",
            where="data.held_out_fraction",
            remedy="Raise it, or add text.",
        )
    apart = len(pieces) // CHOICES
    there_are = apart * CHOICES
    for number in range(there_are):
        # The first questions are of all parts of the text, however few of them are asked.
        place, gold = number % CHOICES * apart + number // CHOICES, number // CHOICES % CHOICES
        context, right = pieces[place]
        # As far apart as the text allows, and so of other documents.
        others = [pieces[(place + k * apart) % there_are][1] for k in range(1, CHOICES)]
        yield {"context": context, "choices": [*others[:gold], right, *others[gold:]], "gold": gold}


def _pieces(dataset: Dataset, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """Texts and how they go on, from places spread evenly over the held-out text."""
    tokens = dataset.held_out
    length = CONTEXT_TOKENS + CONTINUATION_TOKENS
    there_are = len(tokens) // length
    count = min(MOST_QUESTIONS, there_are)
    for index in range(count):
        first = index * there_are // count * length
        piece = tokens.read(first, first + length)
        if dataset.separator in piece:
            continue
        texts = [tokenizer.decode(part.tolist()) for part in np.split(piece, [CONTEXT_TOKENS])]
        # A character whose bytes the cut has parted is left out.
        context, continuation = (text.strip("\ufffd") for text in texts)
        if context.strip() and continuation.strip():
            yield context, continuation
