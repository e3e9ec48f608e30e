"""Series of a run as files hold them: CSV of trackers and papers, or a run's own record.

What a column means goes by its name. Long files have a line for each value or step, with the run's
name in a column; wide ones, as wandb exports them, a column for each run, "RUN - METRIC".
"""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monitor.collect.evaluations import Curves, Score, curves, read_evaluations
from monitor.collect.rows import StepRow, row_of_metrics
from smolplan.errors import UserError
from smolplan.rundir import RunDir, read_lines
from smolplan.spec import load_spec

NAMES = {
    "run": ("run_name", "run", "name"),
    "step": ("step", "_step", "global_step", "iteration", "iter", "train_step"),
    "tokens": ("tokens", "consumed_tokens", "tokens_seen"),
    "throughput": (
        "throughput",
        "tokens_per_s",
        "tokens_per_sec",
        "tokens_per_second",
        "tokens_per_s_per_gpu",
        "tokens_per_sec_per_gpu",
        "tokens_per_second_per_gpu",
        "tokens/s",
        "tok/s",
        "tps",
    ),
    "step_s": ("step_s", "step_time", "step_time_s", "time_per_step"),
    "loss": ("loss", "lm_loss", "train_loss", "train/loss"),
    "grad_norm": ("grad_norm", "gradient_norm"),
    "data_wait_s": ("data_wait_s",),
    "metric": ("metric", "task", "benchmark"),
    "value": ("value", "score"),
    "standard_error": ("stderr", "standard_error", "se"),
    "samples": ("samples", "n", "questions"),
}
"""What a column may be called, in any case; the first that there is counts."""

MEASURED = ("throughput", "step_s", "loss", "grad_norm", "data_wait_s")

FORMS = (
    "A CSV has columns run_name, step, throughput; or run_name, tokens, loss; or run_name, tokens, "
    'metric, value; or Step and "RUN - tokens_per_sec_per_gpu".'
)

MISSING = {"", "na", "n/a", "none", "null"}


@dataclass
class Recorded:
    """What one file says of one run."""

    name: str
    unit: str = "step"
    """What StepRow.at counts: step, or tokens where a file has no steps."""
    rows: list[StepRow] = field(default_factory=list)
    evaluations: Curves = field(default_factory=dict)


def read_recorded(path: Path) -> list[Recorded]:
    """The runs of a CSV, of a metrics.jsonl, or of a run folder, in the order of the file. Raises
    UserError, naming the line, for what cannot be read."""
    if path.is_dir():
        return [_read_run(RunDir(path))]
    if not path.is_file():
        raise UserError("there is no such file", where=str(path), remedy=FORMS)
    if path.suffix in (".jsonl", ".json", ".ndjson"):
        rows = [row for line in read_lines(path) if (row := row_of_metrics(line)) is not None]
        if not rows:
            raise UserError(
                "no line of it is a logged step",
                where=str(path),
                remedy='A step is a JSON object a line, as {"step": 1, "loss": 2.3}.',
            )
        return [Recorded(path.parent.name or path.stem, rows=rows)]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read_csv(csv.reader(file), path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"it is no CSV: {error}", where=str(path), remedy=FORMS) from None


def _read_run(run: RunDir) -> Recorded:
    rows = [row for line in read_lines(run.metrics) if (row := row_of_metrics(line)) is not None]
    if not run.spec.is_file():
        raise UserError(
            "it is no run folder: it has no spec.yaml", where=str(run), remedy="Give a run or CSV."
        )
    evaluations = read_evaluations(run, load_spec(run.spec).tokens_after)
    if not (rows or evaluations):
        raise UserError("the run has logged no step yet", where=str(run))
    return Recorded(run.path.name, rows=rows, evaluations=evaluations)


def _read_csv(reader: Iterator[list[str]], path: Path) -> list[Recorded]:
    header = [cell.strip() for cell in next(reader, [])]
    if not header:
        raise UserError("the file is empty", where=str(path), remedy=FORMS)
    columns = _columns(header)
    lines = _Lines(reader, len(header), path)
    if {"metric", "value"} <= columns.keys():
        found = _long_evaluations(lines, columns, path)
    elif any(name in columns for name in MEASURED):
        found = _long_rows(lines, columns, path)
    else:
        found = _wide_rows(lines, header, columns, path)
    if not any(run.rows or run.evaluations for run in found):
        raise UserError("no line of it holds a value", where=str(path), remedy=FORMS)
    return found


class _Lines:
    """The lines of a CSV below its header, and their cells as numbers."""

    def __init__(self, reader: Iterator[list[str]], width: int, path: Path) -> None:
        self._reader, self._width, self._path = reader, width, path
        self._number = 1

    def __iter__(self) -> Iterator[list[str]]:
        for cells in self._reader:
            self._number += 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != self._width:
                raise self._wrong(f"{len(cells)} cells, the header has {self._width}")
            yield cells

    def number(self, cells: list[str], column: int | None) -> float | None:
        """None for a cell that is empty, or a column that is not there."""
        text = "" if column is None else cells[column].strip()
        if text.lower() in MISSING:
            return None
        try:
            return float(text)
        except ValueError:
            raise self._wrong(f"{text[:40]!r} is no number") from None

    def finite(self, cells: list[str], column: int | None) -> float | None:
        number = self.number(cells, column)
        return number if number is not None and math.isfinite(number) else None

    def _wrong(self, what: str) -> UserError:
        return UserError(what, where=f"{self._path}, line {self._number}", remedy=FORMS)


def _columns(header: list[str]) -> dict[str, int]:
    """Where each meaning stands."""
    places = {name.lower(): place for place, name in reversed(list(enumerate(header)))}
    found = {}
    for meaning, names in NAMES.items():
        for name in names:
            if name in places:
                found[meaning] = places[name]
                break
    return found


def _axis(columns: dict[str, int], path: Path) -> tuple[str, int]:
    for unit in ("step", "tokens"):
        if unit in columns:
            return unit, columns[unit]
    raise UserError("it has no column step and none tokens", where=str(path), remedy=FORMS)


def _name(cells: list[str], columns: dict[str, int], path: Path) -> str:
    return cells[columns["run"]].strip() if "run" in columns else path.stem


def _long_rows(lines: _Lines, columns: dict[str, int], path: Path) -> list[Recorded]:
    unit, axis = _axis(columns, path)
    runs: dict[str, Recorded] = {}
    for cells in lines:
        run = runs.setdefault(name := _name(cells, columns, path), Recorded(name, unit))
        at = lines.finite(cells, axis)
        if at is not None:
            values = {name: lines.number(cells, columns.get(name)) for name in MEASURED}
            run.rows.append(_row(at, values))
    return list(runs.values())


def _long_evaluations(lines: _Lines, columns: dict[str, int], path: Path) -> list[Recorded]:
    if "tokens" not in columns:
        raise UserError("evaluations need a column tokens", where=str(path), remedy=FORMS)
    runs: dict[str, list[tuple[str, Score]]] = {}
    for cells in lines:
        scores = runs.setdefault(_name(cells, columns, path), [])
        tokens = lines.finite(cells, columns["tokens"])
        value = lines.finite(cells, columns["value"])
        if tokens is None or value is None:
            continue
        error = lines.finite(cells, columns.get("standard_error"))
        samples = lines.finite(cells, columns.get("samples"))
        if error is None and samples and 0 < value < 1:
            error = math.sqrt(value * (1 - value) / samples)  # binomial
        scores.append((cells[columns["metric"]].strip(), Score(tokens, value, error)))
    return [Recorded(name, evaluations=curves(scores)) for name, scores in runs.items()]


def _wide_rows(
    lines: _Lines, header: list[str], columns: dict[str, int], path: Path
) -> list[Recorded]:
    """`RUN - METRIC` columns; those of wandb's band around it (__MIN, __MAX) are left out."""
    series: dict[str, dict[str, int]] = {}
    for place, title in enumerate(header):
        name, dash, metric = title.rpartition(" - ")
        meaning = next(iter(_columns([metric])), "") if dash else ""
        if meaning in MEASURED:
            series.setdefault(name, {})[meaning] = place
    if not series:
        raise UserError(
            f"no column of it is known: {', '.join(header)[:200]}", where=str(path), remedy=FORMS
        )
    unit, axis = _axis(columns, path)
    runs = {name: Recorded(name, unit) for name in series}
    for cells in lines:
        at = lines.finite(cells, axis)
        if at is None:
            continue
        for name, places in series.items():
            values = {meaning: lines.number(cells, place) for meaning, place in places.items()}
            if any(value is not None for value in values.values()):
                runs[name].rows.append(_row(at, values))
    return list(runs.values())


def _row(at: float, values: Mapping[str, float | None]) -> StepRow:
    """Only of the loss does it mean anything that it is not finite."""
    known = {name: v for name, v in values.items() if v is not None and math.isfinite(v)}
    step_s = known.get("step_s")
    return StepRow(
        at,
        throughput=known.get("throughput", 1 / step_s if step_s else None),
        loss=values.get("loss"),
        grad_norm=known.get("grad_norm"),
        step_s=step_s,
        data_wait_s=known.get("data_wait_s"),
    )
