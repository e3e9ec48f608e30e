"""Which rows are fitted and which are only predicted: by source and model, never by run."""

import hashlib
import re
from collections.abc import Iterable

from planner.predict.catalog import find_stack
from planner.predict.rows import Row

FIT_SHARE = 0.6
FOLDS = 5


def unit_of(row: Row) -> str:
    """Source and model without versions, files or layer-reduced variants: what is likely to share
    its measurements stays on one side."""
    source = re.split(r"[@:(,;]", row.text("source").replace("arXiv:", "arXiv "))[0].strip()
    model = re.sub(r"-proxy\w*|_l\d+.*|_tp\d+.*", "", row.text("model"))
    return f"{source}|{model}"


def is_fitted(row: Row) -> bool:
    """By a hash of the unit: the same on every machine, and unmoved by other rows."""
    digest = hashlib.sha256(unit_of(row).encode()).digest()
    return digest[0] / 256.0 < FIT_SHARE


def folds_of(rows: Iterable[Row]) -> dict[str, int]:
    """The fold of each unit: those of one software stack, ordered by hash, are dealt out in turn,
    so that each fold leaves rows of the stack to fit on."""

    def order(unit: str) -> tuple[str, bytes]:
        return stacks[unit], hashlib.sha256(unit.encode()).digest()

    stacks = {unit_of(row): find_stack(row.origin).name for row in rows}
    return {unit: place % FOLDS for place, unit in enumerate(sorted(stacks, key=order))}
