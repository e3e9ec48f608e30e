"""RUN/profile-requested: that some ranks record what they compute and when, for a few steps.

Rank 0 takes it away before the first of these, so that a recording that breaks an attempt does not
break the next one too; the event `profiled` tells where the traces are.
"""

import json
import secrets
from dataclasses import asdict, dataclass
from typing import Any, Self

from smolplan.rundir import RunDir, read_json, write_new

MOST_STEPS = 10
MOST_RANKS = 16
"""A trace holds every kernel: tens of megabytes a step of a large model, before it is packed."""


@dataclass(frozen=True)
class ProfileRequest:
    id: str
    steps: int
    ranks: tuple[int, ...]

    @classmethod
    def read(cls, run: RunDir) -> Self | None:
        """The one that stands; None if there is none, or it asks for too much."""
        if not run.profile_request.exists():
            return None
        told: dict[str, Any] = read_json(run.profile_request) or {}
        try:
            found = cls(str(told["id"]), int(told["steps"]), tuple(map(int, told["ranks"])))
        except (KeyError, TypeError, ValueError):
            return None
        fits = 1 <= found.steps <= MOST_STEPS and 1 <= len(found.ranks) <= MOST_RANKS
        return found if fits else None


def request_profile(run: RunDir, steps: int, ranks: tuple[int, ...]) -> ProfileRequest | None:
    """Ask for one; None if another is asked for already. Raises OSError."""
    asked = ProfileRequest(secrets.token_hex(4), steps, ranks)
    if not write_new(run.profile_request, json.dumps(asdict(asked)) + "\n"):
        return None
    run.record("profile_requested", "user", request=asked.id, steps=steps, ranks=list(ranks))
    return asked
