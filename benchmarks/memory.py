"""`python -m benchmarks.memory FILE.csv`: predicted peak memory beside what published runs say, the
rows that the constants were fitted on apart from those that they never saw.

With --fit it fits them first and writes planner/catalog/memory.yaml."""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.split import FIT_SHARE, is_fitted
from planner.predict.report import SWEEP
from planner.predict.rows import Row, read_rows
from smolplan.errors import SmolplanError

CONSTANTS = Path(__file__).resolve().parent.parent / "planner" / "catalog" / "memory.yaml"
NAMES = (
    "hidden_bytes",
    "ffn_bytes",
    "gathered_bytes_per_parameter",
    "framework_gib",
)
GIB = 2.0**30
NEEDED = (
    *("layers", "hidden", "heads", "ffn", "vocab", "seq_len", "global_batch_tokens", "gpus"),
    *("tp", "pp", "micro_batch", "params_b"),
)
Floats = NDArray[np.float64]


def lacking(row: Row) -> str | None:
    """Why nothing is predicted for a row that publishes its memory; None if it can be."""
    if empty := [name for name in NEEDED if name not in row.numbers]:
        return "no " + ", ".join(empty)
    if 0 < row.number("active_b", 0.0) < 0.98 * row.numbers["params_b"]:
        return "a mixture of experts"
    if row.text("recompute").lower() not in ("", "none", "no"):
        return f"recompute is {row.text('recompute')}"
    if re.search(r"fsdp|zero-?3", row.text("dp_or_zero"), re.I):
        return "weights sharded over the ranks"
    return None


def stages(row: Row) -> Floats:
    """GiB of a pipeline's first and last stage: state, then what each constant multiplies."""
    n = row.numbers
    hidden, ffn, tp, pp = n["hidden"], n["ffn"], n["tp"], n["pp"]
    data = max(1.0, n["gpus"] / (tp * pp * row.number("cp", 1.0)))
    tokens = n["micro_batch"] * n["seq_len"]
    steps = max(1.0, n["global_batch_tokens"] / (data * tokens))
    kept_heads = row.number("kv_heads", n["heads"]) / n["heads"]
    block = 2 * hidden**2 * (1 + kept_heads) + 3 * hidden * ffn
    layers, table = n["layers"] / pp, n["vocab"] * hidden / tp
    blocks = n["layers"] * block
    tied = abs(blocks + n["vocab"] * hidden - 1e9 * n["params_b"]) < abs(
        blocks + 2 * n["vocab"] * hidden - 1e9 * n["params_b"]
    )
    shards = data if re.search(r"zero-?[12]", row.text("dp_or_zero"), re.I) else 1.0
    found = []
    for first in (True, False):
        tables = (1 if tied else 2) if pp == 1 else 1
        parameters = layers * block / tp + tables * table
        in_flight = min(pp if first else 1.0, steps)
        kept = layers * in_flight * tokens
        state = parameters * (2 + 4 + 12 / shards)
        parts = (state, kept * hidden / tp, kept * ffn / tp, parameters)
        found.append([*(part / GIB for part in parts), 1.0])
    return np.array(found)


def predicted_gib(parts: Floats, constants: Floats) -> Floats:
    """Of rows × stages × parts: the fullest stage's."""
    sums: Floats = parts[..., 0] + parts[..., 1:] @ constants
    return np.asarray(sums.max(axis=1))


START = (8.0, 6.0, 1.0, 1.0)
"""Near what a layer of bf16 keeps (planner/memory/sharded.py): an assumption, to begin with."""
TRIES = 20_000
SEED = 1


def fit(parts: Floats, measured: Floats) -> Floats:
    """Constants, none below zero, of the least mean of absolute relative errors, each counted as
    half at most: a seeded random descent whose steps shrink."""
    random = np.random.default_rng(SEED)

    def mean_error(constants: Floats) -> float:
        errors = np.abs(predicted_gib(parts, constants) / measured - 1)
        return float(np.minimum(errors, 0.5).mean())

    best = np.array(START)
    least = mean_error(best)
    for number in range(TRIES):
        moved = random.random(len(best)) < 0.5
        step = random.normal(size=len(best)) * moved * (1 - number / TRIES)
        tried = np.maximum(best + step, 0.0)
        if (error := mean_error(tried)) < least:
            best, least = tried, error
    return best


def write(constants: Floats, rows: int, file: Path) -> None:
    values = "".join(f"  {n}: {v:.4g}\n" for n, v in zip(NAMES, constants, strict=True))
    CONSTANTS.write_text(
        "# Written by python -m benchmarks.memory FILE.csv --fit, which explains the numbers:\n"
        "# bytes that a layer keeps of a token for each element of its hidden and feed-forward\n"
        "# width, bytes of buffers per parameter, and the framework's own.\n"
        f'fit:\n  date: "{datetime.now(UTC):%Y-%m-%d}"\n  rows: {rows}\n  file: {file.name}\n'
        f'  split: "{FIT_SHARE:.0%} of the pairs of source and model, by hash"\n'
        '  how: "least mean absolute relative error (each at most 0.5), none below zero, seed 1"\n'
        f"nanotron:\n{values}",
        "utf-8",
    )


def read_constants() -> Floats:
    values = yaml.safe_load(CONSTANTS.read_text("utf-8"))["nanotron"]
    return np.array([values[name] for name in NAMES], float)


def report(title: str, rows: Sequence[Row], ratios: Floats, worst: int) -> None:
    if not rows:
        print(f"{title}: no rows")
        return
    errors = np.abs(ratios - 1)
    print(
        f"{title}: {len(rows):,} rows, error median {np.median(errors):.1%}, "
        f"p90 {np.quantile(errors, 0.9):.1%}, predicted/published median {np.median(ratios):.2f}"
    )
    for index in np.argsort(-errors)[:worst]:
        row = rows[index]
        said = row.numbers["mem_gib_per_gpu"]
        shape = " ".join(f"{n}{row.numbers[n]:.0f}" for n in ("tp", "pp", "micro_batch", "seq_len"))
        print(f"  line {row.line}: {row.text('model')[:20]} {shape}", end=": ")
        print(f"{said * ratios[index]:.1f} for {said:.1f} GiB")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("file", type=Path, metavar="FILE.csv")
    parser.add_argument("--fit", action="store_true", help="fit, and write memory.yaml")
    parser.add_argument("--worst", type=int, default=4, help="rows to show of each part")
    options = parser.parse_args(arguments)
    try:
        rows = [row for row in read_rows(options.file) if "mem_gib_per_gpu" in row.numbers]
    except SmolplanError as error:
        print(f"memory: {error}", file=sys.stderr)
        return int(error.exit_code)
    counted = [row for row in rows if lacking(row) is None]
    if not counted:
        print(f"memory: {options.file}: no row can be predicted", file=sys.stderr)
        return 2
    measured = np.array([row.numbers["mem_gib_per_gpu"] for row in counted])
    parts = np.stack([stages(row) for row in counted])
    sweep = np.array([bool(SWEEP.search(row.text("source"))) for row in counted])
    fitted = np.array([is_fitted(row) for row in counted])
    if options.fit:
        used = sweep & fitted
        write(fit(parts[used], measured[used]), int(used.sum()), options.file)
    ratios = predicted_gib(parts, read_constants()) / measured
    for title, mask in (
        ("the nanotron sweep, fitted", sweep & fitted),
        ("the nanotron sweep, held out", sweep & ~fitted),
        ("other stacks, with nanotron's constants", ~sweep),
    ):
        chosen = [row for row, wanted in zip(counted, mask, strict=True) if wanted]
        report(title, chosen, ratios[mask], options.worst)
    for reason, count in Counter(filter(None, map(lacking, rows))).most_common():
        print(f"{count:6,} not counted: {reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
