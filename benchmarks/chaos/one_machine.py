"""A run of two ranks on this machine, broken at random moments."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.damage import WAYS, damage
from launcher import control, create
from launcher.compare import compare, seconds_to_decision, seconds_to_next_step
from launcher.processes import find_by_token, is_alive
from launcher.store import Run, Store
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, dump_spec, parse_spec

STEPS_PER_FAULT = 150

SPEC = """
name: chaos
seed: {seed}
model: {{layers: 2, hidden: 64, heads: 4, kv_heads: 2, ffn_hidden: 128, vocab_size: 512}}
data:
  sources: [{{path: {text}, glob: "*.py"}}]
  seq_len: 64
  max_epochs: 1000
  cache_dir: {cache}
optim:
  steps: {steps}
  global_batch_size: 4
  learning_rate: 1.0e-3
  warmup_steps: 5
  decay_steps: 10
  precision: fp32
parallel: {{data_parallel: 2, micro_batch_size: 2}}
cluster: {{gpus_per_node: 2, gpu: cpu}}
checkpoint: {{every_steps: 10, keep_last: 3}}
monitor:
  poll_s: 0.1s
  hang_min_s: 4s
  startup_timeout_s: 25s
  backoff_initial_s: 0.1s
  backoff_max_s: 0.5s
  crash_loop_limit: 1000
"""


@dataclass
class Fault:
    number: int
    kind: str
    time: float
    attempt: int
    step: int
    alone: bool
    """Whether the run had got over the fault before, so that what follows is this one's doing."""
    seen_as: str = ""
    decision_s: float | None = None
    next_step_s: float | None = None


def _ranks(run: Run, store: Store) -> list[psutil.Process]:
    attempt = store.attempts(run.id)[-1]
    found = []
    for process in find_by_token(attempt.token):
        with suppress(psutil.Error):
            if "trainer" in process.cmdline():
                found.append(process)
    return found


def _signal(processes: list[psutil.Process], number: signal.Signals) -> bool:
    """Whether any was hit."""
    hit = False
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            hit = True
    return hit


def kill_rank(run: Run, store: Store, rng: random.Random) -> bool:
    ranks = _ranks(run, store)
    return _signal(rng.sample(ranks, min(1, len(ranks))), signal.SIGKILL)


def kill_all_ranks(run: Run, store: Store, rng: random.Random) -> bool:
    return _signal(_ranks(run, store), signal.SIGKILL)


def kill_everything(run: Run, store: Store, rng: random.Random) -> bool:
    """Ranks and their supervisor, as when the machine goes down."""
    return _signal(find_by_token(store.attempts(run.id)[-1].token), signal.SIGKILL)


def kill_supervisor(run: Run, store: Store, rng: random.Random) -> bool:
    own = find_by_token(store.attempts(run.id)[-1].token)
    ranks = {process.pid for process in _ranks(run, store)}
    return _signal([process for process in own if process.pid not in ranks], signal.SIGKILL)


def stop_rank(run: Run, store: Store, rng: random.Random) -> bool:
    """SIGSTOP: a rank that hangs."""
    ranks = _ranks(run, store)
    return _signal(rng.sample(ranks, min(1, len(ranks))), signal.SIGSTOP)


def kill_daemon(run: Run, store: Store, rng: random.Random) -> bool:
    """Then two new ones are started at once: one of them may act."""
    daemons = store.live_daemons(is_alive)
    for daemon in daemons:
        with suppress(ProcessLookupError):
            os.kill(daemon.pid, signal.SIGKILL)
    for _ in range(2):
        subprocess.Popen(
            [sys.executable, "-m", "monitor", "--until-idle"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return bool(daemons)


def kill_daemon_and_rank(run: Run, store: Store, rng: random.Random) -> bool:
    hit = kill_rank(run, store, rng)
    return kill_daemon(run, store, rng) and hit


def damage_checkpoint(run: Run, store: Store, rng: random.Random) -> bool:
    """Cut short, flip a byte of, or remove a file of the newest checkpoint; then kill all."""
    folders = list(RunDir(run.path).checkpoints.glob("step-*"))
    kill_all_ranks(run, store, rng)
    if len(folders) < 2:
        return False
    newest = max(folders, key=lambda p: int(p.name.removeprefix("step-")))
    with suppress(FileNotFoundError):
        file = rng.choice(sorted(newest.iterdir()))
        damage(file, rng.choice(WAYS))
        return True
    return False


def kill_launcher(run: Run, store: Store, rng: random.Random) -> bool:
    """A launch of another run, killed on its way: it leaves a run that trains, or none."""
    spec = store.folder / "other.yaml"
    before = {other.id for other in store.runs()}
    process = subprocess.Popen(
        [sys.executable, "-m", "smolplan", "launch", str(spec), "--runs-dir", str(run.path.parent)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(rng.uniform(0.1, 3.0))
    process.kill()
    process.wait()
    for other in store.runs():
        if other.id in before:
            continue
        deadline = time.monotonic() + 60
        while step_of(other) == 0:
            if time.monotonic() > deadline:
                raise AssertionError(f"{other.id} is on record and does not train")
            time.sleep(0.1)
        control.kill(store, other)
    return True


FAULTS: dict[str, Callable[[Run, Store, random.Random], bool]] = {
    "rank killed": kill_rank,
    "all ranks killed": kill_all_ranks,
    "ranks and supervisor killed": kill_everything,
    "supervisor killed": kill_supervisor,
    "rank hangs": stop_rank,
    "daemon killed": kill_daemon,
    "daemon and rank killed": kill_daemon_and_rank,
    "checkpoint damaged": damage_checkpoint,
    "launcher killed": kill_launcher,
}
NO_RESTART = {"daemon killed", "launcher killed"}
"""Faults that the training itself does not feel: a restart after one is a mistake."""


def launch(spec: RunSpec, store: Store, folder: Path) -> Run:
    run, attempt = create.create_run(spec, store, folder, monitored=True)
    control.start(store, run, attempt, spec)
    return run


def step_of(run: Run) -> int:
    return max((b.step for b in RunDir(run.path).read_heartbeats().values()), default=0)


def inject(
    run: Run, store: Store, count: int, rng: random.Random, say: Callable[[str], None]
) -> list[Fault]:
    """`count` faults, each at a random moment after the one before was got over. Each kind has
    its turn before one comes again."""
    alone = _await_progress(run, store, 0)
    faults: list[Fault] = []
    kinds: list[str] = []
    while len(faults) < count and store.run(run.id).state == "active":
        kinds = kinds or rng.sample(list(FAULTS), len(FAULTS))
        kind = kinds.pop()
        time.sleep(rng.uniform(0.0, 4.0))
        attempt = store.attempts(run.id)[-1].number
        fault = Fault(len(faults) + 1, kind, time.time(), attempt, step_of(run), alone)
        if not FAULTS[kind](run, store, rng):
            kinds.append(kind)  # there was nothing to hit just then: once more
            continue
        faults.append(fault)
        say(f"fault {fault.number}: {kind} at step {fault.step}")
        # One time in five the next fault comes on top of this one.
        alone = rng.random() < 0.8 and _await_progress(run, store, attempt)
        if kind in NO_RESTART and fault.alone and alone:
            restarted = store.attempts(run.id)[-1].number > attempt
            fault.seen_as = "RESTARTED WITHOUT NEED" if restarted else "not a fault of the run"
    return faults


def _await_progress(run: Run, store: Store, attempt: int, timeout_s: float = 90.0) -> bool:
    """Until a later attempt trains, or this one goes on: a fault may have found nothing to hit."""
    deadline = time.monotonic() + timeout_s
    before = step_of(run)
    while time.monotonic() < deadline and store.run(run.id).state == "active":
        beats = RunDir(run.path).read_heartbeats().values()
        later = any(b.attempt > attempt and b.phase == "training" for b in beats)
        if later or any(b.attempt == attempt and b.step > before + 20 for b in beats):
            return True
        time.sleep(0.1)
    return False


def run(faults_wanted: int, seed: int, *, as_json: bool) -> int:
    """The exit code: 0 if the run ended as an undisturbed one does, bit for bit."""
    console = Console(width=79, highlight=False)
    progress = Console(stderr=True, highlight=False)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="smolplan-chaos-") as name:
        base = Path(name)
        os.environ["SMOLPLAN_STATE"] = str(base / "state")
        store = Store()
        settings = {"seed": seed, "text": Path(json.__file__).parent, "cache": base / "c"}
        steps = STEPS_PER_FAULT * max(1, faults_wanted)
        spec = parse_spec(SPEC.format(steps=steps, **settings), where="chaos")
        other = dump_spec(spec).replace("name: chaos", "name: other")
        (store.folder / "other.yaml").write_text(other)
        progress.print(f"undisturbed run of {steps} steps")
        calm = control.await_end(store, launch(spec, store, base / "runs").id, 1200)
        disturbed = launch(spec, store, base / "runs")
        faults = inject(disturbed, store, faults_wanted, rng, progress.print)
        progress.print("no more faults: waiting for the end")
        ended = control.await_end(store, disturbed.id, 1200)
        directory = RunDir(ended.path)
        result = compare(RunDir(calm.path), directory)
        causes = {a.number: a.cause for a in store.attempts(ended.id)}
        for fault in faults:
            if fault.kind in NO_RESTART:
                continue
            fault.seen_as = causes.get(fault.attempt, "")
            fault.decision_s = seconds_to_decision(directory, fault.time)
            fault.next_step_s = seconds_to_next_step(directory, fault.time, fault.attempt)
        rejected = [e for e in directory.read_events() if e.get("kind") == "checkpoint_rejected"]
        for daemon in store.live_daemons(is_alive):
            with suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGTERM)
        store.close()
    injected = len(faults) == faults_wanted
    needless = [fault.number for fault in faults if "WITHOUT NEED" in fault.seen_as]
    finished = calm.state == ended.state == "finished"
    good = finished and result.equal and injected and not needless
    if as_json:
        answer = {
            "good": good,
            "state": ended.state,
            "reason": ended.reason,
            "faults": [asdict(fault) for fault in faults],
            "comparison": asdict(result),
            "checkpoints_rejected": len(rejected),
            "needless_restarts": needless,
        }
        console.print_json(json.dumps(answer))
        return 0 if good else 1
    table = Table(box=None, padding=(0, 1))
    for column in ("#", "fault", "step", "seen as", "seen s", "step s"):
        table.add_column(column, overflow="fold")
    for f in faults:
        times = ["" if t is None else f"{t:.1f}" for t in (f.decision_s, f.next_step_s)]
        table.add_row(str(f.number), f.kind, str(f.step), f.seen_as, *times)
    console.print(table)
    console.print(
        f"{len(faults)} faults, {len(causes)} attempts; the run {ended.state}: {ended.reason}"
    )
    console.print(
        f"{result.steps} steps compared with the undisturbed run: {len(result.missing)} missing, "
        f"{len(result.different)} different; {result.redone} steps done again, "
        f"{len(result.redone_differently)} of them differently; {len(result.wrong_data)} on data "
        f"that was not due; "
        f"{len(rejected)} damaged checkpoints rejected"
    )
    if not injected:
        console.print(f"[bold red]only {len(faults)} of {faults_wanted} faults took place[/]")
    if needless:
        console.print(f"[bold red]restarted without need after faults {needless}[/]")
    equal = "losses equal bit for bit" if result.equal else "[bold red]losses NOT EQUAL[/]"
    console.print(equal)
    return 0 if good else 1
