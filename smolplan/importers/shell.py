"""The options and assignments of a shell script, read and never run."""

import ast
import operator
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from smolplan.errors import UserError

MAX_VALUE = 10_000
"""Characters of a value with its variables filled in; variables that double each other end here."""

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)\+?=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^{}]*))?\})")
_ARITHMETIC = re.compile(r"\$\(\(([^()$]*(?:\([^()$]*\)[^()$]*)*)\)\)")
_SPACED_SUM = re.compile(r"\$\(\([^\n]{0,200}?\)\)")
_OPENING = {"if", "case", "for", "while", "until", "select"}
_CLOSING = {"fi", "esac", "done"}
_SEPARATORS = {"&&", "||", "|", "&", ";", "(", ")", "{", "}", "then", "else", "elif", "do"}
_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass
class Script:
    """What a script says. Values still hold their variables; `resolve` fills them in."""

    options: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)
    """By name (--num-layers): its values, "" for a bare flag, and whether under a condition."""
    variables: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)

    def resolve(self, value: str) -> str:
        """A value with variables and arithmetic filled in, as far as plain assignments tell; what
        they do not tell is left as it stands, with its $."""
        for _ in range(10):
            filled = _ARITHMETIC.sub(_calculate, _VARIABLE.sub(self._fill, value))
            if filled == value or len(filled) > MAX_VALUE:
                break
            value = filled
        return value

    def variable(self, name: str) -> str | None:
        """The one value that a variable has; None where it has none, or one by each branch."""
        given = self.variables.get(name, [])
        if not given or _branches(given):
            return None
        return given[-1][0]

    def option(self, name: str) -> str:
        """The value of an option, the last one of several, as argparse takes it; a list of them
        where it depends on a condition."""
        given = [(self.resolve(value), conditional) for value, conditional in self.options[name]]
        if _branches(given):
            return " or ".join(dict.fromkeys(value or "nothing" for value, _ in given))
        return given[-1][0]

    def _fill(self, match: re.Match[str]) -> str:
        name = match[1] or match[2]
        value = self.variable(name)
        if value is None and name not in self.variables:
            value = match[3]
        return match[0] if value is None else value


def _branches(given: list[tuple[str, bool]]) -> bool:
    return len({value for value, _ in given}) > 1 and any(conditional for _, conditional in given)


def _calculate(match: re.Match[str]) -> str:
    """$((8 * 4)) → 32; anything but whole numbers and + - * / % is left as it stands."""
    if len(match[1]) > 200:
        return match[0]
    try:
        return str(_value(ast.parse(match[1].strip(), mode="eval").body))
    except (ValueError, SyntaxError, ZeroDivisionError, RecursionError, MemoryError):
        return match[0]


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 10**18:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        result = _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
        if abs(result) < 10**18:
            return result
    raise ValueError


def read_script(content: str, where: str) -> Script:
    """Every option and every assignment of a script, from arrays and quoted lists too. Raises
    UserError where quotes do not close."""
    # A comment does not go on by a backslash; a command does, over a line's end like any blank.
    lines = ("" if line.lstrip().startswith("#") else line for line in content.splitlines())
    joined = "\n".join(lines).replace("\\\n", " \n").rstrip("\\")
    lexer = shlex.shlex(_SPACED_SUM.sub(lambda sum: sum[0].replace(" ", ""), joined), posix=True)
    lexer.whitespace_split = True
    script, depth, line = Script(), 0, 1
    try:
        words: list[tuple[str, bool]] = []
        for token in lexer:
            word = token.rstrip(";")
            depth = max(0, depth + (word in _OPENING) - (word in _CLOSING))
            words.extend((part, depth > 0) for part in _parts(token))
            line = lexer.lineno
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error).lower()
        raise UserError(
            f"not a readable list of arguments: {why}",
            where=f"{where}:{line}",
            remedy="Close the quotes, or keep only the arguments.",
        ) from None
    _collect(script, words)
    return script


_BREAK = ";"
"""Between words that do not belong together."""


def _parts(token: str) -> Iterator[str]:
    """A token as words: arrays opened, quoted lists of options taken apart."""
    if token.endswith(";"):
        yield from _parts(token.rstrip(";"))
        yield _BREAK
        return
    assignment = _ASSIGNMENT.fullmatch(token)
    if assignment and assignment[2].startswith("("):
        yield _BREAK
        yield from _parts(assignment[2][1:])
    elif assignment:
        yield _BREAK
        yield token
        yield _BREAK
        if re.search(r"(?:^|\s)--[A-Za-z]", assignment[2]):
            yield from _split(assignment[2])
            yield _BREAK
    elif re.match(r"\s*--[A-Za-z]\S*\s", token):
        yield from _split(token.rstrip(")"))
    elif token in _SEPARATORS | _OPENING | _CLOSING:
        yield _BREAK
    elif token.endswith(")") and "(" not in token:
        yield token.rstrip(")")
        yield _BREAK
    else:
        yield token


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _collect(script: Script, words: list[tuple[str, bool]]) -> None:
    for i, (word, conditional) in enumerate(words):
        if option := re.fullmatch(r"--([A-Za-z][\w-]*)(?:=(.*))?", word, re.DOTALL):
            name = "--" + option[1].replace("_", "-")
            value = option[2]
            if value is None:
                after = words[i + 1][0] if i + 1 < len(words) else _BREAK
                value = "" if after == _BREAK or re.match(r"--[A-Za-z]", after) else after
            script.options.setdefault(name, []).append((value, conditional))
        elif assignment := _ASSIGNMENT.fullmatch(word):
            name, value = assignment[1], assignment[2]
            # TP=${TP:-2} leaves to the environment what it finds there; here there is none.
            if own := re.fullmatch(rf"\$\{{{name}:?-([^{{}}]*)\}}", value):
                value = own[1]
            script.variables.setdefault(name, []).append((value, conditional))
