"""The tokenised files: all there, really on this host's disk, and as they were written."""

import json
from typing import Any

from preflight.checks.data.text import NO_TEXT, QUICK_TEXT_BYTES, prepared, text_bytes
from preflight.context import Context
from preflight.dataset import DataRefused
from preflight.registry import check
from preflight.report import Finding
from smolplan.units import count_of, format_bytes

SAMPLE_BYTES = 512 * 2**20
"""Read and checked in some seconds of a quick preflight."""
CHECKSUMS_S = 500.0

MAKE_ANEW = (
    "Copy the files named from a host that has them whole; or, where the source names its text, "
    "remove their folder: it is tokenised again at the next launch."
)


@check("data.files", tier="quick", remedy=MAKE_ANEW, deadline_s=300.0)
def files(context: Context) -> Finding:
    """Every tokenised file is there with its size, on the disk and not an evicted stub; checksums
    of a sample."""
    size = text_bytes(context)
    if size > QUICK_TEXT_BYTES:
        return Finding(
            state="skipped",
            summary=f"{format_bytes(size)} of text are read at first: see data.checksums",
        )
    try:
        dataset = context.dataset_made()
    except DataRefused:
        return NO_TEXT
    if dataset is None:
        return Finding(state="skipped", summary="the text has not been tokenised yet")
    given = {"dataset": dataset, "seed": context.spec.seed, "limit_bytes": SAMPLE_BYTES}
    found = context.probe("files", "sample", json.dumps(given), timeout_s=60.0)
    return judge_files(found, dataset)


def judge_files(found: dict[str, Any], dataset: dict[str, Any]) -> Finding:
    count, bad = len(dataset["files"]), found["wrong_files"]
    return Finding(
        state="fail" if bad else "pass",
        summary=f"missing or damaged: {bad} of {count_of(count, 'file')}"
        if bad
        else f"{count_of(count, 'file')}, {format_bytes(found['bytes'])}; checksums of "
        f"{found['checksums']}",
        why="; ".join(found["wrong"]),
        measured={"bytes": found["bytes"], "checksums": found["checksums"]},
        facts={"dataset": dataset["fingerprint"], "sample of the tokens": found["digest"]},
        source="spec",
    )


@check("data.checksums", remedy=MAKE_ANEW, deadline_s=CHECKSUMS_S + 100.0)
def checksums(context: Context) -> Finding:
    """All tokenised files are as they were written."""
    dataset = prepared(context)
    if isinstance(dataset, Finding):
        return NO_TEXT
    given = {"dataset": dataset, "limit_s": CHECKSUMS_S}
    found = context.probe("files", "checksums", json.dumps(given), timeout_s=CHECKSUMS_S + 90.0)
    count, looked_at, bad = len(dataset["files"]), found["files"], found["wrong_files"]
    how = count_of(count, "file") if looked_at == count else f"{looked_at:,} of {count:,} files"
    over = "" if looked_at == count else f" in {CHECKSUMS_S:g} s, the rest not looked at"
    return Finding(
        state="fail" if bad else "pass",
        summary=f"{bad} of {how} are damaged"
        if bad
        else f"{how}, {format_bytes(found['bytes'])}{over}",
        why="; ".join(found["wrong"]),
        measured={"bytes": found["bytes"], "files": looked_at},
        needed={"files": count},
        source="spec",
    )
