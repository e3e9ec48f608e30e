"""`python -m benchmarks.loader`: what a batch costs, in time and memory, at the first steps and at
five million of them; and how many tokens a second the tokeniser makes, by processes.

The batches are drawn from sources that are mixed in two stages, in a process of its own for each
step, so that none has what another has mapped. The text is that of Python's own library.
"""

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.peers.document import markdown_table, write_section
from preflight.probes.loader import own_memory_bytes
from smolplan.library_text import library_files
from smolplan.mixture import Mixture
from smolplan.rundir import RunDir, write_text
from smolplan.spec import RunSpec, dump_spec, parse_spec
from trainer.data.loader import Loader
from trainer.data.shards import Tokens

COMMAND = "python -m benchmarks.loader"

STEPS = (10, 100_000, 5_000_000)
BATCHES = 20
SOURCES, TOKENS = 16, 4_000_000
"""Of each source, as many tokens: two thousand sequences."""
SEQ_LEN, BATCH_SIZE = 2048, 256
TEXT_BYTES = 4_000_000
PIECES = 8

SPEC = """
name: loader
model: {{layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn_hidden: 64, vocab_size: {vocab}}}
data:
  sources: {sources}
  stages: {stages}
  seq_len: {seq_len}
  cache_dir: "{cache}"
optim: {{steps: 5000001, global_batch_size: {batch}, learning_rate: 1e-3}}
cluster: {{gpus_per_node: 1, gpu: cpu}}
"""


def mixed_spec() -> RunSpec:
    names = [f"source-{number}" for number in range(SOURCES)]
    sources = [{"path": f"/{name}"} for name in names]
    total = sum(range(1, SOURCES + 1))
    stable = {name: (n + 1) / total for n, name in enumerate(names)}
    decay = dict(zip(names, reversed(stable.values()), strict=True))
    stages = [
        {"name": "stable", "start_step": 1, "weights": stable},
        {"name": "decay", "start_step": 4_500_001, "weights": decay},
    ]
    return _spec(json.dumps(sources), json.dumps(stages), "/nowhere", SEQ_LEN, BATCH_SIZE)


def _spec(sources: str, stages: str, cache: str, seq_len: int, batch: int) -> RunSpec:
    text = SPEC.format(
        sources=sources, stages=stages, cache=cache, seq_len=seq_len, batch=batch, vocab=8192
    )
    return parse_spec(text, where=COMMAND)


def measure_at(step: int, folder: Path) -> dict[str, float]:
    """Seconds of a global batch, and what the process has for itself beyond its start."""
    spec = mixed_spec()
    before = own_memory_bytes()
    paths = sorted(folder.glob("*.bin"))
    tokens = tuple(Tokens([path], [TOKENS], "<u2") for path in paths)
    sequences = [(TOKENS - 1) // SEQ_LEN] * len(paths)
    mixture = Mixture.of(spec, spec.data.source_names, sequences)
    loader = Loader(tokens, tuple(sequences), mixture, SEQ_LEN, spec.seed)
    spent_s = []
    for number in range(BATCHES):
        first = (step + number) * BATCH_SIZE
        began = time.process_time()  # others may use the machine
        loader.batch(range(first, first + BATCH_SIZE))
        spent_s.append(time.process_time() - began)
    return {"batch_s": median(spent_s), "memory_bytes": own_memory_bytes() - before}


def loader_rows(folder: Path) -> list[list[str]]:
    for number in range(SOURCES):
        draw = np.random.default_rng(number)
        draw.integers(0, 8192, TOKENS, dtype="<u2").tofile(folder / f"{number:02}.bin")
    rows, first = [], 0.0
    for step in STEPS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.loader", "--at", str(step), "--folder", str(folder)],
            stdout=subprocess.PIPE,
            check=True,
        )
        found = json.loads(done.stdout)
        first = first or found["batch_s"]
        rows.append(
            [
                f"{step:,}",
                f"{found['batch_s'] * 1e3:.2f}",
                f"{found['batch_s'] / BATCH_SIZE * 1e6:.1f}",
                f"{found['batch_s'] / first:.2f}",
                f"{found['memory_bytes'] / 1e6:.1f}",
            ]
        )
    return rows


def write_rows(folder: Path, pieces: int) -> int:
    """The library's text as compressed lines of JSON, a piece a file; its bytes."""
    folder.mkdir()
    size = 0
    with ExitStack() as stack:
        names = (folder / f"{number}.jsonl.gz" for number in range(pieces))
        outs = [stack.enter_context(gzip.open(name, "wt", compresslevel=1)) for name in names]
        for number, path in enumerate(library_files()):
            try:
                text = path.read_text("utf-8")
            except UnicodeDecodeError:
                continue
            outs[number % pieces].write(json.dumps({"text": text}) + "\n")
            size += len(text.encode())
            if size > TEXT_BYTES:
                break
    return size


def tokeniser_rows(folder: Path) -> list[list[str]]:
    """By processes, and by the tokenizers library's own threads in one."""
    cores = sorted(os.sched_getaffinity(0))
    size = write_rows(folder / "processes", PIECES)
    write_rows(folder / "threads", 1)
    tokenizer: Path | None = None
    rows = []
    counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= len(cores)]
    for kind, count in [("", len(cores)), *product(("processes", "threads"), counts)]:
        cache, run = folder / f"cache-{kind}-{count}", RunDir(folder / f"run-{kind}-{count}")
        source = json.dumps([{"path": str(folder / (kind or "threads")), "glob": "*.gz"}])
        spec = _spec(source, "[]", str(cache), 64, 1)
        data = spec.data.model_copy(update={"tokenizer": tokenizer})
        write_text(run.spec, dump_spec(spec.model_copy(update={"data": data})))
        wall_s, cpu_s = _prepare(run, cores[:count])
        if tokenizer is None:  # trained once, which is not timed
            (tokenizer,) = (cache / "tokenizers").glob("*.json")
            continue
        tokens = json.loads(run.dataset.read_text())["tokens"]
        rows.append(
            [
                f"{count} {kind}",
                f"{size / 1e6:.1f}",
                f"{tokens / wall_s:,.0f}",
                f"{tokens / cpu_s:,.0f}",
                f"{wall_s:.1f}",
            ]
        )
    return rows


def _prepare(run: RunDir, cores: list[int]) -> tuple[float, float]:
    """Wall and CPU seconds of the command on these cores."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "trainer.data.prepare", str(run)],
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, spent


def main() -> int:
    parser = argparse.ArgumentParser(description="What batches and tokens cost.")
    parser.add_argument("--write", type=Path, help="put the answer into this document")
    parser.add_argument("--at", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.at is not None:
        print(json.dumps(measure_at(options.at, options.folder)))
        return 0
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokens").mkdir()
        batches = loader_rows(Path(folder) / "tokens")
        made = tokeniser_rows(Path(folder))
    head = ["at step", "ms a batch", "µs a sequence", "of the first", "own memory, MB"]
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {load:.1f} before. Batches of "
        f"{BATCH_SIZE} sequences of {SEQ_LEN:,} tokens of {SOURCES} sources in two stages; CPU "
        f"time, median of {BATCHES}.\n\n{markdown_table(head, batches)}\n\n"
        f"A byte-level BPE of 8,192 entries on {TEXT_BYTES / 1e6:.0f} MB of Python's library; "
        f"{PIECES} pieces for processes, one for threads.\n\n"
        + markdown_table(
            ["made by", "text, MB", "tokens/s", "tokens a CPU second", "wall time, s"], made
        )
    )
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
