"""`python -m trainer.evaluate RUN [--step N]`: bits per byte of held-out text on a checkpoint."""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from smolplan.errors import SmolplanError, UserError
from smolplan.rundir import RunDir, write_json
from smolplan.spec import RunSpec, load_spec
from trainer.checkpoint import load
from trainer.data.dataset import HELD_OUT, open_dataset
from trainer.loss import next_token_loss
from trainer.manifest import Manifest, survey
from trainer.model.transformer import CausalLM
from trainer.parallel import join

VERSION = 1


def evaluate(run: RunDir, spec: RunSpec, step: int | None) -> dict[str, Any]:
    """Mean loss of consecutive held-out sequences, and bits per byte: nats per token over ln 2,
    times tokens per byte of the held-out text. Raises UserError if there is nothing to evaluate."""
    whole = {s: m for s, m in survey(run) if isinstance(m, Manifest)}
    if not whole or (step is not None and step not in whole):
        raise UserError(
            "there is no whole checkpoint" + ("" if step is None else f" of step {step}"),
            where=str(run.checkpoints),
            remedy=f"Whole are: {', '.join(map(str, sorted(whole)))}." if whole else "",
        )
    step = max(whole) if step is None else step
    dataset = open_dataset(run)
    length = spec.data.seq_len
    tokens = torch.from_numpy(dataset.array(HELD_OUT).astype("int64"))
    count = min(spec.eval.sequences, (len(tokens) - 1) // length)
    if count < 1:
        raise UserError(
            f"the held-out text has {len(tokens)} tokens, less than one sequence",
            where="data.held_out_fraction",
            remedy="Raise it, or add text.",
        )
    torch.set_num_threads(spec.launch.threads_per_rank)
    world = join(spec)
    model = CausalLM(spec.model, length).to(world.device)
    load(run.checkpoint(step), model, None, world)
    model.eval()
    total = 0.0
    with torch.no_grad():
        for index in range(count):
            piece = tokens[index * length : (index + 1) * length + 1].to(world.device)[None]
            logits = model(piece[:, :-1], dataset.separator)
            total += next_token_loss(logits, piece[:, 1:], 0.0)[0].item()
    loss = total / count
    tokens_per_byte = dataset.held_out_tokens / dataset.held_out_bytes
    return {
        "task": "held_out_bits_per_byte",
        "version": VERSION,
        "step": step,
        "loss": loss,
        "bits_per_byte": loss / math.log(2) * tokens_per_byte,
        "chance_bits_per_byte": math.log2(spec.model.vocab_size) * tokens_per_byte,
        "sequences": count,
    }


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
