"""The first steps of the run itself, on this machine's devices, with its own model and text."""

import math
import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil

from planner.plan import Plan, make_plan
from preflight import ranks
from preflight.expected import expected_step_s
from preflight.once import ProbeError
from preflight.small_run_ranks import raise_if_failed, start_ranks
from smolplan.rundir import RunDir, write_json, write_text
from smolplan.spec import RunSpec, dump_spec
from smolplan.units import count_of, format_bytes

if TYPE_CHECKING:
    from preflight.context import Context

WARM_UP, MEASURED = 3, 10
"""Steps. The first two or three are far slower than all others (45 tokens a second where 13,700 are
usual, by the figures of the Smol Training Playbook)."""

GPU_SECONDS, CPU_SECONDS = 200.0, 15.0
"""Longest for all steps; those made until then count."""

MOST_CPU_FLOPS = 5e11
"""Of one step, a few seconds of two cores: a larger model says nothing of a CPU."""

SAVE_AFTER = 5
"""Steps."""

LARGEST_SAVE_BYTES = 16 * 10**9
"""What is written to try a save: more would wear the storage more than it tells."""

FULLEST = 0.9
"""Of a GPU's memory, by the plan, beside which the steps are tried at all."""


@dataclass(frozen=True)
class Piece:
    """As much of a run as one machine can do."""

    spec: RunSpec
    plan: Plan
    note: str
    """In what it differs from the run; empty if it does not."""


@dataclass(frozen=True)
class Save:
    """A checkpoint that was saved."""

    size: int
    """Bytes."""
    seconds: float
    """Until it counted."""
    stall_s: float
    """Of these training stood still."""


@dataclass(frozen=True)
class Steps:
    piece: Piece
    losses: tuple[float, ...]
    step_s: tuple[float, ...]
    """After the warm-up."""
    memory_bytes: float
    saves: tuple["Save", ...] = ()
    no_saves: str = ""
    """Why there are none."""

    @property
    def median_step_s(self) -> float:
        return statistics.median(self.step_s)

    @property
    def tokens_per_s_per_rank(self) -> float:
        return self.piece.spec.global_batch_tokens / self.median_step_s / self.ranks

    @property
    def ranks(self) -> int:
        return self.piece.spec.parallel.ranks

    @property
    def variation(self) -> float:
        """Standard deviation of the step time over its mean."""
        return statistics.pstdev(self.step_s) / statistics.mean(self.step_s)

    @property
    def planned_tokens_per_s_per_rank(self) -> float | None:
        """By expected_step_s; None on a CPU."""
        step_s = expected_step_s(self.piece)
        return None if step_s is None else self.piece.plan.global_batch_tokens / step_s / self.ranks


class TooLarge(Exception):
    """This machine cannot do a step of the run."""


def piece_of(context: "Context") -> Piece:
    """The run on this machine's ranks: all of it where it has as many, else fewer data-parallel
    ranks, fewer tensor-parallel ones if even those are too many, and fewer layers if that is too
    much for their memory. Raises TooLarge."""
    spec, count, gpu = context.spec, max(1, context.local_ranks), context.uses_gpus
    piece = _on(spec, count, spec.model.layers, gpu=gpu)
    if not gpu:
        room = 0.5 * psutil.virtual_memory().available / count
        flops = piece.plan.flops_per_token * piece.plan.global_batch_tokens
        if piece.plan.memory_per_rank_bytes > room or flops > MOST_CPU_FLOPS:
            raise TooLarge(f"a step of {flops:.2g} FLOPs is too much for this machine's CPUs")
        return piece
    while _too_full(piece):
        layers = piece.spec.model.layers // 2
        if layers < 1 or layers * 8 < spec.model.layers:
            raise TooLarge("not an eighth of the layers fit into the memory of this machine's GPUs")
        piece = _on(spec, count, layers, gpu=gpu)
    return piece


def _too_full(piece: Piece) -> bool:
    have = piece.plan.gpu_memory_bytes
    return have is not None and piece.plan.memory_per_rank_bytes > FULLEST * have


def _on(spec: RunSpec, count: int, layers: int, *, gpu: bool) -> Piece:
    accumulation = min(spec.gradient_accumulation, 4)
    tensor = math.gcd(spec.parallel.tensor_parallel, count)
    data = count // tensor
    content: dict[str, Any] = spec.model_dump(mode="json")
    content["model"]["layers"] = layers
    content["optim"] |= {
        "steps": max(spec.steps, 1000),  # broken off long before: nothing is saved
        "tokens": None,
        "global_batch_size": data * spec.parallel.micro_batch_size * accumulation,
        "batch_warmup": [],
    }
    content["parallel"] |= {"data_parallel": data, "tensor_parallel": tensor, "shard_group": 0}
    content["cluster"] |= {"nodes": 1, "gpus_per_node": count}
    content["checkpoint"] |= {"every_steps": SAVE_AFTER, "keep_last": 2}
    content["launch"] |= {"hosts": [], "backend": "local"}
    if not gpu:
        content["cluster"]["gpu"] = "cpu"
    notes = []
    if count < spec.parallel.ranks:
        notes.append(f"{count} of {spec.parallel.ranks:,} ranks")
    if tensor < spec.parallel.tensor_parallel:
        notes.append(f"tensor_parallel {tensor}")
    if layers < spec.model.layers:
        notes.append(f"{layers} of {spec.model.layers} layers")
    if spec.cluster.gpu != "cpu" and not gpu:
        notes.append("on the CPU")
    made = RunSpec.model_validate(content)
    return Piece(made, make_plan(made), ", ".join(notes))


def make_steps(context: "Context") -> Steps:
    """Train the first steps, and break off. Raises TooLarge, DataRefused, TrainingFailed and
    ProbeError."""
    piece = piece_of(context)
    dataset = context.dataset()
    run, no_saves = RunDir(context.folder()), _no_saves(context, piece)
    if no_saves:
        seldom = piece.spec.checkpoint.model_copy(update={"every_steps": piece.spec.steps})
        piece = replace(piece, spec=piece.spec.model_copy(update={"checkpoint": seldom}))
    else:
        run = RunDir(context.folder(context.storage()))
    write_text(run.spec, dump_spec(piece.spec), durable=False)
    write_json(run.dataset, dataset)
    write_text(run.plan, piece.plan.model_dump_json(), durable=False)
    children = start_ranks(context, run, piece.spec.parallel.ranks, attempt=1)
    longest_s = GPU_SECONDS if context.uses_gpus else CPU_SECONDS
    deadline, begun = None, time.monotonic() + 120.0
    try:
        while (done := len(run.read_metrics())) < WARM_UP + MEASURED or not (
            no_saves or saved(run)  # which may come steps after it was due
        ):
            raise_if_failed(children)
            now = time.monotonic()
            if done and deadline is None:
                deadline = now + longest_s
            if (deadline or begun) < now:
                break
            time.sleep(0.02)
    finally:
        ranks.kill(children)
    ranks.wait(children, 10.0)
    lines = run.read_metrics()
    if len(lines) < 2:
        raise ProbeError(f"{count_of(len(lines), 'step')} within {longest_s:g} s")
    timed = lines[WARM_UP:] if len(lines) > WARM_UP + 1 else lines[1:]
    return Steps(
        piece=piece,
        losses=tuple(line["loss"] for line in lines),
        step_s=tuple(line["step_s"] for line in timed),
        memory_bytes=max(line["memory_bytes"] for line in lines),
        saves=saved(run),
        no_saves=no_saves or f"no {SAVE_AFTER} steps within {longest_s:g} s",
    )


def saved(run: RunDir) -> tuple[Save, ...]:
    """By its events."""
    return tuple(
        Save(e["bytes"], e["seconds"], e["stall_s"])
        for e in run.read_events()
        if e["kind"] == "checkpoint_saved" and e["seconds"] > 0
    )


def _no_saves(context: "Context", piece: Piece) -> str:
    """Why no checkpoint is to be saved; empty if one is. Three lie there at a time, at most."""
    size = piece.plan.checkpoint_bytes
    if size > LARGEST_SAVE_BYTES:
        return f"{format_bytes(size)} are more than is written to try it"
    try:
        folder = str(context.storage())
        if context.probe("storage", "writable", folder, timeout_s=8.0)["error"]:
            return "not writable: see storage.writable"
        free = context.probe("storage", "space", folder, timeout_s=8.0)["free_bytes"]
    except ProbeError as error:
        return str(error)
    return "" if free > 4 * size else "too little space: see storage.space"
