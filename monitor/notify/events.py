"""Which events tell people what: a function for each kind; of other kinds nobody is told."""

import re
from collections.abc import Callable
from typing import Any

from monitor.notify.message import RANK, Message

Event = dict[str, Any]
Told = dict[str, Any]
"""Fields of a Message that depend on the event."""


def message_of(event: Event, run: str, position: int) -> Message | None:
    """What an event tells; None if it is nobody's concern. `position`: where it ends in the file,
    which names it."""
    teller = _TELLERS.get(str(event.get("kind")))
    told = teller(event, run) if teller else None
    if told is None:
        return None
    fields = {"kind": event["kind"], "key": "", "severity": "info", **told}
    return Message(id=f"{run}:{position}", run=run, time=float(event.get("time", 0.0)), **fields)


def _launched(event: Event, run: str) -> Told:
    return {
        "key": str(event.get("attempt")),
        "what": f"attempt {event.get('attempt')} was launched: {event.get('reason')}",
    }


def _decision(event: Event, run: str) -> Told | None:
    action = event.get("action")
    if action not in ("restart", "roll_back"):  # why an attempt ends stands in why the next begins
        return None
    reason = str(event.get("reason"))
    return {
        "kind": action,
        # The same cause at another step is the same; a label of Alertmanager should be short.
        "key": re.sub(r"[\d.,]+", "#", reason)[:80],
        "severity": "warning",
        "what": reason,
        "done": "The monitor starts the next attempt by itself.",
        "todo": "nothing now; if it comes again, look for its cause by smolplan logs " + run
        if action == "restart"
        else "look at the batches that are skipped, and at the learning rate",
    }


def _run_ended(event: Event, run: str) -> Told:
    state, reason = event.get("state"), event.get("reason")
    failed = state == "failed"
    return {
        "key": str(state),
        "severity": "critical" if failed else "info",
        "what": f"the run has {state}: {reason}" if failed else f"the run is {state}: {reason}",
        "done": "The monitor does not start it again." if failed else "",
        "todo": f"see smolplan logs {run}, mend the cause, then: smolplan launch --resume {run}"
        if failed
        else "",
    }


def _waiting(event: Event, run: str) -> Told:
    return {
        "severity": "critical",
        "what": f"attempt {event.get('attempt')} cannot be started: {event.get('reason')}",
        "done": "The monitor tries again until it can; nothing is trained meanwhile.",
        "todo": "bring hosts back or name more of them; which are left out: smolplan hosts",
    }


def _host_left_out(event: Event, run: str) -> Told:
    host = event.get("host")
    return {
        "severity": "warning",
        "what": f"{host} is left out ({event.get('fault')}): {event.get('reason')}",
        "done": "A spare takes its place, if there is one.",
        "todo": f"repair it; smolplan preflight lets it back in, or: smolplan hosts --clear {host}",
        **_of_host(host),
    }


def _preflight(event: Event, run: str) -> Told | None:
    if not event.get("left_out"):
        return None
    hosts = ", ".join(map(str, event["left_out"]))
    return {
        "key": hosts,
        "severity": "warning",
        "what": f"preflight left out {hosts}",
        "done": "Others take their place.",
        "todo": "see why by smolplan preflight SPEC --last, and what stands by smolplan hosts",
        "host": hosts,
    }


def _host_silent(event: Event, run: str) -> Told:
    host = event.get("host")
    return {
        "severity": "warning",
        "what": f"{host} does not answer: {event.get('reason')}",
        "done": "Its ranks are left alone as long as steps are made.",
        "todo": "look whether it is up, and whether its SSH server is",
        "lasts": True,
        **_of_host(host),
    }


def _host_answers(event: Event, run: str) -> Told:
    host = event.get("host")
    return {
        "kind": "host_silent",
        "what": f"{host} answers again",
        "over": True,
        **_of_host(host),
    }


def _host_unreachable(event: Event, run: str) -> Told:
    host = event.get("host")
    return {
        "severity": "warning",
        "what": f"{host} could not be reached for a new attempt: {event.get('reason')}",
        "done": "It is not used until it answers.",
        "todo": "look whether it is up",
        **_of_host(host),
    }


def _host_replaced(event: Event, run: str) -> Told:
    host, by = event.get("host"), event.get("by")
    told = {"what": f"{by} takes the place of {host}: {event.get('reason')}"}
    return {**told, **_of_host(host)}


def _of_host(host: Any) -> Told:
    return {"key": str(host), "host": str(host)}


def _non_finite_loss(event: Event, run: str) -> Told:
    return {
        "severity": "warning",
        "what": f"the loss of step {event.get('step')} is {event.get('loss')}",
        "done": "The weights were not updated; the attempt ends and goes back to its checkpoint.",
        "todo": "nothing; if it comes again at the same step, the run goes further back and skips "
        "those batches",
    }


def _checkpoint_failed(event: Event, run: str) -> Told:
    return {
        "severity": "critical",
        "what": f"the checkpoint of step {event.get('step')} could not be written: "
        f"{event.get('reason')}",
        "done": "The attempt ends; the next one goes on from the checkpoint before.",
        "todo": "look at the storage of the run: is it full, read-only, or gone?",
    }


def _checkpoint_rejected(event: Event, run: str) -> Told:
    return {
        "severity": "warning",
        "what": f"the checkpoint of step {event.get('step')} is damaged: {event.get('reason')}",
        "done": "The newest whole one is taken in its place.",
        "todo": "look at the storage: files that change by themselves are its fault",
    }


def _upload_failed(event: Event, run: str) -> Told:
    return {
        "severity": "warning",
        "what": f"checkpoints do not reach the object store: {event.get('reason')}",
        "done": "It is tried again; local checkpoints are kept meanwhile.",
        "todo": str(event.get("remedy") or ""),
        "lasts": True,
    }


def _checkpoint_uploaded(event: Event, run: str) -> Told:
    what = f"the checkpoint of step {event.get('step')} has reached the object store"
    return {"kind": "upload_failed", "what": what, "over": True}


def _upload_refused(event: Event, run: str) -> Told:
    return {
        "severity": "warning",
        "what": f"the checkpoint of step {event.get('step')} is not uploaded: "
        f"{event.get('reason')}",
        "todo": "look at the storage of the run: files that change by themselves are its fault",
    }


def _evaluation_failed(event: Event, run: str) -> Told:
    step = event.get("step")
    told = {
        "severity": "warning",
        "what": f"the checkpoint of step {step} could not be evaluated: {event.get('reason')}",
    }
    if event.get("tried_again"):
        return {
            **told,
            "done": "It is tried again, once an hour at least; the run goes on.",
            "todo": "see evals/log of the run, and what eval.through starts evaluations on",
        }
    return {
        **told,
        "done": "The next one that is due is evaluated; the run goes on.",
        "todo": f"see evals/log of the run, mend it, then: smolplan eval {run} --step {step}",
    }


def _tracker_failed(event: Event, run: str) -> Told:
    tracker = event.get("tracker")
    return {
        "key": str(tracker),
        "severity": "warning",
        "what": f"{tracker} is not told of the run: {event.get('reason')}",
        "done": "It is tried again, and told all that it missed; the run goes on.",
        "todo": f"see tracking/{tracker}.log of the run",
    }


def _finding(event: Event, run: str) -> Told:
    severity, hosts = event.get("severity"), event.get("hosts") or ()
    return {
        **_named(event),
        "severity": severity if severity in RANK else "warning",
        "what": str(event.get("summary")),
        "done": "" if severity == "critical" else "The run goes on.",
        "todo": str(event.get("advice") or ""),
        "lasts": True,
        "host": ", ".join(hosts),
    }


def _finding_over(event: Event, run: str) -> Told:
    name, lasted_s = str(event.get("finding")), event.get("lasted_s")
    lasted = f" after {lasted_s:.0f} s" if isinstance(lasted_s, int | float) else ""
    what = f"{name.replace('_', ' ')} {event.get('key', '')}".strip()
    return {**_named(event), "what": f"{what} is over{lasted}", "over": True}


def _named(event: Event) -> Told:
    return {"kind": str(event.get("finding")), "key": str(event.get("key", ""))}


def _by_user(event: Event, run: str) -> Told:
    asked = {
        "stop_requested": "a stop was asked for",
        "killed": "it was killed by its user",
        "unchecked": f"it was launched whatever preflight says: {event.get('reason')}",
    }
    return {"what": asked[event["kind"]]}


_TELLERS: dict[str, Callable[[Event, str], Told | None]] = {
    "launched": _launched,
    "decision": _decision,
    "run_ended": _run_ended,
    "waiting": _waiting,
    "host_left_out": _host_left_out,
    "preflight": _preflight,
    "host_silent": _host_silent,
    "host_answers": _host_answers,
    "host_unreachable": _host_unreachable,
    "host_replaced": _host_replaced,
    "non_finite_loss": _non_finite_loss,
    "checkpoint_failed": _checkpoint_failed,
    "checkpoint_rejected": _checkpoint_rejected,
    "upload_failed": _upload_failed,
    "checkpoint_uploaded": _checkpoint_uploaded,
    "upload_refused": _upload_refused,
    "evaluation_failed": _evaluation_failed,
    "tracker_failed": _tracker_failed,
    "finding": _finding,
    "finding_over": _finding_over,
    "stop_requested": _by_user,
    "killed": _by_user,
    "unchecked": _by_user,
}
