"""Text that goes on a prompt by the likeliest next token, of many prompts at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer


@dataclass
class Draft:
    """One text being written."""

    tokens: list[int]
    """Of the prompt, one at least, and then of the text too."""
    until: Sequence[str]
    """Where one of these is written the text ends, before it."""
    most: int
    """Tokens of the text."""
    text: str = ""
    prompt: int = field(init=False)
    ended: bool = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)
        self.ended = self.most < 1

    def append(self, token: int, tokenizer: Tokenizer) -> None:
        self.tokens.append(token)
        # Whole each time: a character may be of several tokens, a stop too.
        text: str = tokenizer.decode(self.tokens[self.prompt :])
        places = [place for stop in self.until if stop and (place := text.find(stop)) >= 0]
        self.text = text[: min(places)] if places else text
        self.ended = bool(places) or len(self.tokens) - self.prompt >= self.most


def write(
    drafts: Sequence[Draft],
    next_tokens: Callable[[list[list[int]]], list[int]],
    tokenizer: Tokenizer,
    separator: int,
) -> None:
    """Finish all of them. `next_tokens` tells the likeliest token after each of several rows;
    the separator ends a text. Nothing is kept between tokens, so that all of it is read again for
    each: plain, exact, and fit for answers of some hundred tokens."""
    while rows := [draft for draft in drafts if not draft.ended]:
        for draft, token in zip(rows, next_tokens([d.tokens for d in rows]), strict=True):
            if token == separator:
                draft.ended = True
            else:
                draft.append(token, tokenizer)
