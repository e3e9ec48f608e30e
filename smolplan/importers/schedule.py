"""Learning-rate schedules of others as warm-up, constant, linear decay to 0 at the end."""

from dataclasses import dataclass

from smolplan.importers.draft import Draft


@dataclass(frozen=True)
class Decay:
    """A decay as another framework describes it."""

    start: int
    """Steps before it begins."""
    length: int
    shape: str
    """linear, cosine …"""
    floor: float
    """What it ends at, in the unit of the field it was read from; 0: nothing."""
    length_source: str
    shape_source: str
    floor_source: str


def put_decay(draft: Draft, steps: int, decay: Decay) -> None:
    """The decay as the spec can hold it; what is different about it is said."""
    start, end = decay.start, decay.start + decay.length
    length = decay.length
    in_file = draft.source.get(decay.length_source) or length
    # A start counted from one ends a step after the run, and is meant to end with it.
    if end > steps + 1:
        length = max(0, steps - start)
        draft.leave(
            decay.length_source,
            in_file,
            f"the decay would end at step {end:,}, the run ends at {steps:,}: a run spec decays "
            f"to 0 over the {length:,} steps that are left",
        )
    elif 0 < end < steps and decay.length:
        draft.leave(
            decay.length_source,
            in_file,
            f"the decay ends at step {end:,} and the run goes on to {steps:,}: a run spec's decay "
            f"of that length ends with the run",
        )
    draft.put("optim.decay_steps", length, decay.length_source)
    if length and decay.shape != "linear":
        draft.leave(decay.shape_source, decay.shape, "a run spec decays in a straight line")
    if length and decay.floor > 0:
        draft.leave(decay.floor_source, decay.floor, "a run spec decays to 0")
