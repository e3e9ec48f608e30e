"""A lost rank ends its node by itself (torchrun's agent sees it within 0.1 s and the supervisor
writes it down); what is left to find is a supervisor that was lost with its ranks, or a host."""

from monitor.view import Finding, RunView

PROBES = 3
"""One failed probe is unknown, not a fault: so many in a row are needed before one is called."""


def supervisor_vanished(view: RunView) -> Finding | None:
    if view.exit is not None or view.observed.alive is not False:
        return None
    if view.observed.over:  # a scheduler ended all of it: no host stands out
        return Finding("supervisor_vanished", view.observed.over, {})
    gone = [node for node in view.observed.nodes if node.alive is False]
    hosts = [node.host for node in gone]
    where = "the attempt's processes are" if view.nodes == 1 else f"those on {', '.join(hosts)} are"
    if view.unwritable:  # they may well have had something to say
        told = f"{where} gone, and could not say why: {view.unwritable}"
        return Finding("supervisor_vanished", told, {"hosts": hosts})
    return Finding(
        "supervisor_vanished",
        f"{where} gone without a word (killed, or the machine restarted)",
        {} if view.nodes == 1 else {"hosts": hosts},
        hosts=dict.fromkeys(hosts, "gone") if view.nodes > 1 else {},
    )


def host_lost(view: RunView) -> Finding | None:
    """A host that does not answer while steps are made is only told of: its sshd may be gone, or
    we are cut off ourselves. Together with a standstill it is the cause."""
    limit_s = view.settings.host_timeout_s
    lost = [
        node
        for node in view.observed.nodes
        if node.probes_failed >= PROBES and node.silent_s >= limit_s
    ]
    if view.exit is not None or not lost or view.attempt_idle_s < limit_s:
        return None
    if len(lost) == len(view.observed.nodes):
        return None  # more likely it is us who are cut off
    names = ", ".join(node.host for node in lost)
    return Finding(
        "host_lost",
        f"{names} {'has' if len(lost) == 1 else 'have'} not answered for "
        f"{max(n.silent_s for n in lost):.0f} s ({lost[0].trouble}), and no step was made for "
        f"{view.attempt_idle_s:.0f} s (limit {limit_s:g} s)",
        {
            "hosts": [node.host for node in lost],
            "probes_failed": min(node.probes_failed for node in lost),
            "idle_s": round(view.attempt_idle_s, 3),
            "limit_s": limit_s,
        },
        hosts={node.host: "unreachable" for node in lost},
    )
