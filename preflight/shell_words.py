"""A shell script read into words and operators: quotes, variables and substitutions."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from smolplan.errors import UserError

if TYPE_CHECKING:
    from preflight.shell import Command

_OPERATOR = re.compile(r"&>>|<<<|<<-|;;&|&&|\|\||;;|;&|<<|>>|>\||>&|&>|<&|<>|\|&|[;&|()<>]")
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9]+|[@*#?$!-]")


@dataclass(frozen=True)
class Piece:
    """A part of a word: text, a variable (its name and what follows it within the braces), or the
    commands of a substitution."""

    kind: Literal["text", "variable", "commands"]
    text: str
    quoted: bool
    operation: str = ""
    commands: tuple["Command", ...] = ()


@dataclass(frozen=True)
class Word:
    raw: str
    pieces: tuple[Piece, ...]

    @property
    def plain(self) -> str:
        """The text without its quotes; variables and substitutions stand as $NAME and $(…)."""
        shown = {"variable": "${}", "commands": "$(…)", "text": "{}"}
        return "".join(shown[p.kind].format(p.text) for p in self.pieces)


@dataclass
class Reader:
    """Text to words and operators."""

    text: str
    where: str
    line: int
    inner: Callable[[str, int], "tuple[Command, ...]"]
    """What is in a substitution, and its line → its commands."""
    at: int = 0

    def next(self) -> str | Word | None:
        """An operator, a word, or None at the end."""
        text = self.text
        while self.at < len(text):
            sign = text[self.at]
            if text.startswith("\\\n", self.at):
                self._go(2)
            elif sign in " \t\r":
                self.at += 1
            elif sign == "#":
                end = text.find("\n", self.at)
                self.at = len(text) if end < 0 else end
            elif sign == "\n":
                self._go(1)
                return "\n"
            elif found := _OPERATOR.match(text, self.at):
                self.at = found.end()
                return found[0]
            else:
                return self._word()
        return None

    def body(self, end: str, *, indented: bool) -> str:
        """Lines up to the one that is `end`: a here-document."""
        lines = []
        while self.at < len(self.text):
            stop = self.text.find("\n", self.at)
            stop = len(self.text) if stop < 0 else stop
            line = self.text[self.at : stop]
            self._go(stop + 1 - self.at)
            if (line.lstrip("\t") if indented else line) == end:
                break
            lines.append(line)
        return "\n".join(lines)

    def array(self) -> None:
        """Skip name=( … ), which assigns and runs nothing."""
        self.at = self._closing(self.at, "(", ")") + 1

    def _go(self, signs: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + signs)
        self.at += signs

    def _word(self) -> Word:
        start, pieces, literal = self.at, list[Piece](), ""
        while self.at < len(self.text):
            sign = self.text[self.at]
            if sign in " \t\r\n" or (sign in ";&|()<>" and not self._extglob(literal)):
                break
            if sign == "\\":
                literal += self.text[self.at + 1 : self.at + 2].replace("\n", "")
                self._go(2)
            elif sign in "'\"$`":
                if literal:
                    pieces.append(Piece("text", literal, False))
                    literal = ""
                pieces += self._special(quoted=False)
            else:
                literal += sign
                self.at += 1
        if literal:
            pieces.append(Piece("text", literal, False))
        return Word(self.text[start : self.at], tuple(pieces))

    def _extglob(self, literal: str) -> bool:
        return self.text[self.at] == "(" and literal[-1:] in tuple("@!+?*") and literal != "!"

    def _special(self, *, quoted: bool) -> list[Piece]:
        """What begins with a quote, a dollar or a backtick."""
        text, sign = self.text, self.text[self.at]
        if sign == "'" or text.startswith("$'", self.at):
            begin = self.at + (1 if sign == "'" else 2)
            end = text.find("'", begin)
            if end < 0:
                raise self._open("'")
            self._go(end + 1 - self.at)
            return [Piece("text", text[begin:end], True)]
        if sign == '"':
            return self._double()
        if sign == "`":
            end = text.find("`", self.at + 1)
            if end < 0:
                raise self._open("`")
            return [self._substitution(self.at + 1, end, quoted)]
        if text.startswith("$((", self.at):
            end = self._closing(self.at + 1, "(", ")")
            self._go(end + 1 - self.at)
            return [Piece("text", "0", quoted)]
        if text.startswith("$(", self.at):
            end = self._closing(self.at + 1, "(", ")")
            return [self._substitution(self.at + 2, end, quoted)]
        if text.startswith("${", self.at):
            end = self._closing(self.at + 1, "{", "}")
            inner = text[self.at + 2 : end].lstrip("!#")
            self._go(end + 1 - self.at)
            name = _NAME.match(inner)
            called = name[0] if name else inner
            return [Piece("variable", called, quoted, inner[len(called) :])]
        if name := _NAME.match(text, self.at + 1):
            called = name[0] if name[0].isidentifier() else name[0][0]
            self.at += 1 + len(called)
            return [Piece("variable", called, quoted)]
        self.at += 1
        return [Piece("text", "$", quoted)]

    def _double(self) -> list[Piece]:
        line, pieces, literal = self.line, list[Piece](), ""
        self.at += 1
        while self.at < len(self.text):
            sign = self.text[self.at]
            if sign == '"':
                self.at += 1
                return [*pieces, Piece("text", literal, True)]
            if sign == "\\":
                literal += self.text[self.at + 1 : self.at + 2]
                self._go(2)
            elif sign in "$`" and not self.text.startswith("$'", self.at):
                if literal:
                    pieces.append(Piece("text", literal, True))
                    literal = ""
                pieces += self._special(quoted=True)
            else:
                literal += sign
                self._go(1)
        self.line = line
        raise self._open('"')

    def _substitution(self, begin: int, end: int, quoted: bool) -> Piece:
        inner, line = self.text[begin:end], self.line
        self._go(end + 1 - self.at)
        return Piece("commands", inner, quoted, commands=self.inner(inner, line))

    def _closing(self, at: int, opening: str, closing: str) -> int:
        """Where the bracket that opens at `at` is closed; what is quoted does not count."""
        depth, start = 0, at
        while at < len(self.text):
            sign = self.text[at]
            if sign == "\\":
                at += 1
            elif sign == "'" and opening == "(":
                at = self.text.find("'", at + 1)
                if at < 0:
                    break
            elif sign == opening:
                depth += 1
            elif sign == closing:
                depth -= 1
                if depth == 0:
                    return at
            at += 1
        self.at = start
        raise self._open(opening)

    def _open(self, sign: str) -> UserError:
        return UserError(
            f"the {sign} that opens here is never closed",
            where=f"{self.where}:{self.line}",
            remedy="Close it; bash -n FILE tells where it is missed.",
        )
