"""`python -m benchmarks.resume_layouts`: a tiny run goes on from its checkpoint in another layout,
in fp32 on CPU ranks, beside the same run on one device that was not moved: the largest differences
of a step's loss and of its gradients' norm. Exit code 1 where one is above its limit.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.document import markdown_table, write_section
from preflight.small_run_layouts import with_parts
from smolplan.spec import RunSpec, dump_spec
from tests.support import make_spec
from tests.trainer.test_resume import make_run, train
from tests.trainer.test_resume_layouts import EXPERTS, laid_out

COMMAND = "python -m benchmarks.resume_layouts"
STEPS, MOVED_AFTER = 12, 6
LOSS, NORM = 5e-6, 1e-5
"""Limits, in nats and over the norm; 2.4e-7 and 3.3e-7 are seen."""

Layout = dict[str, Any]
DENSE: Layout = {}
WITH_EXPERTS: Layout = {"experts": EXPERTS}
TWO, FOUR = {"data_parallel": 2}, {"data_parallel": 4}
TENSOR, PIPELINE = {"tensor_parallel": 2}, {"pipeline_parallel": 2}
MOVES: dict[str, tuple[Layout, Layout, Layout]] = {
    "FSDP 2 → one device": (DENSE, TWO, {}),
    "one device → FSDP 4": (DENSE, {}, FOUR),
    "TP 2 → PP 2": (DENSE, TENSOR, PIPELINE),
    "PP 2 → TP 2": (DENSE, PIPELINE, TENSOR),
    "FSDP 2 → TP 2 × CP 2": (DENSE, TWO, TENSOR | {"context_parallel": 2}),
    "experts: EP 2 → one device": (WITH_EXPERTS, TWO | {"expert_parallel": 2}, {}),
    "experts: TP 2 → EP 2": (WITH_EXPERTS, TENSOR, TWO | {"expert_parallel": 2}),
}
"""What is changed in the model, the layout before and the one behind."""
HEAD = ("resumed in another layout", "steps", "loss, nats", "gradients' norm")

Metrics = Sequence[dict[str, Any]]
"""Lines of metrics.jsonl."""


@dataclass(frozen=True)
class Apart:
    """The largest differences from a run that was not moved."""

    loss: float
    """Nats, of a step's mean."""
    norm: float
    """Of the gradients, over the norm itself."""

    @property
    def within(self) -> bool:
        return self.loss <= LOSS and self.norm <= NORM


def apart(moved: Metrics, undisturbed: Metrics) -> Apart:
    """Over all steps, those behind the move among them. Raises AssertionError where the run began
    anew rather than went on, or other sequences were read."""
    attempts = [line["attempt"] for line in moved]
    if attempts != [1] * MOVED_AFTER + [2] * (STEPS - MOVED_AFTER):
        raise AssertionError(f"steps were made by attempts {attempts}")
    pairs = list(zip(moved, undisturbed, strict=True))
    if any(a["batch_checksum"] != b["batch_checksum"] for a, b in pairs):
        raise AssertionError("the runs read other sequences")
    return Apart(
        max(abs(a["loss"] - b["loss"]) for a, b in pairs),
        max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in pairs),
    )


def undisturbed(spec: RunSpec, folder: Path) -> Metrics:
    """On one device, to the end."""
    run = make_run(folder, laid_out(spec, {}))
    _check(train(run, 1, 1), "one device")
    return run.read_metrics()


def moved(spec: RunSpec, before: Layout, behind: Layout, folder: Path) -> Metrics:
    """In one layout to the end, and then again, in another, from its checkpoint in the middle."""
    one, other = laid_out(spec, before), laid_out(spec, behind)
    run = make_run(folder, one)
    _check(train(run, 1, one.parallel.ranks), str(before))
    shutil.rmtree(run.checkpoint(STEPS))
    run.spec.write_text(dump_spec(other), "utf-8")
    _check(train(run, 2, other.parallel.ranks), str(behind))
    return run.read_metrics()


def _check(exit_code: int, layout: str) -> None:
    if exit_code:
        raise SystemExit(f"training ended with exit code {exit_code}: {layout}")


def measure(folder: Path) -> dict[str, Apart]:
    spec = make_spec(folder / "data", steps=STEPS, every=MOVED_AFTER, ranks=1)
    alone: dict[str, Metrics] = {}
    found = {}
    for number, (name, (model, before, behind)) in enumerate(MOVES.items()):
        changed = with_parts(spec, model=model)
        kind = "experts" if model else "dense"
        if kind not in alone:
            alone[kind] = undisturbed(changed, folder / kind)
        found[name] = apart(moved(changed, before, behind, folder / f"{number}"), alone[kind])
    return found


def table(found: dict[str, Apart]) -> str:
    steps = f"{MOVED_AFTER} + {STEPS - MOVED_AFTER}"

    def cell(value: float, limit: float) -> str:
        return f"{value:.1e}" if value <= limit else f"**{value:.1e}**"

    rows = [
        [name, steps, cell(one.loss, LOSS), cell(one.norm, NORM)] for name, one in found.items()
    ]
    return markdown_table(HEAD, [*rows, ["limit", "", f"{LOSS:.0e}", f"{NORM:.0e}"]])


def as_json(found: dict[str, Apart]) -> str:
    moves = [{"move": n, **asdict(one), "within": one.within} for n, one in found.items()]
    limits = {"loss": LOSS, "norm": NORM}
    return json.dumps(
        {"steps": STEPS, "moved_after": MOVED_AFTER, "limits": limits, "moves": moves}, indent=1
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="smolplan-resume-") as folder:
        found = measure(Path(folder))
    text = f"torch {torch.__version__}, up to 4 ranks by gloo.\n\n{table(found)}"
    print(as_json(found) if options.json else text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return 0 if all(one.within for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
