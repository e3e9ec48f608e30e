"""What the ranks of an attempt that hangs are at, as their hosts tell it."""

import logging
import time
from contextlib import suppress
from typing import Any

from launcher.stacks import read_stacks
from monitor.view import Progress, StacksView
from smolplan.rundir import RunDir, read_json, write_json

log = logging.getLogger("monitor")


class StackRequest:
    """One request for the stacks of an attempt, and the answers to it."""

    def __init__(self, run: RunDir, attempt: int, nodes: int, now_s: float) -> None:
        """`now_s`: monotonic clock."""
        self._run, self._attempt, self._nodes = run, attempt, nodes
        self._asked_at_s = now_s
        self._name = f"{time.time_ns()}"
        request = {"request": self._name, "asked_at": time.time()}
        try:
            write_json(run.stacks_request(attempt), request, durable=False)
        except OSError as error:
            # A full disk, it may be: nobody will answer, and the hang is ended all the same.
            log.error("%s: %s", run.stacks_request(attempt), error.strerror)

    def look(self, now_s: float) -> StacksView:
        answers = {
            node: read_stacks(self._run, self._attempt, node, self._name)
            for node in range(self._nodes)
        }
        ranks = {rank: stack for told in answers.values() for rank, stack in (told or {}).items()}
        return StacksView(
            waited_s=now_s - self._asked_at_s,
            awaited=frozenset(node for node, told in answers.items() if told is None),
            ranks=ranks,
            collectives={rank: self._progress(rank) for rank in ranks},
            folder=str(self._run.stacks_request(self._attempt).parent),
        )

    def _progress(self, rank: int) -> tuple[Progress, ...]:
        record = read_json(self._run.rank_collectives(self._attempt, rank)) or {}
        with suppress(KeyError, TypeError, ValueError):
            waiting = {entry["process_group"][0] for entry in record["waiting"]}
            return tuple(_progress(entry, waiting) for entry in record["last"])
        return ()


def _progress(entry: dict[str, Any], waiting: set[str]) -> Progress:
    group, description = (str(name) for name in entry["process_group"])
    return Progress(
        group=group,
        description=description,
        collective=str(entry["profiling_name"]).partition(":")[2] or str(entry["profiling_name"]),
        number=int(entry["collective_seq_id"]),
        waiting=group in waiting,
    )
