"""RUN/checkpoint-requested: that the ranks save a checkpoint after the step at hand and go on.

One stands at a time: whoever asks while it does is answered with it. Rank 0 takes it away once the
checkpoint is there, with the event `checkpoint_on_request`.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Self

from smolplan.rundir import RunDir, read_json, write_new


@dataclass(frozen=True)
class CheckpointRequest:
    id: str
    by: str
    """user or monitor."""
    reason: str

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        """The one that stands; None if there is none. An empty file, as a person may make by
        `touch`, is one too."""
        if not run.checkpoint_request.exists():
            return None
        told = read_json(run.checkpoint_request) or {}
        return cls(*(str(told.get(name, "")) for name in ("id", "by", "reason")))


def request_checkpoint(run: RunDir, by: str, reason: str) -> CheckpointRequest:
    """Ask for one; the request that stands from now on. Raises OSError."""
    asked = CheckpointRequest(secrets.token_hex(4), by, reason)
    content = {"id": asked.id, "by": asked.by, "reason": asked.reason}
    if not write_new(run.checkpoint_request, json.dumps(content) + "\n"):
        return CheckpointRequest.read(run) or asked
    run.record("checkpoint_requested", by, request=asked.id, reason=reason)
    return asked
