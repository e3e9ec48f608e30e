"""smolplan estimate --from RUN: how a run goes on, by what was observed of it."""

import math
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from planner.catalog import Price, price_of
from planner.outlook import LEVEL, IntervalRow, Outlook, Spread, look_ahead
from planner.outlook_arithmetic import lines_of, notes_on
from planner.plan import make_plan
from planner.prior import prior_of
from smolplan.cli import style
from smolplan.cli.run import find_run
from smolplan.units import count_of, format_duration, three_digits

if TYPE_CHECKING:
    from monitor.story import Story


def estimate_run(name: str, *, price: float | None, explain: bool, as_json: bool) -> None:
    """Answer for the run of that name. Raises UserError."""
    from launcher.control import settle
    from launcher.store import Store
    from monitor.story import read_story

    store = Store()
    run = settle(store, find_run(store, name))
    with style.progress_line("Reading the record"):
        story = read_story(store, run)
    outlook = outlook_of(story)
    given = story.spec.cluster.price_per_gpu_hour if price is None else price
    cost = price_of(story.spec.cluster.gpu, given)
    if as_json:
        import json

        print(json.dumps(_content(story, outlook, cost), indent=1, allow_nan=False))
    else:
        style.show(lambda out: _show(out, story, outlook, cost, explain), narrow=False)


def outlook_of(story: "Story") -> Outlook:
    """Raises UserError where too little was observed, or nothing is left to do."""
    return look_ahead(story.observed, prior_of(story.spec, make_plan(story.spec)))


def _show(
    out: Console, story: "Story", outlook: Outlook, price: Price | None, explain: bool
) -> None:
    observed = outlook.observed
    going = "" if story.run.state == "active" else f", once resumed (it is {story.run.state})"
    out.print(
        f"[bold green]{span(outlook.eta_s.middle)} to go ({spread(outlook.eta_s)} "
        f"with {LEVEL:.0%}){going}[/]"
    )
    facts = style.facts_grid()
    facts.add_row("run", f"{escape(story.run.id)}: step {observed.step:,} of {observed.steps:,}")
    for row in _facts(story, outlook, price):
        facts.add_row(*row)
    out.print(facts)
    out.print()
    out.print(_intervals(outlook))
    if explain:
        style.print_lines(lines_of(outlook), out)
    for note in notes_on(outlook):
        out.print(f"[dim]Note: {escape(note)}.[/]")


def _facts(story: "Story", outlook: Outlook, price: Price | None) -> list[tuple[str, str]]:
    step, run, rate = outlook.step, outlook.run, outlook.rate
    tail = (1 - LEVEL) / 2
    rows = []
    if story.run.state == "active" and math.isfinite(outlook.eta_s.high):
        ends = [
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(story.until + eta))
            for eta in (outlook.eta_s.middle, outlook.eta_s.high)
        ]
        rows.append(
            ("ends", f"{ends[0]} UTC, by {ends[1]} at the latest with {0.5 + LEVEL / 2:.0%}")
        )
    mfu = "" if outlook.observed.mfu is None else f", MFU {outlook.observed.mfu:.1%}"
    rows += [
        (
            "step",
            f"{span(step.median)} (80 %: {span(step.low)} to {span(step.high)}){mfu}\n"
            f"observed, {count_of(step.count, 'step')}",
        ),
        (
            "goodput",
            f"{outlook.observed.goodput:.1%} of the {span(outlook.observed.wall_s)} so far",
        ),
        (
            "failures",
            f"{rate.failures:,} observed in {span(rate.seconds)} of running; believed: one in\n"
            f"{span(1 / rate.median)} ({span(1 / rate.quantile(1 - tail))} to "
            f"{span(1 / rate.quantile(tail))} with {LEVEL:.0%})",
        ),
        ("restart", f"{span(run.restart.detect_s)} to detect, {span(run.restart.busy_s)} to train"),
        (
            "cost",
            f"{three_digits(story.gpu_hours)} GPU-hours so far, "
            f"{three_digits(outlook.gpu_hours.middle)} to go{_dollars(story, outlook, price)}",
        ),
    ]
    return rows


def _dollars(story: "Story", outlook: Outlook, price: Price | None) -> str:
    if price is None:
        return ""
    hours = (story.gpu_hours, outlook.gpu_hours.middle)
    low, high = ([f"${one * rate:,.0f}" for one in hours] for rate in (price.low, price.high))
    where = f"\n({escape(price.source)})"
    if price.low == price.high:
        return f"\n{low[0]} so far, {low[1]} to go{where}"
    return f"\n{low[0]} to {high[0]} so far, {low[1]} to {high[1]} to go{where}"


def _intervals(outlook: Outlook) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("checkpoint every", no_wrap=True)
    for title in ("steps", "time", "goodput to come"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in outlook.intervals:
        mark = "bold" if row is outlook.advised else ""
        advice = row.by
        if row is outlook.advised:
            low, high = outlook.advised_steps_low, outlook.advised_steps_high
            advice += f" (advised; {low:,} to {high:,})"
        cells = (f"{row.steps:,}", span(row.interval_s), f"{row.goodput:.2%}")
        table.add_row(escape(advice), *cells, style=mark)
    return table


def span(seconds: float) -> str:
    return format_duration(seconds) if math.isfinite(seconds) else "never"


def spread(eta: Spread) -> str:
    return f"{span(eta.low)} to {span(eta.high)}"


def eta_json(outlook: Outlook) -> dict[str, Any]:
    """Seconds to go; null for never."""
    eta = outlook.eta_s
    return {
        "level": LEVEL,
        "low": _finite(eta.low),
        "middle": _finite(eta.middle),
        "high": _finite(eta.high),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _row(row: IntervalRow) -> dict[str, Any]:
    return {
        "by": row.by,
        "interval_s": _finite(row.interval_s),
        "steps": row.steps,
        "goodput": row.goodput,
    }


def _content(story: "Story", outlook: Outlook, price: Price | None) -> dict[str, Any]:
    from dataclasses import asdict

    observed, rate = asdict(outlook.observed), outlook.rate
    del observed["step_times_s"]
    return {
        "run": story.run.id,
        "state": story.run.state,
        "observed": observed,
        "step_s": asdict(outlook.step),
        "failures_per_s": {
            "median": rate.median,
            "low": rate.quantile((1 - LEVEL) / 2),
            "high": rate.quantile((1 + LEVEL) / 2),
            "by_count_alone": list(rate.observed_alone(LEVEL)),
        },
        "eta_s": eta_json(outlook),
        "checkpoint": {
            "advised_steps": outlook.advised.steps,
            "advised_steps_low": outlook.advised_steps_low,
            "advised_steps_high": outlook.advised_steps_high,
            "intervals": [_row(row) for row in outlook.intervals],
        },
        "gpu_hours": {"so_far": story.gpu_hours, "to_go": _finite(outlook.gpu_hours.middle)},
        "price_per_gpu_hour": None if price is None else asdict(price),
        "lines": [asdict(line) for line in lines_of(outlook)],
        "notes": notes_on(outlook),
    }
