"""One receiver of one run is told of its events, in a thread of its own: however slow it is, nobody
else waits for it.

How far it has come is in the store, and is written before a message is sent and after. A daemon
that is killed in between sends that one message once more, and says so in it; nothing is left out,
and nothing else is repeated. Each write is refused under a lease that has passed, so that of two
daemons one tells.
"""

import json
import logging
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.store import LostLease, Store, StoreUnusable, Told
from monitor.collect.lines import lines_after
from monitor.notify.events import message_of
from monitor.notify.limit import Memory, Verdict, as_begun, digest, judge
from monitor.notify.message import RANK, Message
from monitor.notify.send import NotTaken, send
from smolplan.errors import UserError
from smolplan.rundir import RunDir
from smolplan.spec.alerts import AlertsSpec

log = logging.getLogger("monitor.notify")

POLL_S = 0.5
"""Between two looks at the events."""

RETRY_S, RETRY_MAX_S = 1.0, 300.0
"""Pause after the first refusal; doubled after each further one, up to the second."""

OLD_S = 86_400.0
"""What is older is no news: it is told no more, and no longer tried."""


class Teller(threading.Thread):
    def __init__(self, run: RunDir, receiver: AlertsSpec, label: str, folder: Path) -> None:
        """`label` names the receiver in the store and in metrics; `folder`: the store's."""
        super().__init__(name=f"tell {label}", daemon=True)
        self.fence: int | None = None
        """Under which it may tell; None: not now. Set by the daemon's loop."""
        self.ending = False
        """The run is over: the thread ends once all is told."""
        self.counts: Counter[str] = Counter()
        """By outcome: told, held, refused."""
        self.failing = ""
        """Why the receiver does not take what it is sent now; empty if it does."""
        self.stopping = threading.Event()
        self.run_id, self.label = run.path.name, label
        self._run, self._receiver, self._folder = run, receiver, folder
        self._passed = 0
        """Where in the events all is dealt with."""
        self._holds = False
        """Whether something is held back, to be told later."""

    def run(self) -> None:
        try:
            store = Store(self._folder)
        except (StoreUnusable, UserError) as error:
            log.error("%s: %s", self.label, error)  # the daemon's loop starts another
            return
        try:
            while not self.stopping.is_set():
                if self.fence is not None:
                    try:
                        if self._tell_all(store):
                            return
                    except (LostLease, StoreUnusable, OSError) as error:
                        log.debug("%s: %s", self.label, error)  # the daemon's loop tells of these
                self.stopping.wait(POLL_S)
        finally:
            store.close()

    def _tell_all(self, store: Store) -> bool:
        """Tell what is new; True once the run is over and all of it is told. Raises LostLease,
        StoreUnusable, OSError."""
        ending = self.ending
        if not (ending or self._holds) and self._passed == _size(self._run.events):
            return False
        told = store.told(self.run_id, self.label)
        memory, doubtful = _memory(told), told.sending
        self._passed = max(self._passed, told.position)
        for end, event in lines_after(self._run.events, self._passed):
            message = self._message_of(event, end)
            verdict: Verdict = "drop"
            if message is not None:
                message = as_begun(memory, message)
                verdict, memory = judge(memory, message, time.time())
            if message is not None and verdict != "drop":
                after = Told(end, "", _written(memory))
                if verdict == "hold":
                    self.counts["held"] += 1
                    self._keep(store, after)
                elif not self._tell(store, message, told, after, doubtful):
                    return False
                told = after
            self._passed = end
        self._holds = bool(memory.held)
        summary, memory = digest(memory, self.run_id, time.time(), last=ending)
        after = Told(self._passed, "", _written(memory))
        if summary is not None and not self._tell(store, summary, told, after, doubtful):
            return False
        if ending:
            self._keep(store, after, done=True)
        return ending

    def _message_of(self, event: dict[str, Any], end: int) -> Message | None:
        """What is to be told of an event to this receiver, if it is to be told at all."""
        try:
            message = message_of(event, self.run_id, end)
        except (TypeError, ValueError, KeyError) as error:
            log.error("%s: an event that cannot be told: %r", self._run.events, error)
            return None
        if message is None or time.time() - message.time > OLD_S:
            return None
        enough = RANK[message.severity] >= RANK[self._receiver.severity]
        # The end of something is of no severity; whether its beginning was told, `judge` knows.
        return message if enough or message.over else None

    def _tell(
        self, store: Store, message: Message, before: Told, after: Told, doubtful: str
    ) -> bool:
        """Send it until it is taken, too old, or hopeless. False if the thread is to end first.

        `doubtful`: id of the message at which a daemon was killed.
        """
        if message.id == doubtful:
            message = replace(message, again=True)
        pause_s = RETRY_S
        while True:
            # Each time: by now the run may be another daemon's.
            self._keep(store, replace(before, sending=message.id))
            try:
                send(self._receiver, message)
            except NotTaken as error:
                if self.failing != error.reason:
                    log.warning("%s of %s: %s", self.label, self.run_id, error.reason)
                self.failing = error.reason
                if error.hopeless or time.time() - message.time > OLD_S:
                    log.error("%s of %s: not told: %s", self.label, self.run_id, message.title)
                    self.counts["refused"] += 1
                    break
            else:
                self.failing = ""
                self.counts["told"] += 1
                break
            if self.stopping.wait(pause_s):
                return False
            pause_s = min(RETRY_MAX_S, 2 * pause_s)
        self._keep(store, after)
        return True

    def _keep(self, store: Store, told: Told, *, done: bool = False) -> None:
        """Raises LostLease, StoreUnusable."""
        if (fence := self.fence) is None:
            raise LostLease(f"run {self.run_id} is not held")
        store.put_told(self.run_id, self.label, told, done=done, fence=fence)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _memory(told: Told) -> Memory:
    try:
        return Memory.from_json(json.loads(told.memory))
    except (ValueError, TypeError, KeyError):
        return Memory()  # the first time


def _written(memory: Memory) -> str:
    return json.dumps(memory.to_json())
