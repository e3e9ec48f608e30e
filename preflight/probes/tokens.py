"""`python -m preflight.probes.tokens tokenizer|values|order RUN`: what the tokenised text of RUN
holds, by samples that the spec's seed draws."""

import json
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from smolplan.rundir import RunDir, read_json
from smolplan.spec import RunSpec, load_spec
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.pieces import cut, documents
from trainer.data.separator import separator_of
from trainer.data.shards import Tokens
from trainer.data.sources import list_files

WINDOWS, WINDOW_TOKENS = 32, 512
FIRST_LETTERS, CUT_TOKENS = 20_000, 16
SEQUENCES = 2000
BATCHES = 20
CHUNK_TOKENS = 1 << 24
MOST_TOKENS = 1 << 30
"""Looked at whole, in some seconds; of more, the first so many."""
LIMIT_S = 60.0


def tokenizer(spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """Whether the tokens are what the tokeniser makes of the text that they stand for."""
    made_by = Tokenizer.from_file(str(dataset.tokenizer_path))
    path = spec.tokenizer or dataset.tokenizer_path
    given = Tokenizer.from_file(str(path)) if spec.tokenizer else made_by
    is_theirs = spec.tokenizer is None and any(source.tokens for source in spec.data.sources)
    known = dataset.separator_token if is_theirs else None
    ours, theirs = given.get_vocab(), made_by.get_vocab()
    differing = sum(ours.get(token) != number for token, number in theirs.items())
    draw = random.Random(spec.seed)
    pairs, kept, letters, odd, excerpt = 0, 0, 0, 0, ""
    for window in _windows(dataset, draw):
        for ids in _pieces(window, dataset.separator):
            text = given.decode(ids, skip_special_tokens=False)
            again = given.encode(text, add_special_tokens=False).ids
            before, after = (
                Counter(pairwise(ids)),
                Counter(pairwise(again)),
            )
            pairs += before.total()
            kept += (before & after).total()
            letters += len(text)
            # A window that begins or ends within a letter is nobody's fault.
            odd += text[4:-4].count("\N{REPLACEMENT CHARACTER}")
            excerpt = max(excerpt, " ".join(text.split())[:40], key=len)
    first = _first_text(spec, given, dataset)
    return {
        "first_text": first,
        "entries": len(theirs),
        "differing": differing + max(0, len(ours) - len(theirs)),
        "highest": max(theirs.values()),
        "separator": given.token_to_id(separator_of(spec, path, given, known)),
        # Without a decoder, what it writes is not the text.
        "round_trip_ratio": kept / pairs if pairs and given.decoder is not None else None,
        "unreadable_ratio": odd / letters if letters else 0.0,
        "excerpt": excerpt,
    }


def _windows(dataset: Dataset, draw: random.Random) -> Iterator[NDArray[Any]]:
    """Of all sources, by their tokens."""
    sources = [dataset.train(source) for source in dataset.sources]
    lengths = [len(tokens) for tokens in sources]
    for tokens in draw.choices(sources, lengths, k=WINDOWS):
        start = draw.randrange(max(1, len(tokens) - WINDOW_TOKENS))
        yield tokens.read(start, start + WINDOW_TOKENS)


def _first_text(spec: RunSpec, given: Tokenizer, dataset: Dataset) -> dict[str, Any]:
    """Where the first document's tokens are not what the tokeniser makes of its text now; -1 if
    they all are, or no text is named. It is never held out (trainer/data/tokenise.py)."""
    numbers = [number for number, source in enumerate(spec.data.sources) if source.tokens is None]
    if not numbers or numbers[0] >= len(dataset.sources):
        return {"path": "", "differs_at": -1, "tokens": 0}
    number = numbers[0]
    first = cut(list_files(spec, number).files, spec.data.sources[number].text_field)[0]
    if first.files[0].kind == "megatron":
        return {"path": "", "differs_at": -1, "tokens": 0}
    text = next(documents(first))
    ids = given.encode(text[:FIRST_LETTERS], add_special_tokens=False).ids
    if len(text) > FIRST_LETTERS:
        ids = ids[:-CUT_TOKENS]  # the text is cut in the middle of a word
    there = dataset.train(dataset.sources[number]).read(0, len(ids)).tolist()
    pairs = enumerate(zip_longest(ids, there))
    differs_at = next((n for n, (made, found) in pairs if made != found), -1)
    return {"path": first.files[0].path, "differs_at": differs_at, "tokens": len(ids)}


def _pieces(window: NDArray[Any], separator: int) -> Iterator[list[int]]:
    """The window, cut where one document ends."""
    ends = [*np.flatnonzero(window == separator).tolist(), len(window)]
    start = 0
    for end in ends:
        if end - start > 8:
            yield [int(token) for token in window[start:end]]
        start = end + 1


def values(spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """Ids beyond the vocabulary, ends of documents, and sequences that say nothing new."""
    end = time.monotonic() + LIMIT_S
    highest, separators, looked_at = -1, 0, 0
    held_out = dataset.held_out
    for tokens in (*(dataset.train(source) for source in dataset.sources), held_out):
        for start in range(0, len(tokens), CHUNK_TOKENS):
            if time.monotonic() > end:
                break
            chunk = tokens.read(start, start + CHUNK_TOKENS)
            highest = max(highest, int(chunk.max()))
            ends = int(np.count_nonzero(chunk == dataset.separator))
            separators += ends * (tokens is not held_out)
            looked_at += len(chunk)
    loader = Loader.of(spec, dataset)
    count = min(SEQUENCES, sum(loader.sequences))
    seen = Counter[int]()
    constant = 0
    for position in range(count):  # the first of the run: no sequence comes twice in an epoch
        row = loader.sequence(position)
        constant += int(row.min() == row.max())
        seen[zlib.crc32(row.tobytes())] += 1
    return {
        "highest": highest,
        "separators": separators,
        "looked_at": looked_at,
        "tokens": dataset.tokens + dataset.held_out_tokens,
        "sample": count,
        "repeated_ratio": sum(n - 1 for n in seen.values()) / count if count else 0.0,
        "constant_ratio": constant / count if count else 0.0,
    }


def order(spec: RunSpec, dataset: Dataset) -> dict[str, Any]:
    """How alike the sequences of a batch are, by where they come from. Sources are laid end to end,
    so that a sequence has one number."""
    starts, loader = spec.batches.sequences, Loader.of(spec, dataset)
    firsts = np.concatenate([[0], np.cumsum(loader.sequences)])
    last = max(1, spec.steps - 1)
    steps = sorted({round(n * last / (BATCHES - 1)) for n in range(BATCHES)})
    batches = []
    for step in steps:
        places = map(loader.place, range(starts(step), starts(step + 1)))
        batches.append([int(firsts[source]) + number for source, number in places])
    documents = None
    if dataset.tokens <= MOST_TOKENS:
        documents = _document_of_each(loader, dataset)
    return correlation(batches, sum(loader.sequences), documents)


def _document_of_each(loader: Loader, dataset: Dataset) -> NDArray[Any]:
    """In which document each sequence begins."""
    found: list[NDArray[Any]] = []
    before = 0
    for tokens, sequences in zip(loader.tokens, loader.sequences, strict=True):
        ends = _ends(tokens, dataset.separator)
        starts = np.arange(sequences) * loader.seq_len
        found.append(before + np.searchsorted(ends, starts))
        before += len(ends) + 1
    return np.concatenate(found)


def _ends(tokens: Tokens, separator: int) -> NDArray[Any]:
    """Where the documents end."""
    found = [
        start + np.flatnonzero(tokens.read(start, start + CHUNK_TOKENS) == separator)
        for start in range(0, len(tokens), CHUNK_TOKENS)
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def correlation(
    batches: Sequence[Sequence[int]], sequences: int, documents: NDArray[Any] | None
) -> dict[str, Any]:
    """Pairs of sequences of one batch that are neighbours in the text, or of one document, and how
    many there would be if batches were drawn at random. `documents`: of each sequence."""
    neighbours, pairs, alike = 0, 0, 0
    for batch in batches:
        chosen = set(batch)
        neighbours += sum(index + 1 in chosen for index in chosen)
        pairs += len(chosen) * (len(chosen) - 1) // 2
        if documents is not None:
            alike += _alike(np.bincount(documents[np.fromiter(chosen, dtype=np.int64)]))
    told: dict[str, Any] = {
        "batches": len(batches),
        "neighbours": neighbours,
        # Of all pairs, sequences - 1 are neighbours.
        "neighbours_by_chance": pairs * 2 / sequences if sequences > 1 else 0.0,
        "same_document_ratio": None,
    }
    if documents is not None and pairs:
        told["same_document_ratio"] = alike / pairs
        everywhere = sequences * (sequences - 1) / 2
        told["same_document_ratio_by_chance"] = _alike(np.bincount(documents)) / everywhere
    return told


def _alike(counts: NDArray[Any]) -> int:
    return int((counts.astype(np.int64) * (counts - 1) // 2).sum())


def main() -> None:
    what, folder = sys.argv[1:]
    run = RunDir(folder)
    spec, dataset = load_spec(run.spec), Dataset.from_json(read_json(run.dataset) or {})
    known = {"tokenizer": tokenizer, "values": values, "order": order}
    sys.stdout.write(json.dumps(known[what](spec, dataset)) + "\n")


if __name__ == "__main__":
    main()
