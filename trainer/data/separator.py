"""Which token a document ends with: the spec says so, or what lies beside the tokeniser."""

import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from smolplan.errors import UserError
from smolplan.rundir import read_json
from smolplan.spec import RunSpec
from trainer.data.dataset import SEPARATOR

TOKENIZER_CONFIG = "tokenizer_config.json"

MOST_NAMED = 8
"""Tokens that an error names."""


def separator_of(spec: RunSpec, path: Path, tokenizer: Tokenizer, known: str | None = None) -> str:
    """As it is spelt in the tokeniser, which was read from `path`. `known`: what ends documents of
    tokens that it made. Raises UserError where nobody says which, or it is no token."""
    named = spec.data.separator
    if named is not None and tokenizer.token_to_id(named) is None:
        raise UserError(
            f"the tokeniser has no token {named}",
            where="data.separator",
            remedy=_remedy(tokenizer),
        )
    for spelling in (named, known, *_beside(path, tokenizer), SEPARATOR):
        if spelling is not None and tokenizer.token_to_id(spelling) is not None:
            return spelling
    raise UserError(
        f"nothing says by which token of {path} a document ends: there is no eos_token beside it, "
        f"and no token {SEPARATOR}",
        where="data.separator",
        remedy=_remedy(tokenizer),
    )


def _beside(path: Path, tokenizer: Tokenizer) -> Iterator[str | None]:
    """What the files that models are published with call the end of a text."""
    yield spelt((read_json(path.with_name(TOKENIZER_CONFIG)) or {}).get("eos_token"))
    number = (read_json(path.with_name("config.json")) or {}).get("eos_token_id")
    if isinstance(number, list) and number:  # the others end a turn of a chat
        number = number[0]
    if isinstance(number, int):
        yield tokenizer.id_to_token(number)


def spelt(token: object) -> str | None:
    """A token of tokenizer_config.json, which is text or an object that holds it."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _remedy(tokenizer: Tokenizer) -> str:
    special = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    likely = [name for name in special if re.search(r"end|eo[std]|/s", name, re.IGNORECASE)]
    if not special:
        return "Name one of its tokens by data.separator, or add one to it."
    named = (likely or special)[:MOST_NAMED]
    return f"Name the one by data.separator; it may be one of {', '.join(named)}."
