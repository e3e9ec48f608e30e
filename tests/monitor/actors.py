"""The states that tests/monitor/interleavings.py explores: actors, processes, and the gate at which
an actor stops after each call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from smolplan.errors import SmolplanError

Rows = tuple[tuple[Any, ...], ...]


class Paused(BaseException):
    """The actor's turn is over."""


@dataclass(frozen=True)
class Answer:
    """What a call through the gate gave; two are equal if they tell the same."""

    key: str
    value: Any = field(compare=False)


BESIDE = Answer("beside", None)
"""Stands among the answers where a monitor's loop renewed the lease beside its look."""


@dataclass(frozen=True)
class Processes:
    """Those of one attempt."""

    number: int
    begun: bool = False
    alive: bool | None = None
    """None before a supervisor has ever been at work."""
    exit_code: int | None = None
    over: bool = False
    """Its end is on record."""
    starts: tuple[str, ...] = ()
    """By whom ranks were started."""


@dataclass(frozen=True)
class Actor:
    name: str
    role: str
    turns: int = 1
    """How often it may begin anew: looks of a monitor."""
    renewals: int = 0
    """How often a monitor's loop may still renew the lease beside a look that takes long."""
    kept: tuple[Any, ...] = (None, 0.0, None, 0, None)
    heard: tuple[Answer, ...] = ()
    """The answers in the look at hand."""


@dataclass(frozen=True)
class State:
    actors: tuple[Actor, ...]
    ticks: int = 0
    """How often the clock may still pass a lease."""
    deaths: int = 0
    """How often an actor may still be killed."""
    faults: int = 0
    """How often an attempt may still break."""
    clock_s: float = 100.0
    runs: Rows = ()
    attempts: Rows = ()
    processes: tuple[Processes, ...] = ()


class Gate:
    """Between one actor and the world, for one turn."""

    def __init__(self, heard: tuple[Answer, ...]) -> None:
        self.heard = list(heard)
        self.beside: Callable[[], None] = lambda: None
        """What the loop does."""
        self._next = 0
        self._spent = False

    def call(self, act: Callable[[], Any], *, is_turn: bool = True) -> Any:
        while self._next < len(self.heard) and self.heard[self._next] == BESIDE:
            self._next += 1
            self.beside()
        if self._next == len(self.heard):
            if is_turn and self._spent:
                raise Paused
            self._spent = self._spent or is_turn
            try:
                answer = act()
            except SmolplanError as error:
                answer = error
            self.heard.append(Answer(repr(answer), answer))
        answer = self.heard[self._next].value
        self._next += 1
        if isinstance(answer, SmolplanError):
            raise answer
        return answer
