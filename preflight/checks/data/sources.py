"""The text: there, readable, long enough."""

from preflight.checks.data.text import prepared, source_files
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.spec import PYTHON_STDLIB
from smolplan.units import format_bytes, format_count


@check(
    "data.sources",
    tier="quick",
    passive=True,
    remedy="Name folders that exist and files that match, in data.sources; have evicted files "
    "brought back.",
    deadline_s=60.0,
)
def sources(context: Context) -> Finding:
    """Every source is there, can be read, is not empty, and is on the disk as a whole."""
    if not context.spec.data.sources:
        return Finding(
            state="fail",
            summary="no text is named",
            why="data.sources is empty",
            remedy=f"Add a source to data.sources, for instance: path: {PYTHON_STDLIB}",
            source="spec",
        )
    found = source_files(context)
    bad = [
        f"data.sources.{n}: {s['path']}: {s['error']}" for n, s in enumerate(found) if s["error"]
    ]
    size, files = sum(s["bytes"] for s in found), sum(s["files"] for s in found)
    return Finding(
        state="fail" if bad else "pass",
        summary=f"{len(bad)} of {len(found)} cannot be read"
        if bad
        else f"{files:,} files, {format_bytes(size)}",
        why="; ".join(bad),
        measured={"files": files, "bytes": size},
        facts={"text": f"{files} files, {size} bytes"},
    )


@check(
    "data.tokens",
    remedy="Add text, shorten the run (optim.steps or optim.tokens), or raise data.max_epochs.",
    deadline_s=900.0,
)
def tokens(context: Context) -> Finding:
    """The text, tokenised as the run will read it, is long enough for the tokens asked."""
    dataset = prepared(context)
    if isinstance(dataset, Finding):
        return dataset
    have, want, epochs = dataset["tokens"], context.spec.tokens, context.spec.data.max_epochs
    short = want > epochs * have
    return Finding(
        state="fail" if short else "pass",
        summary=f"{format_count(have)} tokens, {want / have:.3g} of {epochs:g} epochs",
        why=f"{format_count(want)} tokens are asked; {format_count(have)} read "
        f"{epochs:g} times (data.max_epochs) give {format_count(epochs * have)}"
        if short
        else "",
        measured={"tokens": have, "epochs": want / have},
        needed={"tokens": want / epochs, "epochs_max": epochs},
        facts={"dataset": dataset["fingerprint"]},
        source="spec",
    )
