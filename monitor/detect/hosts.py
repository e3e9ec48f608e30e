"""All that is wrong with an attempt's hosts: registries of pure functions over their samples."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from monitor.collect.host_sample import HostSample
from monitor.detect.blindness import blindness_symptoms
from monitor.detect.gpu_health import gpu_symptoms, slow_gpus
from monitor.detect.host_health import host_symptoms, shared_symptoms
from monitor.host_view import HostView, Symptom

OF_A_HOST: tuple[Callable[[HostView, HostSample], Iterable[Symptom]], ...] = (
    gpu_symptoms,
    host_symptoms,
)
"""What a host's own sample shows: of thousands of hosts, those alone with a new one are weighed."""

OF_ALL: tuple[Callable[[Sequence[HostView]], Iterable[Symptom]], ...] = (
    slow_gpus,
    shared_symptoms,
    blindness_symptoms,
)


def symptoms_of(host: HostView) -> tuple[Symptom, ...]:
    """They stand until the host's next sample."""
    if host.sample is None:
        return ()
    return tuple(one for detector in OF_A_HOST for one in detector(host, host.sample))


def symptoms_of_all(hosts: Sequence[HostView]) -> Iterator[Symptom]:
    for detector in OF_ALL:
        yield from detector(hosts)
