"""A run's overview (monitor.live.overview) for a terminal of 80 columns."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from smolplan.cli.style import STATE_COLOURS
from smolplan.units import count_of, format_count, format_duration

CELLS = 60
"""Of the line of ranks, and of the bar of causes."""

LEVELS = "▁▂▃▄▅▆▇█"

ENTRIES = 6
"""Of the timeline."""

_STYLES = {"info": "", "warning": "yellow", "critical": "red"}


def top_panel(seen: dict[str, Any]) -> RenderableType:
    """All of it in one panel."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True, min_width=7)
    facts.add_column(ratio=1, overflow="fold")
    for name, told in (*_figures(seen), *_where(seen), *_alerts(seen), *_timeline(seen)):
        facts.add_row(name, told)
    colour = STATE_COLOURS[seen["state"]]
    track = Table.grid(expand=True)
    track.add_row(ProgressBar(total=max(1, seen["steps"]), completed=seen["step"]))
    title = f"[{colour}]{seen['state']}[/] · {escape(seen['run'])}"
    return Panel(Group(track, facts), title=title, title_align="left", border_style=colour)


def _figures(seen: dict[str, Any]) -> list[tuple[str, str | Text]]:
    last, plan = seen["last"], seen["plan"]
    share = 100 * seen["step"] / max(1, seen["steps"])
    rows: list[tuple[str, str | Text]] = [
        ("step", f"{seen['step']:,} of {seen['steps']:,} ({share:.1f} %)")
    ]
    if seen["forked_from"] is not None:
        rows.append(("forked", Text(f"from {seen['forked_from']}")))
    if seen["eta_s"] is not None:
        rows.append(("to go", f"{format_duration(seen['eta_s'])} at the present pace"))
    if last["loss"] is not None:
        norm = last["grad_norm"]
        more = "" if norm is None else f"  gradient norm {norm:.3f}"
        rows.append(("loss", f"{last['loss']:.4f}{more}"))
    if (speed := last["tokens_per_s"]) is not None:
        told = f"{format_count(speed)} tokens/s"
        if plan["tokens_per_s"]:
            told += f", {speed / plan['tokens_per_s']:.0%} of the plan's "
            told += format_count(plan["tokens_per_s"])
        if last["mfu"] is not None:
            told += f"  MFU {last['mfu']:.1%}"
        rows.append(("speed", told))
    doing = seen["phase"] or seen["reason"] or seen["attempt_state"]
    rows.append(("attempt", Text(f"{seen['attempt']}: {doing}")))
    if (saved := seen["checkpoint"]["step"]) is not None:
        rows.append(("saved", f"step {saved:,}"))
    return rows


def _where(seen: dict[str, Any]) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = []
    goodput = seen["goodput"]
    if goodput["causes"]:
        rows.append(("goodput", f"{goodput['ratio']:.1%} of {format_duration(goodput['wall_s'])}"))
        rows.append(("", _causes(goodput)))
    if seen["ranks"]["rank"]:
        rows.append(("ranks", _ranks(seen["ranks"], seen["now"], active=seen["state"] == "active")))
    rows += [("host", _host(host, seen["now"])) for host in seen["hosts"][:8]]
    if len(seen["hosts"]) > 8:
        rows.append(("", f"and {count_of(len(seen['hosts']) - 8, 'more host')}"))
    return rows


def _causes(goodput: dict[str, Any]) -> Text:
    """A bar in the causes' colours, and under it what they are."""
    bar, legend = Text(), Text()
    done_s, cells = 0.0, 0
    for cause in goodput["causes"]:
        done_s += cause["seconds"]
        upto = round(CELLS * done_s / goodput["wall_s"])
        bar.append("█" * (upto - cells), style=cause["colour"])
        cells = max(cells, upto)
        named = f"{cause['cause']} {format_duration(cause['seconds'])}"
        if len(legend.plain.rpartition("\n")[2]) + len(named) + 2 > CELLS:
            legend.append("\n")
        legend.append("■ ", style=cause["colour"]).append(f"{named}  ")
    return bar + Text("\n") + legend


def _ranks(ranks: dict[str, Any], now: float, *, active: bool) -> Text:
    """A line of how long the ranks' last steps took, several ranks to a cell where there are many:
    the slowest of them counts."""
    times = [took or 0.0 for took in ranks["last_step_s"]]
    slowest = max(range(len(times)), key=times.__getitem__)
    silent = min(range(len(times)), key=ranks["seen_at"].__getitem__)
    behind = max(ranks["step"]) - min(ranks["step"])
    told = Text(_levels(_grouped(times)))
    told.append(
        f"\nslowest {ranks['rank'][slowest]} on {ranks['host'][slowest]} ({times[slowest]:.3g} s);"
        f" {count_of(behind, 'step')} between first and last"
    )
    if active:
        silent_s = max(0.0, now - ranks["seen_at"][silent])
        told.append(f"; rank {ranks['rank'][silent]} silent for {format_duration(silent_s)}")
    if len(times) < ranks["expected"]:
        told.append(f"\n{len(times):,} of {ranks['expected']:,} ranks seen", style="yellow")
    return told


def _grouped(values: Sequence[float]) -> list[float]:
    per_cell = -(-len(values) // CELLS)
    return [max(values[at : at + per_cell]) for at in range(0, len(values), per_cell)]


def _levels(values: Sequence[float]) -> str:
    """From half the largest value, or the smallest if that is less, to the largest."""
    high = max(values)
    low = min(min(values), high / 2)
    scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(LEVELS[int((value - low) * scale)] for value in values)


def _host(host: dict[str, Any], now: float) -> Text:
    gpus = host["gpus"]
    told = Text(f"{host['host']}: {format_duration(max(0.0, now - host['time']))} ago")
    for name, unit in (("temperature_c", "°C"), ("power_w", "W")):
        known = [gpu[name] for gpu in gpus if gpu[name] is not None]
        if known:
            told.append(f", up to {max(known):.0f} {unit}")
    if host["load"] is not None:
        told.append(f", load {host['load']:.1f}")
    for gpu in gpus:
        if gpu["lost"] or gpu["xids"]:
            what = "lost" if gpu["lost"] else f"XID {', '.join(gpu['xids'])}"
            told.append(f"; GPU {gpu['index']} {what}", style="red")
    return told


def _alerts(seen: dict[str, Any]) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = []
    if seen["state"] == "active" and not seen["watched"]:
        advice = (
            "no monitor watches; start one by: smolplan monitor"
            if seen["monitored"]
            else "launched without a monitor: if it breaks, nothing restarts it"
        )
        rows.append(("monitor", Text(advice, style="yellow")))
    for one in seen["standing"][-5:]:
        told = Text(one["what"], style=_STYLES[one["severity"]])
        if one["todo"]:
            told.append(f" To do: {one['todo']}", style="dim")
        rows.append((one["severity"], told))
    for one in seen["left_out"][-5:]:
        rows.append(("left out", Text(f"{one['host']} ({one['kind']}): {one['detail']}")))
    if not seen["caught_up"]:
        rows.append(("", Text("the record is being read", style="dim")))
    return rows


def _timeline(seen: dict[str, Any]) -> list[tuple[str, str | Text]]:
    return [
        (
            time.strftime("%H:%M:%S", time.localtime(one["time"])),
            Text(one["what"], style=_STYLES[one["severity"]]),
        )
        for one in reversed(seen["timeline"][:ENTRIES])
    ]
