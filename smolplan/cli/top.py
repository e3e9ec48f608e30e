"""smolplan top: how a run goes on, live in the terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smolplan.cli.run import Json, RunArgument

if TYPE_CHECKING:
    from launcher.store import Store
    from monitor.live.follow import Follower

EVERY_S = 1.0


def top(
    run: RunArgument = "latest",
    once: Annotated[bool, typer.Option("--once", help="Print it once, as to a pipe.")] = False,
    as_json: Json = False,
) -> None:
    """Show a run as it goes on: figures, ranks, where the time went, findings, decisions, hosts.

    The same as the monitor's web page. It ends by q or Ctrl-C; the run goes on.

    Example: `smolplan top latest`
    """
    import json

    from launcher import control
    from launcher.store import Store
    from monitor.live.follow import Follower
    from smolplan.cli.run import find_run
    from smolplan.cli.style import console, show
    from smolplan.cli.top_view import top_panel

    store = Store()
    found = control.settle(store, find_run(store, run))
    follower = Follower(found)
    if as_json or once or not console().is_terminal:
        while not follower.caught_up:
            seen = _look(store, found.id, follower)
        if as_json:
            print(json.dumps(seen, indent=1, allow_nan=False))
        else:
            show(lambda out: out.print(top_panel(seen)))
        return
    _live(store, found.id, follower)


def _live(store: "Store", run_id: str, follower: "Follower") -> None:
    from rich.live import Live

    from smolplan.cli.style import console
    from smolplan.cli.top_view import top_panel

    out = console()
    seen = _look(store, run_id, follower)
    try:
        with _keys() as pressed, Live(console=out, auto_refresh=False, screen=True) as live:
            while True:
                live.update(top_panel(seen), refresh=True)
                if "q" in pressed(EVERY_S):
                    break
                seen = _look(store, run_id, follower)
    except KeyboardInterrupt:
        pass  # as it is meant to end
    out.print(top_panel(seen))


def _look(store: "Store", run_id: str, follower: "Follower") -> dict[str, Any]:
    from launcher.processes import is_alive
    from launcher.status import held_back
    from monitor.live.overview import overview

    run, attempts = store.run(run_id), store.attempts(run_id)
    follower.look(attempts)
    waiting, _ = held_back(run, follower.spec, attempts[-1])
    return overview(
        run,
        attempts,
        follower,
        faults=[f for f in store.host_faults(standing=True) if f.run_id == run_id],
        waiting=waiting,
        watched=bool(store.live_daemons(is_alive)),
    )


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits for so many seconds, or for a key, and tells what was pressed."""
    import os
    import select
    import termios
    import time
    import tty

    if not sys.stdin.isatty():

        def wait(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield wait
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return os.read(terminal, 64).decode(errors="replace") if ready else ""

    tty.setcbreak(terminal)
    try:
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
