"""What answers on a host, as long as its connection lives: one thread reads, each operation runs
in a thread of its own, so that one that hangs keeps nobody from asking for another."""

from __future__ import annotations

import os
import threading
import time

from launcher.hosts.children import Children
from launcher.hosts.loader import pack, read_frame
from launcher.hosts.operations import Asked, OperationError, missing_package, operations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

SILENCE_S = 60.0
"""Nobody is at the other end any longer if nothing came for so long: a launcher says something
every BEAT_S. A dead link does not end a connection by itself, and sshd would keep this process."""

BEAT_S = 10.0


class Agent:
    """One connection's requests."""

    def __init__(self, sink: BinaryIO, held: int) -> None:
        self._sink, self._held = sink, held
        self._writing = threading.Lock()
        self._children = Children()
        self._asked: dict[int, Asked] = {}
        self.heard_at = time.monotonic()

    def handle(self, message: dict[str, Any]) -> None:
        """One message from the other end."""
        self.heard_at = time.monotonic()
        if "beat" in message:
            self.say({"beat": message["beat"]})
        elif "cancel" in message:
            if asked := self._asked.get(message["cancel"]):
                asked.cancelled.set()
        else:
            name = f"{message['operation']}-{message['id']}"
            threading.Thread(target=self._work, args=(message,), name=name, daemon=True).start()

    def _work(self, message: dict[str, Any]) -> None:
        number = message["id"]

        def note(told: dict[str, Any]) -> None:
            if message["notes"]:
                self.say({"id": number, "note": told})

        asked = Asked(self._children, note, message["timeout_s"], self._held)
        self._asked[number] = asked
        try:
            answer = {"answer": _carry_out(message, asked)}
        except OperationError as error:
            told = {"kind": error.kind, "message": str(error), "remedy": error.remedy}
            answer = {"trouble": told}
        finally:
            del self._asked[number]
        self.say({"id": number, **answer})

    def say(self, message: dict[str, Any]) -> None:
        """Send a message to the other end."""
        data = pack(message)
        with self._writing:
            try:
                self._sink.write(data)
                self._sink.flush()
            except OSError:
                self.end()

    def end(self) -> None:
        """End at once, with all that runs for others."""
        self._children.end_all()
        os._exit(0)


def _carry_out(message: dict[str, Any], asked: Asked) -> dict[str, Any]:
    function = operations.get(message["operation"])
    if function is None:
        raise OperationError(f"{message['operation']!r} is no operation")
    try:
        return function(message["arguments"], asked)
    except OperationError:
        raise
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    except OSError as error:
        # Of a program that is not there, the file's name is its own.
        named = f"{error.filename}: " if error.filename else ""
        raise OperationError(f"{named}{error.strerror or error}") from error
    except Exception as error:
        raise OperationError(f"{type(error).__name__}: {error}") from error


def serve(source: BinaryIO, sink: BinaryIO, held: int) -> None:
    """Answer until the connection ends."""
    # Nobody reads what is said here from now on; unread, it would fill the connection's window.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)
    agent = Agent(sink, held)

    def watch() -> None:
        while time.monotonic() - agent.heard_at < SILENCE_S:
            time.sleep(BEAT_S / 2)
        agent.end()

    threading.Thread(target=watch, name="watch", daemon=True).start()
    agent.say({"serving": True})
    try:
        while True:
            agent.handle(read_frame(source)[0])
    except (EOFError, OSError):
        pass
    finally:
        agent.end()
