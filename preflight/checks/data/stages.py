"""Mixtures: their weights add up, and every source has the tokens that all stages take of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.storage import TEXT_BYTES_PER_TOKEN
from preflight.checks.data.text import QUICK_TEXT_BYTES, prepared, source_files
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.spec import RunSpec, StageSpec
from smolplan.units import format_count

TOLERANCE = 1e-3
"""Of a sum of weights: fifty of them, written to four digits, may be off by less. SmolLM3's second
stage adds up to 1.00005, its decay to 1.00565 (huggingface/smollm, stage3_9T_11T.yaml)."""

NO_STAGES = Finding(state="skipped", summary="the spec has no stages")


@dataclass(frozen=True)
class Part:
    """A stage, with the steps that it has in the run."""

    stage: StageSpec
    steps: int

    @property
    def weight(self) -> float:
        return sum(self.stage.weights.values())


def parts(spec: RunSpec) -> list[Part]:
    ends = [*(stage.start_step for stage in spec.data.stages[1:]), spec.steps + 1]
    return [
        Part(stage, max(0, min(end, spec.steps + 1) - stage.start_step))
        for stage, end in zip(spec.data.stages, ends, strict=True)
    ]


def source_names(spec: RunSpec) -> list[str]:
    return [Path(source.path).name or source.path for source in spec.data.sources]


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
    known = set(source_names(spec))
    for number, part in enumerate(parts(spec)):
        where, name = f"data.stages.{number} ({part.stage.name})", part.stage.name
        sums[f"weights_of_{name}_ratio"] = part.weight
        if abs(part.weight - 1) > TOLERANCE:
            wrong.append(_sum_is_off(where, part))
        if part.steps == 0:
            wrong.append(f"{where} starts at step {part.stage.start_step:,}: the run ends before")
        if known and (unknown := sorted(set(part.stage.weights) - known)):
            wrong.append(f"{where} names {', '.join(unknown)}: not in data.sources")
    least, most = min(sums.values()), max(sums.values())
    added = f"{least:.6g}" if least == most else f"{least:.6g} to {most:.6g}"
    return Finding(
        state="fail" if wrong else "pass",
        summary=f"{len(sums)} stages, weights add up to {added}",
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


def epochs_by_source(
    spec: RunSpec, stages: Sequence[Part], tokens: Mapping[str, float]
) -> dict[str, float]:
    """How often all stages together read each source. `tokens`: of each."""
    taken = dict.fromkeys(tokens, 0.0)
    for part in stages:
        stage_tokens = part.steps * spec.global_batch_tokens
        for name, weight in part.stage.weights.items():
            if name in taken and part.weight:
                taken[name] += weight / part.weight * stage_tokens
    return {name: taken[name] / have if have else float("inf") for name, have in tokens.items()}


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
    sizes = [source["bytes"] for source in source_files(context)]
    per_token, how = TEXT_BYTES_PER_TOKEN, f", at {TEXT_BYTES_PER_TOKEN:g} B a token"
    if sum(sizes) <= QUICK_TEXT_BYTES:
        dataset = prepared(context)
        if isinstance(dataset, Finding):
            return Finding(state="skipped", summary="there are no tokens: see data.tokens")
        total = dataset["tokens"] + dataset["held_out_tokens"]
        per_token, how = sum(sizes) / total, ""
    kept = 1 - spec.data.held_out_fraction
    tokens: dict[str, float] = {}
    for name, size in zip(source_names(spec), sizes, strict=True):
        tokens[name] = tokens.get(name, 0.0) + kept * size / per_token
    epochs = epochs_by_source(spec, parts(spec), tokens)
    most = spec.data.max_epochs
    short = [
        f"{name} has {format_count(tokens[name])} tokens, and is read {count:.3g} times"
        for name, count in epochs.items()
        if count > most
    ]
    worst = max(epochs, key=lambda name: epochs[name])
    return Finding(
        state="fail" if short else "pass",
        summary=f"{worst[:16]} is read most: {epochs[worst]:.3g} of {most:g} times{how}",
        why=f"more than data.max_epochs {most:g}: {'; '.join(short)}" if short else "",
        measured={f"{name}_epochs": count for name, count in epochs.items()},
        needed={"epochs_max": most},
        source="spec",
    )
