"""Names of many hosts in a few signs, as Slurm has them: gpu[01-50], rack[1-2]-n[1,3,5-8]."""

import itertools
import re
from collections.abc import Iterator

MOST_HOSTS = 65_536
"""Of one pattern: more is a slip of the pen."""


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for, in its order. Raises ValueError in words."""
    if "," in re.sub(r"\[[^]]*\]", "", pattern):
        raise ValueError("it has a comma outside of brackets: write one name or pattern an item")
    parts = re.split(r"(\[[^\][]*\])", pattern)
    for text in parts[::2]:
        if set(text) & set("[]"):
            raise ValueError("it has a bracket without its counterpart")
    choices = [[text] if n % 2 == 0 else list(_choices(text[1:-1])) for n, text in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST_HOSTS:
        raise ValueError(f"it stands for more than {MOST_HOSTS:,} hosts")
    return ["".join(names) for names in itertools.product(*choices)]


def _choices(inside: str) -> Iterator[str]:
    for item in inside.split(","):
        matched = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if not matched:
            raise ValueError(f"[{inside}] has {item!r}, where a number or a range as 1-8 belongs")
        first, last = matched[1], matched[2] or matched[1]
        if int(last) < int(first):
            raise ValueError(f"{item} runs backwards: write {last}-{first}")
        if int(last) - int(first) >= MOST_HOSTS:
            raise ValueError(f"{item} stands for more than {MOST_HOSTS:,} hosts")
        yield from (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))


def fold(names: list[str]) -> str:
    """Names for people, as few signs as will do: those that differ in their last number only, and
    follow each other, become one pattern."""
    folded: list[str] = []
    for stem, group in itertools.groupby(map(_split, names), key=lambda part: (part[0], part[2])):
        numbers = [part[1] for part in group]
        ranges: list[list[str]] = []
        for number in numbers:
            if number and ranges and _follows(ranges[-1][-1], number):
                ranges[-1][1:] = [number]
            else:
                ranges.append([number])
        inside = ",".join("-".join(bounds) for bounds in ranges)
        alone = len(numbers) == 1
        folded.append(stem[0] + (inside if alone else f"[{inside}]") + stem[1])
    return ",".join(folded)


def _split(name: str) -> tuple[str, str, str]:
    matched = re.fullmatch(r"(.*?)(\d+)(\D*)", name, re.DOTALL)
    return (matched[1], matched[2], matched[3]) if matched else (name, "", "")


def _follows(before: str, number: str) -> bool:
    return int(number) == int(before) + 1 and number == f"{int(number):0{len(before)}d}"
