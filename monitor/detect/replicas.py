"""Ranks that hold other numbers than their peers, as the trainer itself finds."""

from typing import Any

from monitor.view import Finding, RunView

KIND = "replicas_differ"


def replicas_differ(event: dict[str, Any], view: RunView) -> Finding:
    """`event`: the trainer's. Hosts are blamed only where most ranks agree, and not all are on
    one."""
    ranks = [rank for rank in event.get("ranks", ()) if isinstance(rank, int)]
    hosts = {view.host_of(rank) for rank in ranks if event.get("by_majority")} - {""}
    return Finding(
        KIND,
        f"ranks {', '.join(map(str, ranks))} differ in {event.get('what')} at step "
        f"{event.get('step')}: a device computes wrong",
        {"step": event.get("step"), "ranks": ranks, "what": event.get("what")},
        hosts=dict.fromkeys(sorted(hosts), "differs"),
        advice="Test the GPUs of these ranks (smolplan preflight --tier burn) before they are used "
        "again.",
        key=str(event.get("attempt")),
    )
