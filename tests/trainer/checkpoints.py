"""Checkpoint folders as the trainer leaves them, with made-up contents. No torch."""

import hashlib
from pathlib import Path

from smolplan.rundir import MANIFEST, RunDir, write_text
from smolplan.spec import dump_spec, parse_spec
from trainer.data.dataset import file_sha256
from trainer.manifest import Manifest, dump

SPEC = """
name: small
model: {layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn_hidden: 64, vocab_size: 400}
data: {sources: [{path: /nowhere}], seq_len: 32}
optim: {steps: 100, global_batch_size: 4, learning_rate: 1e-3}
cluster: {gpus_per_node: 1, gpu: cpu}
"""


def make_run(folder: Path, upload_to: str) -> RunDir:
    """A run folder with a spec alone."""
    run = RunDir(folder)
    run.path.mkdir(parents=True)
    spec = parse_spec(SPEC + f"checkpoint: {{upload_to: '{upload_to}'}}\n", where="test")
    write_text(run.spec, dump_spec(spec))
    return run


def make_checkpoint(
    run: RunDir, step: int, *, files: int = 2, size: int = 256, by: int = 1
) -> Path:
    """Of `files` files of `size` bytes, saved by attempt `by`."""
    folder = run.checkpoint(step)
    folder.mkdir(parents=True)
    listed = {}
    for number in range(files):
        path = folder / f"shard-{number:05d}.safetensors"
        data = 8 * hashlib.sha256(f"{step} {number} {by}".encode()).digest()
        path.write_bytes(data)
        listed[path.name] = {"bytes": len(data), "sha256": file_sha256(path)}
    manifest = Manifest(step, 4 * step, 128 * step, "spec", "data", 2, by, 0.1, listed)
    (folder / MANIFEST).write_text(dump(manifest))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
