"""Small real runs for the tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launcher import control, create
from launcher.processes import kill_by_token
from launcher.store import Run, Store
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, parse_spec

BASE = """
name: small
seed: 1
model: {{layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn_hidden: 64, vocab_size: 400}}
data:
  sources: [{{path: "{text}", glob: "*.py"}}]
  seq_len: 32
  max_epochs: 1000
  held_out_fraction: 0.2
  cache_dir: "{cache}"
optim:
  {{steps: {steps}, global_batch_size: 4, learning_rate: {rate}, warmup_steps: 2, decay_steps: 4,
   precision: fp32}}
parallel: {{data_parallel: {ranks}, micro_batch_size: {micro}}}
cluster: {{gpus_per_node: {ranks}, gpu: cpu}}
checkpoint: {{every_steps: {every}, keep_last: 3}}
monitor:
  {{poll_s: 0.1s, hang_min_s: 3s, startup_timeout_s: 60s, backoff_initial_s: 0.1s,
   backoff_max_s: 0.2s, crash_loop_limit: 3}}
"""


def make_spec(
    cache: Path, *, steps: int = 12, every: int = 4, ranks: int = 2, rate: float = 1e-3
) -> RunSpec:
    text, micro = Path(json.__file__).parent, min(2, 4 // ranks)
    return parse_spec(
        BASE.format(
            text=text,
            cache=cache,
            steps=steps,
            every=every,
            ranks=ranks,
            rate=rate,
            micro=micro,
        ),
        where="test",
    )


def start(
    spec: RunSpec, store: Store, folder: Path, *, monitored: bool, checked: bool = False
) -> Run:
    """`checked`: as `smolplan launch` has it. Most tests are of something else, and checks take
    seconds."""
    run, attempt = create.create_run(spec, store, folder, monitored=monitored)
    if not checked:
        RunDir(run.path).unchecked.write_text("{}")
    control.start(store, run, attempt, spec)
    return store.run(run.id)


def wait_until(true: Callable[[], bool], timeout_s: float = 90.0) -> None:
    """Wait for something that real processes bring about; fail if they do not."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def steps_done(run: Run) -> int:
    return max((line["step"] for line in RunDir(run.path).read_metrics()), default=0)


def events(run: Run, kind: str) -> list[dict[str, object]]:
    return [e for e in RunDir(run.path).read_events() if e["kind"] == kind]


def smolplan(
    *arguments: str, timeout_s: float = 120.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command as a user's shell runs it, with these variables set."""
    return subprocess.run(
        [sys.executable, "-m", "smolplan", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "COLUMNS": "80", **environment},
        check=False,
    )


def end_all(store: Store) -> None:
    """Leave no process behind: daemons first, so that nothing is started again."""
    from launcher.processes import is_alive

    for daemon in store.live_daemons(is_alive, seen_within_s=1e9):
        os.kill(daemon.pid, 9)
    for run in store.runs():
        for attempt in store.attempts(run.id):
            kill_by_token(attempt.token)
