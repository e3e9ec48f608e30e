"""Statuses as people see them."""

import time
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher.status import RunStatus
from smolplan.cli.style import STATE_COLOURS
from smolplan.units import format_count, format_duration

if TYPE_CHECKING:
    from smolplan.cli.insight import Insight


def status_panel(status: RunStatus, insight: "Insight | None" = None) -> RenderableType:
    """One run: progress, figures, attempts, last events."""
    last = status.last
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(ratio=1)
    of = f" of {status.steps:,} ({100 * status.step / status.steps:.1f} %)" if status.steps else ""
    facts.add_row("step", f"{status.step:,}{of}")
    if status.origin is not None:
        facts.add_row("forked", f"from {status.origin.told()}")
    if last:
        facts.add_row("loss", f"{last['loss']:.4f}  gradient norm {last['grad_norm']:.3f}")
        speed = f"{format_count(last['tokens_per_s'])} tokens/s"
        if last.get("mfu") is not None:
            speed += f"  MFU {last['mfu']:.1%} (exact FLOPs, dense peak)"
        facts.add_row("speed", speed)
    if insight is not None and insight.outlook is not None:
        from smolplan.cli.estimate_run import span, spread

        eta = insight.outlook.eta_s
        facts.add_row("to go", f"{span(eta.middle)} ({spread(eta)} with 90%)")
    elif status.eta_s is not None:
        facts.add_row("to go", format_duration(status.eta_s))
    if insight is not None:
        facts.add_row("goodput", f"{insight.goodput:.1%} of {format_duration(insight.wall_s)}")
    causes = [f"{a.number}: {a.cause}" for a in status.attempts if a.state == "ended"]
    current = status.attempts[-1]
    doing = f"{current.state}, {status.phase}" if status.phase else current.state
    facts.add_row("attempt", f"{current.number} ({doing})")
    if status.problem:
        facts.add_row("problem", Text(status.problem, style="red"))
    if causes:
        facts.add_row("ended", "\n".join(causes[-5:]))
    if status.run.state == "active" and not status.watched:
        advice = (
            "none is watching; start one by: smolplan monitor"
            if status.run.monitored
            else "launched without: if it breaks, nothing restarts it"
        )
        facts.add_row("monitor", Text(advice, style="yellow"))
    if status.uploads is not None:
        uploads = status.uploads
        facts.add_row("upload", Text(uploads.told(), style="red" if uploads.trouble else ""))
        idle = status.run.state != "active" or not status.run.monitored
        if not uploads.complete and idle and not (uploads.at_work or status.watched):
            advice = f"nothing uploads; go on by: smolplan upload {status.run.id}"
            facts.add_row("", Text(advice, style="yellow"))
    if status.run.reason:
        facts.add_row("why", status.run.reason)
    for event in status.events:
        facts.add_row(*_event_row(event))
    colour = STATE_COLOURS[status.run.state]
    bar = ProgressBar(total=max(1, status.steps), completed=status.step)
    title = f"[{colour}]{status.run.state}[/] · {status.run.id}"
    track = Table.grid(expand=True)
    track.add_row(bar)
    return Panel(Group(track, facts), title=title, title_align="left", border_style=colour)


def _event_row(event: dict[str, Any]) -> tuple[str, str]:
    clock = time.strftime("%H:%M:%S", time.localtime(event.get("time", 0.0)))
    text = str(event.get("kind", "")).replace("_", " ")
    if event.get("kind") == "decision":
        text = f"{event.get('action')}: {event.get('reason')}"
    elif "step" in event:
        text += f" (step {event['step']})"
    elif event.get("left_out"):
        text += f" (left out: {', '.join(event['left_out'])})"
    return clock, f"{event.get('source')}: {text}"


def runs_table(statuses: list[RunStatus]) -> Table:
    """All runs, a row each."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("run", no_wrap=True)  # whole, so that it can be copied
    table.add_column("state", no_wrap=True)
    for title in ("step", "loss", "attempts"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("launched", no_wrap=True)
    for status in statuses:
        loss = status.last.get("loss")
        launched = time.localtime(status.run.created_at)
        table.add_row(
            status.run.id,
            Text(status.run.state, style=STATE_COLOURS[status.run.state]),
            f"{status.step:,}/{status.steps:,}" if status.steps else "?",
            "" if loss is None else f"{loss:.4f}",
            str(len(status.attempts)),
            time.strftime("%m-%d %H:%M", launched),
        )
    return table
