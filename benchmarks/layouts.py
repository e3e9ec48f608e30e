"""`python -m benchmarks.layouts`: three steps under layouts of three kinds of parallelism at once,
on eight CPU ranks, beside plain torch on one device: the largest relative differences of a batch's
loss, of a sequence's, and of the gradients' norm. In bf16 also how far the first gradients are from
those in fp32, over how far that device's are, and what bf16 changes on it. Exit 1 where one is
above its limit (tests/trainer/layout_curves.py), or ranks that are to hold the same differ.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.document import markdown_table, write_section
from tests.trainer.layout_curves import (
    LIMITS,
    a_spec,
    between,
    first_gradients,
    on_one_device,
)
from tests.trainer.ranks import run_on_ranks
from tests.trainer.test_parallel import RECURRENT, WITH_BIAS, WITH_EXPERTS

COMMAND = "python -m benchmarks.layouts"
RANKS = 8
PIPELINE = {"pipeline_parallel": 2, "tensor_parallel": 2}
SEQUENCE = {"context_parallel": 2, "tensor_parallel": 2}
LAYOUTS: dict[str, dict[str, Any]] = {
    "PP 2 × CP 2 × TP 2": PIPELINE | SEQUENCE,
    "DP 2 × PP 2 × TP 2, replicas, stage 2": PIPELINE | {"shard_group": 1, "zero_stage": 2},
    "DP 2 × PP 2, interleaved, × TP 2, stage 2": PIPELINE
    | {"virtual_pipeline": 2, "zero_stage": 2},
    "DP 2 × CP 2 × TP 2, groups of 2, recomputed": SEQUENCE
    | {"shard_group": 2, "recompute": "full"},
    "EP 2 × PP 2 × TP 2, balance by bias": PIPELINE | {"expert_parallel": 2, "model": WITH_BIAS},
    "EP 4 × CP 2 × TP 2, experts": SEQUENCE | {"expert_parallel": 4, "model": WITH_EXPERTS},
    "PP 2 × CP 2 × TP 2, Mamba-2 and gated DeltaNet": PIPELINE | SEQUENCE | {"model": RECURRENT},
}
HEAD = ("layout", "loss", "of a sequence", "gradients' norm", "first gradients")
TOLD = re.compile(r": loss (\S+), of_sequence (\S+), norm (\S+), gradient (\S+), odd ")


def of_one_device(model: dict[str, Any]) -> list[str]:
    """Cells of one device in bf16 beside itself in fp32."""
    specs = [a_spec({"model": dict(model), "precision": kind}, ranks=1) for kind in LIMITS]
    first = first_gradients(specs[0])
    exact, rounded = (on_one_device(spec, first)[0] for spec in specs)
    return cells_of(*between(rounded, exact), gradient=1.0)


def cells_of(loss: float, of_sequence: float, norm: float, gradient: float) -> list[str]:
    return [*(f"{value:.1e}" for value in (loss, of_sequence, norm)), f"{gradient:.2f}"]


def measure(layout: dict[str, Any]) -> tuple[list[str], bool]:
    """Cells of the table, and whether all is within the limits."""
    curves = "tests.trainer.layout_curves"
    ended = run_on_ranks(RANKS, curves, json.dumps(layout), timeout_s=600)
    told = TOLD.search(ended.stdout)
    if told is None:
        raise SystemExit(ended.stderr[-3000:])
    return cells_of(*map(float, told.groups())), not any(ended.codes)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--precision", choices=list(LIMITS), default="fp32")
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    options = parser.parse_args(arguments)
    in_bf16 = options.precision == "bf16"
    columns = len(HEAD) if in_bf16 else len(HEAD) - 1
    rows, good = [], True
    if in_bf16:
        models: dict[str, dict[str, Any]] = {
            "dense": {},
            "experts": WITH_EXPERTS,
            "recurrent layers": RECURRENT,
        }
        for name, model in models.items():
            rows.append([f"one device beside its fp32, {name}", *of_one_device(model)])
    for name, layout in LAYOUTS.items():
        cells, within = measure(layout | {"precision": options.precision})
        rows.append([name, *cells])
        good &= within
        print(" | ".join(rows[-1][:columns]), flush=True)
    rows.append(["limit", *cells_of(**vars(LIMITS[options.precision]))])
    table = markdown_table(HEAD[:columns], [row[:columns] for row in rows])
    text = f"torch {torch.__version__}, {RANKS} ranks by gloo.\n\n{table}"
    command = f"{COMMAND} --precision bf16" if in_bf16 else COMMAND
    if options.write:
        write_section(options.write, command, text)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
