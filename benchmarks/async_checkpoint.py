"""`python -m benchmarks.async_checkpoint`: what a checkpoint written beside training stalls it by.

A model of about 100 million parameters on two CPU ranks, twice: saving while training stands still,
and beside it. The stall is what rank 0 says of itself in `checkpoint_saved`. The last checkpoint of
a run is waited for either way, and is left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.peers.document import markdown_table, write_section
from launcher.create import prepare_data
from planner.plan import make_plan
from preflight.ranks import rank_environments
from smolplan.rundir import RunDir, write_text
from smolplan.spec import RunSpec, dump_spec, parse_spec
from smolplan.units import format_bytes

COMMAND = "python -m benchmarks.async_checkpoint"
RANKS = 2
LIMIT = 0.05
"""Of the time that a synchronous save takes."""

SPEC = """
name: async-checkpoint
model: {{layers: 16, hidden: 768, heads: 12, kv_heads: 4, ffn_hidden: 2048, vocab_size: 512}}
data:
  sources: [{{path: {text}, glob: "*.py"}}]
  seq_len: 64
  max_epochs: 1000
  cache_dir: {folder}
optim:
  {{steps: {steps}, global_batch_size: 2, learning_rate: 1.0e-4, precision: fp32}}
parallel: {{data_parallel: 2}}
cluster: {{gpus_per_node: 2, gpu: cpu}}
checkpoint: {{every_steps: {every}, asynchronous: {asynchronous}}}
"""


@dataclass(frozen=True)
class Saves:
    """Of one run: every checkpoint but the last."""

    size: int
    """Bytes of one."""
    seconds: list[float]
    """From its begin until it counted."""
    stalls_s: list[float]
    step_s: float
    """Median."""


def train(folder: Path, spec: RunSpec) -> Saves:
    run = RunDir(folder)
    write_text(run.spec, dump_spec(spec))
    prepare_data(run)
    run.begin_attempt(1)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "trainer", str(run), "--attempt", "1"],
            env={**os.environ, **own},
            stderr=subprocess.DEVNULL,
        )
        for own in rank_environments(RANKS)
    ]
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        raise SystemExit(f"the trainer failed: see {folder}")
    saved = [e for e in run.read_events() if e["kind"] == "checkpoint_saved"][:-1]
    return Saves(
        size=saved[0]["bytes"],
        seconds=[e["seconds"] for e in saved],
        stalls_s=[e["stall_s"] for e in saved],
        step_s=statistics.median(line["step_s"] for line in run.read_metrics()),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.partition("\n\n")[0])
    parser.add_argument("--saves", type=int, default=4, help="in each run, beside the last")
    parser.add_argument("--every", type=int, default=6, help="steps between two")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:

        def saves(asynchronous: bool) -> tuple[RunSpec, Saves]:
            spec = parse_spec(
                SPEC.format(
                    text=Path(os.__file__).parent,
                    folder=folder,
                    steps=(options.saves + 1) * options.every,
                    every=options.every,
                    asynchronous=str(asynchronous).lower(),
                ),
                where="benchmark",
            )
            return spec, train(Path(folder) / f"asynchronous-{asynchronous}", spec)

        spec, at_once = saves(False)
        _, beside = saves(True)
    whole_s = statistics.median(at_once.seconds)
    ratio = statistics.median(beside.stalls_s) / whole_s
    params = make_plan(spec).params
    table = markdown_table(
        ["what", "saved at once", "beside training"],
        [
            ["saving, median", f"{whole_s:.2f} s", f"{statistics.median(beside.seconds):.2f} s"],
            [
                "training stands still, median",
                f"{statistics.median(at_once.stalls_s):.2f} s",
                f"{statistics.median(beside.stalls_s):.3f} s",
            ],
            ["— over a save at once", "", f"**{ratio:.1%}** (limit {LIMIT:.0%})"],
            ["— longest", "", f"{max(beside.stalls_s) / whole_s:.1%}"],
            ["a step, median", f"{at_once.step_s:.2f} s", f"{beside.step_s:.2f} s"],
        ],
    )
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {RANKS} ranks, "
        f"{params / 1e6:.0f}M parameters, {format_bytes(at_once.size)} a checkpoint, "
        f"{options.saves} of each; load of the machine, {os.getloadavg()[0]:.1f}.\n\n{table}"
    )
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
