"""dataset.json of the spec's text, or what is wrong with the text: data checks begin with it."""

import json
from typing import Any

from preflight import dataset
from preflight.context import Context
from preflight.dataset import DataRefused
from preflight.report import Finding
from smolplan.mixture import Mixture, Use, uses
from smolplan.spec import RunSpec

REFUSED = "Mend what it names in the spec, and ask again by --only data."

QUICK_TEXT_BYTES = 4e9
"""Which tokenised dataset is a spec's follows from a checksum of all its text: some 10 s of it."""

NO_TEXT = Finding(state="skipped", summary="there is no tokenised text: see data.tokens")


def prepared(context: Context) -> dict[str, Any] | Finding:
    """dataset.json as the trainer makes it. The tokens stay in the user's cache, where the launch
    finds them."""
    try:
        return context.dataset()
    except DataRefused as refused:
        return Finding(
            state="fail", summary="the text is refused", why=str(refused), remedy=REFUSED
        )


def probe(
    context: Context, name: str, what: str, *arguments: str, timeout_s: float
) -> dict[str, Any] | Finding:
    """What preflight.probes.NAME says of the tokenised text. Raises ProbeError."""
    try:
        return dataset.probe(context, name, what, *arguments, timeout_s=timeout_s)
    except DataRefused:
        return NO_TEXT


def used(spec: RunSpec, dataset: dict[str, Any]) -> list[Use]:
    """How the whole run uses each source, as the trainer counts it."""
    names = [source["name"] for source in dataset["sources"]]
    sequences = [max(0, (s["tokens"] - 1) // spec.data.seq_len) for s in dataset["sources"]]
    return uses(spec, Mixture.of(spec, names, sequences), sequences)


def source_files(context: Context) -> list[dict[str, Any]]:
    """Of each source: path, files, bytes, error; and tokens, where it is one of tokens. Raises
    ProbeError."""
    wanted = [source.model_dump(mode="json") for source in context.spec.data.sources]

    def look() -> list[dict[str, Any]]:
        told = context.probe("files", "sources", json.dumps(wanted), timeout_s=55.0)
        found: list[dict[str, Any]] = told["sources"]
        return found

    return context.once("data.sources", look)


def text_bytes(context: Context) -> int:
    """Of all text that is read before its tokens are known; of given tokens none is. Raises
    ProbeError."""
    return sum(source["bytes"] for source in source_files(context) if "tokens" not in source)
