"""What people write after the options of goodput, as settings of a run."""

from typing import TYPE_CHECKING

from smolplan.cli.options import positive, share, span_s
from smolplan.errors import UserError
from smolplan.units import format_bytes, parse_bytes_per_s, parse_count

if TYPE_CHECKING:
    from planner.goodput import LocalSettings
    from planner.reliability import Fleet

PLAYBOOK = "Smol Training Playbook: WekaFS, 4.2 GiB/s"
PLAYBOOK_BYTES_PER_S = 4.2 * 2**30

LOCAL_EXAMPLE = "Give --local-every: 1min, or best."
LOST_EXAMPLE = "Write 2%, or 0 if no failure loses them."


def from_preset(name: str | None) -> tuple[float | None, int | None]:
    """Checkpoint bytes and GPUs."""
    if name is None:
        return None, None
    from planner.plan import make_plan
    from smolplan.spec import load_preset

    plan = make_plan(load_preset(name))
    return float(plan.checkpoint_bytes), plan.gpus


def gpu_seconds(work: str | None, gpu_hours: str | None, gpus: int | None, scaling: float) -> float:
    """Training without any loss, from either of the two options that tell it."""
    if (work is None) == (gpu_hours is None):
        raise UserError(
            "how much training is it?",
            where="--work",
            remedy="Give either --work (54d) or --gpu-hours (276480).",
        )
    if gpu_hours is not None:
        return positive("--gpu-hours", gpu_hours, parse_count) * 3600
    assert work is not None
    if gpus is None:
        raise UserError(
            "a span of work means nothing without the GPUs that do it",
            where="--work",
            remedy="Give --gpus, or --gpu-hours in its place.",
        )
    return span_s("--work", work) * gpus * scaling


def local_copies(every: str | None, lost: str | None, fleet: "Fleet") -> "LocalSettings | None":
    from planner.goodput import GIVEN, LocalSettings
    from planner.reliability import ASSUMED

    if every is None:
        if lost is not None:
            raise UserError(
                "there are no local copies to lose", where="--local-lost", remedy=LOCAL_EXAMPLE
            )
        return None
    every_s = None if every.strip().lower() == "best" else span_s("--local-every", every)
    if lost is None:
        source = f"{ASSUMED}: {fleet.name}'s failures that take a node, with no copy on another"
        return LocalSettings(every_s, fleet.node_share, source)
    none = lost.strip().removesuffix("%") in ("0", "0.0")
    part = 0.0 if none else share("--local-lost", lost, remedy=LOST_EXAMPLE)
    return LocalSettings(every_s, part, GIVEN)


def spans(
    given: dict[str, str | None],
    checkpoint_bytes: float | None,
    bandwidth: str | None,
    *,
    local: bool,
) -> dict[str, tuple[float, str]]:
    """Every span in seconds, with where it is from."""
    from planner.goodput import GIVEN
    from planner.reliability import ASSUMED, TYPICAL_S

    found = dict(TYPICAL_S)
    if checkpoint_bytes is not None:
        rate, source = PLAYBOOK_BYTES_PER_S, PLAYBOOK
        if bandwidth is not None:
            rate = positive("--storage-bandwidth", bandwidth, parse_bytes_per_s)
            source = GIVEN
        moved = f"{format_bytes(checkpoint_bytes)} at {format_bytes(rate)}/s ({source})"
        found["write"] = found["load"] = (checkpoint_bytes / rate, moved)
    elif bandwidth is not None:
        raise UserError(
            "a bandwidth says nothing without the bytes",
            where="--storage-bandwidth",
            remedy="Give --checkpoint-bytes or --preset.",
        )
    for name, text in given.items():
        if text is not None:
            where = f"--{name.replace('_', '-')}"
            if name.startswith("local") and not local:
                raise UserError("there are no local copies", where=where, remedy=LOCAL_EXAMPLE)
            found[name] = (span_s(where, text, zero=True), GIVEN)
    if local:
        found.setdefault("local_stall", (found["stall"][0], "as the stall"))
        found.setdefault("local_load", (found["load"][0], f"{ASSUMED}: as the load"))
    return found
