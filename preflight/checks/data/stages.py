"""Mixtures: their weights add up, and every source has the tokens that all stages take of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planner.storage import TEXT_BYTES_PER_TOKEN
from preflight.checks.data.text import (
    QUICK_TEXT_BYTES,
    prepared,
    source_files,
    text_bytes,
    used,
)
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.errors import UserError
from smolplan.mixture import Mixture, Use, exhausted, uses
from smolplan.spec import RunSpec, StageSpec
from smolplan.units import count_of

TOLERANCE = 1e-3
"""Of a sum of weights: fifty of them, written to four digits, may be off by less. SmolLM3's second
stage adds up to 1.00005, its decay to 1.00565 (huggingface/smollm, stage3_9T_11T.yaml)."""

NO_STAGES = Finding(state="skipped", summary="the spec has no stages")


@dataclass(frozen=True)
class Part:
    """A stage, with the steps that it has in the run."""

    stage: StageSpec
    start_step: int
    steps: int

    @property
    def weight(self) -> float:
        return sum(self.stage.weights.values())


def parts(spec: RunSpec) -> list[Part]:
    starts = spec.stage_starts
    ends = [*starts[1:], spec.steps + 1]
    return [
        Part(stage, start, max(0, min(end, spec.steps + 1) - start))
        for stage, start, end in zip(spec.data.stages, starts, ends, strict=True)
    ]


@check(
    "data.weights",
    tier="quick",
    passive=True,
    remedy="Write weights that add up to 1 in data.stages, of sources by the last part of their "
    "path in data.sources.",
)
def weights(context: Context) -> Finding:
    """The weights of each stage add up to 1, and name sources that there are."""
    spec = context.spec
    if not spec.data.stages:
        return NO_STAGES
    wrong, sums = [], {}
    known = set(spec.data.source_names)
    for number, part in enumerate(parts(spec)):
        where, name = f"data.stages.{number} ({part.stage.name})", part.stage.name
        sums[f"weights_of_{name}_ratio"] = part.weight
        if abs(part.weight - 1) > TOLERANCE:
            wrong.append(_sum_is_off(where, part))
        if part.steps == 0:
            wrong.append(f"{where} starts at step {part.start_step:,}: the run ends before")
        if known and (unknown := sorted(set(part.stage.weights) - known)):
            wrong.append(f"{where} names {', '.join(unknown)}: not in data.sources")
    least, most = min(sums.values()), max(sums.values())
    added = f"{least:.6g}" if least == most else f"{least:.6g} to {most:.6g}"
    return Finding(
        state="fail" if wrong else "pass",
        summary=f"{count_of(len(sums), 'stage')}, weights add up to {added}",
        why="; ".join(wrong),
        measured=sums,
        needed={"weights_ratio": 1.0},
        source="spec",
    )


def _sum_is_off(where: str, part: Part) -> str:
    if part.weight == 0:
        return f"{where}: all weights are 0"
    heaviest = max(part.stage.weights, key=lambda name: part.stage.weights[name])
    written = part.stage.weights[heaviest]
    return (
        f"{where}: its {len(part.stage.weights)} weights add up to {part.weight:.6g}: {heaviest} "
        f"gets {written / part.weight:.4g}, not the {written:g} that is written, and all others "
        "too, or a trainer that checks it ends"
    )


@check(
    "data.stages",
    remedy="Add text to the sources named, lower their weights in data.stages, or raise "
    "data.max_epochs.",
    deadline_s=900.0,
)
def stages(context: Context) -> Finding:
    """Every source has tokens enough for all stages."""
    spec = context.spec
    if not spec.data.stages:
        return NO_STAGES
    if not spec.data.sources:
        return Finding(state="skipped", summary="no text is named: see data.sources")
    if text_bytes(context) > QUICK_TEXT_BYTES:
        how = f", at {TEXT_BYTES_PER_TOKEN:g} B a token"
        try:
            found = _estimated(spec, source_files(context))
        except UserError:
            return Finding(state="skipped", summary="the weights cannot be: see data.weights")
    else:
        dataset = prepared(context)
        if isinstance(dataset, Finding):
            return Finding(state="skipped", summary="there are no tokens: see data.tokens")
        found, how = used(spec, dataset), ""
    worst = max(found, key=lambda use: use.epochs / use.epochs_max)
    return Finding(
        state="fail" if worst.too_often else "pass",
        summary=f"{worst.name[:16]} is read most: {worst.epochs:.3g} of "
        f"{count_of(f'{worst.epochs_max:g}', 'time')}{how}",
        why=exhausted(found),
        measured={f"{use.name}_epochs": use.epochs for use in found},
        needed={"epochs_max": worst.epochs_max},
        source="spec",
    )


def _estimated(spec: RunSpec, sources: Sequence[dict[str, Any]]) -> list[Use]:
    """By their bytes of text, or their tokens."""
    kept = 1 - spec.data.held_out_fraction
    tokens = [
        source["tokens"]
        if "tokens" in source
        else int(kept * source["bytes"] / TEXT_BYTES_PER_TOKEN)
        for source in sources
    ]
    sequences = [count // spec.data.seq_len for count in tokens]
    return uses(spec, Mixture.of(spec, spec.data.source_names, sequences), sequences)
