"""The small run broken, damaged or laid out anew, and started again."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.compare import Comparison, compare
from preflight import ranks
from preflight.once import ProbeError
from preflight.small_run_layouts import COMPARED, UNDIVIDED, relative, with_parts
from preflight.small_run_ranks import TIMEOUT_S, raise_if_failed
from smolplan.rundir import MANIFEST, RunDir, read_lines, write_text
from smolplan.spec import dump_spec
from smolplan.uploads import Uploads, store_folder

if TYPE_CHECKING:
    from preflight.small_run import SmallRun

APART = {"fp32": 1e-5, "bf16": 2e-3, "fp8": 1e-2}
"""Largest relative difference of loss and gradient norm after a checkpoint was loaded by another
number of ranks. Measured on CPUs over four steps: 1e-7 in fp32, 5e-7 in bf16, 4e-7 in fp8; where
the optimiser's moments are left out it is 5e-2."""


@dataclass(frozen=True)
class Resumed:
    """What came of a run that was broken off and started again."""

    run: RunDir
    from_step: int | None
    """The checkpoint that it went on from; None if it began anew."""
    expected_step: int
    rejected: dict[int, str]
    """Checkpoints that it would not load, with the reason."""
    comparison: Comparison
    """Its steps beside those of the undisturbed run."""
    while_saving: bool = False
    """Whether the kill came while a checkpoint was being written."""


@dataclass(frozen=True)
class Uploaded:
    """What came of a run whose checkpoints were lost, and fetched from an object store."""

    resumed: Resumed
    upload_s: float
    restore_s: float


@dataclass(frozen=True)
class Reshaped:
    """What came of a checkpoint that another number of ranks went on from."""

    from_ranks: int
    to_ranks: int
    from_step: int | None
    expected_step: int
    apart: float
    """Largest relative difference of loss and gradient norm to the undisturbed run's."""
    most: float


def killed_and_resumed(small: "SmallRun") -> Resumed:
    """Killed by SIGKILL, all ranks, while a checkpoint is written; then started again."""
    reference = small.reference()
    for attempt in range(3):
        run = small.new(f"killed-{attempt}", small.spec)
        if _kill_while_saving(small, run):
            break
    else:
        raise ProbeError("the run ended before it could be killed, three times")
    half_written = any(run.checkpoints.glob(".step-*"))
    expected = newest_checkpoint(run)
    small.train(run, 2)
    return _resumed(reference, run, expected, while_saving=half_written)


def _kill_while_saving(small: "SmallRun", run: RunDir) -> bool:
    """Kill in the midst of the second save, or a step after a later one if that was missed; False
    if the run was over first."""
    children = small.start(run, small.ranks)
    last_s = time.monotonic() + TIMEOUT_S
    late = small.steps - small.spec.checkpoint.every_steps
    try:
        while True:
            newest = newest_checkpoint(run)
            if newest and any(run.checkpoints.glob(".step-*")):
                break
            if newest >= late and last_step(run) > newest:
                break
            raise_if_failed(children)
            if all(child.poll() is not None for child in children):
                return False
            if time.monotonic() > last_s:
                raise ProbeError(f"no checkpoint within {TIMEOUT_S:g} s")
            time.sleep(0.001)
    finally:
        ranks.kill(children)
    return all(ranks.wait(children, TIMEOUT_S)) and last_step(run) < small.steps


def damaged_and_resumed(small: "SmallRun") -> Resumed:
    """The finished run once more, after a bit of its newest checkpoint was flipped, and the one
    before was cut short."""
    done, every = small.reference(), small.spec.checkpoint.every_steps
    run = RunDir(small.folder / "damaged")
    shutil.copytree(done.path, run.path)
    flip_bit(largest_file(run.checkpoint(small.steps)))
    shortened = largest_file(run.checkpoint(small.steps - every))
    with shortened.open("r+b") as file:
        file.truncate(shortened.stat().st_size // 2)
    small.train(run, 2)
    return _resumed(done, run, small.steps - 2 * every)


def largest_file(folder: Path) -> Path:
    """A file of tensors, which nothing but its checksum tells to be damaged."""
    shards = [p for p in folder.iterdir() if p.suffix != ".json"]
    return max(shards, key=lambda p: p.stat().st_size)


def flip_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-8, 2)
        byte = file.read(1)
        file.seek(-8, 2)
        file.write(bytes([byte[0] ^ 1]))


def uploaded_and_restored(small: "SmallRun", url: str) -> Uploaded:
    """The run's first half, its checkpoints copied to the object store by the trainer's own
    uploader, lost here, fetched again, and gone on from."""
    done, every = small.reference(), small.spec.checkpoint.every_steps
    step, run = small.steps // 2, RunDir(small.folder / "uploaded")
    shutil.copytree(done.path, run.path)
    for later in range(step + every, small.steps + 1, every):
        shutil.rmtree(run.checkpoint(later))
    spec = with_parts(small.spec, checkpoint={"upload_to": url})
    write_text(run.spec, dump_spec(spec), durable=False)
    upload_s = small.transfer("trainer.upload", run)
    if left := Uploads.read(run, store_folder(url, run)).pending(run):
        raise ProbeError(f"checkpoint {left[0]} did not arrive")
    shutil.rmtree(run.checkpoints)
    restore_s = small.transfer("trainer.restore", run)
    small.train(run, 2)
    return Uploaded(_resumed(done, run, step), upload_s, restore_s)


def loaded_by_others(small: "SmallRun") -> Reshaped:
    """A checkpoint of half the way, loaded by one rank, or by two where the run has one."""
    done, every = small.reference(), small.spec.checkpoint.every_steps
    count, step = (2 if small.ranks == 1 else 1), small.steps // 2
    run = RunDir(small.folder / "other-ranks")
    shutil.copytree(done.path, run.path)
    for later in range(step + every, small.steps + 1, every):
        shutil.rmtree(run.checkpoint(later))
    spec = with_parts(
        small.spec,
        parallel={**UNDIVIDED, "data_parallel": count},
        cluster={"gpus_per_node": count},
    )
    write_text(run.spec, dump_spec(spec), durable=False)
    children = small.start(run, count, attempt=2)
    last_s = time.monotonic() + TIMEOUT_S
    try:
        while len(lines := _lines(run, 2)) < COMPARED:
            raise_if_failed(children)
            if time.monotonic() > last_s:
                raise ProbeError(f"no {COMPARED} steps within {TIMEOUT_S:g} s")
            time.sleep(0.02)
    finally:
        ranks.kill(children)
    wanted = {line["step"]: line for line in done.read_metrics()}
    return Reshaped(
        from_ranks=small.ranks,
        to_ranks=count,
        from_step=_from_step(run, 2),
        expected_step=step,
        apart=max(
            relative(wanted[line["step"]][field], line[field])
            for line in lines[:COMPARED]
            for field in ("loss", "grad_norm")
        ),
        most=APART[small.spec.optim.precision],
    )


def _lines(run: RunDir, attempt: int) -> list[dict[str, float]]:
    return [line for line in read_lines(run.metrics) if line.get("attempt") == attempt]


def _from_step(run: RunDir, attempt: int) -> int | None:
    events = [e for e in run.read_events() if e.get("attempt") == attempt]
    return next((e["step"] for e in events if e["kind"] == "resumed"), None)


def _resumed(
    reference: RunDir, run: RunDir, expected: int, *, while_saving: bool = False
) -> Resumed:
    events = [e for e in run.read_events() if e.get("attempt") == 2]
    return Resumed(
        run=run,
        from_step=_from_step(run, 2),
        expected_step=expected,
        rejected={
            e["step"]: str(e["reason"]) for e in events if e["kind"] == "checkpoint_rejected"
        },
        comparison=compare(reference, run),
        while_saving=while_saving,
    )


def newest_checkpoint(run: RunDir) -> int:
    """Step of the newest checkpoint with a manifest; 0 if there is none."""
    found = run.checkpoints.glob(f"step-*/{MANIFEST}")
    return max((int(p.parent.name.removeprefix("step-")) for p in found), default=0)


def last_step(run: RunDir) -> int:
    return max((line.get("step", 0) for line in read_lines(run.metrics)), default=0)
