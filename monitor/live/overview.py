"""How a run stands, as plain data: for the web page and for `smolplan top`."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from launcher.host_faults import HostFault
from launcher.status import phase_of
from launcher.store import Attempt, Run
from monitor.collect.host_sample import GpuSample, HostSample, read_host_samples
from monitor.curve import Curve
from monitor.goodput import CAUSES
from monitor.live.follow import QUANTITIES, Follower
from monitor.report.charts import COLOURS
from smolplan.rundir import Heartbeat, read_last_line

LAST = (*QUANTITIES, "time", "step", "tokens", "lr", "step_s")
"""Of a line of metrics, shown as they are."""

PLANNED = ("tokens_per_s", "flops_per_token", "peak_flops_per_gpu", "gpus")

MOST_ATTEMPTS = 100
"""That are listed, the newest."""


def overview(
    run: Run,
    attempts: Sequence[Attempt],
    follower: Follower,
    *,
    faults: Sequence[HostFault] = (),
    waiting: str = "",
    watched: bool = True,
) -> dict[str, Any]:
    """All of a run but its curves. Times are seconds since the epoch; what is unknown is None.

    `faults`: what hosts are left out for. `waiting`: what holds the attempt back. `watched`:
    whether a monitor lives.
    """
    now, current = time.time(), attempts[-1]
    beats = [b for b in follower.dir.read_heartbeats().values() if b.attempt == current.number]
    newest = follower.last if follower.caught_up else read_last_line(follower.dir.metrics) or {}
    last = _numbers(newest, LAST)
    step = max([b.step for b in beats], default=0) or int(last["step"] or 0)
    if (origin := follower.origin) is not None:
        step = max(step, origin.step)
    active, steps = run.state == "active", follower.spec.steps
    moving = active and current.state == "running" and follower.step_s is not None
    seen = {
        "run": run.id,
        "name": follower.spec.name,
        "forked_from": origin and origin.told(),
        "state": run.state,
        "reason": run.reason,
        "launched_at": run.created_at,
        "now": now,
        "caught_up": follower.caught_up,
        "watched": watched and run.monitored,
        "monitored": run.monitored,
        "attempt": current.number,
        "attempt_state": current.state,
        "phase": waiting or phase_of(follower.dir, run, current, beats),
        "gpus": follower.spec.cluster.gpus,
        "step": step,
        "steps": steps,
        "eta_s": (steps - step) * (follower.step_s or 0) if moving else None,
        "last": last,
        "plan": _planned(_numbers(follower.plan, PLANNED)),
        "checkpoint": _numbers(follower.saved, ("step", "time", "seconds")),
        "goodput": _goodput(follower, now if active else _end(run, current, follower)),
        "ranks": _ranks(beats, follower.spec.parallel.ranks),
        "hosts": [_host(sample) for sample in read_host_samples(follower.dir)],
        "left_out": [
            {"host": f.host, "kind": f.kind, "detail": f.detail, "time": f.seen_at} for f in faults
        ],
        "standing": [asdict(entry) for entry in follower.standing.values()] if active else [],
        "attempts": [_attempt(one) for one in attempts[-MOST_ATTEMPTS:]],
        "timeline": [asdict(entry) for entry in reversed(follower.timeline)],
    }
    cleaned: dict[str, Any] = plain(seen)
    return cleaned


def curve_columns(curve: Curve, start: int) -> dict[str, Any]:
    """The points from number `start` on, by column; a quantity as mean, lowest and highest. While
    `share` stays the same, points before the last do not change."""
    points = curve.points[start:]
    columns: dict[str, Any] = {
        "share": curve.share,
        "from": start,
        "step": [p.step for p in points],
        "hours": [round(p.hours, 6) for p in points],
        "attempt": [p.attempt for p in points],
    }
    for name in QUANTITIES:
        spreads = [p.values.get(name) for p in points]
        columns[name] = [s and [_short(s.mean), _short(s.low), _short(s.high)] for s in spreads]
    return columns


def plain(value: Any) -> Any:
    """As JSON can say it: no number that is none, and none that a browser would read wrongly."""
    match value:
        case dict():
            return {str(key): plain(part) for key, part in value.items()}
        case list() | tuple():
            return [plain(part) for part in value]
        case float() if not math.isfinite(value):
            return None
        case bool() | int() | float() | str() | None:
            return value
        case _:
            return str(value)


def _short(value: float) -> float:
    """Six digits: more than a screen can show apart."""
    return float(f"{value:.6g}")


def _end(run: Run, last: Attempt, follower: Follower) -> float:
    return max(last.ended_at or 0.0, follower.booked_until)


def _numbers(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, float | None]:
    """What else stands there counts as unknown."""
    known = {name: record.get(name) for name in names}
    return {
        name: value if isinstance(value, int | float) and math.isfinite(value) else None
        for name, value in known.items()
    }


def _planned(plan: Mapping[str, float | None]) -> dict[str, float | None]:
    """The throughput that the plan expects, and the MFU that it would be."""
    speed, flops, peak, gpus = (plan[name] for name in PLANNED)
    mfu = speed * flops / (peak * gpus) if speed and flops and peak and gpus else None
    return {"tokens_per_s": speed, "mfu": mfu}


def _goodput(follower: Follower, until: float) -> dict[str, Any]:
    booked = follower.goodput(until)
    return {
        "ratio": booked.ratio,
        "wall_s": booked.wall_s,
        "causes": [
            {"cause": cause, "seconds": seconds, "what": CAUSES[cause], "colour": COLOURS[cause]}
            for cause, seconds in booked.seconds.items()
            if seconds > 0
        ],
    }


def _ranks(beats: Sequence[Heartbeat], expected: int) -> dict[str, Any]:
    """By column, for there may be thousands. `seen_at`: by the clock of the rank's host."""
    known = sorted(beats, key=lambda beat: beat.rank)
    return {
        "expected": expected,
        "rank": [b.rank for b in known],
        "step": [b.step for b in known],
        "phase": [b.phase for b in known],
        "seen_at": [b.wall_time for b in known],
        "last_step_s": [b.last_step_s for b in known],
        "host": [b.host for b in known],
    }


def _host(sample: HostSample) -> dict[str, Any]:
    return {
        "host": sample.host,
        "time": sample.time,
        "load": sample.load_1min,
        "memory_total_bytes": sample.memory_total_bytes,
        "memory_available_bytes": sample.memory_available_bytes,
        "disk_free_bytes": min((disk.free_bytes for disk in sample.disks), default=None),
        "gpus": [_gpu(gpu) for gpu in sample.gpus],
    }


def _gpu(gpu: GpuSample) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "model": gpu.model,
        "lost": gpu.lost,
        "temperature_c": gpu.temperature_c,
        "power_w": gpu.power_w,
        "power_limit_w": gpu.power_limit_w,
        "utilisation_percent": gpu.utilisation_percent,
        "memory_used_mib": gpu.memory_used_mib,
        "xids": dict(gpu.xids),
        "ecc_double_bit": gpu.ecc_double_bit,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    names = ("number", "state", "reason", "cause", "exit_code", "created_at", "ended_at")
    steps = {"from_step": attempt.step_at_start, "to_step": attempt.step_at_end}
    return {name: getattr(attempt, name) for name in names} | steps
