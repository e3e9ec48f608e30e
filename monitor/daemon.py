"""The loop: for each active run, look, detect, decide, record, act.

All that a decision rests on is in the store and the run directory, so the daemon may die at any
moment: the training goes on, and the next daemon takes the run up where the record stands.
"""

import errno
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from launcher import node_check
from launcher.backends.base import Backend, NotNow, Observation, backend_of
from launcher.helpers import Helpers
from launcher.old_logs import cut_old_logs
from launcher.outcome import read_exit
from launcher.placement import read_placement
from launcher.processes import is_alive, process_name
from launcher.store import Attempt, LostLease, Run, Store, StoreUnusable
from launcher.uploads import Transfers
from monitor import service_manager
from monitor.acts import first_for
from monitor.aside import Aside
from monitor.collect.beats import HeartbeatReader
from monitor.collect.goodput_meter import GoodputMeter
from monitor.collect.progress import ProgressTracker
from monitor.collect.stacks import StackRequest
from monitor.detect import detect
from monitor.detect.dead import PROBES
from monitor.host_watch import HostWatch
from monitor.notify.notifier import Held, Notifier
from monitor.policy import Decision, decide, news
from monitor.record import Record
from monitor.start_evaluations import start_evaluations
from monitor.track.start import start_trackers
from monitor.view import Finding, RunView
from smolplan.checkpoint_request import request_checkpoint
from smolplan.errors import SmolplanError
from smolplan.origin import Origin
from smolplan.roll_back import write_roll_backs
from smolplan.rundir import RunDir
from smolplan.spec import RunSpec, load_spec
from smolplan.touch import hung
from smolplan.units import format_duration

log = logging.getLogger("monitor")

STORE_RETRY_S = 2.0

LONGEST_NAP_S = 2.0
"""Leases and the daemon's own sign of life are renewed this often, however rarely a run is to be
looked at."""

KILL_S = 1.0
"""Time that one look gives processes to die; the next goes on with it."""

LEASE_S = 10.0
"""A lease of a process that is certainly dead is taken over at once; this long only bounds the
wait for one that is paused."""

PATIENCE_S = 1.0
"""A round waits so long for its looks; one that takes longer goes on beside it."""

HUNG_S = 30.0
"""A look that takes longer is told of: the run's storage hangs, most likely. Its lease is let go:
a monitor whose storage answers may take the run."""


class Watch:
    """What the daemon remembers of one run between two looks."""

    def __init__(self, run: Run) -> None:
        self.dir = RunDir(run.path)
        self.spec: RunSpec = load_spec(self.dir.spec)
        self.origin = Origin.read(self.dir)
        self.backend: Backend = backend_of(self.spec)
        self.goodput = GoodputMeter(run, self.spec)
        self.fence: int | None = None
        self.renew_at_s = 0.0
        self.lease_until_s = math.inf
        """Monotonic clock. What was seen before then and not yet acted upon is void after it."""
        self.beats = HeartbeatReader(self.dir)
        self.tracker: ProgressTracker | None = None
        self.record = Record(self.dir, self.spec)
        self.view: RunView | None = None
        self.unseen_since: tuple[float, str] | None = None
        """Since when (wall clock) the run cannot be looked at, and why."""
        self.due_at_s = 0.0
        """When the run is to be looked at again (monotonic clock)."""
        self.submitted_at_s: float | None = None
        self.ending = 0
        """The attempt that is being ended; 0 before the first."""
        self.logs_cut_at = 0
        """The attempt at whose start old ones' logs were cut down; 0 before the first."""
        self.checks_on_record = 0
        """The attempt whose nodes' checks are on the hosts' record; 0 before the first."""
        self.silent_hosts: frozenset[str] = frozenset()
        self.waits_for = ""
        """What the next attempt cannot be started for, as it was last told."""
        self.stop_seen_at_s: float | None = None
        self.hosts: HostWatch | None = None
        self.stacks: StackRequest | None = None
        """What the ranks are at, asked for while the attempt seems to hang."""


class Daemon:
    """Watches every active run of a store, until stopped or, if asked, until none is active."""

    def __init__(self, store: Store, *, until_idle: bool = False) -> None:
        self.holder = process_name()
        self.watches: dict[str, Watch] = {}
        self.stopping = threading.Event()
        self._store = store
        self.notifier = Notifier(self.holder)
        self.metrics_url = ""
        self.looked_at = time.time()
        """When the last round over the runs began (wall clock): how a loop that stands shows."""
        self.store_trouble = ""
        """Why the record of runs cannot be used, and so nothing be decided; empty if it can."""
        self._until_idle = until_idle
        self._registered_at_s = float("-inf")
        self._troubles: dict[str, str] = {}
        self._helpers = Helpers()
        self._transfers = Transfers(self._helpers)
        self._aside = Aside()
        self.hung: dict[str, float] = {}
        """Runs of which a look does not come back, and since when (wall clock)."""
        self._over: dict[str, tuple[RunDir, RunSpec]] | None = None
        """Runs that ended, with checkpoints that may still have to be uploaded; None: not known."""

    def run(self) -> None:
        """Loop until `stopping` is set; then give the leases back."""
        pid, trouble = int(self.holder.partition(":")[0]), ""
        try:
            while not self.stopping.is_set():
                try:
                    if self._round(pid):
                        return
                    self._tell_of_store("")
                    trouble = ""
                except StoreUnusable as error:
                    # A full disk or a lock held for long: without the record nothing may be
                    # done, and it may well come back.
                    self._tell_of_store(str(error))
                    self.stopping.wait(STORE_RETRY_S)
                except Exception as error:
                    # The runs need a watchman who tries again. No sign of life meanwhile: a
                    # service manager starts another one.
                    if str(error) != trouble:
                        log.exception("a round over the runs was broken off, and is tried again")
                    trouble = str(error)
                    self.stopping.wait(STORE_RETRY_S)
                    continue
                service_manager.tell("WATCHDOG=1")
                self.stopping.wait(self._nap_s())
        finally:
            service_manager.tell("STOPPING=1")
            self.notifier.close()
            with suppress(StoreUnusable):
                self._store.unregister_daemon(self.holder, only_if_idle=False)

    def _tell_of_store(self, trouble: str) -> None:
        """Once for each new trouble, and once when it is over; meanwhile the metric
        smolplan_record_unusable and its alert tell."""
        if trouble and trouble != self.store_trouble:
            log.error("nothing can be decided, and the runs go on by themselves: %s", trouble)
        elif self.store_trouble and not trouble:
            log.warning("the record of runs can be used again")
        self.store_trouble = trouble

    def _round(self, pid: int) -> bool:
        """One look at every run; True if there is none left to look at, and that was asked for."""
        now_s, self.looked_at = time.monotonic(), time.time()
        if now_s - self._registered_at_s > LONGEST_NAP_S:
            self._store.register_daemon(self.holder, pid, self.metrics_url)
            self._registered_at_s = now_s
        runs = self._store.runs(to_watch=True)
        for run in runs:
            self._aside.start(run.id, partial(self._look_after, run))
        self._aside.wait([run.id for run in runs if run.id not in self.hung], PATIENCE_S)
        for run in runs:
            self._see_to_slow(run)
            self._cut_old_logs(run)
        self._finish_uploads({run.id for run in runs})
        held = {
            run_id: Held(watch.dir, watch.spec, fence)
            for run_id, watch in list(self.watches.items())
            if (fence := watch.fence) is not None
        }
        try:
            self.notifier.look(self._store, held)
        except StoreUnusable:
            raise
        except Exception:
            # Whoever cannot be told, the runs still need their watchman.
            log.exception("nobody is told of anything now")
        return (
            self._until_idle
            and not runs
            and not self._over
            and self.notifier.drained()
            and self._store.unregister_daemon(self.holder, only_if_idle=True)
        )

    def _nap_s(self) -> float:
        """Until a run is to be looked at, or the leases are to be renewed."""
        now_s, naps = time.monotonic(), [LONGEST_NAP_S]
        for run_id, watch in list(self.watches.items()):
            if run_id not in self.hung:
                slow = self._aside.busy_s(run_id) > 0
                naps.append(PATIENCE_S / 2 if slow else watch.due_at_s - now_s)
        return max(0.0, min(naps))

    def _see_to_slow(self, run: Run) -> None:
        """Keep the lease of a run whose look takes long; tell of one whose look hangs."""
        busy_s, watch = self._aside.busy_s(run.id), self.watches.get(run.id)
        if busy_s < HUNG_S:
            if self.hung.pop(run.id, None) is not None:
                log.warning("run %s answers again", run.id)
            if busy_s and watch is not None and watch.fence is not None:
                self._renew(run, watch)
        elif run.id not in self.hung:
            self.hung[run.id] = since = time.time() - busy_s
            why = f"{run.path} does not answer: most likely its mount hangs"
            log.error("run %s cannot be seen, and is left alone: %s", run.id, why)
            if watch is not None:
                watch.unseen_since = since, why

    def _cut_old_logs(self, run: Run) -> None:
        """Once for each attempt, and beside the looks: there may be thousands of files."""
        watch = self.watches.get(run.id)
        if watch is None or watch.fence is None or watch.view is None or watch.view.blind:
            return
        if watch.logs_cut_at != watch.view.attempt.number:
            watch.logs_cut_at = watch.view.attempt.number
            cut = partial(cut_old_logs, watch.dir, watch.view.attempts)
            self._aside.start(f"logs of {run.id}", cut)

    def _finish_uploads(self, active: set[str]) -> None:
        """Have runs that ended, under this daemon or one before, upload what is left."""
        if self._over is None:
            self._over = {}
            ended = [r for r in self._store.runs() if r.monitored and r.id not in active]
            # An old run's mount may be gone by now, and whoever touches it would hang.
            lost = set(hung({run.path.parent for run in ended}))
            for run in ended:
                directory = RunDir(run.path)
                try:
                    if run.path.parent not in lost and directory.uploads.exists():
                        self._over[run.id] = directory, load_spec(directory.spec)
                except (SmolplanError, OSError) as error:
                    log.warning("run %s: not looked at for uploads left: %s", run.id, error)
        for gone in [run_id for run_id in list(self.watches) if run_id not in active]:
            if self._aside.busy_s(gone):
                continue
            watch = self.watches.pop(gone)
            self.hung.pop(gone, None)
            watch.backend.close()
            self._over[gone] = watch.dir, watch.spec
            self._aside.start(f"uploads of {gone}", partial(self._see_off, gone))
        for run_id in list(self._over):
            if run_id in active:
                self._over.pop(run_id, None)
            else:
                self._aside.start(f"uploads of {run_id}", partial(self._finish_upload, run_id))

    def _see_off(self, run_id: str) -> None:
        """Of a run too short to be seen at work; a tracker that fails is not waited for."""
        assert self._over is not None
        self._start_beside(*self._over[run_id], is_over=True)
        self._finish_upload(run_id)

    def _start_beside(self, run: RunDir, spec: RunSpec, *, is_over: bool = False) -> None:
        """See to it that trackers are told, checkpoints evaluated and, until it is over, uploaded.
        Where storage fails, or takes nothing new, the run must be decided on all the same."""
        starts: dict[str, Callable[[], object]] = {
            "trackers": partial(start_trackers, self._helpers, run, spec),
            "evaluations": partial(start_evaluations, self._helpers, run, spec, is_over=is_over),
        }
        if not is_over:
            starts["uploads"] = partial(self._transfers.upload, run, spec)
        for what, start in starts.items():
            name = f"{what} of {run}"
            try:
                start()
                self._troubles.pop(name, None)
            except OSError as error:
                if self._troubles.get(name) != str(error):
                    log.error("%s cannot be seen to: %s", name, error)
                self._troubles[name] = str(error)

    def _finish_upload(self, run_id: str) -> None:
        assert self._over is not None
        directory, spec = self._over[run_id]
        if not self._transfers.upload(directory, spec, is_over=True):
            self._over.pop(run_id, None)

    def _look_after(self, run: Run) -> None:
        """One look at one run. Trouble with one run must not leave the others unwatched."""
        try:
            if run.id not in self.watches:
                self.watches[run.id] = Watch(run)
            watch = self.watches[run.id]
            if not self._hold(run, watch) or time.monotonic() < watch.due_at_s:
                return
            watch.due_at_s = time.monotonic() + watch.spec.monitor.poll_s
            # The store is read again: the lease may have come with changes by its last holder.
            self.step(self._store.run(run.id), watch)
            self._troubles.pop(run.id, None)
        except LostLease as lost:
            log.warning("%s", lost)
            self.watches[run.id].fence = None
            self.watches[run.id].due_at_s = 0.0
        except (SmolplanError, OSError) as error:
            self._complain(run, str(error))
        except Exception as error:
            # Whatever is odd about this run, the others still need their watchman.
            self._complain(run, f"{type(error).__name__}: {error}", traceback=True)

    def _complain(self, run: Run, trouble: str, *, traceback: bool = False) -> None:
        """Once for each new trouble, not at every look."""
        if self._troubles.get(run.id) != trouble:
            log.error("%s could not be looked after: %s", run.id, trouble, exc_info=traceback)
        self._troubles[run.id] = trouble
        if watch := self.watches.get(run.id):  # not again at once: trouble mends with time
            watch.due_at_s = max(watch.due_at_s, time.monotonic() + watch.spec.monitor.poll_s)

    def _hold(self, run: Run, watch: Watch) -> bool:
        now_s = time.monotonic()
        if watch.fence is not None and now_s < watch.renew_at_s:
            return True
        fence = self._store.acquire(run.id, self.holder, LEASE_S, is_alive)
        watch.lease_until_s = now_s + LEASE_S
        if fence is None:
            watch.fence, watch.due_at_s = None, now_s + LONGEST_NAP_S / 2
            return False
        if fence != watch.fence:
            log.info("run %s is held under fence %d", run.id, fence)
            watch.tracker = watch.hosts = None
            watch.due_at_s = 0.0
        watch.fence, watch.renew_at_s = fence, now_s + LEASE_S / 3
        return True

    def _renew(self, run: Run, watch: Watch) -> None:
        """Keep the lease beside a look. One that has moved on makes void what the look has seen,
        which must not be acted upon under the new fence: the next look takes that."""
        now_s = time.monotonic()
        if now_s < watch.renew_at_s:
            return
        if self._store.acquire(run.id, self.holder, LEASE_S, is_alive) == watch.fence:
            watch.lease_until_s, watch.renew_at_s = now_s + LEASE_S, now_s + LEASE_S / 3
        else:
            watch.fence = None

    def step(self, run: Run, watch: Watch) -> None:
        """Look, detect, decide, record and act, once. What `run` says was read under the fence
        that is held as this begins."""
        fence = watch.fence
        view = self.look(run, watch)
        _require_fence(run, watch, fence)
        if time.monotonic() >= watch.lease_until_s:
            # What it saw may be hours old, and another monitor may have taken the run.
            raise LostLease(f"run {run.id}: a look outlasted its lease; it is looked at anew")
        watch.view = view
        if not view.blind:
            _tell_of_blindness(watch)
        elif watch.unseen_since is None:
            watch.unseen_since = view.now, view.blind
            log.error("run %s cannot be seen: %s", run.id, view.blind)
        _tell_of_silent_hosts(watch, view)
        number, over = view.attempt.number, view.exit is not None
        if not view.blind and watch.checks_on_record != number:
            # Before it is decided on: the next attempt leaves out the hosts that failed.
            done = node_check.put_on_record(watch.dir, number, view.nodes, over=over)
            watch.checks_on_record = number if done else watch.checks_on_record
        findings = detect(view)
        if not view.blind:
            self._start_beside(watch.dir, watch.spec)
            if view.attempt.state == "running":
                findings = (*findings, *_tell_findings(watch, view, findings))
        if not any(finding.kind == "hang" for finding in findings):
            watch.stacks = None
        view = replace(view, history=watch.record.history)
        if not view.blind and (
            view.attempt.state == "ended" or first_for("roll_back", findings, view)
        ):
            # Listed only where a roll-back may be decided: a look costs shared storage little else.
            view = replace(view, checkpoints=watch.dir.saved_steps())
        decision = decide(view, findings)
        if decision.action == "start" and run.stop_requested_at is None:
            waits_for = self._transfers.fetch_what_is_lost(watch.dir, watch.spec)
            if waits_for:
                _tell_what_for(watch, view.attempt, waits_for)
                return
        if decision.action != "wait":
            self._carry_out(view, watch, decision, fence)
        if not view.blind:
            watch.goodput.look(view.attempts)

    def look(self, run: Run, watch: Watch) -> RunView:
        attempts = tuple(self._store.attempts(run.id))
        attempt = attempts[-1]
        now_s = time.monotonic()
        settings = watch.spec.monitor
        if watch.tracker is None or watch.tracker.attempt != attempt.number:
            gap_s = max(5.0, 5 * settings.poll_s)
            watch.tracker = ProgressTracker(attempt.number, now_s, blind_gap_s=gap_s)
            watch.beats = HeartbeatReader(watch.dir)
        blind = _why_blind(run.path)
        if run.stop_requested_at is None:
            watch.stop_seen_at_s = None
        else:
            watch.stop_seen_at_s = watch.stop_seen_at_s or now_s
            _tell_ranks_to_stop(watch.dir)
        if not blind:
            watch.tracker.look(watch.beats.changed(), now_s)
        placement = read_placement(watch.dir, attempt.number)
        # Liveness before exit.json: the supervisor writes that file and then goes, so looked at
        # in the other order a normal end could be mistaken for a vanished supervisor.
        seen = Observation() if blind else watch.backend.observe(watch.dir, attempt)
        if seen.waiting:  # for days, it may be: its time to start begins afterwards
            watch.tracker.start_anew()
        host_findings: tuple[Finding, ...] = ()
        if attempt.state != "running" or seen.waiting:
            watch.hosts = None
        elif not blind:
            if watch.hosts is None or watch.hosts.attempt != attempt.number:
                watch.hosts = HostWatch(watch.dir, attempt.number, now_s)
            host_findings = watch.hosts.look(placement, now_s, self._store)
        return RunView(
            run=run,
            settings=settings,
            attempts=attempts,
            now=time.time(),
            ranks=watch.tracker.ranks,
            ranks_expected=watch.spec.parallel.ranks,
            observed=seen,
            attempt_idle_s=watch.tracker.idle_s,
            step_s=watch.tracker.step_s,
            stop_waited_s=_since(watch.stop_seen_at_s, now_s),
            submitted_s=_since(watch.submitted_at_s, now_s),
            exit=read_exit(watch.dir, attempt.number, attempt.token),
            best_step=max([a.best_step for a in attempts] + [watch.tracker.best_step]),
            blind=blind,
            unwritable=_why_unwritable(run.path),
            host_findings=host_findings,
            stacks=watch.stacks.look(now_s) if watch.stacks else None,
            placement=placement,
            roll_backs=self._store.roll_backs(run.id),
            origin=watch.origin,
            batches=watch.spec.batches,
        )

    def _carry_out(
        self, view: RunView, watch: Watch, decision: Decision, fence: int | None
    ) -> None:
        """Record the decision, then do it. Each part may be done again by another daemon that
        finds it half done, and each change of state is refused under a fence that has passed."""
        run, attempt = view.run, view.attempt
        fence = _require_fence(run, watch, fence)
        self._store.check_fence(run.id, fence)
        why = decision.reason or decision.cause
        # What is being ended may take many looks to be gone: told of once.
        if decision.action != "end_attempt" or watch.ending != attempt.number:
            _record(
                watch.dir,
                "decision",
                action=decision.action,
                attempt=attempt.number,
                reason=why,
                evidence=decision.evidence,
                fence=fence,
            )
            log.info("run %s, attempt %d: %s (%s)", run.id, attempt.number, decision.action, why)
        if decision.action == "end_attempt":
            watch.ending = attempt.number
        if decision.roll_back is not None:
            self._store.add_roll_back(run.id, decision.roll_back, fence=fence)
        for host, kind in decision.hosts.items():
            told = decision.reason or decision.cause
            self._store.blame_host(
                host, kind, told, run_id=run.id, attempt=attempt.number, fence=fence
            )
            _record(watch.dir, "host_left_out", host=host, fault=kind, reason=told)
        if time.monotonic() >= watch.lease_until_s:
            raise LostLease(f"run {run.id}: its storage held up a decision until it was void")
        match decision.action:
            case "start":
                moved = self._store.move_attempt(attempt, "running", fence=fence)
                if attempt.state == "planned" and not moved:
                    return  # somebody else saw to it
                watch.submitted_at_s = time.monotonic()
                try:
                    if run.stop_requested_at is None:  # what is left of an earlier stop
                        watch.dir.stop_request.unlink(missing_ok=True)
                    write_roll_backs(watch.dir, view.roll_backs)
                    watch.backend.submit(watch.spec, watch.dir, attempt)
                except NotNow as error:
                    log.warning("run %s: %s; it is tried again", run.id, error)
                    _tell_what_for(watch, attempt, str(error))
                except (SmolplanError, OSError) as error:
                    # An attempt that cannot be started counts as one that ended: tried again
                    # after a pause, and not for ever.
                    log.error("run %s: %s", run.id, error)
                    self._store.move_attempt(attempt, "condemned", fence=fence, cause=str(error))
            case "adopt":
                self._adopt(view, watch, fence)
            case "ask_stacks":
                watch.stacks = StackRequest(watch.dir, attempt.number, view.nodes, time.monotonic())
            case "save":
                request_checkpoint(watch.dir, "monitor", decision.reason)
            case "condemn":
                self._store.move_attempt(attempt, "condemned", fence=fence, cause=decision.cause)
            case "end_attempt":
                self._end_attempt(view, watch, decision, fence)
            case "restart" | "roll_back":
                self._store.plan_attempt(
                    run.id,
                    attempt.number + 1,
                    decision.reason,
                    not_before=view.now + decision.delay_s,
                    step=view.best_step,
                    fence=fence,
                )
            case "end_run":
                state, reason = decision.end_state, decision.reason
                if self._store.end_run(run.id, state, reason, fence=fence):
                    _record(watch.dir, "run_ended", state=state, reason=reason)

    def _adopt(self, view: RunView, watch: Watch, fence: int) -> None:
        successor = view.observed.successor
        assert successor is not None
        step = max((r.step for r in view.ranks.values()), default=0)
        if self._store.adopt_attempt(
            view.attempt, successor.token, successor.reason, fence=fence, step=step
        ):
            _record(
                watch.dir,
                "attempt_ended",
                attempt=view.attempt.number,
                cause=successor.reason,
                exit_code=None,
                step=step,
            )

    def _end_attempt(self, view: RunView, watch: Watch, decision: Decision, fence: int) -> None:
        attempt: Attempt = view.attempt
        # Nothing of an attempt may be left when the next one starts. Its processes carry its own
        # token, so no other attempt can be hit, whoever does this and however late.
        if not watch.backend.end(watch.dir, attempt, decision.cause, timeout_s=KILL_S):
            log.error("attempt %d is not known to have ended yet; waiting", attempt.number)
            return
        step = max((r.step for r in view.ranks.values()), default=0)
        if self._store.move_attempt(
            attempt,
            "ended",
            fence=fence,
            cause=decision.cause,
            exit_code=decision.exit_code,
            step=step,
        ):
            _record(
                watch.dir,
                "attempt_ended",
                attempt=attempt.number,
                cause=decision.cause,
                exit_code=decision.exit_code,
                step=step,
            )


def _require_fence(run: Run, watch: Watch, fence: int | None) -> int:
    """Raises LostLease unless a look that began under `fence` still counts."""
    if fence is None or watch.fence != fence:
        raise LostLease(f"run {run.id}: its lease moved on during a look; it is looked at anew")
    return fence


def _record(run: RunDir, kind: str, **details: Any) -> None:
    """Tell events.jsonl. Where its disk is full, the store alone has the record: a decision that
    could not be told must still be taken, or a full disk would leave a run for ever undecided."""
    try:
        run.record(kind, "monitor", **details)
    except OSError as error:
        log.error("%s: %s; not told there: %s %s", run.events, error.strerror, kind, details)


def _tell_what_for(watch: Watch, attempt: Attempt, reason: str) -> None:
    """What an attempt waits for, once."""
    if watch.waits_for != reason:
        watch.waits_for = reason
        _record(watch.dir, "waiting", attempt=attempt.number, reason=reason)


def _tell_of_blindness(watch: Watch) -> None:
    """Once it is over: while it lasts, the run's own record cannot be written. The log, the metric
    smolplan_run_unseen and its alert tell meanwhile."""
    if watch.unseen_since is None:
        return
    (since, why), watch.unseen_since = watch.unseen_since, None
    lasted_s = round(max(0.0, time.time() - since), 3)
    _record(
        watch.dir,
        "finding",
        finding="run_unseen",
        key="",
        severity="warning",
        summary=f"the monitor could not see the run for {format_duration(lasted_s)}: {why}",
        evidence={"since": since},
        advice="Look at the mount on the monitor's machine.",
        step=None,
        hosts=[],
    )
    _record(watch.dir, "finding_over", finding="run_unseen", key="", lasted_s=lasted_s)


def _tell_of_silent_hosts(watch: Watch, view: RunView) -> None:
    """Once when a host falls silent, and once when it answers again."""
    nodes = view.observed.nodes
    silent = frozenset(n.host for n in nodes if n.probes_failed >= PROBES)
    for node in nodes:
        if node.host in silent - watch.silent_hosts:
            log.warning("run %s: %s does not answer: %s", view.run.id, node.host, node.trouble)
            _record(watch.dir, "host_silent", host=node.host, reason=node.trouble)
        elif node.host in watch.silent_hosts - silent and node.trouble == "":
            _record(watch.dir, "host_answers", host=node.host)
    watch.silent_hosts = silent


def _tell_findings(
    watch: Watch, view: RunView, critical: tuple[Finding, ...]
) -> tuple[Finding, ...]:
    """What the run's record shows to be wrong: put on record when it comes and when it goes."""
    try:
        findings = watch.record.look(view)
    except Exception as error:
        # Whatever is odd about the record, dead and hung ranks must still be seen to.
        log.error("%s: %s: %s", watch.dir, type(error).__name__, error, exc_info=True)
        return ()
    if findings is None:
        return ()
    told = watch.record.told
    changed = news(told, (*critical, *findings))
    for kind, key in changed.over:
        lasted_s = round(max(0.0, view.now - told.pop((kind, key))), 3)
        _record(watch.dir, "finding_over", finding=kind, key=key, lasted_s=lasted_s)
    for finding in changed.found:
        told[finding.id] = view.now
        log.warning("run %s: %s", view.run.id, finding.summary)
        _record(
            watch.dir,
            "finding",
            finding=finding.kind,
            key=finding.key,
            severity=finding.severity,
            summary=finding.summary,
            evidence=finding.evidence,
            advice=finding.advice,
            step=finding.evidence.get("step"),
            hosts=sorted(finding.hosts),
        )
    return findings


def _since(then_s: float | None, now_s: float) -> float | None:
    return None if then_s is None else now_s - then_s


def _tell_ranks_to_stop(run: RunDir) -> None:
    """The one who asked may have been killed before he told them."""
    if not run.stop_request.exists() and run.spec.exists():
        try:
            run.stop_request.touch()
        except OSError as error:
            log.error("%s: %s", run.stop_request, error.strerror)


def _why_unwritable(path: Path) -> str:
    """Why nothing can be written to a run directory; empty if it seems that it can."""
    try:
        state = os.statvfs(path)
    except OSError:
        return ""  # that is being blind
    if state.f_flag & os.ST_RDONLY:
        return f"{path}: {os.strerror(errno.EROFS)}"
    return f"{path}: {os.strerror(errno.ENOSPC)}" if not state.f_bavail else ""


def _why_blind(path: Path) -> str:
    """Why a run directory cannot be looked at; empty if it can."""
    try:
        next(path.iterdir(), None)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""
