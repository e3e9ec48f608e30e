"""Scripts that keep the newest N: what they take for the newest, and what is left."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preflight.scripts_state import KEEP, Problem, Script, problem, unwrapped
from preflight.shell import Command


@dataclass(frozen=True)
class Listing:
    """A list of files, and which of them a pipeline lets through."""

    newest_first: bool
    by_name: bool
    """Sorted as text: step-1000 stands before step-200."""
    by_time: bool
    kept: int | None
    """Entries that are left; None if those that go are counted instead."""
    taken: int | None
    from_top: bool
    """Whether those that go stand at the top of the list."""


def retention_problems(
    command: Command, pipeline: tuple[Command, ...], script: Script
) -> Iterator[Problem]:
    """What is wrong with a deletion of what `ls | head` or the like let through."""
    sources = [pipeline[:-1]]
    for word in command.words[1:]:
        for piece in word.pieces:
            if piece.kind == "variable":
                sources.append(script.sources.get(piece.text, ()))
            sources.append(piece.commands)
    for feeding in sources:
        listing = _listing(feeding, script)
        listed = " ".join(
            script.resolve(w) for c in feeding[:1] for w in unwrapped(c, script).words[1:]
        )
        kinds = {script.places.kind(w) for w in listed.split() if not w.startswith("-")}
        grave = bool(kinds & {"runs", "checkpoints", "everything"})
        if listing is None:
            if grave and feeding == pipeline[:-1]:
                why = f"it deletes what {feeding[0].text!r} lists: checkpoints"
                yield problem(command, script, why, KEEP, grave=True)
            continue
        for why in _faults(listing):
            yield problem(command, script, why, KEEP, grave=grave)
        if grave:
            yield problem(
                command,
                script,
                "it counts folders, not whole checkpoints: a newest one that is half written or "
                "damaged is kept, and the last whole one may go",
                KEEP,
                grave=(listing.kept or 0) < 2,
            )


def _faults(listing: Listing) -> Iterator[str]:
    goes_newest = listing.from_top == listing.newest_first
    if listing.by_name:
        yield "the list is sorted as text, where step-1000 stands before step-200: sort -V"
    if goes_newest and not listing.by_name:
        yield "the newest are deleted, and the oldest kept"
    if listing.kept is not None and listing.kept < 2 and not goes_newest:
        number = "one is" if listing.kept == 1 else "none are"
        yield f"{number} kept: where the newest is damaged, nothing is left to go on from"
    if listing.taken is not None and not goes_newest:
        yield f"the {listing.taken} oldest go however few there are, at last all of them"


def _listing(commands: Sequence[Command], script: Script) -> Listing | None:
    """What a pipeline of ls or find, sort, head and tail lets through; None if it is another."""
    newest_first, by_name, by_time = False, False, False
    kept: int | None = None
    taken: int | None = None
    from_top, listed, cut = False, False, False
    for command in commands:
        words = [script.resolve(w) for w in unwrapped(command, script).words]
        name = words[0].rpartition("/")[2] if words else ""
        letters = "".join(w[1:] for w in words[1:] if re.fullmatch(r"-[A-Za-z0-9]+", w))
        if name in ("ls", "find", "stat"):
            listed, by_name = True, name == "ls" and not {"t", "v", "c", "u"} & set(letters)
            by_time = name == "ls" and bool({"t", "c", "u"} & set(letters))
            newest_first = by_time != ("r" in letters) if name == "ls" else False
        elif name == "sort":
            # Sorted by number (of a time, or of a step) or by version, smallest first.
            by_name = not {"n", "V", "g"} & set(letters)
            newest_first = "r" in letters
        elif name == "tac":
            newest_first = not newest_first
        elif name in ("head", "tail") and (count := _count(words)):
            sign, number = count
            cut = True
            if name == "tail" and sign == "+":
                kept, from_top = number - 1, False
            elif name == "head" and sign == "-":
                kept, from_top = number, True
            elif name == "head":
                taken, from_top = number, True
            else:
                taken, from_top = number, False
    if not (listed and cut):
        return None
    return Listing(newest_first, by_name, by_time, kept, taken, from_top)


def _count(words: Sequence[str]) -> tuple[str, int] | None:
    """The sign and number of `tail -n +3`, `head -n -2`, `head -5`."""
    told = " ".join(words[1:])
    if found := re.search(r"(?:-n\s*|--lines[= ])([-+]?)(\d+)", told):
        return found[1], int(found[2])
    if found := re.search(r"(?:^|\s)([-+])(\d+)", told):
        return ("" if found[1] == "-" else "+"), int(found[2])
    return None
