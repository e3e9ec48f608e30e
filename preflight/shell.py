"""A shell script read into commands and never run: bash as far as launch scripts use it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from preflight.shell_words import Piece, Reader, Word

MOST_NESTED = 8
"""Substitutions within one another that are looked into."""

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[[^]]*\])?\+?=")
_DECLARES = {"export", "local", "readonly", "declare", "typeset"}
_PREFIXES = {"if", "then", "elif", "else", "while", "until", "do", "!", "time", "{"}
_SEPARATORS = {";", "&", "&&", "||", "|", "|&", ";;", ";&", ";;&", "(", ")", "\n"}


@dataclass(frozen=True)
class Command:
    line: int
    words: tuple[Word, ...]
    assignments: tuple[tuple[str, Word], ...]
    redirections: tuple[tuple[str, Word], ...]
    joined_by: str
    """What stands between it and the command before: &&, ||, |, ; …"""
    function: str
    """The function that it stands in; empty outside of all."""
    heredoc: str = ""

    @property
    def text(self) -> str:
        parts = [f"{name}={word.raw}" for name, word in self.assignments]
        parts += [word.raw for word in self.words]
        parts += [f"{operator} {word.raw}" for operator, word in self.redirections]
        return " ".join(" ".join(parts).split())

    def nested(self) -> Iterator["Command"]:
        """Commands of the substitutions in its words, and in theirs."""
        own = [*self.words, *(w for _, w in self.assignments), *(w for _, w in self.redirections)]
        for word in own:
            for piece in word.pieces:
                for command in piece.commands:
                    yield from command.nested()
                    yield command


def parse(content: str, where: str, *, line: int = 1, depth: int = 0) -> tuple[Command, ...]:
    """The commands of a script, in order. Raises UserError for a quote or bracket that does not
    close, with its line."""

    def inner(text: str, at_line: int) -> tuple[Command, ...]:
        return parse(text, where, line=at_line, depth=depth + 1) if depth < MOST_NESTED else ()

    return _Parser(Reader(content, where, line, inner)).commands()


@dataclass
class _Parser:
    """Words and operators to commands."""

    reader: Reader
    done: list[Command] = field(default_factory=list)
    braces: list[str] = field(default_factory=list)
    """Functions that the open braces belong to; empty for a mere group."""

    def commands(self) -> tuple[Command, ...]:
        joined, coming = ";", ""
        words: list[Word] = []
        assigned: list[tuple[str, Word]] = []
        redirected: list[tuple[str, Word]] = []
        waiting: list[tuple[int, str, bool]] = []
        line, testing = self.reader.line, False

        def flush() -> None:
            nonlocal words, assigned, redirected
            if words or assigned or redirected:
                function = next((name for name in reversed(self.braces) if name), "")
                made = (tuple(words), tuple(assigned), tuple(redirected))
                self.done.append(Command(line, *made, joined, function))
            words, assigned, redirected = [], [], []

        while (token := self.reader.next()) is not None:
            if isinstance(token, Word):
                first = not words
                testing = (testing or (first and token.raw == "[[")) and token.raw != "]]"
                if first and not assigned:
                    line = self.reader.line - token.raw.count("\n")
                if first and token.raw in _PREFIXES | {"}"}:
                    if token.raw == "{":
                        self.braces.append(coming)
                        coming = ""
                    elif token.raw == "}" and self.braces:
                        self.braces.pop()
                    continue
                if first and token.raw == "function":
                    named = self.reader.next()
                    coming = named.raw if isinstance(named, Word) else ""
                    continue
                declares = words and words[0].raw in _DECLARES
                if (found := _ASSIGNMENT.match(token.raw)) and (first or declares):
                    if self.reader.text[self.reader.at : self.reader.at + 1] == "(":
                        self.reader.array()
                    assigned.append((found[1], _without(token, found.end())))
                    continue
                words.append(token)
            elif testing:
                continue  # within [[ ]] they compare
            elif token in _SEPARATORS:
                if (
                    token == "("
                    and len(words) == 1
                    and self.reader.text.startswith(")", self.reader.at)
                ):
                    coming, words = words[0].raw, []
                    self.reader.at += 1
                    continue
                flush()
                joined = token
                if token == "\n":
                    for number, end, indented in waiting:
                        text = self.reader.body(end, indented=indented)
                        self._give(number, text)
                    waiting = []
            else:
                if words and words[-1].raw.isdigit() and _touches(self.reader, token):
                    words.pop()  # 2> is no argument 2
                target = self.reader.next()
                if isinstance(target, Word):
                    redirected.append((token, target))
                    if token in ("<<", "<<-"):
                        end = "".join(piece.text for piece in target.pieces)
                        waiting.append((len(self.done), end, token == "<<-"))
        flush()
        return tuple(self.done)

    def _give(self, number: int, text: str) -> None:
        if number < len(self.done):
            self.done[number] = replace(self.done[number], heredoc=text)


def _touches(reader: Reader, operator: str) -> bool:
    before = reader.at - len(operator) - 1
    return before >= 0 and reader.text[before].isdigit()


def _without(word: Word, signs: int) -> Word:
    """An assignment's value."""
    first, *others = word.pieces
    rest = Piece(first.kind, first.text[signs:], first.quoted)
    return Word(word.raw[signs:], (*([rest] if rest.text else []), *others))
