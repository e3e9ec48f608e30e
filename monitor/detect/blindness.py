"""What the monitor does not see: told of, and never taken for a fault."""

from collections.abc import Iterator, Sequence

from monitor.host_view import HostView, Symptom
from monitor.view import Finding
from smolplan.units import format_duration

SILENT_S = 30.0
"""A sampler writes once a second; the run's storage may be slow while a checkpoint is written."""

TOLD_ALONE = 8
"""Hosts that are told of one by one; of more at once the cause is no host's own (assumed)."""


def blindness_symptoms(hosts: Sequence[HostView]) -> Iterator[Symptom]:
    silent = [host for host in hosts if host.age_s > SILENT_S]
    if len(silent) > TOLD_ALONE:
        yield Symptom(
            Finding(
                "unsampled",
                f"{len(silent):,} of {len(hosts):,} hosts are not seen: no sample of them for "
                f"{format_duration(min(host.age_s for host in silent))} or longer",
                {"hosts": [host.host for host in silent[:TOLD_ALONE]], "count": len(silent)},
                severity="warning",
                advice="Look at the run folder's storage, and whether this monitor has enough CPU; "
                "the training itself may well go on.",
                key="many hosts",
            )
        )
    for host in hosts:
        if host.age_s > SILENT_S:
            if len(silent) > TOLD_ALONE:
                continue
            known = "no longer" if host.sample else "not"
            yield Symptom(
                Finding(
                    "unsampled",
                    f"{host.host} and its GPUs are {known} seen: no sample for "
                    f"{format_duration(host.age_s)}",
                    {"host": host.host},
                    severity="warning",
                    advice="Look at the supervisor's log; the training itself may well go on.",
                    key=host.host,
                )
            )
            continue
        for blind in host.sample.blind if host.sample else ():
            yield Symptom(
                Finding(
                    "unseen",
                    f"{blind.source} of {host.host} is not seen: {blind.why}",
                    {"host": host.host, "source": blind.source, "since": blind.since},
                    severity="info",
                    advice="Faults of it will not be found while this is so.",
                    key=f"{host.host} {blind.source}",
                )
            )
