"""Run checks one after another, each within its deadline, and clean up whatever they did."""

import importlib.util
import logging
import platform
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from planner.plan import make_plan
from preflight.context import Context
from preflight.fleet import FleetContext
from preflight.once import INSTALL_TRAINER, ProbeError
from preflight.peers import judge
from preflight.registry import Check, Tier, select
from preflight.report import Finding, Report, Result
from smolplan.errors import UserError
from smolplan.spec import RunSpec

log = logging.getLogger(__name__)

MEND_PROBE = "Nothing is known against the machine: mend the probe, and ask again."


def run(
    spec: RunSpec,
    runs_dir: Path,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    tier: Tier = "standard",
    passive_only: bool = False,
    scripts: Sequence[Path] = (),
    on_start: Callable[[Check], None] = lambda check: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Check this machine for a run of `spec` under `runs_dir`, which need not exist yet.

    Nothing is left behind, even when it is broken off. `only` and `skip` name areas or checks;
    `passive_only` leaves out what a run beside it would feel; `scripts` are read, never run.
    Raises UserError for a name that there is not, and for a GPU that the catalogue does not know.
    """
    checks = [
        c for c in select(only, skip, tier) if c.scope == "host" and (c.passive or not passive_only)
    ]
    return run_checks(
        spec, runs_dir, checks, tier=tier, scripts=scripts, on_start=on_start, on_result=on_result
    )


def run_checks(
    spec: RunSpec,
    runs_dir: Path,
    checks: Sequence[Check],
    *,
    tier: Tier,
    host: str = "",
    scripts: Sequence[Path] = (),
    on_start: Callable[[Check], None] = lambda check: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Report:
    """As `run`, of checks of one host; with `host`, this machine is told of by that name."""
    context = Context(spec, make_plan(spec), runs_dir.expanduser().absolute(), scripts=scripts)
    began, started_at = time.monotonic(), time.time()
    results: list[Result] = []
    try:
        for check in checks:
            on_start(check)
            results.append(run_check(check, context).model_copy(update={"host": host}))
            on_result(results[-1])
    finally:
        context.close()
    return Report(
        spec_name=spec.name,
        spec_hash=spec.content_hash(),
        runs_dir=str(context.runs_dir),
        results=judge(results, checks),  # the GPUs of this machine with each other
        seconds=time.monotonic() - began,
        hosts=(host,) if host else (),
        tier=tier,
        started_at=started_at,
        made_on=platform.node(),
    )


def run_check(check: Check, context: Context) -> Result:
    """One check's result; `unknown` if the check raises or hangs."""
    began = time.monotonic()
    if check.needs_torch and importlib.util.find_spec("torch") is None:
        finding = _unknown("torch is not installed", INSTALL_TRAINER)
    else:
        (finding,) = _within_deadline(
            check,
            lambda: [check.function(context)],
            stop=context.stop,
            abandon=lambda: context.abandon(check.name),
        )
    return _result(check, finding, time.monotonic() - began)


def run_fleet_check(check: Check, fleet: FleetContext) -> list[Result]:
    """What a check of all hosts together found; `unknown` if it raises or hangs."""
    began = time.monotonic()
    findings = _within_deadline(check, lambda: check.function(fleet))
    seconds = time.monotonic() - began
    return [_result(check, finding, seconds) for finding in findings]


def _result(check: Check, finding: Finding, seconds: float) -> Result:
    told = finding.model_dump()
    if finding.state == "fail" and check.severity == "advisory":
        told["state"] = "warn"
    if not finding.remedy and finding.state in ("fail", "warn"):
        told["remedy"] = check.remedy
    elif not finding.remedy and finding.state == "unknown":
        told["remedy"] = MEND_PROBE
    return Result(
        **told,
        name=check.name,
        area=check.area,
        severity=check.severity,
        seconds=seconds,
    )


def _within_deadline(
    check: Check,
    function: Callable[[], Sequence[Finding]],
    *,
    stop: Callable[[], None] = lambda: None,
    abandon: Callable[[], None] = lambda: None,
) -> Sequence[Finding]:
    """A check that hangs is left behind in its thread, and what it started is ended. What can
    block for good in the kernel is to run in a process (Context.probe), not in the thread."""
    answer: list[Sequence[Finding]] = []

    def work() -> None:
        try:
            answer.append(function())
        except ProbeError as error:
            answer.append([_unknown(str(error), error.remedy)])
        except UserError as error:
            answer.append(
                [Finding(state="fail", summary=error.what, why=str(error), remedy=error.remedy)]
            )
        except Exception as error:
            log.debug("%s broke", check.name, exc_info=True)
            answer.append([_unknown(f"{type(error).__name__}: {error}")])

    thread = threading.Thread(target=work, name=check.name, daemon=True)
    thread.start()
    try:
        thread.join(check.deadline_s)
    except BaseException:
        # Broken off: first the thread must have nothing left to do, then its files can go.
        stop()
        thread.join(2.0)
        raise
    if answer:
        return answer[0]
    abandon()
    return [_unknown(f"no answer within {check.deadline_s:g} s")]


def _unknown(why: str, remedy: str = "") -> Finding:
    return Finding(
        state="unknown",
        summary="the probe failed",
        why=why,
        remedy=remedy,
    )
