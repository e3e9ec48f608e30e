"""What is known at a place of a script, and what a problem is."""

import re
from dataclasses import dataclass, field, replace

from preflight.scripts_places import Places
from preflight.shell import Command
from preflight.shell_words import Word

KEEP = "Remove the line: smolplan keeps the newest checkpoint.keep_last whole checkpoints itself."


@dataclass(frozen=True)
class Problem:
    line: int
    command: str
    """As the script has it, shortened."""
    why: str
    remedy: str
    grave: bool
    """Whether something that a run needs is lost, and not only time or somebody's nerves."""


@dataclass
class Script:
    """What is known at a place of a script: its variables' values, and what it runs under."""

    places: Places
    values: dict[str, str | None] = field(default_factory=dict)
    """Values that the script gives its variables; None for one that it cannot be read from."""
    sources: dict[str, tuple[Command, ...]] = field(default_factory=dict)
    """Commands whose output a variable goes through or holds: for d in $(ls …)."""
    guarded: set[str] = field(default_factory=set)
    """Variables that are tested or refused when they are empty."""
    options: set[str] = field(default_factory=set)
    """errexit, nounset, pipefail."""
    traps: dict[str, int] = field(default_factory=dict)
    """Functions that a trap calls, with its line."""
    unsafe_cd: Command | None = None
    """The last cd that may fail without ending the script."""
    uploaded: Command | None = None
    """An upload whose end nothing waits for."""
    remote: bool = False
    """Whether the commands run on another host, with values of its own."""

    def resolve(self, word: Word, *, empty: bool = False) -> str:
        """The word with known variables filled in; others stand as $NAME, or as nothing where
        `empty`, unless they are guarded or set by the system."""
        text = ""
        for piece in word.pieces:
            if piece.kind == "text":
                text += piece.text
            elif piece.kind == "commands":
                text += self._output(piece.commands)
            else:
                text += self._value(piece.text, piece.operation, empty=empty)
        return text

    def _output(self, commands: tuple[Command, ...]) -> str:
        names = [self.resolve(c.words[0]) for c in commands if c.words]
        return "$MKTEMP" if "mktemp" in names else "$(…)"

    def _value(self, name: str, operation: str, *, empty: bool) -> str:
        known = self.values.get(name)
        if known:
            return re.sub(r"\$(\w+)", self._if_set, known) if empty else known
        if default := re.match(r":?[-=](.+)", operation, re.DOTALL):
            return default[1].strip("\"'")
        if operation.startswith((":?", "?")):
            self.guarded.add(name)
        return self._if_set(f"${name}") if empty else f"${name}"

    def _if_set(self, variable: str | re.Match[str]) -> str:
        """$NAME, or nothing where it may be empty."""
        text = variable if isinstance(variable, str) else variable[0]
        name = text[1:]
        # An unset variable ends the script under nounset; only an empty one would get through.
        sure = "nounset" in self.options or name in self.guarded or _SET_BY_SYSTEM.fullmatch(name)
        return text if sure else ""


_SET_BY_SYSTEM = re.compile(
    r"MKTEMP|HOME|PWD|OLDPWD|USER|HOSTNAME|UID|BASHPID|RANDOM|SLURM_\w+|PATH|\$|#"
)

_WRAPPERS: dict[str, int] = {
    # How many arguments, beside options, stand before the command that they run.
    **{"sudo": 0, "nohup": 0, "exec": 0, "command": 0, "builtin": 0, "env": 0, "srun": 0},
    **{"timeout": 1, "nice": 0, "ionice": 0, "stdbuf": 0, "setsid": 0, "xargs": 0, "parallel": 0},
    **{"flock": 1, "time": 0, "mpirun": 0, "pdsh": 0, "clush": 0, "doas": 0},
}
_VALUED = {
    # Options of wrappers that take the next word.
    *("-n", "-N", "-w", "-u", "-I", "-P", "-L", "-d", "-s", "-k", "-c", "-o", "-e", "-g", "-h"),
    *("--nodes", "--ntasks", "--nodelist", "--user", "--signal"),
}


def unwrapped(command: Command, script: Script) -> Command:
    """`sudo -u me timeout 5 rm x` → `rm x`."""
    words = command.words
    for _ in range(6):
        name = script.resolve(words[0]).rpartition("/")[2] if words else ""
        if name not in _WRAPPERS:
            break
        words, skip = words[1:], _WRAPPERS[name]
        while words:
            raw = words[0].raw
            if raw.startswith("-") or re.match(r"\w+=", raw) or raw == "{}":
                words = words[2:] if raw in _VALUED else words[1:]
            elif skip:
                words, skip = words[1:], skip - 1
            else:
                break
    return replace(command, words=words)


def problem(command: Command, script: Script, why: str, remedy: str, *, grave: bool) -> Problem:
    if command.function in script.traps:
        why += f"; the trap of line {script.traps[command.function]} does it on every way out"
    return Problem(command.line, shortened(command.text), why, remedy, grave)


def shortened(text: str) -> str:
    return text if len(text) <= 70 else text[:69] + "…"
