"""Which checkpoints stay. Needs no torch."""

from collections.abc import Collection, Mapping

from smolplan.checksums import checksum
from smolplan.rundir import RunDir, read_json
from smolplan.spec.checkpoint import CheckpointSpec


def kept(whole: Collection[int], policy: CheckpointSpec, scores: Mapping[int, float]) -> set[int]:
    """Of the steps with a whole checkpoint, those that one of the policy's rules keeps. `scores`:
    held-out bits per byte by step, as far as they are known; of equal ones the later is better."""
    by_age = sorted(whole, reverse=True)
    by_score = sorted((scores[step], -step) for step in whole if step in scores)
    stay = {*by_age[: policy.keep_last], *(-step for _, step in by_score[: policy.keep_best])}
    stay |= set(whole).intersection(policy.milestones)
    if (every := policy.keep_every_steps) is not None:
        stay |= {step for step in whole if step % every == 0}
    return stay


def held_out_scores(run: RunDir, steps: Collection[int]) -> dict[int, float]:
    """Bits per byte of the held-out text, of those steps whose checkpoints were evaluated as they
    are now."""
    told = {step: read_json(run.evaluation(step)) or {} for step in steps}
    found = {
        step: content.get("bits_per_byte")
        for step, content in told.items()
        if content.get("checkpoint") in (None, checksum(run, step))
    }
    return {step: value for step, value in found.items() if isinstance(value, int | float)}
