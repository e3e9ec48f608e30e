"""`python -m benchmarks.trainer_cpu`: smolplan's trainer beside transformers' own Trainer and
torchtitan, on two CPU processes, from the same weights on the same batches, in fp32.

Each is started `--rounds` times, in turn, ours in the layout that the other has by itself.
Tokens/s: those of a step over the median time from one step to the next, without the first FIRST,
in the best round; memory: the most that a rank held resident, as the kernel says when it ends;
waiting for data: ours, as a share of the steps' time. Exit 1 where another is faster or smaller, or
ours waits for more than MOST_WAIT. Needs `pip install accelerate`; torchtitan is left out where
it is not installed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.document import markdown_table, write_section
from benchmarks.transformers_parity import write_model
from launcher.create import prepare_data
from preflight.ranks import rank_environments
from preflight.small_run_layouts import with_parts
from smolplan.rundir import RunDir, read_lines, write_text
from smolplan.spec import RunSpec, dump_spec, parse_spec
from smolplan.units import format_bytes
from trainer.data.dataset import open_dataset
from trainer.data.loader import open_loader
from trainer.model.transformer import CausalLM, initialise

COMMAND = "python -m benchmarks.trainer_cpu"
RANKS = 2
FIRST = 5
"""Steps in which memory is taken for the first time."""
MOST_WAIT = 0.01

# Of Llama's kind, which all three know; the first is as large as the preset tiny-cpu.
PLAIN = {"no_rope_every": 0, "tied_embeddings": False, "intra_document_mask": False}
SHAPES: dict[str, dict[str, Any]] = {
    "1M": {"layers": 4, "hidden": 128, "heads": 4, "kv_heads": 2, "ffn_hidden": 384}
    | {"vocab_size": 2048, **PLAIN},
    "20M": {"layers": 8, "hidden": 320, "heads": 5, "kv_heads": 1, "ffn_hidden": 1088}
    | {"vocab_size": 16384, **PLAIN},
}

SPEC = """
name: trainer-cpu
seed: 6
model: {shape}
data:
  sources: [{{path: {text}, glob: "*.py"}}]
  seq_len: 256
  max_epochs: 1000
  cache_dir: {folder}
optim:
  {{steps: {steps}, global_batch_size: 8, learning_rate: 1.0e-3, weight_decay: 0, precision: fp32}}
parallel: {{data_parallel: 2, micro_batch_size: 4}}
cluster: {{gpus_per_node: 2, gpu: cpu}}
checkpoint: {{every_steps: {steps}, asynchronous: false}}
"""


@dataclass(frozen=True)
class Training:
    """One start of one program."""

    losses: list[float]
    """Nats, by step."""
    step_s: float
    """Median time from one step to the next."""
    memory_bytes: int
    """Most that a rank held resident."""
    data_wait: float | None
    """Share of the steps' time in which they waited for data, where it is told."""


def measured(argv: Sequence[str], lines: Path, environment: dict[str, str], log: Path) -> Training:
    """Start two ranks, wait for them, and read the lines of rank 0: step, loss, time in s."""
    ranks = []
    for rank, own in enumerate(rank_environments(RANKS)):
        with log.with_suffix(f".{rank}.log").open("w") as output:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-m", *argv],
                    env={**os.environ, **own, "OMP_NUM_THREADS": "1", **environment},
                    stdout=output,
                    stderr=output,
                )
            )
    most = 0
    for process in ranks:
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            print(log.with_suffix(".0.log").read_text()[-3000:], file=sys.stderr)
            raise SystemExit(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")
        most = max(most, usage.ru_maxrss * 1024)  # getrusage(2): kilobytes on Linux
    rows = list(read_lines(lines))
    times = [row["time"] for row in rows]
    lengths = [after - before for before, after in pairwise(times)][FIRST:]
    told = [row for row in rows[FIRST:] if "data_wait_s" in row]
    waits = [sum(row[name] for row in told) for name in ("data_wait_s", "step_s")]
    return Training(
        [row["loss"] for row in rows],
        statistics.median(lengths),
        most,
        waits[0] / waits[1] if told else None,
    )


def train_ours(folder: Path, spec: RunSpec) -> Training:
    run = RunDir(folder)
    folder.mkdir()
    write_text(run.spec, dump_spec(spec))
    prepare_data(run)
    run.begin_attempt(1)
    return measured(["trainer", str(run), "--attempt", "1"], run.metrics, {}, folder / "ours")


def train_transformers(folder: Path) -> Training:
    argv = ["benchmarks.peers.transformers_trainer_program", str(folder)]
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    return measured(argv, folder / "transformers-0.jsonl", quiet, folder / "transformers")


def train_torchtitan(folder: Path) -> Training:
    argv = ["benchmarks.peers.torchtitan_program", str(folder)]
    return measured(argv, folder / "torchtitan-0.jsonl", {}, folder / "torchtitan")


def prepare(folder: Path, spec: RunSpec) -> None:
    """What transformers' Trainer reads: the first weights and the batches of our run."""
    model = CausalLM(spec.model, spec.data.seq_len)
    initialise(model, spec.model.init_std, spec.seed)
    (folder / "model").mkdir(parents=True)
    write_model(folder / "model", spec.model, model)
    run = RunDir(folder / "batches")
    run.path.mkdir()
    write_text(run.spec, dump_spec(spec))
    prepare_data(run)
    loader = open_loader(spec, open_dataset(run))
    np.save(
        folder / "sequences.npy",
        loader.batch(range(spec.steps * spec.optim.global_batch_size)),
    )
    optim = spec.optim
    told: dict[str, Any] = {
        "steps": spec.steps,
        "batch_per_rank": optim.global_batch_size // RANKS,
        **{"seq_len": spec.data.seq_len, "rope_theta": spec.model.rope_theta},
        **{"learning_rate": optim.learning_rate, "clip_norm": optim.clip_norm},
        **{"beta1": optim.beta1, "beta2": optim.beta2, "eps": optim.eps},
    }
    (folder / "training.json").write_text(json.dumps(told))


def compare(
    shape: str, peers: Sequence[str], steps: int, rounds: int, folder: Path
) -> tuple[list[list[str]], bool]:
    """A row of the table for each peer, and whether one is faster or smaller."""
    spec = parse_spec(
        SPEC.format(
            shape=json.dumps(SHAPES[shape]),
            text=Path(os.__file__).parent,
            folder=folder,
            steps=steps,
        ),
        where="benchmark",
    )
    theirs = folder / "theirs"
    prepare(theirs, spec)
    done: dict[str, list[Training]] = defaultdict(list)
    for number in range(rounds):
        for name in peers:
            alike = with_parts(spec, parallel={"zero_stage": PEERS[name].zero_stage})
            ours = folder / f"beside-{name}-{number}"
            done[f"ours beside {name}"].append(train_ours(ours, alike))
            done[name].append(PEERS[name].train(theirs))
    tokens = spec.optim.global_batch_size * spec.data.seq_len
    rows, behind = [], False
    for name in peers:
        both = done[f"ours beside {name}"], done[name]
        own, other = (tokens / min(t.step_s for t in those) for those in both)
        small, large = (max(t.memory_bytes for t in those) for those in both)
        losses = zip(both[0][0].losses, both[1][0].losses, strict=True)
        apart = max(abs(a - b) for a, b in losses)
        waited = max(t.data_wait for t in both[0] if t.data_wait is not None)
        rows.append(
            [
                f"{shape}, {name} ({PEERS[name].layout})",
                *(f"{own:,.0f}", f"{other:,.0f}", f"**{own / other:.2f}**"),
                *(format_bytes(small), format_bytes(large), f"**{small / large:.2f}**"),
                f"{apart:.0e}",
                f"{100 * waited:.3f} %",
            ]
        )
        behind |= other > own or large < small or waited > MOST_WAIT
    return rows, behind


@dataclass(frozen=True)
class Peer:
    train: Callable[[Path], Training]
    layout: str
    """As it lays a model out on several ranks by itself."""
    zero_stage: int
    """Of ours, the same layout."""


PEERS = {
    "transformers": Peer(train_transformers, "DDP", zero_stage=0),
    "torchtitan": Peer(train_torchtitan, "FSDP2", zero_stage=3),
}
HEAD = (
    *("parameters, beside", "tokens/s", "theirs", "ours over it"),
    *("memory of a rank", "theirs", "ours over it", "losses apart, nats", "waiting for data"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown file")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    peers = [name for name in PEERS if find_spec(name)]
    rows, behind = [], False
    for shape in options.shape or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            more, worse = compare(shape, peers, options.steps, options.rounds, Path(folder))
        rows += more
        behind |= worse
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {RANKS} ranks of one thread, "
        f"{', '.join(f'{name} {version(name)}' for name in ('torch', *peers))}; load of the "
        f"machine before, {load:.1f}.\n\n{markdown_table(HEAD, rows)}"
    )
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return int(behind)


if __name__ == "__main__":
    sys.exit(main())
