"""What failures leave of a run as people see it: the answer first, at most 80 columns."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from planner.goodput import GIVEN, Answer
from planner.goodput_arithmetic import lines_of, notes_on
from planner.reliability import Run
from planner.simulate import Simulation
from smolplan.cli import style
from smolplan.units import DAY_S, count_of, format_duration


def show(answer: Answer, *, explain: bool) -> None:
    style.show(lambda out: _show(answer, out, explain), narrow=False)


def _show(answer: Answer, out: Console, explain: bool) -> None:
    out.print(f"[bold green]{_headline(answer)}[/]")
    out.print(_facts(answer))
    out.print()
    out.print(_causes(answer))
    out.print()
    out.print(_interval_table(answer))
    if explain:
        style.print_lines(lines_of(answer), out)
    for note in notes_on(answer):
        out.print(f"[dim]Note: {escape(note)}.[/]")


def _nodes(answer: Answer) -> str:
    nodes, rest = divmod(answer.gpus, answer.node_size)
    gpus = count_of(answer.gpus, "GPU")
    return gpus if rest else f"{gpus} ({count_of(nodes, 'node')})"


def _percent(share: float) -> str:
    """A probability: 95%, 99.9%; never 0% or 100% of what may happen."""
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{round(100 * share, 1):g}%"


def _days(seconds: float) -> str:
    """Days to the hundredth; shorter spans in their own unit."""
    return f"{seconds / DAY_S:,.2f} d" if seconds >= DAY_S else format_duration(seconds)


def _headline(answer: Answer) -> str:
    e = answer.expected
    if answer.solved:
        assert answer.deadline_s is not None and answer.met is not None
        return (
            f"{_nodes(answer)}: {_percent(answer.met)} of runs finish within "
            f"{_days(answer.deadline_s)}"
        )
    return (
        f"{e.goodput:.1%} goodput: {_days(answer.run.work_s)} of training take "
        f"{_days(e.wall_s)} on {_nodes(answer)}"
    )


def _facts(answer: Answer) -> Table:
    run, e, facts = answer.run, answer.expected, style.facts_grid()
    if answer.solved:
        facts.add_row(
            "goodput", f"{e.goodput:.1%}: {_days(run.work_s)} of training take {_days(e.wall_s)}"
        )
    whose = GIVEN if answer.settings.mttf_s else f"{answer.settings.fleet.name}'s rates"
    facts.add_row(
        "failures", f"one in {format_duration(run.mttf_s)} ({whose}), {e.failures:,.4g} in the run"
    )
    for row in _checkpoints(answer):
        facts.add_row(*row)
    facts.add_row(
        "finished", f"{_percent(answer.confidence)} of runs within {_days(answer.within_s)}"
    )
    if answer.fewer_met is not None:
        facts.add_row(
            "one node less",
            f"{count_of(answer.gpus - answer.node_size, 'GPU')}: "
            f"{_percent(answer.fewer_met)} of runs",
        )
    if answer.deadline_s is not None and answer.met is not None and not answer.solved:
        facts.add_row(
            "deadline", f"{_days(answer.deadline_s)}, met by {_percent(answer.met)} of runs"
        )
    rows = _spares(answer)
    if answer.simulation is not None:
        rows += _simulated(answer.simulation, answer.deadline_s)
    for row in rows:
        facts.add_row(*row)
    return facts


def _checkpoints(answer: Answer) -> list[tuple[str, str]]:
    run, e = answer.run, answer.expected
    every = f"every {format_duration(run.interval_s)}"
    if (local := run.local) is None:
        stall = format_duration(run.checkpoint.stall_s)
        return [("checkpoint", f"{every}: a stall of {stall}, safe {_write(run)}")]
    return [
        (
            "local copy",
            f"every {format_duration(local.every_s)}: a stall of "
            f"{format_duration(local.stall_s)}; lost by {_percent(local.lost)} of failures, "
            f"{e.from_local:,.4g} restarts are from one",
        ),
        ("checkpoint", f"remote, {every}: written from a copy, safe {_write(run)}"),
    ]


def _write(run: Run) -> str:
    write = run.checkpoint.write_s
    return f"{format_duration(write)} later" if write else "with its end"


def _spares(answer: Answer) -> list[tuple[str, str]]:
    rows = [
        (
            "spares",
            f"{count_of(answer.spares_needed, 'node')}: never short in "
            f"{_percent(answer.confidence)} of runs (repair takes "
            f"{format_duration(answer.run.repair_s)})",
        ),
        (
            "",
            f"{count_of(answer.spares_for_share, 'node')}: short "
            f"{100 * (1 - answer.confidence):.4g}% of the time or less",
        ),
    ]
    if answer.spares_for_deadline is not None:
        nodes = count_of(answer.spares_for_deadline, "node")
        rows.append(("", f"{nodes}: deadline met by {_percent(answer.confidence)} of runs or more"))
    if answer.never_short is not None:
        never = _percent(answer.never_short)
        rows.append(("", f"{answer.run.spares:,}, {GIVEN}: never short in {never} of runs"))
    return rows


def _simulated(played: Simulation, deadline_s: float | None) -> list[tuple[str, str]]:
    g = played.goodput
    rows = [
        (
            "simulated",
            f"{g.value:.2%} ± {g.high - g.value:.2%} goodput over {len(played.walls_s):,} runs "
            f"(seed {played.seed})",
        ),
        (
            "",
            f"90 % of the runs between {played.goodput_quantile(0.05):.2%} and "
            f"{played.goodput_quantile(0.95):.2%}",
        ),
    ]
    if deadline_s is not None:
        met = played.deadline_probability(deadline_s)
        rows.append(("", f"deadline met by {met.value:.1%} ({met.low:.1%} to {met.high:.1%})"))
    return rows


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _causes(answer: Answer) -> Table:
    e, played = answer.expected, answer.simulation
    table = _table("Where the time goes", "share", "time", *(["simulated"] if played else []))
    rows = [("training", answer.run.work_s, answer.run.work_s)]
    for cause, seconds in e.causes_s.items():
        seen = played.causes_s[cause] if played else 0.0
        if seconds or seen:
            rows.append((cause, seconds, seen))
    for name, seconds, seen in rows:
        cells = [f"{seconds / e.wall_s:.2%}", _days(seconds)]
        table.add_row(name, *cells, *([_days(seen)] if played else []))
    return table


def _interval_table(answer: Answer) -> Table:
    saved = "Checkpoint interval" if answer.run.local is None else "Local copies"
    table = _table(saved, "every", "goodput", "loss")
    for name, interval, goodput in answer.intervals:
        ends = goodput > 0
        table.add_row(
            name,
            format_duration(interval),
            f"{goodput:.2%}" if ends else "never ends",
            f"{1 - goodput:.2%}" if ends else "",
        )
    return table
