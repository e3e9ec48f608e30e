"""No progress for longer than the phase at hand can explain."""

from monitor.view import Finding, RunView
from smolplan.rundir import Phase


def hang_limit_s(view: RunView, phase: Phase) -> float:
    """How long a rank may show no change, by its phase; training follows the run's own pace."""
    settings = view.settings
    if phase == "starting":
        return settings.startup_timeout_s
    if phase in ("checkpointing", "evaluating", "finished"):
        return settings.checkpoint_timeout_s
    if view.step_s is None:
        return settings.startup_timeout_s
    return max(settings.hang_min_s, settings.hang_step_multiple * view.step_s)


def _on(view: RunView, rank: int) -> str:
    host = view.host_of(rank)
    return f" on {host}" if host else ""


def hung(view: RunView) -> Finding | None:
    """Collectives keep ranks in lock-step, so the rank that is furthest behind is the suspect."""
    if view.exit is not None:
        return None
    if len(view.ranks) < view.ranks_expected:
        limit = view.settings.startup_timeout_s
        if view.attempt_idle_s > limit:
            missing = sorted(set(range(view.ranks_expected)) - set(view.ranks))
            hosts = sorted({view.host_of(rank) for rank in missing} - {""})
            where = f" (on {', '.join(hosts)})" if hosts else ""
            return Finding(
                "hang",
                f"ranks {missing}{where} gave no sign of life within {limit:g} s of the start",
                {"ranks": missing, "limit_s": limit},
            )
        return None
    limits_s = {
        phase: hang_limit_s(view, phase) for phase in {r.phase for r in view.ranks.values()}
    }
    late = [r for r in view.ranks.values() if r.idle_s > limits_s[r.phase]]
    if not late:
        return None
    suspect = min(late, key=lambda r: (r.step, -r.idle_s))
    limit = limits_s[suspect.phase]
    return Finding(
        "hang",
        f"rank {suspect.rank}{_on(view, suspect.rank)} has shown no progress for "
        f"{suspect.idle_s:.1f} s while {suspect.phase} at step {suspect.step} "
        f"(limit {limit:.1f} s)",
        {
            "rank": suspect.rank,
            "step": suspect.step,
            "phase": suspect.phase,
            "idle_s": round(suspect.idle_s, 3),
            "limit_s": limit,
            "step_s": view.step_s,
        },
    )
