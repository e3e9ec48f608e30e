"""A training run small enough to be made, killed and resumed within seconds.

Same ranks, sharding, precision and recomputation as the user's spec, as far as this machine
has the devices; another model and text, so that it is quick and stands alone.
"""

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.compare import Comparison, compare
from preflight import ranks
from preflight.once import Once, ProbeError
from preflight.small_run_layouts import compare_layouts
from preflight.small_run_ranks import TIMEOUT_S, TrainingFailed, raise_if_failed, start_ranks
from smolplan.rundir import RunDir, read_lines, write_text
from smolplan.spec import RunSpec, dump_spec

if TYPE_CHECKING:
    from preflight.context import Context

STEPS, EVERY = 16, 4

__all__ = ["EVERY", "STEPS", "TIMEOUT_S", "Resumed", "SmallRun", "TrainingFailed", "small_spec"]


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


class SmallRun:
    """Each of its parts is made when first asked for. All raise ProbeError and TrainingFailed."""

    def __init__(self, context: "Context") -> None:
        self._context = context
        self.note = ""
        """In what the run differs from the one to come, beyond its size."""
        try:
            # On the storage of the run to come, so that its saves and renames are what is tried.
            self.folder = context.folder(context.storage())
        except (OSError, ProbeError):
            self.folder = context.folder()
            self.note = f"not on the runs' storage but in {self.folder.parent}"
        if context.spec.cluster.gpu != "cpu" and not context.uses_gpus:
            self.note = "on the CPU: there is no GPU here"
        self.ranks = max(1, context.local_ranks)
        self.spec = small_spec(context.spec, self.ranks, gpu=context.uses_gpus, folder=self.folder)
        self.reference = Once(self._reference)
        self.resumed = Once(self._resumed)
        self.torn = Once(self._torn)
        self.scores = Once(self._scores)
        self.layouts = Once(lambda: compare_layouts(self))
        write_corpus(self.folder / "text", seed=self.spec.seed)
        self._dataset = self._prepare()

    def _prepare(self) -> str:
        run = self.new("prepare", self.spec)
        done = self._context.run(["-m", "trainer.data.prepare", str(run)], TIMEOUT_S)
        if done.returncode:
            raise TrainingFailed(done.stderr.strip().rpartition("\n")[2])
        return run.dataset.read_text("utf-8")

    def new(self, name: str, spec: RunSpec) -> RunDir:
        """A folder for a run of this text."""
        run = RunDir(self.folder / name)
        write_text(run.spec, dump_spec(spec), durable=False)
        return run

    def start(self, run: RunDir, count: int, attempt: int = 1) -> list[ranks.Child]:
        """Its ranks."""
        write_text(run.dataset, self._dataset, durable=False)
        return start_ranks(self._context, run, count, attempt)

    def _train(self, run: RunDir, attempt: int, count: int = 0) -> None:
        children = self.start(run, count or self.ranks, attempt)
        try:
            codes = ranks.wait(children, TIMEOUT_S)
        finally:
            ranks.kill(children)
        for child, code in zip(children, codes, strict=True):
            if code not in (0, -9):
                raise TrainingFailed(f"exit code {code}: {child.error_line()}")
        if any(codes):
            raise TrainingFailed(f"a rank was killed: {codes}")

    def _reference(self) -> RunDir:
        """The undisturbed run."""
        run = self.new("undisturbed", self.spec)
        self._train(run, 1)
        return run

    def _resumed(self) -> Resumed:
        """Killed by SIGKILL, all ranks, after a checkpoint; then started again."""
        reference = self.reference()
        for attempt in range(3):
            run = self.new(f"killed-{attempt}", self.spec)
            if self._kill_after_checkpoint(run):
                break
        else:
            raise ProbeError("the run ended before it could be killed, three times")
        expected = newest_checkpoint(run)
        self._train(run, 2)
        return self._compare(reference, run, 2, expected)

    def _kill_after_checkpoint(self, run: RunDir) -> bool:
        """False if the run was over first."""
        children = self.start(run, self.ranks)
        deadline = time.monotonic() + TIMEOUT_S
        try:
            while newest_checkpoint(run) == 0 or last_step(run) <= newest_checkpoint(run):
                raise_if_failed(children)
                if all(child.poll() is not None for child in children):
                    return False
                if time.monotonic() > deadline:
                    raise ProbeError(f"no checkpoint within {TIMEOUT_S:g} s")
                time.sleep(0.002)
        finally:
            ranks.kill(children)
        return all(ranks.wait(children, TIMEOUT_S)) and last_step(run) < STEPS

    def _torn(self) -> Resumed:
        """The finished run once more, after the largest file of its newest checkpoint was cut."""
        done = self.reference()
        run = RunDir(self.folder / "torn")
        shutil.copytree(done.path, run.path)
        shards = [p for p in run.checkpoint(STEPS).iterdir() if p.suffix != ".json"]
        largest = max(shards, key=lambda p: p.stat().st_size)
        with largest.open("r+b") as file:
            file.truncate(largest.stat().st_size // 2)
        self._train(run, 2)
        return self._compare(done, run, 2, STEPS - EVERY)

    def _compare(self, reference: RunDir, run: RunDir, attempt: int, expected: int) -> Resumed:
        events = [e for e in run.read_events() if e.get("attempt") == attempt]
        return Resumed(
            run=run,
            from_step=next((e["step"] for e in events if e["kind"] == "resumed"), None),
            expected_step=expected,
            rejected={
                e["step"]: str(e["reason"]) for e in events if e["kind"] == "checkpoint_rejected"
            },
            comparison=compare(reference, run),
        )

    def _scores(self) -> list[dict[str, Any]]:
        """Two evaluations of the undisturbed run's newest checkpoint."""
        import json

        run = self.reference()
        children = [
            self._context.server().start(
                "trainer.evaluate", [str(run), "--json"], {}, self.folder / f"evaluate-{n}"
            )
            for n in range(2)
        ]
        try:
            codes = ranks.wait(children, TIMEOUT_S)
        finally:
            ranks.kill(children)
        if any(codes):
            worst = max(zip(codes, children, strict=True), key=lambda c: c[0])
            raise TrainingFailed(f"exit code {worst[0]}: {worst[1].error_line()}")
        return [json.loads(child.stdout.read_text("utf-8")) for child in children]


def small_spec(spec: RunSpec, ranks: int, *, gpu: bool, folder: Path) -> RunSpec:
    """The user's spec with everything that makes it long made short."""
    parallel = spec.parallel
    return RunSpec.model_validate(
        {
            "name": "preflight",
            "seed": spec.seed,
            "model": {
                **spec.model.model_dump(),
                "layers": 4,  # the fourth is the first without rotary embedding, by default
                "hidden": 32,
                "heads": 2,
                "kv_heads": 1,
                "head_dim": 16,
                "ffn_hidden": 64,
                "vocab_size": 320,
            },
            "data": {
                "sources": [{"path": str(folder / "text")}],
                "seq_len": 64,
                "held_out_fraction": 0.1,
                "cache_dir": str(folder / "tokens"),
            },
            "optim": {
                **spec.optim.model_dump(),
                "steps": STEPS,
                "tokens": None,
                "global_batch_size": 2 * ranks,
                "learning_rate": 5e-3,
                "warmup_steps": 2,
                "decay_steps": 4,
            },
            "parallel": {
                "data_parallel": ranks,
                "zero_stage": max(2, parallel.zero_stage),
                "recompute": "full" if parallel.recompute == "full" else "none",
            },
            "cluster": {
                "gpus_per_node": ranks,
                "gpu": spec.cluster.gpu if gpu else "cpu",
            },
            "checkpoint": {"every_steps": EVERY, "keep_last": STEPS // EVERY},
            "launch": {
                "environment": spec.launch.environment,
                "threads_per_rank": spec.launch.threads_per_rank,
                "collective_timeout_s": TIMEOUT_S,
            },
            "eval": {"sequences": 8},
        }
    )


def write_corpus(folder: Path, *, seed: int) -> None:
    """Forty documents of made-up sentences: a text with enough pattern to be learnt a little."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("aeioulnrst", k=draw.randint(2, 8))) for _ in range(200)]
    folder.mkdir(parents=True)
    for number in range(40):
        sentences = [" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(40)]
        (folder / f"{number:02}.txt").write_text("".join(sentences), "utf-8")


def newest_checkpoint(run: RunDir) -> int:
    """Step of the newest checkpoint with a manifest; 0 if there is none."""
    found = run.checkpoints.glob("step-*/manifest.json")
    return max((int(p.parent.name.removeprefix("step-")) for p in found), default=0)


def last_step(run: RunDir) -> int:
    return max((line.get("step", 0) for line in read_lines(run.metrics)), default=0)
