"""What a rank tells of itself when it hangs: where it is, and which collectives it has got to."""

import faulthandler
import json
import logging
import signal
from pathlib import Path
from typing import Any

from smolplan.rundir import STACK_SIGNAL, write_json

log = logging.getLogger("trainer")

MOST_WAITING = 100
"""On a GPU the host runs ahead, by the collectives of one step at most."""


def tell_stack_on_signal(path: Path) -> None:
    """From now on STACK_SIGNAL appends the stacks of all threads to the file. Written by the
    interpreter in the signal's own handler: a main thread that is stuck in a collective, or in any
    other call, runs no Python."""
    # faulthandler hands the signal on to the handler that was there before: the default one would
    # end this process, and Python's own wakes the thread of StopFlag.
    signal.signal(STACK_SIGNAL, lambda number, frame: None)
    try:
        path.parent.mkdir(exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        log.warning("%s: %s; a hang of this rank will not be explained", path, error.strerror)
        return
    faulthandler.register(STACK_SIGNAL, file=file, all_threads=True, chain=True)


def tell_collectives(path: Path) -> None:
    """Write what torch's flight recorder holds: of each process group the last collective, and all
    that are not through."""
    try:
        write_json(path, _shortened(json.loads(_recorded())), durable=False)
    except (OSError, ValueError, AttributeError) as error:
        log.warning("the flight recorder tells nothing: %s", error)


def _recorded() -> bytes | str:
    # As JSON: what torch dumps to files by itself are pickles. NCCL has a recorder of its own;
    # gloo writes to the other one. Both are on unless TORCH_FR_BUFFER_SIZE is 0.
    import torch.distributed as dist
    from torch._C import _distributed_c10d as c10d

    nccl = dist.is_initialized() and dist.get_backend() == "nccl"
    dump = c10d._dump_nccl_trace_json if nccl else c10d._dump_fr_trace_json  # type: ignore[attr-defined]
    recorded: bytes | str = dump(True, False)
    return recorded


def _shortened(record: dict[str, Any]) -> dict[str, Any]:
    """The whole holds 2,000 collectives, about a megabyte a rank."""
    last: dict[Any, Any] = {}
    for entry in record.get("entries", []):
        last[entry.get("pg_id")] = entry
    waiting = [entry for entry in record.get("entries", []) if not entry.get("retired")]
    return {
        "groups": record.get("pg_config", {}),
        "status": record.get("pg_status", {}),
        "last": list(last.values()),
        "waiting": waiting[:MOST_WAITING],
    }
