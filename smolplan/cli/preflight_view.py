"""Preflight on the terminal: the table, what to do, and how far the hosts are."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from preflight.fleet_run import HostProgress, OnProgress
    from preflight.registry import Check
    from preflight.report import Report
    from preflight.reports.rows import Group
    from preflight.watch import Change

COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "unknown": "magenta"}

SHOWN = 10
"""Lines of hosts while they are at it, the slowest ones."""


def show(report: "Report", out: "Console") -> None:
    """A row a check; below it why, and what to do about whatever is not a pass."""
    from rich.text import Text

    from preflight.report import STATES
    from preflight.reports.rows import groups, lines, verdict

    table = _plain_table()
    for line in lines(report):
        state = Text(line.state, style=COLOURS.get(line.state, "dim"))
        table.add_row(state, Text(line.name), Text(line.summary))
    out.print(table)
    for group in groups(report.results):
        show_group(group, out)
    counts = ", ".join(f"{report.count(s)} {s}" for s in STATES if report.count(s))
    out.print(f"\n{counts} in {report.seconds:.0f} s: {verdict(report)}")


def show_group(group: "Group", out: "Console") -> None:
    from rich.padding import Padding
    from rich.text import Text

    from launcher.hosts.patterns import fold

    head = Text(f"\n{group.state} ", style=COLOURS[group.state]).append(group.name, style="bold")
    if group.hosts:
        head.append(f" on {fold(list(group.hosts))}", style="default")
    out.print(head.append(f": {group.why}", style="default"))
    if group.remedy:
        out.print(Padding(Text(f"→ {group.remedy}"), (0, 0, 0, 2)))


def change_line(change: "Change") -> "Text":
    """When, what and where: one line."""
    from rich.text import Text

    result = change.result
    line = Text(time.strftime("%H:%M:%S "), style="dim")
    line.append(f"{change.before or 'new'} → ", style="default")
    line.append(result.state, style=COLOURS.get(result.state, "dim"))
    line.append(f" {result.name}", style="bold")
    where = f" on {result.host}" if result.host else ""
    return line.append(f"{where}: {result.why or result.summary}", style="default")


def list_table(checks: "list[Check]") -> "Table":
    table = _plain_table(columns=5)
    for check in checks:
        where = "fleet" if check.scope == "fleet" else "once" if check.once else "host"
        table.add_row(check.name, check.severity, check.tier, where, check.doc)
    return table


def _plain_table(columns: int = 3) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    for _ in range(columns - 1):
        table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    return table


@contextmanager
def host_lines() -> "Iterator[tuple[OnProgress, Callable[[str], None]]]":
    """Two functions: one shows how far each host is, one what is done meanwhile; both do nothing
    where nobody looks."""
    import sys

    from rich.live import Live

    from smolplan.cli.style import console

    out = console(sys.stderr)
    if not out.is_terminal:
        yield lambda hosts: None, lambda line: None
        return
    with Live(console=out, transient=True, refresh_per_second=4) as live:
        yield (
            lambda hosts: live.update(progress_table(hosts)),
            lambda line: live.update(f"Checking: {line}"),
        )


def progress_table(hosts: "Mapping[str, HostProgress]") -> "Table":
    """How many are done, and a line for each of those that are furthest behind."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    waiting = sorted((p for p in hosts.values() if not p.ended), key=lambda p: p.done)
    lost = [p for p in hosts.values() if p.trouble is not None]
    told = f"{len(hosts) - len(waiting) - len(lost)} of {len(hosts)} hosts done"
    table.add_row(Text(told + (f", {len(lost)} lost" if lost else ""), style="bold"))
    for progress in [*lost[:3], *waiting[:SHOWN]]:
        if progress.trouble is not None:
            table.add_row(
                Text(progress.host, style="red"), Text(""), Text(progress.trouble.message)
            )
            continue
        seconds = f" ({time.monotonic() - progress.began:.0f} s)" if progress.running else ""
        bad = sum(r.state == "fail" for r in progress.results)
        table.add_row(
            progress.host,
            f"{progress.done}/{progress.of}",
            Text(f"{progress.running or 'connecting'}{seconds}")
            + Text(f" {bad} failed" if bad else "", style="red"),
        )
    if len(waiting) > SHOWN:
        table.add_row(Text(f"and {len(waiting) - SHOWN} more", style="dim"))
    return table
