"""All detectors over what a run says of its own steps."""

from monitor.collect.rows import StepRow
from monitor.detect.data_wait import DataWait
from monitor.detect.gradient import GradientNorm
from monitor.detect.loss import Loss
from monitor.detect.throughput import Throughput
from monitor.view import Finding


class RunSeries:
    """One run's series, row by row in the order of their being written; memory is bounded. The
    daemon feeds it as the rows come, `smolplan monitor replay` from a file."""

    def __init__(self, unit: str = "step") -> None:
        """`unit`: what StepRow.at counts, step or tokens."""
        self._throughput = Throughput(unit)
        self._loss = Loss(unit)
        self._gradient = GradientNorm(unit)
        self._data_wait = DataWait(unit)

    def take(self, row: StepRow) -> None:
        if row.throughput is not None:
            self._throughput.add(row.at, row.throughput)
        if row.loss is not None:
            self._loss.add(row.at, row.loss)
        if row.grad_norm is not None:
            self._gradient.add(row.at, row.grad_norm)
        if row.data_wait_s is not None and row.step_s is not None:
            self._data_wait.add(row.at, row.data_wait_s, row.step_s)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong now."""
        parts = (self._throughput, self._loss, self._gradient, self._data_wait)
        return tuple(finding for part in parts for finding in part.findings)
