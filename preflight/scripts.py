"""Scripts and hooks read for what they would delete, line by line, without running them."""

import re
from collections.abc import Iterator
from dataclasses import replace

from preflight.scripts_places import Places
from preflight.scripts_rules import judge
from preflight.scripts_state import Problem, Script, unwrapped
from preflight.shell import MOST_NESTED, Command, parse
from smolplan.errors import UserError

_SHELLS = {"bash", "sh", "zsh", "dash", "ksh"}


def lint(content: str, where: str, places: Places) -> list[Problem]:
    """What a script would delete that it should not, and what makes it likelier. Raises UserError
    where it cannot be read."""
    first = content.partition("\n")[0]
    if first.startswith("#!") and not re.search(r"\b(ba|z|da|k)?sh\b", first):
        raise UserError(
            f"it begins with {first[:60]!r}, and only shell scripts can be read",
            where=where,
            remedy="Give the shell scripts that start or follow the run.",
        )
    script = Script(places)
    if first.startswith("#!") and (flags := re.search(r"\s-(\w+)", first)):
        _set(script, [f"-{flags[1]}"])
    commands = parse(content, where)
    problems = list(_walk(commands, script, where))
    if problems and not {"errexit", "nounset"} <= script.options:
        missing = [o for o in ("errexit", "nounset", "pipefail") if o not in script.options]
        problems.append(
            Problem(
                1,
                first[:60],
                "after a command that fails the next one runs all the same, and an unset variable "
                f"is nothing: {', '.join(missing)} are off, and the script deletes",
                "Begin the script with set -euo pipefail.",
                grave=False,
            )
        )
    unique = {(p.line, p.why): p for p in problems}
    return sorted(unique.values(), key=lambda p: p.line)


def _walk(
    commands: tuple[Command, ...], script: Script, where: str, depth: int = 0
) -> Iterator[Problem]:
    _find_traps(commands, script)
    for number, command in enumerate(commands):
        pipeline = _pipeline(commands, number)
        for inner in command.nested():
            yield from judge(inner, (inner,), script)
        plain = unwrapped(command, script)
        yield from judge(plain, pipeline, script)
        for text, remote in _texts(plain, script) if depth < MOST_NESTED else ():
            given = replace(script, remote=True) if remote else script
            try:
                # A here-document begins on the line below.
                below = command.line + (text == plain.heredoc)
                inner_commands = parse(text, where, line=below)
            except UserError:  # a text that is no shell after all
                continue
            yield from _walk(inner_commands, given, where, depth + 1)
        _learn(command, plain, pipeline, script)


def _pipeline(commands: tuple[Command, ...], number: int) -> tuple[Command, ...]:
    """The commands that feed one, and itself."""
    first = number
    while first > 0 and commands[first].joined_by in ("|", "|&"):
        first -= 1
    return commands[first : number + 1]


def _texts(command: Command, script: Script) -> Iterator[tuple[str, bool]]:
    """Scripts that a command has in its words or its here-document, and whether another host runs
    them."""
    if not command.words:
        return
    name = script.resolve(command.words[0]).rpartition("/")[2]
    words = [w.plain for w in command.words[1:]]
    if name in _SHELLS and "-c" in words[:-1]:
        yield words[words.index("-c") + 1], False
    elif name in _SHELLS:
        for number, word in enumerate(words[:-1]):
            if re.fullmatch(r"-\w*c", word):
                yield words[number + 1], False
    elif name == "eval":
        yield " ".join(script.resolve(w) for w in command.words[1:]), False
    elif not words and " " in command.words[0].plain:
        yield command.words[0].plain, True  # pdsh -w hosts 'rm -rf x'
    elif name == "ssh" and len(words) > 1:
        yield " ".join(words[1:] if not words[0].startswith("-") else words[-1:]), True
    elif name == "trap" and words and not re.fullmatch(r"\w+|-", words[0]):
        yield words[0], False
    elif re.match(r"--wrap=", words[0] if words else ""):
        yield words[0].removeprefix("--wrap="), False
    text = command.heredoc
    if text and (name in {*_SHELLS, "ssh", "sbatch", "srun"} or text.startswith("#!")):
        yield text, name == "ssh"


def _find_traps(commands: tuple[Command, ...], script: Script) -> None:
    functions = {c.function for c in commands if c.function}
    for command in commands:
        if command.words and command.words[0].raw == "trap" and len(command.words) > 2:
            for name in re.findall(r"\w+", command.words[1].plain):
                if name in functions:
                    script.traps[name] = command.line


def _learn(command: Command, plain: Command, pipeline: tuple[Command, ...], script: Script) -> None:
    """What holds for the commands after this one."""
    for name, word in command.assignments:
        value = script.resolve(word)
        script.values[name] = value if value and not value.startswith(f"${name}") else None
        commands = tuple(c for piece in word.pieces for c in piece.commands)
        if commands:
            script.sources[name] = commands
    words = [script.resolve(word) for word in plain.words]
    if not words:
        return
    if words[0] in ("[", "[[", "test") and {"-n", "-z", "-d", "-e", "-f"} & set(words):
        for word in plain.words:
            script.guarded |= {p.text for p in word.pieces if p.kind == "variable"}
    if words[0] == "set":
        _set(script, words[1:])
    elif words[0] in ("for", "select") and len(command.words) > 2:
        name = command.words[1].raw
        script.values[name] = None
        script.guarded.add(name)  # a word of a list is never empty
        script.sources[name] = tuple(
            c for word in command.words[3:] for piece in word.pieces for c in piece.commands
        )
        listed = [script.resolve(word) for word in command.words[3:]]
        if len(listed) == 1 and "$(" not in listed[0]:
            script.values[name] = listed[0]
    elif words[0] == "read":
        for name in words[1:]:
            script.values[name] = None
            script.sources[name] = pipeline[:-1]
    elif words[0] in ("cd", "pushd"):
        guarded = "errexit" in script.options
        script.unsafe_cd = None if guarded else command
    elif command.joined_by == "||" and words[0] in ("exit", "return", "die"):
        script.unsafe_cd = None


def _set(script: Script, words: list[str]) -> None:
    letters = {"e": "errexit", "u": "nounset"}
    for number, word in enumerate(words):
        if not re.match(r"[-+]\w", word):
            continue
        change = script.options.add if word[0] == "-" else script.options.discard
        for letter in word[1:]:
            if letter in letters:
                change(letters[letter])
            elif letter == "o" and number + 1 < len(words):
                change(words[number + 1])
