"""All that is wrong with an attempt's hosts: a registry of pure functions over their samples."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from monitor.detect.blindness import blindness_symptoms
from monitor.detect.gpu_health import gpu_symptoms
from monitor.detect.host_health import host_symptoms
from monitor.host_view import HostView, Symptom

SYMPTOMS: tuple[Callable[[Sequence[HostView]], Iterable[Symptom]], ...] = (
    gpu_symptoms,
    host_symptoms,
    blindness_symptoms,
)


def symptoms(hosts: Sequence[HostView]) -> Iterator[Symptom]:
    for detector in SYMPTOMS:
        yield from detector(hosts)
