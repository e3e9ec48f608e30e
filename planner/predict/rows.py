"""A table of published training runs, read and checked: one Row a line."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from smolplan.errors import UserError

COUNT_COLUMNS = (
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "ffn",
    "vocab",
    "seq_len",
    "global_batch_tokens",
    "gpus",
    "nodes",
    "tp",
    "pp",
    "cp",
    "ep",
    "micro_batch",
    "vp",
)
MEASURED_COLUMNS = ("step_time_s", "tokens_per_s_per_gpu", "tflops_per_gpu", "mfu_pct")
NUMBER_COLUMNS = (
    *("params_b", "active_b", "mem_gib_per_gpu"),
    *COUNT_COLUMNS,
    *MEASURED_COLUMNS,
)
NEEDED_COLUMNS = (
    "model",
    "layers",
    "hidden",
    "heads",
    "vocab",
    "seq_len",
    "global_batch_tokens",
    "gpu",
    "gpus",
    "tp",
    "pp",
)
"""Without these columns nothing can be predicted; any other may be missing, or empty."""


@dataclass(frozen=True)
class Row:
    """One line. `cells` are the texts as they stand, `numbers` what of them are numbers."""

    line: int
    cells: dict[str, str]
    numbers: dict[str, float]

    def text(self, column: str) -> str:
        return self.cells.get(column, "")

    def number(self, column: str, default: float) -> float:
        return self.numbers.get(column, default)

    @property
    def origin(self) -> str:
        """ "model | source | notes": what the catalogues' patterns of software stacks are tried
        on."""
        return " | ".join(self.text(column) for column in ("model", "source", "notes"))


def read_rows(path: Path) -> list[Row]:
    """Every line of a CSV. Raises UserError with the file, line and column at fault."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UserError("there is no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"it cannot be read: {reason}", where=str(path)) from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        columns = list(reader.fieldnames or ())
        _check_columns(path, columns)
        for cells in reader:
            rows.append(_row(path, reader.line_num, cells))
    except csv.Error as error:
        raise UserError(
            f"it is not CSV: {error}", where=f"{path}, line {reader.line_num}"
        ) from None
    if not rows:
        raise UserError("it holds no rows", where=str(path), remedy="Give one line a run.")
    return rows


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [name for name in NEEDED_COLUMNS if name not in columns]
    if missing:
        raise UserError(
            f"columns are missing: {', '.join(missing)}",
            where=f"{path}, line 1",
            remedy="The first line names the columns; docs/accuracy.md lists them.",
        )
    if not any(name in columns for name in MEASURED_COLUMNS):
        raise UserError(
            "no column holds a measurement",
            where=f"{path}, line 1",
            remedy=f"Give one of {', '.join(MEASURED_COLUMNS)}.",
        )
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise UserError(f"columns stand there twice: {', '.join(twice)}", where=f"{path}, line 1")


def _row(path: Path, line: int, cells: dict[str, str]) -> Row:
    # DictReader files surplus cells under None, and fills missing ones with None.
    if None in cells or None in cells.values():
        raise UserError(
            "it has not as many cells as the first line has columns",
            where=f"{path}, line {line}",
            remedy="Quote cells that hold a comma.",
        )
    cells = {name: cell.strip() for name, cell in cells.items()}
    numbers = {
        name: _number(path, line, name, cells[name])
        for name in NUMBER_COLUMNS
        if cells.get(name, "")
    }
    return Row(line, cells, numbers)


def _number(path: Path, line: int, column: str, text: str) -> float:
    where = f"{path}, line {line}, column {column}"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"{text!r} is not a number", where=where, remedy="Leave it empty if unknown."
        )
    if value < 0 or (value == 0 and column not in MEASURED_COLUMNS):
        raise UserError(
            f"{text} is not more than zero", where=where, remedy="Leave it empty if unknown."
        )
    if column in COUNT_COLUMNS and column != "global_batch_tokens" and value != int(value):
        raise UserError(f"{text} is not a whole number", where=where)
    return value
