"""`python -m benchmarks.learning`: what the tiny preset learns of the demo's text, in bits per byte
of text that it was not trained on; beside what a byte's frequency and compressors make of it.

The run is one of `smolplan launch`, on this machine, and its evaluation that of `smolplan eval`.
Exit code 1 if the limit is not reached.
"""

import argparse
import gzip
import lzma
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from benchmarks.peers.document import markdown_table, write_section
from launcher.store import Store
from planner.ablation.variants import with_fields
from planner.params import parameter_count
from smolplan.cli.local_run import evaluation, follow, launch_here
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_preset
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.shards import Tokens

COMMAND = "python -m benchmarks.learning"

STEPS = 600
LIMIT = 2.15
"""Bits per byte, after STEPS: 2.074 were measured (docs/benchmarks.md); the rest is for the text of
other versions of Python."""


def tiny(steps: int) -> RunSpec:
    """The preset over so many steps, a quarter of them decay as in the preset; measured on all of
    the held-out text."""
    fields = {
        "optim.steps": steps,
        "optim.decay_steps": steps // 4,
        "eval.sequences": 10**6,
    }
    return with_fields(load_preset("tiny-cpu"), fields, COMMAND)


def texts(dataset: Dataset, tokens: Tokens) -> list[bytes]:
    """Documents, as they were before they were tokens."""
    tokenizer = Tokenizer.from_file(str(dataset.tokenizer_path))
    ids = tokens.read(0, len(tokens))
    ends = np.flatnonzero(ids == dataset.separator)
    pieces = [piece[piece != dataset.separator] for piece in np.split(ids, ends)]
    found = tokenizer.decode_batch([p.tolist() for p in pieces if len(p)])
    return [text.encode() for text in found]


def unigram_bits(train: bytes, held_out: bytes) -> float:
    """Bits per byte of the held-out text where each byte has its share of the training text, one
    added to every count."""
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=256) + 1
    bits = -np.log2(counts / counts.sum())
    return float(bits[np.frombuffer(held_out, np.uint8)].mean())


def gzip_bits(text: bytes) -> float:
    return 8 * len(gzip.compress(text, 9)) / len(text)


def xz_bits(text: bytes, before: bytes = b"") -> float:
    """Bits per byte of what the text adds behind another one, which lies in xz's window of 64 MiB
    whole."""
    return 8 * (_xz_size(before + text) - (_xz_size(before) if before else 0)) / len(text)


def _xz_size(text: bytes) -> int:
    return len(lzma.compress(text, preset=9))


def baseline_rows(train: list[bytes], held_out: list[bytes]) -> list[list[str]]:
    before, text = b"".join(train), b"".join(held_out)
    found = {
        "byte frequencies of the training text": unigram_bits(before, text),
        "gzip -9, of the held-out text alone": gzip_bits(text),
        "xz -9, of the held-out text alone": xz_bits(text),
        "xz -9, behind the training text": xz_bits(text, before),
    }
    return [[name, f"{bits:.3f}"] for name, bits in found.items()]


def measure(steps: int, folder: Path) -> tuple[float, str]:
    """Bits per byte that the model reaches, and all of it told."""
    spec, store = tiny(steps), Store()
    began = time.monotonic()
    run = launch_here(spec, store, folder / "runs")
    run = follow(store, run, spec, "learning")
    took_s = time.monotonic() - began
    score, dataset = evaluation(run, spec), open_dataset(RunDir(run.path))
    (source,) = dataset.sources
    train, held_out = texts(dataset, dataset.train(source)), texts(dataset, dataset.held_out)
    if sum(map(len, held_out)) != dataset.held_out_bytes:
        raise AssertionError("the held-out text is not what was tokenised")
    same = len(set(train) & set(held_out))
    bits = float(score["bits_per_byte"])
    rows = [
        ["any of 256 bytes", "8.000"],
        ["any of the tokeniser's entries", f"{score['chance_bits_per_byte']:.3f}"],
        *baseline_rows(train, held_out),
        ["**the model**", f"**{bits:.3f}** ± {score['standard_error']:.3f}"],
        ["limit", f"{LIMIT:.3f}"],
    ]
    told = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores: tiny-cpu, "
        f"{parameter_count(spec.model):,} parameters, {spec.steps:,} steps, "
        f"{spec.tokens:,} of {dataset.tokens:,} tokens of {source.documents:,} documents, "
        f"{took_s:.0f} s with start and end. Held out: {source.held_out_documents} documents, "
        f"{dataset.held_out_bytes:,} bytes, of which {score['sequences']} sequences were scored "
        f"(± is their standard error); {same} of them are in the training text too.\n\n"
    )
    return bits, told + markdown_table(["told by", "bits per byte"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="What the tiny preset learns.")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"for a trial (default: {STEPS})")
    parser.add_argument("--write", type=Path, help="put the answer into this document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smolplan-learning-", ignore_cleanup_errors=True) as of:
        os.environ["SMOLPLAN_STATE"] = str(Path(of) / "state")
        bits, text = measure(options.steps, Path(of))
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return 0 if bits <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
