"""The loader is fast enough and small at the length of the real run, and mixes well."""

import math
from typing import Any

from preflight.checks.data.text import NO_TEXT, probe
from preflight.checks.storage.needs import StorageNeeds, storage_needs
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import format_bytes, format_count, format_duration

MEASURED_S = 1.5
FALL = 0.5
"""A last step's batches that come at less than this share of the first one's rate."""
MOST_MEMORY_BYTES = 256e6
"""Of each rank: a fourth of what host.memory leaves it beside the model."""
SLOW_OPEN_S = 60.0
"""Every start waits for it (from memory: an index of a run of millions of steps takes minutes)."""

MORE_THAN_CHANCE = 2.0
LEAST_EXCESS = 0.02
"""Of all pairs in a batch: less moves no loss that a person would see."""


@check(
    "data.loader",
    remedy="Put the tokens on a local SSD (data.cache_dir); a loader that slows down or grows with "
    "the steps needs an order that is computed, not stored.",
    deadline_s=60.0,
    peers={"sequences_per_s": "higher"},
)
def loader(context: Context) -> Finding:
    """Batches of the first, the middle and the last step of the real run come fast enough, from
    a loader that does not grow."""
    found = probe(context, "loader", "measure", str(MEASURED_S), timeout_s=55.0)
    if isinstance(found, Finding):
        return NO_TEXT
    ranks = context.spec.parallel.data_parallel
    return judge_loader(found, storage_needs(context), context.spec.steps, ranks)


def judge_loader(
    found: dict[str, Any], needs: StorageNeeds, steps: int, data_ranks: int
) -> Finding:
    rates, memory = found["sequences_per_s"], found["memory_bytes"]
    wished = None if needs.sequences_per_s is None else needs.sequences_per_s / data_ranks
    slowest, wrong, odd = min(rates), [], []
    if wished is not None and slowest < wished:
        wrong.append(
            f"a rank trains {wished:.3g} sequences a second and gets {slowest:.3g}: it would wait"
        )
    if rates[-1] < FALL * rates[0]:
        odd.append(
            f"at step {steps:,} batches come at {rates[-1] / rates[0]:.0%} of the first step's rate"
        )
    if memory > MOST_MEMORY_BYTES:
        odd.append(f"it takes {format_bytes(memory)} of each rank for {steps:,} steps")
    if found["open_s"] > SLOW_OPEN_S:
        odd.append(f"opening it takes {format_duration(found['open_s'])}, at every start")
    summary = f"{format_count(slowest)} sequences/s a rank, "
    summary += f"up to step {steps:,}" if wished is None else f"{wished:.3g}/s needed"
    needed = {"memory_bytes_max": MOST_MEMORY_BYTES, "open_s_max": SLOW_OPEN_S}
    if wished is not None:
        needed["sequences_per_s"] = wished
    return Finding(
        state="fail" if wrong else "warn" if odd else "pass",
        summary=summary,
        why="; ".join([*wrong, *odd]),
        measured={
            "sequences_per_s": slowest,
            "first_sequences_per_s": rates[0],
            "last_sequences_per_s": rates[-1],
            "memory_bytes": memory,
            "open_s": found["open_s"],
        },
        needed=needed,
        source="table" if wished is None else "plan",
    )


@check(
    "data.order",
    severity="advisory",
    remedy="Shuffle the sequences, not only the documents: one long document fills a batch, and "
    "the loss spikes.",
    deadline_s=60.0,
)
def order(context: Context) -> Finding:
    """The sequences of a batch are as unlike as sequences drawn at random."""
    found = probe(context, "tokens", "order", timeout_s=55.0)
    return NO_TEXT if isinstance(found, Finding) else judge_order(found)


def judge_order(found: dict[str, Any]) -> Finding:
    neighbours, chance = found["neighbours"], found["neighbours_by_chance"]
    odd = []
    # Five standard deviations of a Poisson count, and as many as two batches may have by accident.
    if neighbours > chance + 5 * math.sqrt(chance) + 5:
        odd.append(
            f"{neighbours:,} pairs of sequences in {found['batches']} batches are neighbours in "
            f"the text, {chance:.3g} would be by chance"
        )
    measured = {"neighbours": float(neighbours), "neighbours_by_chance": chance}
    alike, summary = found["same_document_ratio"], f"{neighbours:,} neighbours in a batch"
    if alike is not None:
        by_chance = found["same_document_ratio_by_chance"]
        measured["same_document_ratio"] = alike
        measured["same_document_ratio_by_chance"] = by_chance
        summary = f"{alike:.2%} of pairs share a document, {by_chance:.2%} by chance"
        if alike > max(MORE_THAN_CHANCE * by_chance, by_chance + LEAST_EXCESS):
            odd.append(
                f"{alike:.0%} of the pairs of sequences in a batch come from one document, "
                f"{by_chance:.1%} would by chance"
            )
    return Finding(
        state="warn" if odd else "pass",
        summary=summary,
        why="; ".join(odd),
        measured=measured,
        source="none" if alike is None else "table",
    )
