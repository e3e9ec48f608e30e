"""From where a run that met bad batches goes on, and which of them it skips: pure arithmetic.

The practice is PaLM's (arXiv 2204.02311, section 5.1): go back to a checkpoint about 100 steps
before the spike and skip 200 to 500 batches, those seen before and during it. The batches alone do
not do it, nor does the state of the model: it is the two together, so both are changed.
"""

from monitor.view import RunView
from smolplan.roll_back import RollBack
from smolplan.skipped import Skipped


def roll_back(view: RunView, onset: int, reason: str) -> RollBack | None:
    """Behind step `onset` (from 1), to begin with the next attempt; None where all checkpoints are
    of later steps. Half of monitor.skip_batches lie before the onset, as far as there is a
    checkpoint from which to do them otherwise."""
    batches, before = view.settings.skip_batches, [s for s in view.checkpoints if s < onset]
    if view.checkpoints and not before:
        return None
    first = max(1, onset - batches // 2)
    early = [step for step in before if step < first]
    from_step = max(early) if early else min(before, default=0)
    first = max(first, from_step + 1)
    skipped = view.skipped
    begin = skipped.position_after(view.batches.sequences(first - 1))
    end = skipped.position_after(view.batches.sequences(first - 1 + batches))
    return RollBack(
        attempt=view.attempt.number + 1,
        onset_step=onset,
        from_step=from_step,
        skip=skipped | Skipped(((begin, end - 1),)),
        reason=f"{reason}; going back to step {from_step} and skipping the {batches} batches from "
        f"step {first} on",
    )
