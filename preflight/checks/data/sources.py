"""The text: there, readable, long enough."""

from preflight.checks.data.text import prepared, source_files, used
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.mixture import exhausted
from smolplan.spec import PYTHON_STDLIB
from smolplan.units import count_of, format_bytes, format_count


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
        else f"{count_of(files, 'file')}, {format_bytes(size)}",
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
    have, want = dataset["tokens"], context.spec.tokens
    found = used(context.spec, dataset)
    worst = max(found, key=lambda use: use.epochs / use.epochs_max)
    return Finding(
        state="fail" if worst.too_often else "pass",
        summary=f"{format_count(have)} tokens, {worst.epochs:.3g} of "
        f"{count_of(f'{worst.epochs_max:g}', 'epoch')}",
        why=f"{format_count(want)} tokens are asked: {exhausted(found)}" if worst.too_often else "",
        measured={"tokens": have, "epochs": worst.epochs},
        needed={"tokens": want / worst.epochs_max, "epochs_max": worst.epochs_max},
        facts={"dataset": dataset["fingerprint"]},
        source="spec",
    )
