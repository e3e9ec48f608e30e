"""The tokens are the spec's tokeniser's, and make sense."""

from pathlib import Path
from typing import Any

from preflight.checks.data.text import NO_TEXT, prepared, probe
from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.spec import RunSpec

LEAST_ROUND_TRIP = 0.9
"""Pairs of tokens that are the same again when the text that they stand for is tokenised: 0.9999
of a byte-level BPE's own tokens, 0.31 to 0.89 of those of twelve others of 400 to 2,048 entries
(measured on the preset tiny-cpu)."""
MOST_UNREADABLE = 0.01
"""Of all letters, those that are no UTF-8: ends of windows that cut a letter are not counted."""
MOST_REPEATED = 0.05
"""Deduplicated text has a few in a thousand (from memory)."""
MOST_CONSTANT = 0.01

ANOTHER = (
    "Name the tokeniser that the tokens were made by in data.tokenizer; or, where the source names "
    "its text, remove the folder of the tokens: it is tokenised again at the next launch."
)


@check("data.tokenizer", remedy=ANOTHER, deadline_s=90.0)
def tokenizer(context: Context) -> Finding:
    """The tokens are those that the spec's tokeniser makes of the text, and its end-of-document
    token is theirs."""
    dataset, found = prepared(context), probe(context, "tokens", "tokenizer", timeout_s=80.0)
    if isinstance(dataset, Finding) or isinstance(found, Finding):
        return NO_TEXT
    return judge_tokenizer(found, dataset, context.spec)


def judge_tokenizer(found: dict[str, Any], dataset: dict[str, Any], spec: RunSpec) -> Finding:
    kept, vocab_size = found["round_trip_ratio"], spec.model.vocab_size
    wrong = []
    if found["differing"]:
        own = Path(dataset["folder"]) / dataset["tokenizer"]
        wrong.append(
            f"data.tokenizer {spec.tokenizer} and {own}, which came with the tokens, differ in "
            f"{found['differing']:,} of {found['entries']:,} entries"
        )
    if found["separator"] != dataset["separator"]:
        wrong.append(
            f"documents end with token {dataset['separator']}, the tokeniser's end of text is "
            f"{found['separator']}"
        )
    if found["highest"] >= vocab_size:
        wrong.append(f"its highest id is {found['highest']}, model.vocab_size is {vocab_size}")
    first = found["first_text"]
    if first["differs_at"] != -1:
        wrong.append(
            f"{dataset['folder']} begins with {first['path']}, but differs from what the "
            f"tokeniser makes of it at token {first['differs_at']:,}: another one made the tokens"
        )
    elif kept is not None and kept < LEAST_ROUND_TRIP:
        wrong.append(
            f"only {kept:.0%} of the tokens in {dataset['folder']} are what the tokeniser makes "
            "of the text they stand for: another one made them"
        )
    if kept is not None and found["unreadable_ratio"] > MOST_UNREADABLE:
        wrong.append(f"{found['unreadable_ratio']:.1%} of a sample's letters are no UTF-8")
    measured = {"differing_entries": float(found["differing"])}
    summary = "its entries are those that came with the tokens"
    if first["tokens"]:
        summary = f"the first {first['tokens']:,} tokens are the text's"
    if kept is not None:
        measured["round_trip_ratio"] = kept
        measured["unreadable_ratio"] = found["unreadable_ratio"]
        summary = f"{kept:.1%} come back: “{found['excerpt'][:26]}…”"
    return Finding(
        state="fail" if wrong else "pass",
        summary="the tokens are not this tokeniser's" if wrong else summary,
        why="; ".join(wrong),
        measured=measured,
        needed={"round_trip_ratio": LEAST_ROUND_TRIP, "unreadable_ratio_max": MOST_UNREADABLE},
        source="table",
    )


@check(
    "data.values",
    remedy="Make the tokens anew with the spec's own tokeniser (of text: remove their folder); "
    "raise model.vocab_size if it is too small.",
    deadline_s=90.0,
)
def values(context: Context) -> Finding:
    """No token is beyond the model's vocabulary, documents end where they should, and sequences
    are not empty or the same."""
    dataset, found = prepared(context), probe(context, "tokens", "values", timeout_s=85.0)
    if isinstance(dataset, Finding) or isinstance(found, Finding):
        return NO_TEXT
    return judge_values(found, dataset, context.spec)


def judge_values(found: dict[str, Any], dataset: dict[str, Any], spec: RunSpec) -> Finding:
    vocab_size, documents = spec.model.vocab_size, dataset["documents"]
    whole = found["looked_at"] == found["tokens"]
    wrong, odd = [], []
    if found["highest"] >= vocab_size:
        wrong.append(
            f"{dataset['folder']}: token {found['highest']} is there, model.vocab_size is "
            f"{vocab_size}: the embedding would be read beyond its end"
        )
    if whole and found["separators"] != documents:
        wrong.append(
            f"{dataset['folder']}: {found['separators']:,} ends of document, but {documents:,} "
            "documents"
        )
    if found["constant_ratio"] > MOST_CONSTANT:
        wrong.append(f"{found['constant_ratio']:.1%} of the sequences are one token all along")
    elif found["repeated_ratio"] > MOST_REPEATED:
        odd.append(f"{found['repeated_ratio']:.1%} of the sequences of a sample are repeated")
    share = "all" if whole else f"{found['looked_at'] / found['tokens']:.0%}"
    return Finding(
        state="fail" if wrong else "warn" if odd else "pass",
        summary=f"{share} tokens below {vocab_size:,}; {found['repeated_ratio']:.1%} repeated, "
        f"{found['constant_ratio']:.1%} empty",
        why="; ".join([*wrong, *odd]),
        measured={
            "highest_token": found["highest"],
            "repeated_ratio": found["repeated_ratio"],
            "constant_ratio": found["constant_ratio"],
        },
        needed={
            "highest_token_max": vocab_size - 1,
            "repeated_ratio_max": MOST_REPEATED,
            "constant_ratio_max": MOST_CONSTANT,
        },
        source="spec",
        remedy="Deduplicate the text." if odd and not wrong else "",
    )
