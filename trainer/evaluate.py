"""`python -m trainer.evaluate RUN [--step N]…`: bits per byte of held-out text on checkpoints, and
the tasks of the spec; each checkpoint's go to RUN/evals/step-N.json. With `--due`, of those that
the spec wants evaluated beside the run, and in nobody's way; with `--attended`, the newest of them,
for monitor/evaluate_through.py."""

import argparse
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from smolplan.checksums import checksum
from smolplan.errors import SmolplanError, UserError
from smolplan.evaluations_due import due
from smolplan.lifetime import end_with_input
from smolplan.lock import hold
from smolplan.rundir import RunDir, write_json
from smolplan.spec import RunSpec, load_spec
from smolplan.spec.parallel import ParallelSpec
from trainer.data.dataset import Dataset, open_dataset
from trainer.held_out import held_out_score
from trainer.manifest import Manifest, steps_present, verify
from trainer.model.transformer import CausalLM
from trainer.parallel import join
from trainer.shards import load

if TYPE_CHECKING:
    from trainer.tasks import Suite

LOWEST_PRIORITY = 19
"""nice(2): what trains on the same processors comes first."""

log = logging.getLogger("trainer.evaluate")

Say = Callable[[str], None]


def evaluate(
    run: RunDir, spec: RunSpec, steps: Sequence[int], say: Say = lambda line: None
) -> Iterator[dict[str, Any]]:
    """What is measured on the checkpoint of each step, or of the newest where none is named.
    Raises UserError if there is nothing to evaluate, or a task cannot be."""
    wanted: Sequence[int | None] = steps or [None]
    manifests = [whole_checkpoint(run, step) for step in wanted]
    dataset = open_dataset(run)
    torch.set_num_threads(spec.launch.threads_per_rank)
    torch.use_deterministic_algorithms(True)
    suite = _suite(spec, dataset, say) if spec.eval.tasks else None
    # One process holds the whole model, however it was trained.
    world = join(spec.model_copy(update={"parallel": ParallelSpec()}))
    model = empty_model(spec, world.device, weights_dtype(spec, world.device.type))
    for manifest in manifests:
        say(f"step {manifest.step}: held-out text")
        load(run.checkpoint(manifest.step), manifest, model, None, world)
        which = {"step": manifest.step, "checkpoint": manifest.checksum()}
        result = {**which, **held_out_score(model, spec, dataset)}
        if suite is not None:
            result |= suite.run(model, say)
        yield result


def weights_dtype(spec: RunSpec, device_type: str) -> torch.dtype:
    """That a checkpoint is evaluated in: on a GPU as training's forward passes have them, on a CPU,
    which seldom is faster for less, fp32."""
    in_bf16 = device_type == "cuda" and spec.optim.precision != "fp32"
    return torch.bfloat16 if in_bf16 else torch.float32


def empty_model(spec: RunSpec, device: torch.device, dtype: torch.dtype) -> CausalLM:
    """Into which checkpoints, of fp32, are loaded. Buffers stay in fp32, as in training."""
    with torch.device("meta"):
        model = CausalLM(spec.model, spec.data.seq_len)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.materialise(device)
    return model.eval()


def _suite(spec: RunSpec, dataset: Dataset, say: Say) -> "Suite":
    """Raises UserError, also where lm-eval is not installed."""
    say("importing lm-eval")
    try:
        from trainer.tasks import Suite
    except ImportError as error:
        raise UserError(
            f"the tasks need lm-eval, which cannot be imported here ({error})",
            where="eval.tasks",
            remedy="Install it: pip install 'smolplan[eval]'",
        ) from None
    return Suite(spec.eval, dataset, spec.data.seq_len, say)


def whole_checkpoint(run: RunDir, step: int | None) -> Manifest:
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


def evaluate_due(run: RunDir, spec: RunSpec) -> None:
    """The newest checkpoint that is due; then, as a new process, what is due still."""
    if not hold(run.evaluation_lock):
        return
    os.nice(LOWEST_PRIORITY)
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if spec.eval.gpu is None else str(spec.eval.gpu)
    evaluate_newest_due(run, spec)
    if due(run, spec):
        again = [sys.executable, "-P", "-m", "trainer.evaluate", str(run), "--due"]
        os.execv(again[0], again)


def evaluate_newest_due(run: RunDir, spec: RunSpec) -> None:
    """What goes wrong is put on record, and not tried again on that checkpoint."""
    steps = due(run, spec)
    if not steps:
        return
    which = {"checkpoint": checksum(run, steps[0]) or ""}  # it may be made anew meanwhile
    try:
        begun = {"step": steps[0], **which, "host": socket.gethostname()}
        write_json(run.evaluation_begun, begun)
        for result in evaluate(run, spec, steps[:1]):
            write_json(run.evaluation(steps[0]), result)
    except Exception as error:  # a task may raise anything
        if isinstance(error, SmolplanError):
            log.error("step %d: %s", steps[0], error)
        else:
            log.exception("step %d", steps[0])
        if steps[0] in run.saved_steps():  # or it has made room for a newer one meanwhile
            failed = {"step": steps[0], "reason": str(error) or type(error).__name__}
            write_json(run.unevaluable(steps[0]), {**failed, **which})
            run.record("evaluation_failed", "evaluation", **failed)


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate checkpoints of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--step", type=int, action="append", default=[], help="may be given again (default: newest)"
    )
    parser.add_argument(
        "--task", action="append", default=[], help="instead of the spec's; may be given again"
    )
    parser.add_argument("--due", action="store_true", help="those that the spec wants, by and by")
    parser.add_argument(
        "--attended",
        action="store_true",
        help="of those the newest alone, while a process that waits for it has standard input open",
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each checkpoint")
    parser.add_argument("--progress", action="store_true", help="say what is done, on stderr")
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    # One process is a group of its own, on a port that nobody else is given.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")

    stderr = sys.stderr  # itself: what tasks write to it is put elsewhere

    def say(line: str) -> None:
        if arguments.progress:
            stderr.write(line + "\n")
            stderr.flush()

    try:
        spec = load_spec(run.existing().spec)
        if arguments.attended:
            end_with_input()
            evaluate_newest_due(run, spec)
            return 0
        if arguments.due:
            evaluate_due(run, spec)
            return 0
        if arguments.task:
            tasks = tuple(dict.fromkeys(arguments.task))
            chosen = spec.eval.model_copy(update={"tasks": tasks})
            spec = spec.model_copy(update={"eval": chosen})
        for result in evaluate(run, spec, arguments.step, say):
            write_json(run.evaluation(result["step"]), result)
            _tell(result, as_json=arguments.json)
    except SmolplanError as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code)
    return 0


def _tell(result: dict[str, Any], *, as_json: bool) -> None:
    text = json.dumps(result) if as_json else f"{result['bits_per_byte']:.4f} bits per byte"
    if not as_json:
        for name, task in result.get("tasks", {}).items():
            for metric, found in task["metrics"].items():
                text += f"\n{name} {metric}: {found['score']}"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
