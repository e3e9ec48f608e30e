"""A small run on this machine, with the ranks of the real one: killed, resumed, compared,
evaluated, and seen in the metrics."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

from launcher.compare import compare
from launcher.create import prepare_data
from launcher.processes import TOKEN_VARIABLE, kill_by_token
from preflight.registry import Answer, Context, check
from smolplan.rundir import RunDir, write_text
from smolplan.spec import RunSpec, dump_spec

STEPS, EVERY, KILL_AT = 12, 4, 6
FIELDS = {
    *("step", "tokens", "loss", "grad_norm", "lr", "tokens_per_s", "step_s", "mfu"),
    *("memory_bytes", "data_position", "batch_checksum", "attempt", "time"),
}


def small_spec(spec: RunSpec) -> RunSpec:
    """The same ranks (of one node), precision and sharding; a model of a few thousand weights."""
    ranks = min(spec.parallel.ranks, spec.cluster.gpus_per_node)
    content = spec.model_dump()
    content["name"] = "rehearsal"
    content["model"] |= {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": None}
    content["model"] |= {"ffn_hidden": 128, "vocab_size": 512}
    content["data"] |= {
        "sources": [{"path": str(Path(json.__file__).parent), "glob": "*.py"}],
        "tokenizer": None,
        "seq_len": 64,
        "max_epochs": 100.0,
        "held_out_fraction": 0.2,
    }
    content["optim"] |= {"steps": STEPS, "tokens": None, "global_batch_size": 2 * ranks}
    content["optim"] |= {"warmup_steps": 2, "decay_steps": 2}
    content["parallel"] |= {"data_parallel": ranks, "tensor_parallel": 1, "pipeline_parallel": 1}
    content["parallel"] |= {"context_parallel": 1, "expert_parallel": 1, "micro_batch_size": 2}
    content["parallel"] |= {"zero_stage": max(2, spec.parallel.zero_stage), "recompute": "none"}
    content["cluster"] |= {"nodes": 1, "gpus_per_node": ranks}
    content["checkpoint"] |= {"every_steps": EVERY}
    return RunSpec.model_validate(content)


def _start(run: RunDir, spec: RunSpec, attempt: int, token: str) -> subprocess.Popen[bytes]:
    log = run.attempt(attempt) / "logs" / "torchrun.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **spec.launch.environment, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        return subprocess.Popen(
            [
                *[sys.executable, "-m", "torch.distributed.run"],
                *["--nproc-per-node", str(spec.parallel.ranks), "--rdzv-backend", "c10d"],
                *["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"],
                *["-m", "trainer", str(run.path), "--attempt", str(attempt)],
            ],
            env={**environment, TOKEN_VARIABLE: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


@check(
    "checkpoint.resume",
    remedy="Do not start: a restart would not continue the same training. Read the logs named.",
    deadline_s=300,
)
def resume(context: Context) -> Answer:
    """Save → SIGKILL → resume, with losses and batches equal to an undisturbed run's."""
    try:
        import torch  # noqa: F401 - only whether it is there
    except ImportError:
        return "skipped", "torch is not installed: pip install 'smolplan[train]'"
    spec, token = small_spec(context.spec), uuid.uuid4().hex
    calm, killed = (RunDir(context.scratch / name) for name in ("calm", "killed"))
    for run in (calm, killed):
        write_text(run.spec, dump_spec(spec))
        prepare_data(run)
    try:
        if code := _start(calm, spec, 1, token).wait(timeout=120):
            return "fail", f"the small run ended with code {code}: {_last_error(calm)}"
        first = _start(killed, spec, 1, token)
        while first.poll() is None and len(killed.read_metrics()) < KILL_AT:
            time.sleep(0.02)
        kill_by_token(token)
        first.wait()
        reached = len(killed.read_metrics())
        if code := _start(killed, spec, 2, token).wait(timeout=120):
            return "fail", f"the resumed run ended with code {code}: {_last_error(killed)}"
    finally:
        kill_by_token(token)
    context.shared["run"] = killed
    result = compare(calm, killed)
    if not result.equal:
        odd = result.different or result.redone_differently or result.missing
        return "fail", f"killed at step {reached}, the resumed run differs at steps {list(odd)}"
    return "pass", (
        f"killed at step {reached}, resumed: {result.steps} losses and batches equal bit for bit"
    )


@check(
    "evaluation.held_out",
    remedy="Read the message: evaluations must run before the run does.",
    deadline_s=120,
)
def evaluation(context: Context) -> Answer:
    """Bits per byte of the fresh checkpoint, twice."""
    run = context.shared.get("run")
    if not isinstance(run, RunDir):
        return "skipped", "there is no fresh checkpoint (checkpoint.resume did not pass or run)"
    scores = []
    for _ in range(2):
        process = subprocess.run(
            [sys.executable, "-m", "trainer.evaluate", str(run.path), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if process.returncode:
            return "fail", process.stderr.strip().splitlines()[-1]
        scores.append(json.loads(process.stdout))
    score, chance = scores[0]["bits_per_byte"], scores[0]["chance_bits_per_byte"]
    if scores[0] != scores[1]:
        return "fail", f"two evaluations of one checkpoint differ: {scores}"
    said = f"{score:.3f} bits per byte twice, chance {chance:.3f}, step {scores[0]['step']}"
    return ("pass" if score < chance else "warn"), said


@check("metrics.arrive", remedy="The monitor reads these: look at the run folder's permissions.")
def metrics(context: Context) -> Answer:
    run = context.shared.get("run")
    if not isinstance(run, RunDir):
        return "skipped", "there is no small run (checkpoint.resume did not pass or run)"
    lines, beats = run.read_metrics(), run.read_heartbeats()
    lacking = sorted({name for line in lines for name in FIELDS - line.keys()})
    if lacking or len(lines) != STEPS:
        return "fail", f"{len(lines)} of {STEPS} steps logged; missing fields: {lacking}"
    finished = sum(beat.phase == "finished" for beat in beats.values())
    if finished != small_spec(context.spec).parallel.ranks:
        return "fail", f"{finished} ranks reported their end by heartbeat"
    return "pass", f"{len(lines)} steps with {len(FIELDS)} fields each; {len(beats)} heartbeats"


def _last_error(run: RunDir) -> str:
    texts = [p.read_text(errors="replace") for p in sorted(run.attempts.rglob("*.log"))]
    lines = [line for text in texts for line in text.splitlines() if "rror" in line]
    return lines[-1].strip()[:200] if lines else "no error was logged"
