"""A lost rank ends its attempt by itself (torchrun's agent sees it within 0.1 s and writes
exit.json); what is left to find is an agent that was lost with its ranks."""

from monitor.view import Finding, RunView


def supervisor_vanished(view: RunView) -> Finding | None:
    if view.exit is None and view.observed.alive is False:
        return Finding(
            "supervisor_vanished",
            "the attempt's processes are gone without a word (killed, or the machine restarted)",
            {},
        )
    return None
