"""`python -m benchmarks.replay FOLDER`: how soon the monitor's detectors see what went wrong in
recorded runs, how often they cry wolf on healthy made-up ones, and how long planted faults take.

FOLDER holds series that Hugging Face published with the Smol Training Playbook, by their names
there: throughput_weka_drops.csv, throughput_nodrops_small_steps_48nn.csv, tp_debug_fix_loss.csv,
evals_tp_bug_fix_200B.csv.
"""

import argparse
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.peers.document import markdown_table, write_section
from benchmarks.replay_series import (
    Fault,
    Noise,
    Series,
    decay,
    healthy,
    spikes,
    step_down,
    with_fault,
)
from monitor.collect.recorded import Recorded, read_recorded
from monitor.collect.reference import choose_reference
from monitor.collect.rows import StepRow
from monitor.detect.loss import SPIKE_STAYS
from monitor.detect.place import place
from monitor.detect.series import RunSeries
from monitor.replay import Looks, Told, replay, tellings

COMMAND = "python -m benchmarks.replay"

TOKENS_PER_STEP, GPUS = 2_359_296, 384
"""Of SmolLM3's run: huggingface/smollm, text/pretraining/smollm3/stage1_8T.yaml; the series are in
tokens/s a GPU."""

NOISES = [Noise(cv, tail) for tail in ("normal", "heavy", "slow") for cv in (0.01, 0.03, 0.10)]

FAULTS: dict[str, tuple[str, Fault]] = {
    "falls by 39 %, as the storage did": ("throughput_shift", step_down(0.39)),
    "falls by 10 %": ("throughput_shift", step_down(0.10)),
    "falls by 5 %": ("throughput_shift", step_down(0.05)),
    "decays by 10 % in 3,000 rows": ("throughput_shift", decay(0.10, 3000)),
    "2.5 % of steps at 6 % speed": ("throughput_drops", spikes(0.025, 0.06)),
    "1.2 % of steps at 40 % speed": ("throughput_drops", spikes(0.012, 0.40)),
}
FAULT_CVS = (0.01, 0.05, 0.10)
ONSET_ROW, AFTER_ROWS = 1500, 6000


JUMP = 0.20
JUMP_ROWS = (1, 10, 30, 60, 100)
"""A jump of the loss by this share, that comes back after so many rows, planted into real losses
at each 200th row; a window of these rows before and after it is replayed."""
WINDOW_ROWS = 300


@dataclass(frozen=True)
class Delay:
    """From the onset of a planted fault to its finding, in rows."""

    found: list[int]
    missed: int
    early: int
    """Findings before there was anything to find."""


def told_by_row(series: Series) -> list[Told]:
    """What is told of a series, at rows of it: its steps may come twice."""
    watch = RunSeries()

    def looks() -> Looks:
        for row, (step, value) in enumerate(series):
            watch.take(StepRow(step, throughput=value))
            yield row, watch.findings

    return tellings(looks())


def false_alarms(noise: Noise, seeds: Iterable[int], rows: int) -> list[Told]:
    return [one for seed in seeds for one in told_by_row(healthy(seed, rows, noise))]


def planted(kind: str, fault: Fault, cv: float, seeds: Iterable[int]) -> Delay:
    found, missed, early = [], 0, 0
    for seed in seeds:
        base = healthy(seed, ONSET_ROW + AFTER_ROWS, Noise(cv, "heavy"))
        told = told_by_row(with_fault(base, seed, ONSET_ROW, fault))
        delays = [int(one.at) - ONSET_ROW for one in told if one.finding.kind == kind]
        after = [delay for delay in delays if delay >= 0]
        early += sum(one.at < ONSET_ROW for one in told)
        found += after[:1]
        missed += not after
    return Delay(found, missed, early)


def spikes_that_stay(folder: Path) -> str:
    """Of real losses: how often a spike is said to stay, as they are and with jumps planted."""
    runs = read_recorded(folder / "tp_debug_fix_loss.csv")
    as_recorded = sum(_stays(run.unit, run.rows)[0] for run in runs)
    count = sum(len(run.rows) for run in runs)
    rows = [["none", f"{len(runs)} runs, {count:,} rows", str(as_recorded), ""]]
    for lasting in JUMP_ROWS:
        windows = [
            _stays(run.unit, _with_jump(run.rows, onset, lasting))
            for run in runs
            for onset in range(WINDOW_ROWS, len(run.rows) - WINDOW_ROWS, 200)
        ]
        after = [delay for told, delay in windows if told]
        delay = f"{statistics.median(after):.0f}" if after else ""
        what = f"by {100 * JUMP:.0f} % for {lasting} rows"
        rows.append([what, f"{len(windows):,}", str(sum(told for told, _ in windows)), delay])
    return markdown_table(["planted jump", "replayed", "`loss_spike_stays`", "rows after"], rows)


def _with_jump(rows: Sequence[StepRow], onset: int, lasting: int) -> list[StepRow]:
    window = list(rows[onset - WINDOW_ROWS : onset + WINDOW_ROWS])
    for at in range(WINDOW_ROWS, WINDOW_ROWS + lasting):
        if (loss := window[at].loss) is not None:
            window[at] = replace(window[at], loss=loss * (1 + JUMP))
    return window


def _stays(unit: str, rows: list[StepRow]) -> tuple[int, int]:
    """How often it is told, and so many rows after the jump in the middle the first time."""
    told = [t for t in replay(Recorded("", unit, rows), None) if t.finding.kind == SPIKE_STAYS]
    places = [row.at for row in rows]
    return len(told), places.index(told[0].at) - WINDOW_ROWS if told else 0


def elapsed_min(run: Recorded, first: float, last: float) -> float:
    """Minutes of training between two steps, by the throughput of each."""
    speeds = [row.throughput for row in run.rows if first <= row.at < last and row.throughput]
    return sum(TOKENS_PER_STEP / (GPUS * speed) for speed in speeds) / 60


def real_rows(folder: Path) -> list[list[str]]:
    rows = []
    for file in ("throughput_weka_drops", "throughput_nodrops_small_steps_48nn"):
        for run in read_recorded(folder / f"{file}.csv"):
            rows += _rows_of(f"{file}: {len(run.rows):,} steps", run, replay(run, None))
    runs = read_recorded(folder / "evals_tp_bug_fix_200B.csv")
    for name in ("SmolLM2 1.7B", "SmolLM3 (fixed)"):
        reference = choose_reference(runs, name)
        for run in runs:
            if run.name.startswith("SmolLM3") and run.name != name:
                title = f"evaluations of {run.name} beside {name}"
                rows += _rows_of(title, run, replay(run, reference))
    for run in read_recorded(folder / "tp_debug_fix_loss.csv"):
        rows += _rows_of(f"loss of {run.name}", run, replay(run, None))
    return rows


def _rows_of(title: str, run: Recorded, told: Sequence[Told]) -> list[list[str]]:
    if not told:
        return [[title, "nothing", "", "", ""]]
    rows = []
    for one in told:
        evidence = one.finding.evidence
        unit = "tokens" if "tokens" in evidence else run.unit
        onset = evidence.get("onset_step")
        waited = "" if onset is None else f"{elapsed_min(run, onset, one.at):.1f}"
        since = "" if onset is None else place(unit, onset)
        rows.append([title, one.finding.kind, since, place(unit, one.at), waited])
    return rows


def report(folder: Path, seeds: int, rows: int) -> str:
    real = markdown_table(
        ["series", "found", "since", "told at", "minutes after"], real_rows(folder)
    )
    alarms = [(noise, false_alarms(noise, range(seeds), rows)) for noise in NOISES]
    quiet = markdown_table(
        ["noise of healthy steps", "rows", "false alarms"],
        [[f"{n.tail}, {100 * n.cv:.0f} %", f"{seeds * rows:,}", str(len(a))] for n, a in alarms],
    )
    rows_of_faults = []
    for name, (kind, fault) in FAULTS.items():
        for cv in FAULT_CVS:
            delay = planted(kind, fault, cv, range(seeds))
            middle = f"{statistics.median(delay.found):,.0f}" if delay.found else "–"
            worst = f"{max(delay.found):,}" if delay.found else "–"
            cells = [middle, worst, f"{delay.missed} of {seeds}", str(delay.early)]
            rows_of_faults.append([f"{name}; noise {100 * cv:.0f} %", *cells])
    faults = markdown_table(
        ["planted", "rows to finding, median", "at most", "missed", "told before"], rows_of_faults
    )
    long = healthy(1, 100_000, Noise(0.03))
    began = time.process_time()
    told_by_row(long)
    took_s = time.process_time() - began
    today = datetime.now(UTC).date()
    return (
        f"{today}: {seeds} made-up runs of each kind, by seed; 100,000 rows take {took_s:.1f} s "
        f"of one core.\n\n{real}\n\n{spikes_that_stay(folder)}\n\n{quiet}\n\n{faults}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="where the published series are")
    parser.add_argument("--seeds", type=int, default=20, help="made-up runs of each kind")
    parser.add_argument("--rows", type=int, default=10_000, help="steps of a healthy one")
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    options = parser.parse_args()
    text = report(options.folder, options.seeds, options.rows)
    if options.write:
        write_section(options.write, COMMAND, text)
    print(text)


if __name__ == "__main__":
    main()
