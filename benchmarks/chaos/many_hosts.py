"""A run on several hosts, broken at random moments, each kind of fault in turn."""

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.chaos.faults import KINDS, LONG_CHECKPOINT
from benchmarks.chaos.measure import Fault, Outcome, outcome_of, table
from benchmarks.chaos.site import (
    SmolplanSite,
    await_true,
    end_monitors,
    hosts_and_spare,
    launch,
    saves_beside,
    spec_of,
)
from benchmarks.peers.document import markdown_table, write_section
from launcher import control, create
from launcher.compare import Comparison, compare
from launcher.store import Store
from smolplan.rundir import RunDir, read_json, read_lines
from smolplan.spec import RunSpec
from smolplan.spec.launch import LaunchSpec

COMMAND = "python -m benchmarks.chaos --hosts"

PATIENCE_S = 120.0
"""For one fault to be got over."""

SETTLED_STEPS = 10
"""After which a fault counts as got over."""

say = Console(stderr=True, highlight=False).print


def kinds_in_turn(wanted: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Each has its turn before one comes again."""
    turns: list[str] = []
    while len(turns) < count:
        turns += rng.sample(list(wanted), len(wanted))
    return turns[:count]


def kinds_of(seed: int) -> list[str]:
    """A checkpoint that is written beside training holds nothing up, however long it takes."""
    return [kind for kind in KINDS if not (kind == LONG_CHECKPOINT and saves_beside(seed))]


def goes_on(site: SmolplanSite, attempt: int, patience_s: float) -> bool:
    """Whether that attempt, or a later one, makes steps, or has made the last."""
    first: dict[int, int] = {}

    def settled() -> bool:
        if site.store.run(site.run.id).state == "finished":
            return True
        beats = site.beats().values()
        newest = max((beat.attempt for beat in beats), default=0)
        steps = [beat.step for beat in beats if beat.attempt == newest]
        if newest < attempt or len(steps) < len(beats):
            return False
        if any(beat.phase == "starting" for beat in beats):
            return False
        return min(steps) >= first.setdefault(newest, min(steps)) + SETTLED_STEPS

    return await_true(settled, patience_s)


def inject(site: SmolplanSite, number: int, name: str, seed: int) -> Fault | None:
    """Do one fault at a random moment, see it mended, and wait until it is got over. None if the
    run is over, or there was nothing to hit in five tries."""
    kind, rng = KINDS[name], random.Random(f"{seed} {number} {name}")
    for _ in range(5):
        time.sleep(rng.uniform(0.0, 2.0))
        attempt, beats = site.attempt(), site.beats()
        if site.store.run(site.run.id).state != "active":
            return None
        step = min(beat.step for beat in beats.values())
        step_s = max(beat.last_step_s or 0.0 for beat in beats.values())
        hit = kind.act(site, rng)
        if hit is not None:
            break
    else:
        say(f"[bold red]{number}: {name}: nothing to hit[/]")
        return None
    fault = Fault(
        number=number,
        kind=name,
        time=hit.at,
        attempt=attempt.number,
        step=step,
        restart=kind.restart,
        silent=kind.silent,
        blamed=hit.blamed,
        named=hit.named,
        step_s=step_s,
        load=os.getloadavg()[0],
    )
    if kind.restart:
        await_true(lambda: _ended(site, attempt.number), PATIENCE_S / 2)
        if hit.when == "decided":
            hit.mend()
        fault.got_over = goes_on(site, attempt.number + 1, PATIENCE_S)
        fault.start_cpu_s = site.cpu_s()
        if hit.when == "going on":
            hit.mend()
    else:
        fault.got_over = goes_on(site, attempt.number, PATIENCE_S)
    fault.restarts = site.attempt().number - attempt.number
    said = f"{number}: {name} at step {step}: {fault.restarts} restarts"
    say(f"{said}, {time.time() - fault.time:.1f} s" + ("" if fault.got_over else " NOT GOT OVER"))
    return fault


def _ended(site: SmolplanSite, attempt: int) -> bool:
    newest = site.attempt()
    return newest.number > attempt or newest.state in ("condemned", "ended")


def undisturbed(spec: RunSpec, store: Store, folder: Path) -> RunDir:
    """The same run, on this machine by itself."""
    nodes = spec.cluster.nodes
    alone = spec.model_copy(
        update={
            "cluster": spec.cluster.model_copy(update={"nodes": 1, "gpus_per_node": nodes}),
            "launch": LaunchSpec(),
        }
    )
    run, attempt = create.create_run(alone, store, folder, monitored=False)
    RunDir(run.path).unchecked.write_text("{}")
    control.start(store, run, attempt, alone)
    control.await_end(store, run.id, 3600)
    return RunDir(run.path)


def run(
    hosts: int,
    faults: int,
    seed: int,
    kinds: Sequence[str],
    *,
    steps: int,
    keep: Path | None,
    write: Path | None,
) -> int:
    """The exit code: 0 if all went as it should, within its limits. `steps`: for each fault."""
    turns = kinds_in_turn(list(kinds or kinds_of(seed)), faults, random.Random(seed))
    with tempfile.TemporaryDirectory(prefix="smolplan-chaos-") as name:
        base = Path(name)
        os.environ["SMOLPLAN_STATE"] = str(base / "state")
        store = Store()
        with hosts_and_spare(base / "lab", hosts) as cluster:
            spec = spec_of(cluster, hosts, steps * max(1, faults), seed)
            site = launch(spec, store, cluster)
            try:
                done = disturb(site, turns, seed)
                ended = control.await_end(store, site.run.id, 3600.0)
                say(f"the run {ended.state}: {ended.reason}; now the undisturbed one")
                result = compare(undisturbed(spec, store, base / "runs"), site.directory)
                told = account(site, done, result, seed, asked=faults)
            finally:
                if store.run(site.run.id).state == "active":
                    control.kill(store, site.run)
                end_monitors(store)
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(site.directory.events, keep / f"events-{seed}.jsonl")
        store.close()
    if keep:
        (keep / f"seed-{seed}.json").write_text(json.dumps(told, indent=1))
    return conclude([told] if not keep else _kept(keep), write)


def disturb(site: SmolplanSite, turns: Sequence[str], seed: int) -> list[Fault]:
    """Those faults that were done. One that is not got over is the last: the run is stopped."""
    done: list[Fault] = []
    if not goes_on(site, 1, PATIENCE_S):
        raise RuntimeError("the run does not train at all")
    for number, kind in enumerate(turns, 1):
        if fault := inject(site, number, kind, seed):
            done.append(fault)
            if not fault.got_over:
                control.kill(site.store, site.run)
                break
    say("no more faults: waiting for the end")
    return done


def account(
    site: SmolplanSite, done: Sequence[Fault], result: Comparison, seed: int, *, asked: int
) -> dict[str, Any]:
    """What came of the run and of each fault."""
    events = site.directory.read_events()
    rows = list(read_lines(site.directory.metrics))
    outcomes = [outcome_of(fault, events, rows, _told_at(site, fault)) for fault in done]
    return {
        "hosts": len(site.placed()),
        "seed": seed,
        "asked": asked,
        "state": site.store.run(site.run.id).state,
        "attempts": len(site.store.attempts(site.run.id)),
        "rejected": sum(event["kind"] == "checkpoint_rejected" for event in events),
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "comparison": asdict(result),
        "equal": result.equal,
    }


def _kept(folder: Path) -> list[dict[str, Any]]:
    return [found for file in sorted(folder.glob("seed-*.json")) if (found := read_json(file))]


def _told_at(site: SmolplanSite, fault: Fault) -> float | None:
    """When the first host of a killed rank had its end on record."""
    if fault.kind != "rank killed":
        return None
    folder = site.directory.node_exit(fault.attempt, 0).parent
    exits = [read_json(file) or {} for file in folder.glob("*.exit.json")]
    times = [float(e["ended_at"]) for e in exits if e.get("exit_code") == -9]
    return min(times, default=None)


def conclude(results: Sequence[dict[str, Any]], write: Path | None) -> int:
    """Print what came of these runs; 1 if anything was not as it should be."""
    outcomes = [Outcome(**o) for told in results for o in told["outcomes"]]
    comparisons = [Comparison(**told["comparison"]) for told in results]
    late = [f"{o.kind} ({o.number}): {'; '.join(o.late)}" for o in outcomes if o.late]
    wrong = [f"{o.kind} ({o.number}): {'; '.join(o.wrong)}" for o in outcomes if o.wrong]
    missing = sum(told["asked"] for told in results) - len(outcomes)
    counts = {
        "runs, finished": f"{len(results)}, {sum(t['state'] == 'finished' for t in results)}",
        "faults, of them ones that want no restart": f"{len(outcomes)}, "
        f"{sum(o.limit_s is None for o in outcomes)}",
        "asked for and not done": str(missing),
        "attempts": str(sum(told["attempts"] for told in results)),
        "restarts without need": str(sum(o.wrong_restart for o in outcomes)),
        "damaged checkpoints rejected": str(sum(t["rejected"] for t in results)),
        "steps compared with the undisturbed runs": f"{sum(c.steps for c in comparisons):,}",
        "missing": str(sum(len(c.missing) for c in comparisons)),
        "not equal bit for bit": str(sum(len(c.different) for c in comparisons)),
        "done again": f"{sum(c.redone for c in comparisons):,}",
        "of them differently": str(sum(len(c.redone_differently) for c in comparisons)),
    }
    on_host = [o.on_host_s for o in outcomes if o.on_host_s is not None]
    if on_host:
        counts["a rank's death on its host's record, s, at most"] = f"{max(on_host):.2f}"
    if starts := [o.start_cpu_s for o in outcomes if o.start_cpu_s]:
        cpu_s = statistics.median(starts)
        counts["CPU time of one restart, s, all hosts together, median"] = f"{cpu_s:.1f}"
    loads = [o.load for o in outcomes]
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores; {results[0]['hosts']} hosts of one "
        f"rank and a spare; seeds {', '.join(str(t['seed']) for t in results)}; load of the "
        f"machine, {min(loads):.1f} to {max(loads):.1f}.\n\n"
        f"{table(outcomes)}\n\n{markdown_table(['of all', ''], list(counts.items()))}"
    )
    print(text)
    for title, lines in (("Not within its limit", late), ("Not as it should be", wrong)):
        if lines:
            print(f"\n{title}:", *lines, sep="\n  ", file=sys.stderr)
    if write:
        write_section(write, COMMAND, text)
    equal = all(told["equal"] and told["state"] == "finished" for told in results)
    return 0 if equal and not (late or wrong or missing) else 1
