"""A search as people see it: the best layout first, at most 80 columns."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from planner.explain import Line
from planner.layout_lines import (
    differences,
    fullest_rank_lines,
    run_lines,
    state_text,
    step_lines,
)
from planner.legality import FULLEST, name_of
from planner.memory import Layout
from planner.search import By, Candidate, Found, pareto_front, price_of
from smolplan.cli import style
from smolplan.units import count_of, format_bytes, format_count

NAMES: dict[str, Callable[[Layout], str]] = {
    "DP": lambda one: f"{one.data_parallel}",
    "TP": lambda one: f"{one.tensor_parallel}",
    "PP": lambda one: f"{one.pipeline_parallel}",
    "VP": lambda one: f"{one.virtual_pipeline}",
    "CP": lambda one: f"{one.context_parallel}",
    "EP": lambda one: f"{one.expert_parallel}",
    "MBS": lambda one: f"{one.micro_batch_size}",
    "acc": lambda one: f"{one.gradient_accumulation}",
    "ZeRO": lambda one: f"{one.zero_stage}",
    "group": lambda one: f"{one.shard_group or ''}",
    "sched": lambda one: {"zero-bubble": "ZB"}.get(str(one.schedule), ""),
    "redo": lambda one: {"none": "", "selective": "sel"}.get(str(one.recompute), "full"),
}
LEFT_OUT = {
    "TP": "1",
    "PP": "1",
    "VP": "1",
    "CP": "1",
    "EP": "1",
    "group": "",
    "sched": "",
    "redo": "",
}
"""A column that holds nothing else is not shown."""
SLIGHTEST = 5e-4
"""Gain that is told, since less would be told as 0.0%."""


def show(
    found: list[Found],
    own: Candidate,
    free: Candidate | None,
    *,
    by: By,
    took_s: float,
    explain: bool,
) -> None:
    """`free`: the best without the user's restriction, if there was one."""
    style.show(lambda out: _show(found, own, free, out, by, took_s, explain), narrow=False)


def _show(
    found: list[Found],
    own: Candidate,
    free: Candidate | None,
    out: Console,
    by: By,
    took_s: float,
    explain: bool,
) -> None:
    ahead = [one for one in found if one.best]
    won = min(ahead, key=lambda one: price_of(one.best[0], by), default=found[0])
    if won.best:
        best = won.best[0]
        gpu = won.site.accelerator.name
        out.print(f"[bold green]{name_of(best.layout)} on {best.gpus:,} × {escape(gpu)}[/]")
        out.print(_headline(best))
    examined, legal = sum(one.examined for one in found), sum(one.legal for one in found)
    out.print(
        f"[dim]{count_of(examined, 'layout')} examined, {legal:,} legal and priced, in "
        f"{took_s:.3g} s:\n"
        f"{examined / took_s:,.0f} examined/s, {legal / took_s:,.0f} priced/s[/]"
    )
    if len(found) > 1 and ahead:
        out.print("\nThe best layout of each number of GPUs (● none beats it in all three)")
        out.print(_front([one.best[0] for one in ahead]))
        if without := [f"{one.job.gpus:,}" for one in found if not one.best]:
            out.print(
                f"[dim]No layout is legal on {', '.join(without)}: give one alone to see why[/]"
            )
    if won.best:
        out.print(f"\nThe best {len(won.best)} on {count_of(won.job.gpus, 'GPU')}")
        out.print(_ranking(won.best, by))
    if won.best and won.job.gpus == own.gpus:
        out.print(f"\nThe spec's own, {_own(own, won)}")
    if free is not None and won.best:
        out.print(f"\nWithout --restrict: {_free(free, won.best[0], by)}")
    if len(won.best) > 1:
        _against(won.best[0], won.best[1], out)
    if explain or not won.best:
        _rejections(won, out)
    if explain and won.best:
        best = won.best[0]
        _lines(f"A step of {best.step_s * 1e3:,.1f} ms", step_lines(won, best), out)
        _lines(
            f"The fullest rank's {format_bytes(best.memory_bytes)}",
            fullest_rank_lines(won, best),
            out,
        )
        _lines("The run", run_lines(won, best), out)
    for note in notes(won, by):
        out.print(f"[dim]Note: {escape(note)}.[/]")


def _headline(best: Candidate) -> str:
    cost = "" if best.dollars is None else f", ${format_count(best.dollars)}"
    return (
        f"{best.step_s:.4g} s a step, {best.tokens_per_s_per_gpu:,.0f} tokens/s/GPU, MFU "
        f"{best.mfu:.1%}, {best.days:,.1f} days{cost}"
    )


def _table(columns: Sequence[tuple[str, bool]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for title, right in columns:
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    return table


def _ranking(best: Sequence[Candidate], by: By) -> Table:
    cells = {name: [text(c.layout) for c in best] for name, text in NAMES.items()}
    shown = [n for n in NAMES if any(cell != LEFT_OUT.get(n) for cell in cells[n])]
    # Energy takes the place of MFU, which says the same as the speed beside it.
    share = "MWh" if by == "energy" else "MFU"
    figures = ("s/step", "tok/s/GPU", share, "GB", "days", "$")
    table = _table([(name, True) for name in (*shown, *figures)])
    for index, c in enumerate(best):
        table.add_row(
            *(cells[name][index] for name in shown),
            f"{c.step_s:.4g}",
            f"{c.tokens_per_s_per_gpu:,.0f}",
            f"{c.kwh / 1000:,.4g}" if by == "energy" else f"{c.mfu:.1%}",
            f"{c.memory_bytes / 1e9:.1f}",
            f"{c.days:,.4g}",
            "" if c.dollars is None else format_count(c.dollars),
        )
    return table


def _front(winners: Sequence[Candidate]) -> Table:
    table = _table(
        [
            ("", False),
            *((title, True) for title in ("GPUs", "days", "$", "MWh", "MFU")),
            ("layout", False),
        ]
    )
    table.columns[-1].no_wrap = False  # where it is too wide, it gives way, not the figures
    for c, front in zip(winners, pareto_front(winners), strict=True):
        table.add_row(
            "●" if front else "",
            f"{c.gpus:,}",
            f"{c.days:,.1f}",
            "" if c.dollars is None else format_count(c.dollars),
            f"{c.kwh / 1000:,.4g}",
            f"{c.mfu:.1%}",
            name_of(c.layout),
        )
    return table


def _free(free: Candidate, best: Candidate, by: By) -> str:
    """What the restriction leaves out."""
    better = {"time": "faster", "cost": "cheaper", "energy": "thriftier"}[by]
    gain = price_of(best, by) / price_of(free, by) - 1
    if gain < SLIGHTEST:
        return f"nothing is {better}"
    return f"{name_of(free.layout)} would be {gain:.1%} {better}: {_headline(free)}"


def _own(own: Candidate, won: Found) -> str:
    """The layout that stands in the spec beside the best."""
    best, need = won.best[0], own.memory_bytes
    name = name_of(own.layout)
    if name == name_of(best.layout):
        return f"{name}, is the best"
    text = f"{name}: {own.step_s:.4g} s a step, {own.step_s / best.step_s - 1:+.1%}"
    if need > won.job.usable_bytes:
        text += f", and {format_bytes(need)} of {format_bytes(won.job.hbm_bytes)}"
    return text


def _against(best: Candidate, other: Candidate, out: Console) -> None:
    out.print(f"\nAgainst the second, {name_of(other.layout)} (ms of a step)")
    table = _table([("", False), ("best", True), ("second", True), ("gap", True)])
    for name, mine, theirs in [
        *differences(best, other),
        ("in all", best.step_s, other.step_s),
    ]:
        gap = (theirs - mine) * 1e3
        table.add_row(name, f"{mine * 1e3:,.1f}", f"{theirs * 1e3:,.1f}", f"{gap:+,.1f}")
    out.print(table)


def _rejections(found: Found, out: Console) -> None:
    out.print(
        f"\nWhat took out the others on {count_of(found.job.gpus, 'GPU')}, by the first rule broken"
    )
    for rejection in found.rejections:
        out.print(Padding(f"{rejection.layouts:>11,}  {escape(rejection.rule)}", (0, 0)))
        out.print(Padding(f"[dim]closest: {escape(rejection.closest)}[/]", (0, 0, 0, 13)))


def _lines(title: str, lines: Sequence[Line], out: Console) -> None:
    out.print(f"\n{title}:")
    for line in lines:
        shown = f"{format_bytes(line.value)}" if line.unit == "B" else line.text
        out.print(Padding(f"{line.name}: {escape(line.formula)} = [bold]{shown}[/]", (0, 2)))
        if line.source:
            out.print(Padding(f"[dim]{escape(line.source)}[/]", (0, 0, 0, 6)))


def _fabric(found: Found) -> str:
    """What joins the GPUs, and whether that is told or assumed."""
    site, fabric = found.site, found.site.fabric
    links = (
        f"links of {site.link_bytes_per_s / 1e9:g} GB/s among {count_of(found.job.domain, 'GPU')}"
    )
    network = f"{site.network_bytes_per_s / 1e9:g} GB/s of network a GPU"
    if fabric.oversubscription > 1:
        nodes = "a node" if fabric.pod_nodes == 1 else f"{fabric.pod_nodes} nodes"
        network += f", beyond {nodes} oversubscribed by {fabric.oversubscription:g}"
    told = None not in (fabric.link_bytes_per_s, fabric.node_network_bytes_per_s)
    origin = "" if told else ", from planner/catalog/networks.yaml where not given"
    return f"{links}, {network}{origin} (--links, --network)"


def notes(found: Found, by: By) -> list[str]:
    """What the figures rest on, a clause each."""
    site = found.site
    told = [
        f"times by the constants of the stack {site.stack.name} (--stack), MFU: exact FLOPs, "
        f"causal attention, over the peak of {site.peak_text}",
        f"memory: {state_text(found)}; at most {FULLEST:.0%} of {format_bytes(site.hbm_bytes)}, "
        "the rest is the driver's and NCCL's",
    ]
    if site.precision == "fp8":
        told.append(
            "optim.precision fp8: the blocks' linear layers alone multiply in it, and all FLOPs "
            "are set against its peak; memory is taken to be that of bf16 (what one product casts "
            "is not counted)"
        )
    arch = found.job.architecture
    if arch.mamba is not None or arch.delta_net is not None:
        told.append("kinds of layers are taken to be evenly mixed among pipeline stages")
    if site.price_per_gpu_hour is not None:
        told.append(f"${site.price_per_gpu_hour:g} per GPU-hour: {site.price_source}")
    told.append(_fabric(found))
    if by == "energy":
        told.append(
            f"energy: {site.waiting_w:,.4g} W a GPU that waits (for stages, host, data or "
            f"checkpoints: assumed as while checkpointing), {site.busy_w:,.4g} W one that works, "
            "its share of the node in both; cooling left out"
        )
    if by == "cost":
        told.append(
            "on one number of GPUs the fastest layout is the cheapest too: dollars are counted by "
            "GPU-hours; --gpus sets several against each other"
        )
    return told
