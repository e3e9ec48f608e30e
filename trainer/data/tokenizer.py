"""The tokeniser of a spec: the one that it names, or a byte-level BPE trained on its text."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from smolplan.errors import UserError
from smolplan.rundir import write_text
from smolplan.spec import RunSpec
from trainer.data.dataset import SEPARATOR, TOKENIZER, named_separator
from trainer.data.formats import is_plain
from trainer.data.pieces import Piece, documents
from trainer.data.separator import separator_of
from trainer.data.sources import InputFile

SAMPLE_BYTES = 4_000_000
"""A byte-level BPE of a few thousand entries gains nothing from more text than this."""

Say = Callable[[str], None]


def tokenizer_file(spec: RunSpec, cache: Path, files: list[list[InputFile]]) -> Path:
    """Where the tokeniser of the spec is, or would be once it is trained. `files`: of each
    source, all of text."""
    if spec.tokenizer is not None:
        return spec.tokenizer
    settings: dict[str, Any] = {
        "tokenizers": tokenizers.__version__,
        "vocab_size": spec.model.vocab_size,
        **named_separator(spec.data.separator or SEPARATOR),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for source, of_source in zip(spec.data.sources, files, strict=True):
        digest.update(json.dumps([source.text_field, [file.digest for file in of_source]]).encode())
    return cache / "tokenizers" / f"{digest.hexdigest()[:32]}.json"


def read_tokenizer(
    spec: RunSpec, path: Path, separator: str | None = None
) -> tuple[Tokenizer, str]:
    """With the token that ends a document, as it is spelt: `separator` unless the spec names it.
    Raises UserError if it does not fit the spec."""
    wanted, start = spec.model.vocab_size, spec.model.init_from
    if start is not None:
        _check_is_of(start, path)
    tokenizer = _read(path)
    separator = separator_of(spec, path, tokenizer, separator)
    highest = max(tokenizer.get_vocab().values())
    if highest >= wanted:
        raise UserError(
            f"the tokeniser has the id {highest}, model.vocab_size is {wanted}",
            where="data.tokenizer",
            remedy=f"Raise model.vocab_size to {highest + 1} or more.",
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, separator


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"cannot read the tokeniser: {error}", where=f"data.tokenizer {path}"
        ) from None


def _check_is_of(model: Path, path: Path) -> None:
    """Weights mean nothing with another tokeniser than theirs. Where the folder has none, the one
    that is named is taken for it. Raises UserError."""
    own = model / TOKENIZER
    if path == own and not own.is_file():
        raise UserError(
            f"{model} has no {TOKENIZER}, and its weights mean nothing with another tokeniser",
            where="model.init_from",
            remedy="Put the model's there, or name it by data.tokenizer.",
        )
    if path == own or not own.is_file():
        return
    theirs, given = _read(own).get_vocab(), _read(path).get_vocab()
    if differing := theirs.items() ^ given.items():
        raise UserError(
            f"{path} is not the tokeniser of the weights: its entries and those of {own} differ in "
            f"{len({token for token, _ in differing}):,}",
            where="data.tokenizer",
            remedy="Leave it out: the one of model.init_from is then taken.",
        )


def train_tokenizer(spec: RunSpec, path: Path, pieces: list[Piece], say: Say) -> None:
    """A byte-level BPE, on documents from all pieces of all sources. Raises UserError."""
    wanted = spec.model.vocab_size
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if wanted <= len(alphabet):
        raise UserError(
            f"model.vocab_size {wanted} cannot hold the {len(alphabet)} bytes and a separator",
            where="model.vocab_size",
            remedy=f"Use {len(alphabet) + 1} or more.",
        )
    say(f"training a byte-level BPE of {wanted:,} entries")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=wanted,
        special_tokens=[spec.data.separator or SEPARATOR],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(pieces), trainer)
    size = tokenizer.get_vocab_size()
    if size < wanted:
        raise UserError(
            f"the text yields a vocabulary of {size:,} entries only, model.vocab_size is "
            f"{wanted:,}",
            where="model.vocab_size",
            remedy=f"Use {size:,} or less, add text, or name a tokeniser by data.tokenizer.",
        )
    # Not by its own save, which tells of a full disk in words only.
    write_text(path, tokenizer.to_str(pretty=True))


def _sample(pieces: list[Piece]) -> Iterator[str]:
    """Of plain text, files spread evenly over the whole; of rows, the first of each piece."""
    stride = max(1, -(-sum(piece.bytes for piece in pieces) // SAMPLE_BYTES))
    files = [(file, piece) for piece in pieces for file in piece.files if is_plain(file.kind)]
    for file, piece in files[::stride]:
        yield from documents(Piece((file,), file.bytes, field=piece.field))
    for piece in pieces:
        left = piece.bytes // stride
        if not is_plain(piece.files[0].kind):
            for text in documents(piece):
                yield text
                left -= len(text.encode())
                if left <= 0:
                    break
