"""What the monitor does not see: told of, and never taken for a fault."""

from collections.abc import Iterator, Sequence

from monitor.host_view import HostView, Symptom
from monitor.view import Finding
from smolplan.units import format_duration

SILENT_S = 30.0
"""A sampler writes once a second; the run's storage may be slow while a checkpoint is written."""


def blindness_symptoms(hosts: Sequence[HostView]) -> Iterator[Symptom]:
    for host in hosts:
        if host.age_s > SILENT_S:
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
