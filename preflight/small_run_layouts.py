"""The first steps of the small run again, laid out otherwise: what is computed must not change.

SmolLM3's tensor-parallel ranks drew their shards from one seed; training went on, slightly worse,
and it was noticed a trillion tokens later (Smol Training Playbook).
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from preflight import ranks
from preflight.once import ProbeError
from preflight.small_run_ranks import (
    COMPILED_TIMEOUT_S,
    TIMEOUT_S,
    TrainingFailed,
    raise_if_failed,
)
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec

if TYPE_CHECKING:
    from preflight.small_run import SmallRun

COMPARED = 4
"""Steps: the first sees the initial weights only, the others every part of an update."""

FIRST_STEP, LATER_STEPS = 1e-5, 1e-3
"""Largest relative difference of loss and gradient norm in fp32. Sums in another order make 4e-8 in
the first step and 3e-7 up to the fourth, measured on CPUs; a rank that draws its weights from
another seed makes 1e-3 and more in the first, tensor-parallel ranks that draw the same shard 1e-1
(tests/preflight/test_training.py)."""


UNDIVIDED: dict[str, Any] = {
    "tensor_parallel": 1,
    "context_parallel": 1,
    "pipeline_parallel": 1,
    "virtual_pipeline": 1,
    "schedule": "1f1b",
    "shard_group": 0,
    "expert_parallel": 1,
}
"""Data parallel at most."""

Changes: TypeAlias = dict[str, dict[str, Any]]
"""Part of the spec → field → value."""


@dataclass(frozen=True)
class Variant:
    name: str
    spec: RunSpec


@dataclass(frozen=True)
class Apart:
    """How far a variant's first steps lie from the base's."""

    name: str
    first: float
    """Largest relative difference of loss and gradient norm in step 1."""
    later: float
    equal: bool
    """Bit for bit."""

    @property
    def within_rounding(self) -> bool:
        return self.first <= FIRST_STEP and self.later <= LATER_STEPS


@dataclass(frozen=True)
class Layouts:
    repeated: Apart
    """The small run itself, once more."""
    others: tuple[Apart, ...]


def compare_layouts(small: "SmallRun") -> Layouts:
    """Raises ProbeError and TrainingFailed."""
    reference = small.reference()
    base = Variant("base", base_spec(small.spec))
    wanted = [Variant("repeated", small.spec), base, *variants(base.spec)]
    if small.compiles:
        wanted.append(Variant("compiled", with_parts(base.spec, launch={"compile": True})))
    runs = first_steps(small, wanted)
    others = [_apart(v.name, runs["base"], runs[v.name]) for v in wanted[2:]]
    for apart in list(others):
        parts = apart.name.split(" + ")
        if len(parts) > 1 and not apart.within_rounding:
            # One by one, to name the culprit.
            alone = [v for v in singles(base.spec) if v.name in parts]
            found = first_steps(small, alone)
            guilty = [_apart(name, runs["base"], run) for name, run in found.items()]
            others.remove(apart)
            others += [a for a in guilty if not a.within_rounding] or [apart]
    return Layouts(_apart("repeated", reference, runs["repeated"]), tuple(others))


def base_spec(spec: RunSpec) -> RunSpec:
    """In fp32, so that rounding is small."""
    return with_parts(spec, optim={"precision": "fp32"})


def variants(base: RunSpec) -> list[Variant]:
    """What is to agree with the base: all that the trainer can do on the same kinds of parallelism
    in one run, and a run for each other kind that it supports, or without one."""
    together: Changes = {}
    for _, changes in _changes(base):
        for part, change in changes.items():
            together.setdefault(part, {}).update(change)
    combined = " + ".join(name for name, _ in _changes(base))
    made = [_variant(base, combined, together)]
    made += [_variant(base, name, changes) for name, changes in _degrees(base)]
    return [variant for variant in made if variant]


def singles(base: RunSpec) -> Iterator[Variant]:
    """One change each; those that the trainer cannot run are left out."""
    for name, changes in [*_changes(base), *_degrees(base)]:
        if made := _variant(base, name, changes):
            yield made


def _degrees(base: RunSpec) -> Iterator[tuple[str, Changes]]:
    """The same ranks, with two of a kind where there is one, and with one where there are more."""
    for kind in ("tensor_parallel", "context_parallel", "pipeline_parallel"):
        now = getattr(base.parallel, kind)
        degree = 2 if now == 1 else 1
        data, left = divmod(base.parallel.data_parallel * now, degree)
        if not left:
            change = {kind: degree, "data_parallel": data, "shard_group": 0, "expert_parallel": 1}
            if kind == "pipeline_parallel":
                change |= {"virtual_pipeline": 1, "schedule": "1f1b"}
            yield f"{kind} {degree}", {"parallel": change}
    if base.model.experts is not None:
        degree = 2 if base.parallel.expert_parallel == 1 else 1
        yield f"expert_parallel {degree}", {"parallel": {"expert_parallel": degree}}


def _changes(base: RunSpec) -> list[tuple[str, Changes]]:
    parallel = base.parallel
    # Weights that are gathered anew for each pass are no part of a zero-bubble schedule.
    stage = 2 if parallel.zero_stage == 3 else 0 if parallel.schedule == "zero-bubble" else 3
    recompute = "full" if parallel.recompute == "none" else "none"
    changes: list[tuple[str, Changes]] = [
        (f"zero_stage {stage}", {"parallel": {"zero_stage": stage}}),
        (f"recompute {recompute}", {"parallel": {"recompute": recompute}}),
        ("micro_batch_size 2", {"parallel": {"micro_batch_size": 2}}),
    ]
    if parallel.data_parallel > 1:
        left = parallel.ranks // parallel.data_parallel
        one = {
            "parallel": {"data_parallel": 1, "shard_group": 0, "expert_parallel": 1},
            "cluster": {"gpus_per_node": left},
        }
        changes.append(("data_parallel 1", one))
    return changes


def _variant(base: RunSpec, name: str, changes: Changes) -> Variant | None:
    try:
        spec = with_parts(base, **changes)
    except ValidationError:
        return None
    return None if spec.unsupported_by_trainer() else Variant(name, spec)


def with_parts(spec: RunSpec, **changes: dict[str, Any]) -> RunSpec:
    """The spec with fields of its parts changed, validated anew."""
    content = spec.model_dump(mode="json")
    for part, change in changes.items():
        content[part] |= change
    return RunSpec.model_validate(content)


def first_steps(small: "SmallRun", wanted: Sequence[Variant]) -> dict[str, RunDir]:
    """Runs of the variants, all at once, broken off after the steps that are compared."""
    runs = {v.name: small.new(v.name.replace(" ", "-"), v.spec) for v in wanted}
    children = {v.name: small.start(runs[v.name], v.spec.parallel.ranks) for v in wanted}
    timeout_s = COMPILED_TIMEOUT_S if any(v.spec.launch.compile for v in wanted) else TIMEOUT_S
    deadline = time.monotonic() + timeout_s
    try:
        while waiting := [n for n, run in runs.items() if len(run.read_metrics()) < COMPARED]:
            for name in waiting:
                try:
                    raise_if_failed(children[name])
                except TrainingFailed:
                    # Since it was looked at it may have made these steps, and failed behind them.
                    if len(runs[name].read_metrics()) < COMPARED:
                        raise
            if time.monotonic() > deadline:
                raise ProbeError(f"no {COMPARED} steps within {timeout_s:g} s")
            time.sleep(0.02)
    finally:
        for group in children.values():
            ranks.kill(group)
    return runs


def _apart(name: str, base: RunDir, other: RunDir) -> Apart:
    one, two = (run.read_metrics()[:COMPARED] for run in (base, other))
    apart = [
        max(relative(a[field], b[field]) for field in ("loss", "grad_norm"))
        for a, b in zip(one, two, strict=True)
    ]
    equal = all(
        a[field] == b[field] for a, b in zip(one, two, strict=True) for field in ("loss", "lr")
    )
    return Apart(name, apart[0], max(apart[1:]), equal and max(apart) == 0.0)


def relative(a: float, b: float) -> float:
    return abs(a - b) / abs(a) if math.isfinite(a) and math.isfinite(b) and a else math.inf
