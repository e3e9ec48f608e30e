"""Text to token files, in a folder named by the hash of all that the tokens depend on."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from smolplan.errors import UserError
from smolplan.rundir import read_json, sync_folder, write_json, write_text
from smolplan.spec import RunSpec
from trainer.data.dataset import (
    HELD_OUT,
    SEPARATOR,
    TOKENIZER,
    TRAIN,
    Dataset,
    DatasetFile,
    file_sha256,
)
from trainer.data.sources import Document, find_documents

FORMAT = 2
"""Part of the fingerprint: to be raised when the same text would give other files."""

SAMPLE_BYTES = 4_000_000
"""A byte-level BPE of a few thousand entries gains nothing from more text than this."""

BATCH_BYTES = 1_000_000
"""Text that is encoded at a time."""

Say = Callable[[str], None]


def prepare(spec: RunSpec, say: Say = lambda line: None) -> Dataset:
    """The tokenised dataset of a spec, made now or found as made before. Raises UserError."""
    say("reading the text")
    documents = find_documents(spec)
    fingerprint = _fingerprint(spec, documents)
    folder = cache_folder(spec) / fingerprint
    try:
        # Two at the same time: the second waits, and finds what the first made.
        with _alone(folder):
            found = _existing(folder)
            if found is not None:
                say(f"{found.tokens:,} tokens, made before")
                return found
            staging = folder.with_name(f".{fingerprint}.partial")
            shutil.rmtree(staging, ignore_errors=True)  # of one that was killed
            staging.mkdir()
            try:
                dataset = _build(spec, documents, staging, folder, fingerprint, say)
                write_json(staging / "dataset.json", dataset.to_json())
                shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or none
                staging.rename(folder)
                sync_folder(folder.parent)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the tokenised text: {error.strerror}",
            where=str(folder.parent),
            remedy="Name a writable folder with room by data.cache_dir.",
        ) from None
    say(f"{dataset.tokens:,} tokens of {dataset.documents:,} documents")
    return dataset


def cache_folder(spec: RunSpec) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (spec.data.cache_dir or Path(base).expanduser() / "smolplan" / "data").resolve()


def dataset_folder(spec: RunSpec) -> Path:
    """Where the tokenised dataset of a spec is, or would be. Reads all of the text. Raises
    UserError."""
    return cache_folder(spec) / _fingerprint(spec, find_documents(spec))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock beside the folder; the kernel lets it go when its holder dies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _existing(folder: Path) -> Dataset | None:
    content = read_json(folder / "dataset.json")
    if content is None:
        return None
    try:
        dataset = Dataset.from_json(content)
    except ValueError:
        return None
    return None if dataset.damage() else dataset


def _build(
    spec: RunSpec,
    documents: list[Document],
    staging: Path,
    folder: Path,
    fingerprint: str,
    say: Say,
) -> Dataset:
    tokenizer = _tokenizer(spec, documents, say)
    separator = tokenizer.token_to_id(SEPARATOR)
    assert separator is not None
    held_out = _held_out_indices(len(documents), spec.data.held_out_fraction)
    token_bytes = 2 if spec.model.vocab_size <= 65_536 else 4
    counts = {TRAIN: 0, HELD_OUT: 0}
    with (staging / TRAIN).open("wb") as train, (staging / HELD_OUT).open("wb") as held:
        for first, texts in _batches(documents):
            say(f"tokenising document {first + 1:,} of {len(documents):,}")
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            for index, encoding in enumerate(encoded, first):
                ids = np.array([*encoding.ids, separator], dtype=f"<u{token_bytes}")
                name, file = (HELD_OUT, held) if index in held_out else (TRAIN, train)
                file.write(ids.tobytes())
                counts[name] += len(ids)
        for file in (train, held):
            file.flush()
            os.fsync(file.fileno())
    if counts[TRAIN] <= spec.data.seq_len:
        raise UserError(
            f"the text has {counts[TRAIN]:,} tokens, less than one sequence of "
            f"data.seq_len {spec.data.seq_len} and its last target",
            where="data.sources",
            remedy="Add text.",
        )
    # Not by its own save, which tells of a full disk in words only.
    write_text(staging / TOKENIZER, tokenizer.to_str(pretty=True))
    names = [TRAIN, HELD_OUT, TOKENIZER]
    return Dataset(
        folder=str(folder),
        fingerprint=fingerprint,
        tokens=counts[TRAIN],
        documents=len(documents) - len(held_out),
        held_out_tokens=counts[HELD_OUT],
        held_out_bytes=sum(documents[i].bytes for i in held_out),
        vocab_size=tokenizer.get_vocab_size(),
        separator=separator,
        token_bytes=token_bytes,
        files={
            n: DatasetFile((staging / n).stat().st_size, file_sha256(staging / n)) for n in names
        },
    )


def _batches(documents: list[Document]) -> Iterator[tuple[int, list[str]]]:
    """Texts of about BATCH_BYTES, with the index of the first."""
    first, texts, size = 0, list[str](), 0
    for index, document in enumerate(documents):
        texts.append(document.text())
        size += document.bytes
        if size >= BATCH_BYTES or index == len(documents) - 1:
            yield first, texts
            first, texts, size = index + 1, [], 0


def _held_out_indices(documents: int, fraction: float) -> set[int]:
    """Documents spread evenly over the whole, so that every source has its part."""
    count = min(documents - 1, round(documents * fraction))
    return {int((i + 0.5) * documents / count) for i in range(count)} if count > 0 else set()


def _tokenizer(spec: RunSpec, documents: list[Document], say: Say) -> Tokenizer:
    """The spec's own, or one trained on its text. Raises UserError if it does not fit."""
    wanted = spec.model.vocab_size
    if spec.data.tokenizer is None:
        return _train_tokenizer(wanted, documents, say)
    try:
        tokenizer = Tokenizer.from_file(str(spec.data.tokenizer))
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"cannot read the tokeniser: {error}", where=f"data.tokenizer {spec.data.tokenizer}"
        ) from None
    if tokenizer.token_to_id(SEPARATOR) is None:
        raise UserError(
            f"the tokeniser has no token {SEPARATOR}",
            where="data.tokenizer",
            remedy="Add it: documents are told apart by it.",
        )
    highest = max(tokenizer.get_vocab().values())
    if highest >= wanted:
        raise UserError(
            f"the tokeniser has the id {highest}, model.vocab_size is {wanted}",
            where="data.tokenizer",
            remedy=f"Raise model.vocab_size to {highest + 1} or more.",
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _train_tokenizer(wanted: int, documents: list[Document], say: Say) -> Tokenizer:
    """A byte-level BPE, on documents spread evenly over the whole where there are many."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if wanted <= len(alphabet):
        raise UserError(
            f"model.vocab_size {wanted} cannot hold the {len(alphabet)} bytes and a separator",
            where="model.vocab_size",
            remedy=f"Use {len(alphabet) + 1} or more.",
        )
    say(f"training a byte-level BPE of {wanted:,} entries")
    stride = max(1, -(-sum(document.bytes for document in documents) // SAMPLE_BYTES))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=wanted,
        special_tokens=[SEPARATOR],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text() for document in documents[::stride]), trainer)
    size = tokenizer.get_vocab_size()
    if size < wanted:
        raise UserError(
            f"the text yields a vocabulary of {size:,} entries only, model.vocab_size is "
            f"{wanted:,}",
            where="model.vocab_size",
            remedy=f"Use {size:,} or less, add text, or name a tokeniser by data.tokenizer.",
        )
    return tokenizer


def _fingerprint(spec: RunSpec, documents: list[Document]) -> str:
    given = spec.data.tokenizer
    settings: dict[str, Any] = {
        "format": FORMAT,
        "tokenizers": tokenizers.__version__,
        "vocab_size": spec.model.vocab_size,
        "held_out_fraction": spec.data.held_out_fraction,
        "tokenizer": file_sha256(given) if given is not None and given.is_file() else None,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for document in documents:
        digest.update(bytes.fromhex(document.sha256))
    return digest.hexdigest()[:32]
