"""`python -m benchmarks.two_daemons --minutes M --seed S`: several real monitors on one state
folder, paused (SIGSTOP), woken, killed and started again at random, while the runs they watch break
and people stop and resume them. What must never be is counted; exit 1 if there is any of it."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.peers.document import markdown_table, write_section
from benchmarks.two_daemons.processes import LEASE_S, NotingStore, use_small_ranks
from benchmarks.two_daemons.rank import STARTS
from launcher import control
from launcher.processes import find_by_token
from launcher.store import Run
from smolplan.errors import SmolplanError
from smolplan.rundir import RunDir, read_lines
from smolplan.spec import dump_spec, parse_spec

COMMAND = "python -m benchmarks.two_daemons"
DAEMONS, RUNS = 3, 3

SPEC = """
name: {name}
model: {{layers: 2, hidden: 64, heads: 4, kv_heads: 2, ffn_hidden: 128, vocab_size: 512}}
data: {{sources: [{{path: {text}, glob: "*.py"}}], seq_len: 64, max_epochs: 1000}}
optim:
  {{steps: 1000000, global_batch_size: 4, learning_rate: 1.0e-3, warmup_steps: 5, decay_steps: 10,
   precision: fp32}}
parallel: {{data_parallel: 1, micro_batch_size: 4}}
cluster: {{gpus_per_node: 1, gpu: cpu}}
monitor:
  {{poll_s: 0.1s, hang_min_s: 3s, startup_timeout_s: 20s, backoff_initial_s: 0.1s,
   backoff_max_s: 0.3s, crash_loop_limit: 100000, stop_grace_s: 3s}}
"""


class Lab:
    """The monitors and the runs, and what is done to them."""

    def __init__(self, base: Path, rng: random.Random) -> None:
        self._base, self._rng = base, rng
        self.store = NotingStore()
        self.done: Counter[str] = Counter()
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._paused: dict[int, float] = {}
        """Process → when it is woken (monotonic clock)."""
        for number in range(RUNS):
            folder = base / f"run-{number}"
            folder.mkdir()
            text = SPEC.format(name=folder.name, text=Path(json.__file__).parent)
            spec = parse_spec(text, where=folder.name)
            (folder / "spec.yaml").write_text(dump_spec(spec))
            self.store.add_run(folder.name, folder, spec.content_hash(), monitored=True)
        for _ in range(DAEMONS):
            self._start_daemon()

    def _start_daemon(self) -> None:
        program = [sys.executable, "-m", "benchmarks.two_daemons.processes", "daemon"]
        with (self._base / "monitors.log").open("ab") as log:
            self._daemons.append(subprocess.Popen(program, stdout=log, stderr=log))

    # What is done

    def pause_monitor(self) -> bool:
        """At any moment, for long enough to lose its runs, or not."""
        daemon = self._rng.choice(self._daemons)
        return self._pause(daemon.pid)

    def pause_monitor_as_it_acts(self) -> bool:
        """Right after it has put a change on record, when it has yet to carry it out."""
        before, deadline = self._last_change()[0], time.monotonic() + 3.0
        while time.monotonic() < deadline:
            row, holder = self._last_change()
            pid = int(holder.partition(":")[0] or 0)
            if row > before and pid != os.getpid():
                return self._pause(pid)
            time.sleep(0.001)
        return False

    def _pause(self, pid: int) -> bool:
        if pid not in [daemon.pid for daemon in self._daemons] or pid in self._paused:
            return False
        os.kill(pid, signal.SIGSTOP)
        self._paused[pid] = time.monotonic() + self._rng.uniform(0.2, 3 * LEASE_S)
        return True

    def _last_change(self) -> tuple[int, str]:
        rows = self.store._read("SELECT rowid, holder FROM changes ORDER BY rowid DESC LIMIT 1")
        return (rows[0]["rowid"], rows[0]["holder"]) if rows else (0, "")

    def wake_monitors(self, *, all_of_them: bool = False) -> None:
        for pid, until_s in list(self._paused.items()):
            if all_of_them or time.monotonic() > until_s:
                os.kill(pid, signal.SIGCONT)
                del self._paused[pid]

    def kill_monitor(self) -> bool:
        daemon = self._rng.choice(self._daemons)
        daemon.kill()
        daemon.wait()
        self._daemons.remove(daemon)
        self._paused.pop(daemon.pid, None)
        self._start_daemon()
        return True

    def kill_rank(self) -> bool:
        return self._signal(signal.SIGKILL, ranks=True)

    def stop_rank(self) -> bool:
        return self._signal(signal.SIGSTOP, ranks=True)

    def kill_supervisor(self) -> bool:
        """Its rank lives on until the attempt is ended."""
        return self._signal(signal.SIGKILL, ranks=False)

    def _signal(self, number: signal.Signals, *, ranks: bool) -> bool:
        hit = False
        for process in find_by_token(self.store.attempts(self._any_run().id)[-1].token):
            with suppress(psutil.Error):
                if ("benchmarks.two_daemons.rank" in process.cmdline()) == ranks:
                    process.send_signal(number)
                    hit = True
        return hit

    def stop_run(self) -> bool:
        run = self._any_run()
        if run.state == "active":
            ask = self._rng.choice([control.request_stop, control.kill])
            with suppress(SmolplanError):
                ask(self.store, run)
        return run.state == "active"

    def resume_run(self) -> bool:
        over = [run for run in self.store.runs() if run.state != "active"]
        for run in over:
            control.resume(self.store, run, monitored=True)
        return bool(over)

    def _any_run(self) -> Run:
        return self._rng.choice(self.store.runs())

    # How it ends

    def unattended(self) -> int:
        """Runs that do not go on, once all monitors are awake and nobody disturbs them."""
        self.wake_monitors(all_of_them=True)
        for run in self.store.runs():
            if run.state == "active" and run.stop_requested_at is not None:
                control.await_end(self.store, run.id, 60)
        self.resume_run()
        deadline = time.monotonic() + 60
        waiting = {run.id: self._step(run) for run in self.store.runs()}
        while waiting and time.monotonic() < deadline:
            for run in self.store.runs():
                if run.id in waiting and self._step(run) > waiting[run.id] + 20:
                    del waiting[run.id]
            time.sleep(0.2)
        return len(waiting)

    def _step(self, run: Run) -> int:
        return max((b.step for b in RunDir(run.path).read_heartbeats().values()), default=0)

    def end(self) -> int:
        """How many processes are left of runs that have been ended."""
        for run in self.store.runs():
            if run.state == "active":
                control.kill(self.store, run)
        tokens = [a.token for run in self.store.runs() for a in self.store.attempts(run.id)[-3:]]
        left = sum(len(find_by_token(token)) for token in tokens)
        for daemon in self._daemons:
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait()
        return left

    def refusals(self) -> int:
        return (self._base / "monitors.log").read_text("utf-8").count("has moved on from fence")


ACTIONS: dict[str, tuple[Callable[[Lab], bool], int]] = {
    "monitor paused at any moment": (Lab.pause_monitor, 3),
    "monitor paused as it acts": (Lab.pause_monitor_as_it_acts, 6),
    "monitor killed, another started": (Lab.kill_monitor, 2),
    "rank killed": (Lab.kill_rank, 4),
    "rank hangs": (Lab.stop_rank, 1),
    "supervisor killed, its rank left": (Lab.kill_supervisor, 3),
    "run stopped by a person": (Lab.stop_run, 1),
    "run resumed by a person": (Lab.resume_run, 3),
}
"""What is done, and how often beside the others."""


def disturb(lab: Lab, minutes: float, rng: random.Random) -> None:
    end_s = time.monotonic() + 60 * minutes
    weights = [weight for _, weight in ACTIONS.values()]
    while time.monotonic() < end_s:
        time.sleep(rng.uniform(0.0, 0.6))
        lab.wake_monitors()
        name = rng.choices(list(ACTIONS), weights)[0]
        lab.done[name] += ACTIONS[name][0](lab)


def starts_against_the_rule(store: NotingStore) -> tuple[int, int, int]:
    """Starts of ranks; attempts started twice; starts while another rank of the run lived."""
    total = twice = crowded = 0
    for run in store.runs():
        lines = list(read_lines(run.path / STARTS))
        total += len(lines)
        twice += sum(n > 1 for n in Counter(line["attempt"] for line in lines).values())
        crowded += sum(not line["alone"] for line in lines)
    return total, twice, crowded


def changes_against_the_rule(store: NotingStore) -> tuple[int, int, int]:
    """Changes under a fencing number that had passed; attempts planned before the last had ended;
    attempts that were moved, or left unended, after their run was over."""
    late = early = after = 0
    newest: dict[str, str] = {}
    for row in store._read("SELECT * FROM changes ORDER BY rowid"):
        late += row["asked"] is not None and row["asked"] != row["held"]
        if row["number"] == 0:
            after += row["active"] != "active" and newest[row["run_id"]] != "ended"
            continue
        early += row["before"] == "" and newest.get(row["run_id"], "ended") != "ended"
        after += row["active"] != "active"
        newest[row["run_id"]] = row["after"]
    return late, early, after


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    use_small_ranks()
    control.ensure_daemon = lambda store: None  # the monitors here are ours
    with tempfile.TemporaryDirectory(prefix="smolplan-two-daemons-") as name:
        os.environ["SMOLPLAN_STATE"] = str(Path(name) / "state")
        lab = Lab(Path(name), rng)
        try:
            disturb(lab, options.minutes, rng)
            unattended = lab.unattended()
        finally:
            lab.wake_monitors(all_of_them=True)
            left = lab.end()
        starts, twice, crowded = starts_against_the_rule(lab.store)
        late, early, after = changes_against_the_rule(lab.store)
        fences = sum(run.lease_fence for run in lab.store.runs())
        refusals = lab.refusals()
        lab.store.close()
    done = [[name, str(lab.done[name])] for name in ACTIONS]
    happened = [
        ["attempts whose ranks were started", str(starts)],
        ["fencing numbers given out", str(fences)],
        ["acts refused, since the lease was gone", str(refusals)],
    ]
    wrong = {
        "attempts started twice": twice,
        "ranks started while another of the run lived": crowded,
        "changes under a fencing number that had passed": late,
        "attempts planned before the last had ended": early,
        "runs over while an attempt was not": after,
        "runs that nobody looked after in the end": unattended,
        "processes left in the end": left,
    }
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {options.minutes:g} minutes, seed {options.seed}: "
        f"{DAEMONS} monitors with a lease of {LEASE_S:g} s, {RUNS} runs.\n\n"
        + markdown_table(["done to them", "times"], done)
        + "\n\n"
        + markdown_table(["what came of it", "times"], happened)
        + "\n\n"
        + markdown_table(["must never be", "times"], [[k, str(v)] for k, v in wrong.items()])
    )
    print(text)
    if options.write:
        write_section(options.write, COMMAND, text)
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
