"""Run checks one after another, each under its deadline, and clean up."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from planner.plan import make_plan
from preflight.checks import load_all
from preflight.registry import CHECKS, Answer, Check, Context
from preflight.report import Report, Result
from smolplan.errors import UserError
from smolplan.spec import RunSpec
from smolplan.spec.load import suggestion


def select(only: Sequence[str], skip: Sequence[str]) -> list[Check]:
    """Checks by name or area. Raises UserError for one that does not exist."""
    load_all()
    known = sorted({*CHECKS, *(c.area for c in CHECKS.values())})
    for option, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in known:
                raise UserError(
                    f"there is no check {name!r}", where=option, remedy=suggestion(name, known)
                )
    return [
        c
        for c in CHECKS.values()
        if (not only or c.name in only or c.area in only)
        and c.name not in skip
        and c.area not in skip
    ]


def run_checks(
    spec: RunSpec,
    folder: Path,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    on_start: Callable[[Check], None] = lambda check: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Report:
    """All chosen checks of a spec. Raises UserError for unknown names or an unknown GPU."""
    checks = select(only, skip)
    plan = make_plan(spec)
    existing = next(p for p in (folder, *folder.parents) if p.is_dir())
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".preflight-", dir=existing))
    except OSError as error:
        raise UserError(
            f"runs cannot be written there: {error.strerror}",
            where=str(existing),
            remedy="Name a writable folder by --runs-dir or launch.runs_dir.",
        ) from None
    results = []
    try:
        context = Context(spec, plan, existing, scratch)
        for check in checks:
            on_start(check)
            result = run_one(check, context)
            results.append(result)
            on_result(result)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Report(spec_hash=spec.content_hash(), results=tuple(results))


def run_one(check: Check, context: Context) -> Result:
    """One check. A probe that raises or outlasts its deadline is unknown, never a failure."""
    box: list[Answer] = []

    def probe() -> None:
        try:
            box.append(check.probe(context))
        except Exception as error:
            box.append(("unknown", f"the probe failed: {type(error).__name__}: {error}"))

    began = time.monotonic()
    # A daemon thread: a probe that hangs on dead storage must not keep the process alive.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(check.deadline_s)
    state, summary = (
        box[0] if box else ("unknown", f"the probe gave no answer in {check.deadline_s:g} s")
    )
    return Result(
        name=check.name,
        area=check.area,
        state=state,
        summary=summary,
        remedy=check.remedy if state in ("fail", "warn", "unknown") else "",
        required=check.required,
        seconds=round(time.monotonic() - began, 2),
    )
