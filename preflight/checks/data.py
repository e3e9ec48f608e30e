"""The text: there, readable, long enough, and as it was written."""

import json
from typing import Any

from preflight.context import Context
from preflight.dataset import DataRefused
from preflight.registry import check
from preflight.report import Finding
from smolplan.spec import PYTHON_STDLIB
from smolplan.units import format_bytes, format_count

REFUSED = "Mend what it names in the spec, and ask again by --only data."


@check(
    "data.sources",
    remedy="Name folders that exist and files that match, in data.sources.",
    deadline_s=60.0,
)
def sources(context: Context) -> Finding:
    """Every source is there, can be read, and is not empty."""
    wanted = [source.model_dump() for source in context.spec.data.sources]
    if not wanted:
        return Finding(
            state="fail",
            summary="no text is named",
            why="data.sources is empty",
            remedy=f"Add a source to data.sources, for instance: path: {PYTHON_STDLIB}",
            source="spec",
        )
    found = context.probe("files", "sources", json.dumps(wanted), timeout_s=55.0)["sources"]
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
    )


@check(
    "data.tokens",
    remedy="Add text, shorten the run (optim.steps or optim.tokens), or raise data.max_epochs.",
    deadline_s=900.0,
)
def tokens(context: Context) -> Finding:
    """The text, tokenised as the run will read it, is long enough for the tokens asked."""
    dataset = _dataset(context)
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
        source="spec",
    )


@check(
    "data.checksums",
    remedy="Remove the folder named: the text is tokenised again at the next launch.",
    deadline_s=600.0,
)
def checksums(context: Context) -> Finding:
    """The tokenised files are as they were written."""
    dataset = _dataset(context)
    if isinstance(dataset, Finding):
        return Finding(state="skipped", summary="there are none: see data.tokens")
    found = context.probe("files", "checksums", json.dumps(dataset), timeout_s=590.0)
    return Finding(
        state="fail" if found["wrong"] else "pass",
        summary=f"{len(found['wrong'])} of {len(dataset['files'])} files are damaged"
        if found["wrong"]
        else f"{len(dataset['files'])} files, {format_bytes(found['bytes'])}",
        why="; ".join(found["wrong"]),
        measured={"bytes": found["bytes"]},
    )


def _dataset(context: Context) -> dict[str, Any] | Finding:
    """dataset.json as the trainer makes it, or what it says is wrong with the text. The tokens
    stay in the user's cache, where the launch finds them."""
    try:
        return context.dataset()
    except DataRefused as refused:
        return Finding(
            state="fail", summary="the text is refused", why=str(refused), remedy=REFUSED
        )
