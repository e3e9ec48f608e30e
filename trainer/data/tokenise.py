"""Text to token files, in a folder named by the hash of all that the tokens depend on."""

import hashlib
import json
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from smolplan.errors import UserError
from smolplan.rundir import read_json, write_json
from smolplan.spec import PYTHON_STDLIB, RunSpec, SourceSpec
from trainer.data.dataset import (
    HELD_OUT,
    SEPARATOR,
    TOKENIZER,
    TRAIN,
    Dataset,
    DatasetFile,
    file_sha256,
)

FORMAT = 1
"""Part of the fingerprint: to be raised when the same text would give other files."""

SAMPLE_BYTES = 4_000_000
"""A byte-level BPE of a few thousand entries gains nothing from more text than this."""

Say = Callable[[str], None]


def prepare(spec: RunSpec, say: Say = lambda line: None) -> Dataset:
    """The tokenised dataset of a spec, made now or found as made before. Raises UserError."""
    say("reading the text")
    texts = list(_documents(spec))
    fingerprint = _fingerprint(spec, texts)
    folder = cache_folder(spec) / fingerprint
    found = _existing(folder)
    if found is not None:
        say(f"{found.tokens:,} tokens, made before")
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = folder.with_name(f".{fingerprint}.{os.getpid()}.partial")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            dataset = _build(spec, texts, staging, fingerprint, say)
            dataset = replace(dataset, folder=str(folder))
            write_json(staging / "dataset.json", dataset.to_json())
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or none
            try:
                staging.rename(folder)
            except OSError:
                # Another process finished the same dataset first: equal by its name.
                if (found := _existing(folder)) is None:
                    raise
                return found
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the tokenised text: {error.strerror}",
            where=str(folder.parent),
            remedy="Name a writable folder with room by data.cache_dir.",
        ) from None
    return dataset


def cache_folder(spec: RunSpec) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return spec.data.cache_dir or Path(base).expanduser() / "smolplan" / "data"


def _existing(folder: Path) -> Dataset | None:
    content = read_json(folder / "dataset.json")
    if content is None:
        return None
    dataset = Dataset.from_json(content)
    return None if dataset.damage() else dataset


def _build(spec: RunSpec, texts: list[str], staging: Path, fingerprint: str, say: Say) -> Dataset:
    tokenizer = _tokenizer(spec, texts, say)
    separator = tokenizer.token_to_id(SEPARATOR)
    if separator is None:
        raise UserError(
            f"the tokeniser has no token {SEPARATOR}",
            where="data.tokenizer",
            remedy="Add it: documents are told apart by it.",
        )
    size = tokenizer.get_vocab_size()
    if size > spec.model.vocab_size:
        raise UserError(
            f"the tokeniser has {size} entries, model.vocab_size is {spec.model.vocab_size}",
            where="data.tokenizer",
            remedy=f"Raise model.vocab_size to {size} or more.",
        )
    held_out = _held_out_indices(len(texts), spec.data.held_out_fraction)
    token_bytes = 2 if spec.model.vocab_size <= 65_536 else 4
    counts = {TRAIN: 0, HELD_OUT: 0}
    with (staging / TRAIN).open("wb") as train, (staging / HELD_OUT).open("wb") as held:
        for start in range(0, len(texts), 256):
            say(f"tokenising document {start:,} of {len(texts):,}")
            encoded = tokenizer.encode_batch(texts[start : start + 256], add_special_tokens=False)
            for index, encoding in enumerate(encoded, start):
                ids = np.array([*encoding.ids, separator], dtype=f"<u{token_bytes}")
                name, file = (HELD_OUT, held) if index in held_out else (TRAIN, train)
                file.write(ids.tobytes())
                counts[name] += len(ids)
    if counts[TRAIN] <= spec.data.seq_len:
        raise UserError(
            f"the text has {counts[TRAIN]:,} tokens, less than one sequence of "
            f"data.seq_len {spec.data.seq_len}",
            where="data.sources",
            remedy="Add text.",
        )
    tokenizer.save(str(staging / TOKENIZER))
    names = [TRAIN, HELD_OUT, TOKENIZER]
    return Dataset(
        folder=str(staging),
        fingerprint=fingerprint,
        tokens=counts[TRAIN],
        documents=len(texts) - len(held_out),
        held_out_tokens=counts[HELD_OUT],
        held_out_bytes=sum(len(texts[i].encode()) for i in held_out),
        vocab_size=size,
        separator=separator,
        token_bytes=token_bytes,
        files={
            n: DatasetFile((staging / n).stat().st_size, file_sha256(staging / n)) for n in names
        },
    )


def _held_out_indices(documents: int, fraction: float) -> set[int]:
    """Documents spread evenly over the whole, so that every source has its part."""
    count = min(documents - 1, round(documents * fraction))
    return {int((i + 0.5) * documents / count) for i in range(count)} if count > 0 else set()


def _tokenizer(spec: RunSpec, texts: list[str], say: Say) -> Tokenizer:
    if spec.data.tokenizer is not None:
        try:
            return Tokenizer.from_file(str(spec.data.tokenizer))
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                f"cannot read the tokeniser: {error}", where=str(spec.data.tokenizer)
            ) from None
    say(f"training a byte-level BPE of {spec.model.vocab_size:,} entries")
    total = sum(len(t) for t in texts)
    stride = max(1, -(-total // SAMPLE_BYTES))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.model.vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts[::stride], trainer)
    if spec.model.vocab_size < 257:
        raise UserError(
            f"model.vocab_size {spec.model.vocab_size} is below 257, the bytes and one separator",
            where="model.vocab_size",
            remedy="Use 257 or more.",
        )
    return tokenizer


def _documents(spec: RunSpec) -> Iterator[str]:
    if not spec.data.sources:
        raise UserError(
            "no text is named",
            where="data.sources",
            remedy=f"Add a source, for instance: path: {PYTHON_STDLIB}",
        )
    for number, source in enumerate(spec.data.sources):
        where = f"data.sources.{number}.path"
        any_text = False
        for path in _files(source, where):
            try:
                text = path.read_text("utf-8")
            except UnicodeDecodeError:
                continue  # some test data of the standard library is in other encodings on purpose
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}", where=where) from None
            if text:
                any_text = True
                yield text
        if not any_text:
            raise UserError(
                f"{source.path} has no UTF-8 text that matches {source.glob!r}", where=where
            )


def _files(source: SourceSpec, where: str) -> list[Path]:
    if source.path == PYTHON_STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
        skipped = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
        return sorted(p for p in root.rglob("*.py") if not skipped & set(p.relative_to(root).parts))
    root = Path(source.path).expanduser()
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"{root} does not exist", where=where, remedy="Name a file or a folder.")
    return sorted(p for p in root.glob(source.glob) if p.is_file())


def _fingerprint(spec: RunSpec, texts: list[str]) -> str:
    settings: dict[str, Any] = {
        "format": FORMAT,
        "vocab_size": spec.model.vocab_size,
        "held_out_fraction": spec.data.held_out_fraction,
        "tokenizer": spec.data.tokenizer
        and spec.data.tokenizer.exists()
        and file_sha256(spec.data.tokenizer),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:32]
