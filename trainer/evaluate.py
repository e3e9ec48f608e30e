"""`python -m trainer.evaluate RUN [--step N]`: bits per byte of held-out text on a checkpoint."""

import argparse
import json
import math
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from smolplan.errors import SmolplanError, UserError
from smolplan.rundir import RunDir, write_json
from smolplan.spec import RunSpec, load_spec
from smolplan.spec.parallel import ParallelSpec
from trainer.checkpoint import load
from trainer.data.dataset import HELD_OUT, open_dataset
from trainer.manifest import Manifest, steps_present, verify
from trainer.model.transformer import CausalLM
from trainer.parallel import join

VERSION = 1


def evaluate(run: RunDir, spec: RunSpec, step: int | None) -> dict[str, Any]:
    """Mean loss of held-out sequences, and bits per byte: nats per token over ln 2,
    times tokens per byte of the held-out text. Raises UserError if there is nothing to evaluate."""
    manifest = _whole_checkpoint(run, step)
    dataset = open_dataset(run)
    length = spec.data.seq_len
    held_out = dataset.array(HELD_OUT)
    there_are = (len(held_out) - 1) // length
    count = min(spec.eval.sequences, there_are)
    if count < 1:
        raise UserError(
            f"the held-out text has {len(held_out)} tokens, less than one sequence",
            where="data.held_out_fraction",
            remedy="Raise it, or add text.",
        )
    torch.set_num_threads(spec.launch.threads_per_rank)
    torch.use_deterministic_algorithms(True)
    # One process holds the whole model, however it was trained.
    world = join(spec.model_copy(update={"parallel": ParallelSpec()}))
    model = CausalLM(spec.model, length).to(world.device)
    load(run.checkpoint(manifest.step), manifest, model, None, world)
    model.eval()
    losses = []
    with torch.no_grad():
        for index in range(count):
            first = index * there_are // count * length  # spread over the whole held-out text
            piece = torch.from_numpy(held_out[first : first + length + 1].astype("int64"))
            tokens = piece.to(world.device)[None]
            losses.append(model(tokens[:, :-1], dataset.separator, tokens[:, 1:])[0].item())
    loss = sum(losses) / count
    tokens_per_byte = dataset.held_out_tokens / dataset.held_out_bytes
    return {
        "task": "held_out_bits_per_byte",
        "version": VERSION,
        "step": manifest.step,
        "loss": loss,
        "bits_per_byte": loss / math.log(2) * tokens_per_byte,
        "chance_bits_per_byte": math.log2(spec.model.vocab_size) * tokens_per_byte,
        "sequences": count,
        "standard_error": _standard_error(losses) / math.log(2) * tokens_per_byte,
    }


def _standard_error(values: list[float]) -> float:
    """Of the mean of independent values: s / √n; 0 for one alone, of which nothing can be told."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _whole_checkpoint(run: RunDir, step: int | None) -> Manifest:
    """That of a step, or the newest. Raises UserError that says what is wrong with it."""
    there_are = steps_present(run)
    rejected = ""
    for candidate in there_are if step is None else [step]:
        try:
            return verify(run.checkpoint(candidate))
        except ValueError as error:
            rejected = rejected or f"checkpoint {candidate} is not whole: {error}"
    steps = ", ".join(map(str, there_are))
    raise UserError(
        rejected or "there is no checkpoint",
        where=str(run.checkpoints),
        remedy=f"There are steps {steps}." if step is not None and there_are else "",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on held-out text.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--step", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    # One process is a group of its own, on a port that nobody else is given.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")
    try:
        spec = load_spec(run.spec)
        result = evaluate(run, spec, arguments.step)
        write_json(run.evals / f"step-{result['step']}.json", result)
    except SmolplanError as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code)
    text = json.dumps(result) if arguments.json else f"{result['bits_per_byte']:.4f} bits per byte"
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
