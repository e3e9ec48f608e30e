"""smolplan preflight: is everything fit, before money burns?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from smolplan.cli.runs_dir import RunsDir
from smolplan.units import count_of

if TYPE_CHECKING:
    from preflight.look import Look
    from preflight.report import Report
    from smolplan.spec import RunSpec

EVERY = "60s"
EXAMPLES = """

Examples:

`smolplan preflight tiny-cpu --skip storage`

`smolplan preflight tiny-cpu --tier quick --html preflight.html`

`smolplan preflight tiny-cpu --only config --script tests/importers/data/megatron_8b.sh`

`smolplan preflight tiny-cpu --watch --every 5min --json >> changes.jsonl`
"""


def preflight(
    spec: Annotated[str, typer.Argument(help="A YAML file or the name of a preset.")] = "",
    only: Annotated[
        list[str] | None, typer.Option(help="Only this area or check; may be repeated.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Not this area or check; may be repeated.")
    ] = None,
    tier: Annotated[
        Literal["quick", "standard", "burn"],
        typer.Option(
            help="quick: before every start; standard: before a long run or after a failure; "
            "burn: new machines."
        ),
    ] = "standard",
    hosts: Annotated[
        list[str] | None,
        typer.Option(help="Only these hosts: names or patterns, as 'gpu[01-08]'."),
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="This machine only, whatever launch.backend says.")
    ] = False,
    runs_dir: RunsDir = None,
    script: Annotated[
        list[Path] | None,
        typer.Option(
            help="A shell script that starts or follows the run: read, not run, for what it "
            "would delete; may be repeated."
        ),
    ] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="Name the checks; run none.")] = False,
    last: Annotated[bool, typer.Option("--last", help="Show the last report; run none.")] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Repeat what a run beside it does not feel; tell what changes."
        ),
    ] = False,
    every: Annotated[
        str | None, typer.Option(help="Time between two looks of --watch (default: 60s).")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit XML file too.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Check the hosts of a run: storage, network, GPUs, text, resuming, evaluation, metrics.

    Exit code 0: fit (warnings and unknowns are shown); 1: a required check failed; 2: your input.
    """
    import json
    import signal
    import sys

    from launcher.store import Store
    from preflight.look import Look
    from preflight.registry import select
    from smolplan.cli import style
    from smolplan.cli.options import positive
    from smolplan.cli.preflight_view import list_table
    from smolplan.errors import UserError
    from smolplan.spec import load_spec
    from smolplan.units import parse_duration_s

    if every is not None and not watch:
        raise UserError(
            "one look is no repetition",
            where="--every",
            remedy="Give --watch too, or leave it out.",
        )
    every_s = positive("--every", every or EVERY, parse_duration_s)
    chosen = [c for c in select(only or (), skip or (), tier) if c.passive or not watch]
    if not chosen:
        raise UserError(
            "no check is left", where="--skip", remedy="Skip less of what --only names."
        )
    if list_checks:
        if as_json:
            told = [
                {
                    "name": c.name,
                    "severity": c.severity,
                    "tier": c.tier,
                    "scope": c.scope,
                    "passive": c.passive,
                    "checks": c.doc,
                }
                for c in chosen
            ]
            print(json.dumps(told, indent=1))
        else:
            style.show(lambda out: out.print(list_table(chosen)), narrow=False)
        return
    if not spec:
        raise UserError(
            "a spec is needed", where="SPEC", remedy="For instance: smolplan preflight tiny-cpu"
        )
    loaded = load_spec(spec)
    if last:
        report = _last(loaded)
        _tell(report, junit, html, as_json)
        sys.exit(report.exit_code)
    if lacking := loaded.model.unsupported_by_trainer():
        raise UserError(
            "; ".join(lacking),
            where=loaded.name,
            remedy="Half of the checks train: give a spec with a dense model, such as smollm3-3b.",
        )
    for path in script or ():
        _check_script(path)
    if not watch:
        Store().close()  # what is found is kept: better refused now than then
    # So that the clean-up of Ctrl-C is done for a plain kill too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with Look(
        loaded,
        _runs_folder(loaded, runs_dir),
        only=only or (),
        skip=skip or (),
        tier=tier,
        passive_only=watch,
        hosts=hosts or (),
        here=here,
        scripts=[path.absolute() for path in script or ()],
    ) as look:
        if watch:
            _watch(look, every_s, every or EVERY, as_json)
        report = look_once(look)
    look.keep(report)
    _tell(report, junit, html, as_json)
    sys.exit(report.exit_code)


preflight.__doc__ = (preflight.__doc__ or "").rstrip() + EXAMPLES


def _check_script(path: Path) -> None:
    """Raises UserError for one that cannot be read."""
    from smolplan.errors import UserError

    try:
        path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}",
            where="--script",
            remedy="Give the shell scripts that start or follow the run.",
        ) from None


def look_once(look: "Look") -> "Report":
    """One look, with how far it is on a terminal."""
    from smolplan.cli.preflight_view import host_lines
    from smolplan.cli.style import progress_line

    if look.targets is None:
        with progress_line("Checking") as say:
            return look.report(
                on_start=lambda check, number, of: say(f"{check.name} ({number} of {of})")
            )
    with host_lines() as (on_progress, say):
        return look.report(
            on_start=lambda check, number, of: say(f"{check.name} ({number} of {of})"),
            on_progress=on_progress,
        )


def _last(spec: "RunSpec") -> "Report":
    from preflight.history import reports
    from smolplan.errors import UserError

    kept = reports(spec.name)
    if not kept:
        raise UserError(
            f"{spec.name} was never checked here",
            where="--last",
            remedy="Check it: smolplan preflight SPEC",
        )
    return kept[0]


def _tell(report: "Report", junit: Path | None, html: Path | None, as_json: bool) -> None:
    """The report to the terminal, and to the files that are asked for. Raises UserError."""
    from preflight.reports.html import html as as_html
    from preflight.reports.junit import junit as as_junit
    from smolplan.cli import style
    from smolplan.cli.options import say_written
    from smolplan.cli.preflight_view import show
    from smolplan.errors import UserError

    for option, path, render in (("--junit", junit, as_junit), ("--html", html, as_html)):
        if path is None:
            continue
        try:
            path.write_text(render(report), "utf-8")
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror}",
                where=option,
                remedy="Name a file in a folder that is there.",
            ) from None
        say_written(path)
    if as_json:
        print(report.model_dump_json(indent=1))
    else:
        style.show(lambda out: show(report, out), narrow=False)


def _watch(look: "Look", every_s: float, every: str, as_json: bool) -> None:
    """Until somebody ends it; that is no failure."""
    import json
    import signal
    import sys
    import threading
    import time

    from preflight.watch import watch
    from smolplan.cli.preflight_view import change_line
    from smolplan.cli.style import console

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out, first = console(), True
    out.soft_wrap = True
    try:
        for report, changes in watch(look.report, every_s, threading.Event()):
            if first and not as_json:
                checks = len({result.name for result in report.results})
                out.print(
                    f"Watching by {count_of(checks, 'check')}, every {every}; Ctrl-C ends it."
                )
            first = False
            for change in changes:
                if as_json:
                    told = change.result.model_dump(mode="json")
                    print(json.dumps({"time": time.time(), "before": change.before, **told}))
                else:
                    out.print(change_line(change))
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(0)


def _runs_folder(spec: "RunSpec", given: Path | None) -> Path:
    """As launch has it; but a folder on a mount that hangs is left to the checks, which name it."""
    from launcher.create import runs_folder, runs_path
    from smolplan.touch import NoAnswer

    try:
        return runs_folder(spec, given)
    except NoAnswer:
        return runs_path(spec, given)
