"""From what is known of a run to what is to be done: a pure function, and the only one. Which
finding asks for what is a table of its own (monitor/acts.py).

docs/monitor.md holds both.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from launcher.outcome import describe_exit
from launcher.slurm.record import TIME_LIMIT
from launcher.store import LAUNCHER_S, RESUMED, Attempt, RunState
from monitor.acts import first_for
from monitor.detect import replicas
from monitor.detect.dead import PROBES
from monitor.detect.stuck import explained
from monitor.roll_back import roll_back
from monitor.view import Finding, FindingId, RunView
from smolplan.errors import ExitCode
from smolplan.roll_back import RollBack
from smolplan.units import count_of

Action = Literal[
    "wait",
    "start",
    "adopt",
    "ask_stacks",
    "condemn",
    "end_attempt",
    "restart",
    "roll_back",
    "end_run",
    "save",
]

NO_CURE = {ExitCode.BAD_SPEC, ExitCode.DATA_EXHAUSTED}
"""Causes that would come again at every start."""

CANCELLED = "cancelled: "
"""How the cause of an attempt begins that a person ended by the scheduler's own means."""

STACKS_S = 5.0
"""Longest that a hung attempt is left as it is for its ranks' stacks: its hosts look for the
request every 0.5 s and give the ranks 4 s."""

UNANSWERED_S = 3.0
"""A host that others of a hung attempt have outrun by so much with their answers does not answer: a
choice of ours, well above what a busy host takes."""

RESUBMIT_AFTER_S = 10.0
"""A supervisor that has not reported by then is started again; starting twice starts one."""


@dataclass(frozen=True)
class Decision:
    """What to do, and why, in words that a person can check."""

    action: Action
    reason: str = ""
    cause: str = ""
    exit_code: int | None = None
    delay_s: float = 0.0
    """restart, roll_back: time to wait before it."""
    roll_back: RollBack | None = None
    """What the next attempt is to begin with; on record before anything else is done."""
    end_state: RunState = "failed"
    """end_run: the run's state from then on."""
    evidence: dict[str, Any] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Hosts that are left out from now on, and for what kind of fault."""


WAIT = Decision("wait")


def decide(view: RunView, findings: tuple[Finding, ...]) -> Decision:
    """The one thing to do next. Blind means wait: an unseen run is not a broken one."""
    if view.blind:
        return WAIT
    match view.attempt.state:
        case "planned":
            return _planned(view)
        case "running":
            return _running(view, findings)
        case "condemned":
            return Decision("end_attempt", cause=view.attempt.cause, exit_code=_exit_code(view))
        case "ended":
            return _ended(view)


@dataclass(frozen=True)
class News:
    """What there is to tell of findings that do not end an attempt."""

    found: tuple[Finding, ...]
    over: tuple[FindingId, ...]


def news(told: Collection[FindingId], findings: Iterable[Finding]) -> News:
    """Each finding is told once when it comes and once when it is gone. `told`: those that were
    told of and are not over."""
    standing = {finding.id: finding for finding in findings if finding.severity != "critical"}
    return News(
        tuple(finding for one, finding in standing.items() if one not in told),
        tuple(one for one in told if one not in standing),
    )


def _planned(view: RunView) -> Decision:
    if view.run.stop_requested_at is not None:
        return Decision("end_attempt", cause="stopped before it started", exit_code=0)
    # A pause that seems longer than any is a wall clock that was set back.
    longest_s = max(view.settings.backoff_max_s, LAUNCHER_S)
    if 0 < view.attempt.not_before - view.now <= longest_s:
        return WAIT
    return Decision("start", reason=view.attempt.reason)


def _running(view: RunView, findings: tuple[Finding, ...]) -> Decision:
    seen = view.observed
    if seen.successor is not None:
        return Decision("adopt", seen.successor.reason)
    if seen.cancelled:
        return Decision("condemn", seen.cancelled, cause=CANCELLED + seen.cancelled)
    if seen.settling:
        return WAIT
    silent_s = min(view.attempt_idle_s, view.submitted_s or math.inf)
    if not seen.submitted:
        if view.run.stop_requested_at is not None:
            return Decision("condemn", "stopped before it was queued", cause="stopped unqueued")
        if silent_s > RESUBMIT_AFTER_S:
            return Decision("start", reason="it is not known to have been started")
        return WAIT
    if vain := _in_vain(view):
        return Decision("condemn", vain, cause=vain)
    if seen.waiting:  # a scheduler holds it: that is no hang, and how it ended before no matter
        if view.run.stop_requested_at is None:
            return WAIT
        return Decision("condemn", "stopped while it was queued", cause="stopped while queued")
    if seen.ended:
        return Decision("condemn", seen.ended, cause=seen.ended, hosts=seen.blamed)
    if view.exit is not None:
        # A finding that tells more than the exit does; of a hang, say, it is no cause.
        told = (f for f in findings if f in view.host_findings or f.kind == replicas.KIND)
        broken = [finding for finding in told if finding.severity == "critical"]
        # What ended well was not ended by them.
        at_fault = [] if _exit_code(view) in (ExitCode.OK, ExitCode.STOPPED_ON_REQUEST) else broken
        silent = _silent_before(view)
        causes = [
            _told(view, view.exit),
            *(f"{host} does not answer" for host in silent),
            *(finding.summary for finding in at_fault),
        ]
        return Decision(
            "end_attempt",
            cause="; ".join(causes),
            exit_code=_exit_code(view),
            hosts=_killed_on(view, view.exit)
            | silent
            | {h: k for f in broken for h, k in f.hosts.items()},
        )
    first = first_for("end", findings, view)
    if first is not None:
        if first.kind == "hang":
            stacks = view.stacks
            if stacks is None:
                return Decision("ask_stacks", first.summary, evidence=first.evidence)
            if stacks.awaited and stacks.waited_s < STACKS_S:
                return WAIT
            first = _with_silent_hosts(view, explained(first, stacks, view.host_of))
        return Decision(
            "condemn",
            first.summary,
            cause=first.summary,
            evidence=first.evidence,
            hosts=first.hosts,
        )
    if rolled_back := _spike_rolled_back(view, findings):
        return Decision(
            "condemn",
            rolled_back.reason,
            cause=rolled_back.reason,
            evidence=rolled_back.to_json(),
            roll_back=rolled_back,
        )
    waited_s = view.stop_waited_s
    if waited_s is not None and waited_s > view.settings.stop_grace_s:
        return Decision(
            "condemn",
            f"asked to stop {waited_s:.0f} s ago, it has not "
            f"(monitor.stop_grace_s {view.settings.stop_grace_s:g})",
            cause="did not stop in time",
        )
    unseen = any(node.probes_failed for node in view.observed.nodes)
    if view.observed.alive is None and not unseen and silent_s > RESUBMIT_AFTER_S:
        return Decision("start", reason="its supervisor has not reported")
    warning = first_for("save", findings, view)
    if warning is not None and view.run.stop_requested_at is None:
        return Decision("save", warning.summary, evidence=warning.evidence)
    return WAIT


def _spike_rolled_back(view: RunView, findings: tuple[Finding, ...]) -> RollBack | None:
    """The roll-back that a running attempt is to end for."""
    if view.next_roll_back is not None:  # decided, and not carried out
        return view.next_roll_back
    spike = first_for("roll_back", findings, view)
    if spike is None or view.run.stop_requested_at is not None:
        return None
    return roll_back(view, int(spike.evidence["onset"]), spike.summary)


def _with_silent_hosts(view: RunView, hang: Finding) -> Finding:
    """A host that does not answer is the cause of the hang, if it does not tell its stacks through
    the run folder either, or no rank of another stands out. Where none answers, more likely it is
    us who are cut off."""
    nodes, told = view.observed.nodes, hang.evidence
    silent = [
        node.host
        for node in nodes
        if (node.probes_failed or node.silent_s > UNANSWERED_S)
        and (node.node in told["nodes_without_answer"] or not told["at_fault"])
    ]
    if not silent or len(silent) == len(nodes):
        return hang
    does = "does" if len(silent) == 1 else "do"
    return replace(
        hang,
        summary=f"{hang.summary}; {', '.join(silent)} {does} not answer",
        hosts=dict.fromkeys(silent, "unreachable"),
    )


def _silent_before(view: RunView) -> dict[str, str]:
    """Hosts that do not answer, where ranks ended without knowing why: they lost a neighbour."""
    code = _exit_code(view)
    if code is None or not 0 < code < ExitCode.BAD_SPEC:
        return {}
    hosts = [node.host for node in view.observed.nodes if node.probes_failed >= PROBES]
    return dict.fromkeys(hosts if len(hosts) < len(view.observed.nodes) else [], "unreachable")


def _told(view: RunView, content: dict[str, Any]) -> str:
    """How the attempt ended, with the hosts of the ranks that ended it."""
    return describe_exit(content, view.host_of)


def _killed_on(view: RunView, content: dict[str, Any]) -> dict[str, str]:
    """A rank that a signal ended, and not its own program: short memory, a faulty device, or
    somebody on that host. Where there is a spare, the next attempt need not find out which."""
    hosts = {view.host_of(rank) for rank in _ended_by_signal(content)} - {""}
    return dict.fromkeys(sorted(hosts), "killed")


def _ended_by_signal(content: dict[str, Any]) -> list[int]:
    code = content["exit_code"]
    if code is None or code >= 0:  # a named cause is the program's own
        return []
    return [int(rank) for rank, own in content.get("failures", {}).items() if own == code]


def _ended(view: RunView) -> Decision:
    attempt = view.attempt
    code = attempt.exit_code
    if code == ExitCode.OK and attempt.cause == "finished":
        return Decision("end_run", "all steps are done", end_state="finished")
    if view.run.stop_requested_at is not None:
        return Decision("end_run", "stopped by request", end_state="stopped")
    if attempt.cause.startswith(CANCELLED):
        why = attempt.cause.removeprefix(CANCELLED)
        return Decision("end_run", f"{why}; it is not submitted again", end_state="stopped")
    if code in NO_CURE:
        return Decision("end_run", f"{attempt.cause}: a restart would end in the same way")
    if view.next_roll_back is not None:
        return _rolled_back(view, view.next_roll_back)
    if code == ExitCode.NON_FINITE_LOSS and _same_fault_before(view):
        return _non_finite_again(view)
    fruitless = attempts_without_progress(view.attempts)
    limit = view.settings.crash_loop_limit
    if fruitless >= limit:
        return Decision(
            "end_run",
            f"{count_of(fruitless, 'attempt')} in a row ended without a new step "
            f"(monitor.crash_loop_limit {limit}); the last: {attempt.cause}",
        )
    settings = view.settings
    delay_s = min(settings.backoff_max_s, settings.backoff_initial_s * 2 ** max(0, fruitless - 1))
    return Decision(
        "restart",
        f"attempt {attempt.number} ended: {attempt.cause}; going on from the newest whole "
        f"checkpoint in {delay_s:g} s",
        delay_s=delay_s,
        evidence={"attempts_without_progress": fruitless},
    )


def attempts_without_progress(attempts: tuple[Attempt, ...]) -> int:
    """How many attempts, counted from the newest back, ended without a new step."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.made_progress:
            break
        count += 1
        if attempt.reason == RESUMED:  # a person has looked at what came before
            break
    return count


def _in_vain(view: RunView) -> str:
    """That a scheduler starts the run again and again, each time for too short a time for one
    step; empty if it does not. What ends at a time limit is nobody's fault and is not counted
    elsewhere."""
    limit = view.settings.crash_loop_limit
    before = view.attempts[:-1][-limit:]
    if len(before) < limit or any(a.made_progress or a.cause != TIME_LIMIT for a in before):
        return ""
    return f"{count_of(limit, 'job')} in a row reached the time limit without a new step"


def _same_fault_before(view: RunView) -> bool:
    earlier = view.attempts[:-1]
    return (
        bool(earlier)
        and earlier[-1].exit_code == ExitCode.NON_FINITE_LOSS
        and earlier[-1].step_at_end == view.attempt.step_at_end
    )


def _non_finite_again(view: RunView) -> Decision:
    """No passing fault: the batch and the state of the model together do it. So others of both."""
    onset = (view.attempt.step_at_end or 0) + 1
    again = f"the loss became non-finite again at step {onset}, as in the attempt before"
    limit = view.settings.roll_back_limit
    if view.roll_backs and view.roll_backs[-1].onset_step == onset:
        return Decision(
            "end_run",
            f"{again}, and now with other batches: it is not the data. Lower the learning rate",
        )
    if len(view.roll_backs) >= limit:
        return Decision(
            "end_run",
            f"{again}, after {count_of(limit, 'roll-back')} (monitor.roll_back_limit). Lower "
            f"the learning rate or look at the data",
        )
    planned = roll_back(view, onset, again)
    if planned is None:
        return Decision("end_run", f"{again}, and no checkpoint of before is left to go back to")
    return _rolled_back(view, planned)


def _rolled_back(view: RunView, planned: RollBack) -> Decision:
    return Decision(
        "roll_back",
        planned.reason,
        delay_s=view.settings.backoff_initial_s,
        evidence=planned.to_json(),
        roll_back=planned,
    )


def _exit_code(view: RunView) -> int | None:
    return None if view.exit is None else view.exit["exit_code"]
