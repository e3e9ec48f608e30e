"""How large the global batch of each step is: steps to sequences and back."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from smolplan.spec.optim import OptimSpec


@dataclass(frozen=True)
class BatchPhase:
    """Steps of one size, until the next phase begins."""

    steps_before: int
    sequences_before: int
    size: int


@dataclass(frozen=True)
class BatchSizes:
    """Whole numbers, so that a step's place in the data follows from its number alone."""

    phases: tuple[BatchPhase, ...]
    """In order; the last has no end."""

    @staticmethod
    def of(optim: OptimSpec, seq_len: int) -> "BatchSizes":
        phases = []
        steps = sequences = 0
        for small in optim.batch_warmup:
            phases.append(BatchPhase(steps, sequences, small.global_batch_size))
            if small.until_step is not None:
                more = small.until_step - steps
            else:
                until = -(-(small.until_tokens or 0) // seq_len)
                more = -(-(until - sequences) // small.global_batch_size)
            steps += more
            sequences += more * small.global_batch_size
        phases.append(BatchPhase(steps, sequences, optim.global_batch_size))
        return BatchSizes(tuple(phases))

    def of_step(self, step: int) -> int:
        """Sequences of step `step` (from 1)."""
        return self.phases[bisect_left(self.phases, step, key=lambda p: p.steps_before) - 1].size

    def sequences(self, steps: int) -> int:
        """Of the first `steps` steps together."""
        phase = self.phases[bisect_right(self.phases, steps, key=lambda p: p.steps_before) - 1]
        return phase.sequences_before + (steps - phase.steps_before) * phase.size

    def steps(self, sequences: int) -> int:
        """The fewest that have so many sequences."""
        later = bisect_left(self.phases, sequences, key=lambda p: p.sequences_before)
        phase = self.phases[max(0, later - 1)]
        return phase.steps_before - (-(sequences - phase.sequences_before) // phase.size)
