"""A training run small enough to be made, killed and resumed within seconds.

Same ranks, sharding, precision and recomputation as the user's spec, as far as this machine
has the devices, and two ranks of each other kind of parallelism for more; another model and text,
so that it is quick and stands alone.
"""

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight import ranks
from preflight.once import Once, ProbeError
from preflight.small_model import small_model
from preflight.small_run_layouts import compare_layouts
from preflight.small_run_ranks import TIMEOUT_S, TrainingFailed, start_ranks
from preflight.small_run_restart import (
    Resumed,
    damaged_and_resumed,
    killed_and_resumed,
    loaded_by_others,
)
from preflight.small_run_weights import compare_weights
from smolplan.rundir import RunDir, write_text
from smolplan.spec import RunSpec, dump_spec
from smolplan.spec.parallel import ParallelSpec

if TYPE_CHECKING:
    from preflight.context import Context

STEPS, EVERY = 16, 4

__all__ = ["EVERY", "STEPS", "TIMEOUT_S", "Resumed", "SmallRun", "TrainingFailed", "small_spec"]


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
        self.compiles = context.spec.launch.compile
        """Whether the run to come does. Of the small ones only one that is compared does too."""
        self.steps = STEPS
        self.ranks = max(1, context.local_ranks)
        self.spec = small_spec(context.spec, self.ranks, gpu=context.uses_gpus, folder=self.folder)
        self.reference = Once(self._reference)
        self.resumed = Once(lambda: killed_and_resumed(self))
        self.damaged = Once(lambda: damaged_and_resumed(self))
        self.reshaped = Once(lambda: loaded_by_others(self))
        self.scores = Once(self._scores)
        self.layouts = Once(lambda: compare_layouts(self))
        self.weights = Once(lambda: compare_weights(self))
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

    def start(
        self, run: RunDir, count: int, attempt: int = 1, module: str = "trainer"
    ) -> list[ranks.Child]:
        """Its ranks."""
        write_text(run.dataset, self._dataset, durable=False)
        return start_ranks(self._context, run, count, attempt, module)

    def train(self, run: RunDir, attempt: int, count: int = 0) -> None:
        """Its ranks, to their end."""
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

    def transfer(self, module: str, run: RunDir) -> float:
        """Seconds that the trainer's upload or restore of a run took."""
        began = time.monotonic()
        done = self._context.run(["-m", module, str(run)], TIMEOUT_S)
        if done.returncode:
            raise TrainingFailed(done.stderr.strip().rpartition("\n")[2])
        return time.monotonic() - began

    def _reference(self) -> RunDir:
        """The undisturbed run."""
        run = self.new("undisturbed", self.spec)
        self.train(run, 1)
        return run

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


def _small_parallel(parallel: ParallelSpec, ranks: int) -> dict[str, Any]:
    """Two ranks of each kind of parallelism that there is, as far as they go."""
    degrees, left = {}, ranks
    for kind in ("tensor_parallel", "context_parallel", "pipeline_parallel"):
        degrees[kind] = 2 if getattr(parallel, kind) > 1 and left % 2 == 0 else 1
        left //= degrees[kind]
    small: dict[str, Any] = {
        **degrees,
        "data_parallel": left,
        "zero_stage": 2 if parallel.zero_stage == 1 else parallel.zero_stage,
        "recompute": parallel.recompute,
    }
    replicas = left * degrees["context_parallel"]
    if parallel.shard_group and replicas % 2 == 0:
        small["shard_group"] = 2
    if parallel.expert_parallel > 1 and replicas % 2 == 0:
        small["expert_parallel"] = 2
    if degrees["pipeline_parallel"] > 1 and parallel.pipeline_schedule == "zero-bubble":
        small |= {"schedule": "zero-bubble", "zero_stage": min(2, small["zero_stage"])}
    elif degrees["pipeline_parallel"] > 1 and parallel.virtual_pipeline > 1:
        small["virtual_pipeline"] = 2
    return small


def small_spec(spec: RunSpec, ranks: int, *, gpu: bool, folder: Path) -> RunSpec:
    """The user's spec with everything that makes it long made short."""
    parallel = _small_parallel(spec.parallel, ranks)
    return RunSpec.model_validate(
        {
            "name": "preflight",
            "seed": spec.seed,
            "model": small_model(spec.model),
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
                "batch_warmup": (),
                "learning_rate": 5e-3,
                "warmup_steps": 2,
                "decay_steps": 4 if spec.optim.schedule == "wsd" else 0,
            },
            "parallel": parallel,
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


ALPHABETS = ("aelns", "iourt", "bcdfg", "hkmpy")


def write_corpus(folder: Path, *, seed: int) -> None:
    """Forty documents of made-up sentences in four languages, each with letters of its own: a text
    with enough pattern to be learnt a little, and to tell how a document goes on."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    for language, letters in enumerate(ALPHABETS):
        words = ["".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(50)]
        for number in range(10):
            sentences = [" ".join(draw.choices(words, k=9)) + ".\n" for _ in range(40)]
            # One after the other, so that of each a document is held out.
            file = folder / f"{language}{number}.txt"
            file.write_text("".join(sentences), "utf-8")
