"""smolplan goodput: what failures leave of a run, and how many GPUs and spares make up for them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from planner.explain import Line
    from planner.reliability import Expectation, Fleet, Run
    from planner.simulate import Simulation

PLAYBOOK = "Smol Training Playbook: WekaFS, 4.2 GiB/s"
GIVEN = "as given"
PLAYBOOK_BYTES_PER_S = 4.2 * 2**30

MOST_SIMULATED = 1_000_000


@dataclass(frozen=True)
class Settings:
    """Everything about a run but the number of its GPUs, each span with its source."""

    gpu_s: float
    scaling: float
    fleet: "Fleet"
    mttf_s: float | None
    interval_s: float | None
    spans: dict[str, tuple[float, str]]
    planned_every_s: float
    spares: int | None

    def run(self, gpus: int) -> "Run":
        from planner.reliability import Checkpoint, Restart, Run, interval_for, mttf_s

        value = {name: seconds for name, (seconds, _) in self.spans.items()}
        checkpoint = Checkpoint(value["stall"], value["write"])
        work = self.gpu_s / (gpus * self.scaling)
        mttf = self.mttf_s or mttf_s(gpus, self.fleet.failures_per_gpu_s)
        return Run(
            work_s=work,
            mttf_s=mttf,
            interval_s=self.interval_s or interval_for(work, mttf, checkpoint),
            checkpoint=checkpoint,
            restart=Restart(value["detect"], value["provision"], value["load"], value["warm_up"]),
            planned_every_s=self.planned_every_s,
            node_share=self.fleet.node_share,
            spares=self.spares,
            repair_s=value["repair"],
        )


@dataclass(frozen=True)
class Report:
    gpus: int
    node_size: int
    solved: bool
    """Whether the number of GPUs is the answer."""
    run: "Run"
    expected: "Expectation"
    intervals: tuple[tuple[str, float, float], ...]
    """By whom, interval in seconds, goodput."""
    confidence: float
    within_s: float
    """The wall time that a share `confidence` of the runs keeps to."""
    spares_needed: int
    """Never short of nodes with probability `confidence`."""
    spares_for_share: int
    """Short of nodes at most 1 − `confidence` of the time."""
    never_short: float | None
    """Probability with the spares that were given."""
    deadline_s: float | None
    met: float | None
    """Probability of meeting the deadline."""
    fewer_met: float | None
    """The same with one node less, where the number of GPUs is the answer."""
    simulation: "Simulation | None"
    settings: Settings


def goodput(
    gpus: Annotated[str | None, typer.Option(help="Number of GPUs; leave out to solve.")] = None,
    work: Annotated[
        str | None, typer.Option(help="Training without any loss: 54d. Or --gpu-hours.")
    ] = None,
    gpu_hours: Annotated[str | None, typer.Option(help="The same in GPU-hours: 276480.")] = None,
    deadline: Annotated[str | None, typer.Option(help="A span (4w) or a date.")] = None,
    confidence: Annotated[str, typer.Option(help="Share of runs that shall do it.")] = "95%",
    fleet: Annotated[str, typer.Option(help="Whose failure rates: llama3, rsc-1 …")] = "llama3",
    mttf: Annotated[
        str | None, typer.Option(help="Your job's mean time to failure, in place of a fleet's.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="GPUs and checkpoint bytes of a bundled run: smollm3-3b.")
    ] = None,
    checkpoint_bytes: Annotated[str | None, typer.Option(help="Its size: 37GB.")] = None,
    storage_bandwidth: Annotated[
        str | None, typer.Option(help="At which it is written and read: 4.5GB/s.")
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="Between two checkpoints; the best one unless given.")
    ] = None,
    stall: Annotated[str | None, typer.Option(help="Training stands still per checkpoint.")] = None,
    write: Annotated[
        str | None, typer.Option(help="Then until it is safe; 0 if the stall was all.")
    ] = None,
    detect: Annotated[str | None, typer.Option(help="From a failure to its diagnosis.")] = None,
    provision: Annotated[str | None, typer.Option(help="Then to a whole set of nodes.")] = None,
    load: Annotated[str | None, typer.Option(help="Then to load the checkpoint.")] = None,
    warm_up: Annotated[str | None, typer.Option(help="Then to the first step.")] = None,
    planned_every: Annotated[
        str | None, typer.Option(help="A planned stop after so long: 2d; none unless given.")
    ] = None,
    spares: Annotated[
        int | None, typer.Option(min=0, max=2000, help="Spare nodes; enough unless given.")
    ] = None,
    repair: Annotated[str | None, typer.Option(help="Mean time to repair a node.")] = None,
    scaling: Annotated[str, typer.Option(help="Scaling efficiency of the GPU-hours.")] = "100%",
    node_size: Annotated[int, typer.Option(min=1, max=1024, help="GPUs of one node.")] = 8,
    simulate: Annotated[
        int | None, typer.Option(min=2, max=MOST_SIMULATED, help="Play so many runs as well.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Each line of arithmetic.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """What failures leave of a run: goodput, checkpoint interval, spares, chance of the deadline.

    Example: `smolplan goodput --gpus 16384 --work 54d`

    How many GPUs so that 95 % of runs finish in four weeks:
    `smolplan goodput --gpu-hours 276480 --deadline 4w --confidence 95%`
    """
    from datetime import UTC, datetime

    from planner.reliability import find_fleet
    from smolplan.cli.estimate import deadline_s
    from smolplan.errors import UserError

    wanted = _share("--confidence", confidence)
    if wanted >= 1:
        raise UserError(
            "no number of GPUs or spares makes it certain",
            where="--confidence",
            remedy="Give less than 100%: 99.9%.",
        )
    count = None if gpus is None else _whole("--gpus", gpus)
    size, preset_gpus = _from_preset(preset)
    given = {
        "stall": stall,
        "write": write,
        "detect": detect,
        "provision": provision,
        "load": load,
        "warm_up": warm_up,
        "repair": repair,
    }
    due_s = deadline_s(deadline, datetime.now(UTC))
    if count is None and (due_s is None or work is not None):
        count = preset_gpus
    if count is None and due_s is None:
        raise UserError(
            "it needs --gpus, or --gpu-hours and --deadline to solve for them",
            remedy="Try `smolplan goodput --gpus 16384 --work 54d`.",
        )
    every = None if planned_every is None else _span("--planned-every", planned_every)
    settings = Settings(
        gpu_s=_gpu_seconds(work, gpu_hours, count, _share("--scaling", scaling)),
        scaling=_share("--scaling", scaling),
        fleet=find_fleet(fleet),
        mttf_s=None if mttf is None else _span("--mttf", mttf),
        interval_s=None if interval is None else _span("--interval", interval),
        spans=_spans(
            given,
            size if checkpoint_bytes is None else _bytes(checkpoint_bytes),
            storage_bandwidth,
        ),
        planned_every_s=math.inf if every is None else every,
        spares=spares,
    )
    if count is None and mttf is not None:
        raise UserError(
            "the time to failure depends on the number of GPUs that is asked for",
            where="--mttf",
            remedy="Give --gpus, or a --fleet in its place.",
        )
    report = _report(settings, count, due_s, wanted, node_size, simulate, seed)
    if as_json:
        _print_json(report)
    else:
        from smolplan.cli.style import show

        show(lambda out: _show(report, out, explain), narrow=False)


def _report(
    settings: Settings,
    gpus: int | None,
    deadline_s: float | None,
    confidence: float,
    node_size: int,
    runs: int | None,
    seed: int,
) -> Report:
    from dataclasses import replace

    from planner.reliability import (
        deadline_probability,
        expect,
        finished_within_s,
        gpus_for_deadline,
        never_short_probability,
        spares_for_share,
        spares_needed,
    )

    count = gpus
    if count is None:
        assert deadline_s is not None
        gpu_s = settings.gpu_s / settings.scaling
        count = gpus_for_deadline(gpu_s, deadline_s, confidence, node_size, settings.run)
    run = settings.run(count)
    e = expect(run)
    unhindered = expect(replace(run, spares=None))
    node_rate = unhindered.failures * run.node_share / unhindered.wall_s
    chain = (node_rate, run.repair_s, unhindered.wall_s)
    fewer_met = None
    if gpus is None and deadline_s is not None and count > node_size:
        fewer_met = deadline_probability(settings.run(count - node_size), deadline_s)
    simulation = None
    if runs is not None:
        from planner.simulate import simulate

        simulation = simulate(run, runs, seed)
    return Report(
        gpus=count,
        node_size=node_size,
        solved=gpus is None,
        run=run,
        expected=e,
        intervals=_intervals(run),
        confidence=confidence,
        within_s=finished_within_s(run, confidence),
        spares_needed=spares_needed(confidence, *chain),
        spares_for_share=spares_for_share(1 - confidence, node_rate, run.repair_s),
        never_short=None if run.spares is None else never_short_probability(run.spares, *chain),
        deadline_s=deadline_s,
        met=None if deadline_s is None else deadline_probability(run, deadline_s),
        fewer_met=fewer_met,
        simulation=simulation,
        settings=settings,
    )


def _intervals(run: "Run") -> tuple[tuple[str, float, float], ...]:
    """The formulas' intervals and those around the run's, each with its goodput."""
    from planner.reliability import (
        daly_first_order_interval_s,
        daly_interval_s,
        expect,
        optimal_interval_s,
        with_interval,
        young_interval_s,
    )
    from smolplan.errors import UserError

    stall, mttf = run.checkpoint.stall_s, run.mttf_s
    restart = run.restart.detect_s + run.restart.busy_s
    room = run.interval_s / 4 >= run.checkpoint.write_s
    rows = [
        ("Young 1974", young_interval_s(stall, mttf)),
        ("Daly, first order", daly_first_order_interval_s(stall, mttf, restart)),
        ("Daly 2006", daly_interval_s(stall, mttf)),
        ("exact optimum", optimal_interval_s(stall, mttf)),
        ("used / 4" if room else "as close as can be", run.interval_s / 4),
        ("used", run.interval_s),
        ("used × 4", run.interval_s * 4),
        ("used × 16", run.interval_s * 16),
    ]
    priced = []
    for name, interval in rows:
        kept = with_interval(run, interval)
        try:
            priced.append((name, kept.interval_s, expect(kept).goodput))
        except UserError:  # never ends
            priced.append((name, kept.interval_s, 0.0))
    return tuple(priced)


def _number(where: str, text: str, parse: Callable[[str], float]) -> float:
    from smolplan.errors import UserError

    try:
        return parse(text)
    except ValueError as error:
        raise UserError(str(error), where=where) from None


def _positive(where: str, text: str, parse: Callable[[str], float]) -> float:
    from smolplan.errors import UserError

    value = _number(where, text, parse)
    if value <= 0:
        raise UserError(f"{text} is not more than zero", where=where)
    return value


def _whole(where: str, text: str) -> int:
    from smolplan.errors import UserError
    from smolplan.units import parse_count

    value = _positive(where, text, parse_count)
    if value != int(value) or value > 1e9:
        raise UserError(f"{text} is not a number of GPUs", where=where, remedy="Write it like 384.")
    return int(value)


def _span(where: str, text: str, *, zero: bool = False) -> float:
    """Seconds of a span with its unit."""
    from smolplan.errors import UserError
    from smolplan.units import parse_duration_s

    value = _number(where, text, parse_duration_s)
    if value < 0 or (value == 0 and not zero):
        raise UserError(f"{text} is not more than zero", where=where)
    if value > 0 and text.strip()[-1:] in set("0123456789."):
        raise UserError(f"{text} has no unit", where=where, remedy=f"Write {text}s or {text}min.")
    return value


def _share(where: str, text: str) -> float:
    from smolplan.errors import UserError

    given = text.strip()
    try:
        value = float(given.removesuffix("%")) / (100 if given.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise UserError(
            f"{text!r} is not a share above 0 and at most 100%", where=where, remedy="Write 95%."
        )
    return value


def _bytes(text: str) -> float:
    from smolplan.units import parse_bytes

    return _positive("--checkpoint-bytes", text, parse_bytes)


def _from_preset(name: str | None) -> tuple[float | None, int | None]:
    """Checkpoint bytes and GPUs."""
    if name is None:
        return None, None
    from planner.plan import make_plan
    from smolplan.spec import load_preset

    plan = make_plan(load_preset(name))
    return float(plan.checkpoint_bytes), plan.gpus


def _gpu_seconds(
    work: str | None, gpu_hours: str | None, gpus: int | None, scaling: float
) -> float:
    from smolplan.errors import UserError
    from smolplan.units import parse_count

    if (work is None) == (gpu_hours is None):
        raise UserError(
            "how much training is it?",
            where="--work",
            remedy="Give either --work (54d) or --gpu-hours (276480).",
        )
    if gpu_hours is not None:
        return _positive("--gpu-hours", gpu_hours, parse_count) * 3600
    assert work is not None
    if gpus is None:
        raise UserError(
            "a span of work means nothing without the GPUs that do it",
            where="--work",
            remedy="Give --gpus, or --gpu-hours in its place.",
        )
    return _span("--work", work) * gpus * scaling


def _spans(
    given: dict[str, str | None], checkpoint_bytes: float | None, bandwidth: str | None
) -> dict[str, tuple[float, str]]:
    """Every span in seconds, with where it is from."""
    from planner.reliability import TYPICAL_S
    from smolplan.errors import UserError
    from smolplan.units import format_bytes, parse_bytes_per_s

    spans = dict(TYPICAL_S)
    if checkpoint_bytes is not None:
        rate, source = PLAYBOOK_BYTES_PER_S, PLAYBOOK
        if bandwidth is not None:
            rate = _positive("--storage-bandwidth", bandwidth, parse_bytes_per_s)
            source = GIVEN
        moved = f"{format_bytes(checkpoint_bytes)} at {format_bytes(rate)}/s ({source})"
        spans["write"] = spans["load"] = (checkpoint_bytes / rate, moved)
    elif bandwidth is not None:
        raise UserError(
            "a bandwidth says nothing without the bytes",
            where="--storage-bandwidth",
            remedy="Give --checkpoint-bytes or --preset.",
        )
    for name, text in given.items():
        if text is not None:
            where = f"--{name.replace('_', '-')}"
            spans[name] = (_span(where, text, zero=True), GIVEN)
    return spans


def _finite(value: Any) -> Any:
    """JSON knows no infinity: null in its place."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_json(report: Report) -> None:
    import json
    from dataclasses import asdict

    content = asdict(report)
    content["intervals"] = [
        {"by": by, "interval_s": interval, "goodput": goodput}
        for by, interval, goodput in report.intervals
    ]
    if report.simulation is not None:
        del content["simulation"]["walls_s"]
        content["simulation"]["runs"] = len(report.simulation.walls_s)
        if report.deadline_s is not None:
            met = report.simulation.deadline_probability(report.deadline_s)
            content["simulation"]["met"] = asdict(met)
    content["lines"] = [asdict(line) for line in lines_of(report)]
    content["notes"] = _notes(report)
    print(json.dumps(_finite(content), indent=1, allow_nan=False))


def _show(report: Report, out: "Console", explain: bool) -> None:
    from rich.markup import escape

    out.print(f"[bold green]{_headline(report)}[/]")
    out.print(_facts(report))
    out.print()
    out.print(_causes(report))
    out.print()
    out.print(_interval_table(report))
    if explain:
        from rich.padding import Padding

        out.print("\nLine by line:")
        for line in lines_of(report):
            out.print(
                Padding(f"{line.name}: {escape(line.formula)} = [bold]{line.text}[/]", (0, 2))
            )
            if line.source:
                out.print(Padding(f"[dim]{escape(line.source)}[/]", (0, 0, 0, 6)))
    for note in _notes(report):
        out.print(f"[dim]Note: {escape(note)}.[/]")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _nodes(report: Report) -> str:
    nodes, rest = divmod(report.gpus, report.node_size)
    gpus = _count(report.gpus, "GPU")
    return gpus if rest else f"{gpus} ({_count(nodes, 'node')})"


def _percent(share: float) -> str:
    """A probability: 95%, 99.9%; never 0% or 100% of what may happen."""
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{round(100 * share, 1):g}%"


def _days(seconds: float) -> str:
    """Days to the hundredth; shorter spans in their own unit."""
    from smolplan.units import format_duration

    return f"{seconds / 86_400:,.2f} d" if seconds >= 86_400 else format_duration(seconds)


def _headline(report: Report) -> str:
    e = report.expected
    if report.solved:
        assert report.deadline_s is not None and report.met is not None
        return (
            f"{_nodes(report)}: {_percent(report.met)} of runs finish within "
            f"{_days(report.deadline_s)}"
        )
    return (
        f"{e.goodput:.1%} goodput: {_days(report.run.work_s)} of training take "
        f"{_days(e.wall_s)} on {_nodes(report)}"
    )


def _grid() -> "Table":
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=10)
    grid.add_column()
    return grid


def _facts(report: Report) -> "Table":
    from smolplan.units import format_duration

    run, e, facts = report.run, report.expected, _grid()
    if report.solved:
        facts.add_row(
            "goodput", f"{e.goodput:.1%}: {_days(run.work_s)} of training take {_days(e.wall_s)}"
        )
    whose = "as given" if report.settings.mttf_s else f"{report.settings.fleet.name}'s rates"
    facts.add_row(
        "failures", f"one in {format_duration(run.mttf_s)} ({whose}), {e.failures:,.4g} in the run"
    )
    facts.add_row(
        "checkpoint",
        f"every {format_duration(run.interval_s)}: a stall of "
        f"{format_duration(run.checkpoint.stall_s)}, safe {_write(run)}",
    )
    facts.add_row(
        "finished", f"{_percent(report.confidence)} of runs within {_days(report.within_s)}"
    )
    if report.fewer_met is not None:
        facts.add_row(
            "one node less",
            f"{report.gpus - report.node_size:,} GPUs: {_percent(report.fewer_met)} of runs",
        )
    if report.deadline_s is not None and report.met is not None and not report.solved:
        facts.add_row(
            "deadline", f"{_days(report.deadline_s)}, met by {_percent(report.met)} of runs"
        )
    repair = format_duration(run.repair_s)
    facts.add_row(
        "spares",
        f"{_count(report.spares_needed, 'node')}: never short in {_percent(report.confidence)} of "
        f"runs (repair takes {repair})",
    )
    facts.add_row(
        "",
        f"{_count(report.spares_for_share, 'node')}: short {100 * (1 - report.confidence):.4g}% "
        f"of the time or less",
    )
    if report.never_short is not None:
        facts.add_row(
            "", f"{run.spares:,}, as given: never short in {_percent(report.never_short)} of runs"
        )
    if report.simulation is not None:
        for name, text in _simulated(report.simulation, report.deadline_s):
            facts.add_row(name, text)
    return facts


def _write(run: "Run") -> str:
    from smolplan.units import format_duration

    write = run.checkpoint.write_s
    return f"{format_duration(write)} later" if write else "with its end"


def _simulated(played: "Simulation", deadline_s: float | None) -> list[tuple[str, str]]:
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


def _causes(report: Report) -> "Table":
    from rich.table import Table

    e, played = report.expected, report.simulation
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("Where the time goes", no_wrap=True)
    for title in ("share", "time") + (("simulated",) if played else ()):
        table.add_column(title, justify="right", no_wrap=True)
    rows = [("training", report.run.work_s, report.run.work_s)]
    for cause, seconds in e.causes_s.items():
        seen = played.causes_s[cause] if played else 0.0
        if seconds or seen:
            rows.append((cause, seconds, seen))
    for name, seconds, seen in rows:
        cells = [f"{seconds / e.wall_s:.2%}", _days(seconds)]
        table.add_row(name, *cells, *([_days(seen)] if played else []))
    return table


def _interval_table(report: Report) -> "Table":
    from rich.table import Table

    from smolplan.units import format_duration

    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("Checkpoint interval", no_wrap=True)
    for title in ("every", "goodput", "loss"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, interval, goodput in report.intervals:
        ends = goodput > 0
        table.add_row(
            name,
            format_duration(interval),
            f"{goodput:.2%}" if ends else "never ends",
            f"{1 - goodput:.2%}" if ends else "",
        )
    return table


def _notes(report: Report) -> list[str]:
    from planner.reliability import ASSUMED
    from smolplan.units import format_duration

    notes = []
    assumed = [
        f"{name.replace('_', '-')} {format_duration(seconds)}"
        for name, (seconds, source) in report.settings.spans.items()
        if source.startswith(ASSUMED)
    ]
    if assumed:
        notes.append(f"assumed, without a source: {', '.join(assumed)}")
    write = report.run.checkpoint.write_s
    if write and report.run.interval_s == write and not report.settings.interval_s:
        notes.append(
            f"a checkpoint takes {format_duration(write)} to be safe, so none can follow sooner"
        )
    if report.run.spares is None:
        notes.append("a spare node is taken to be at hand at every failure; --spares counts them")
    if report.settings.mttf_s is None and report.gpus <= 4096:
        notes.append(
            "rates are those of a large run, which fails by its hardware; jobs of 1,024 GPUs at "
            "Meta failed 3.6 times as often as their hardware (arXiv 2410.21680)"
        )
    return notes


def lines_of(report: Report) -> "list[Line]":
    """The arithmetic of the answer, each line with formula and source."""
    from planner.explain import Line
    from planner.reliability import DALY, KOKOLIS

    run, e, settings = report.run, report.expected, report.settings
    fleet = settings.fleet
    if settings.mttf_s:
        lines = [Line("MTTF", run.mttf_s, "s", "as given")]
    else:
        year_s = 365.25 * 86_400
        lines = [
            Line(
                "failures of one GPU",
                fleet.failures_per_gpu_s * year_s,
                "a year",
                f"published rate of {fleet.name}",
                fleet.source,
            ),
            Line(
                "MTTF",
                run.mttf_s,
                "s",
                f"1 / ({report.gpus:,} GPUs × rate)",
                KOKOLIS,
            ),
            *(
                Line(f"MTTF, {area}", run.mttf_s / share, "s", f"MTTF / {share:.1%} of failures")
                for area, share in fleet.areas.items()
                if len(fleet.areas) > 1
            ),
        ]
    lines += [
        Line(name.replace("_", "-"), seconds, "s", "as given")
        if source == GIVEN
        else Line(name.replace("_", "-"), seconds, "s", "unless given", source)
        for name, (seconds, source) in settings.spans.items()
    ]
    lines += [
        Line(
            "interval",
            run.interval_s,
            "s",
            "τ that makes δ/M + τ/M + ln(1 − τ/M) zero, kept between write and work",
            f"minimum of the exact cost function of {DALY}",
        )
        if settings.interval_s is None
        else Line("interval", run.interval_s, "s", "as given"),
        Line("segments", run.segments, "", f"{run.work_s:,.0f} s of work / interval, up"),
        Line(
            "wall time",
            e.wall_s,
            "s",
            "segments × (M + D) e^((R+ω)/M) (e^((τ+δ)/M) − 1), stops and waits added",
            f"{DALY}; with D and ω in planner/reliability.py",
        ),
        Line("spread", math.sqrt(e.variance_s2), "s", "standard deviation of the wall time"),
        Line("goodput", e.goodput, "", f"{run.work_s:,.0f} s / {e.wall_s:,.0f} s"),
        Line(
            "nodes to repair",
            fleet.node_share,
            "",
            "share of the failures that take a node",
            "assumption, by cause: planner/catalog/failures.yaml",
        ),
        Line(
            "spares",
            report.spares_needed,
            "nodes",
            f"fewest with P(never short) ≥ {report.confidence:.3g}",
            "birth-death chain of nodes in repair, exponential times",
        ),
    ]
    if report.met is not None:
        lines.append(
            Line(
                "deadline",
                report.met,
                "",
                "P(wall time ≤ deadline)",
                "compound Poisson with the run's mean and spread",
            )
        )
    return lines
