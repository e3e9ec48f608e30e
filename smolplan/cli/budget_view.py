"""A budget as people see it: lines, totals, checks, then what they draw, store and serve."""

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from planner.budget import Budget
from planner.budget.lines import OWN_PLAN, format_hours
from planner.budget.rl_lines import RlLine
from planner.budget.total import InferenceAnswer, StorageAnswer
from planner.catalog.nodes import NodeType
from planner.explain import scientific
from smolplan.cli import style
from smolplan.units import count_of, format_bytes, format_duration


def show(answer: Budget, *, explain: bool) -> None:
    style.show(lambda out: _show(answer, out, explain), narrow=False)


def _show(answer: Budget, out: Console, explain: bool) -> None:
    total = answer.total_gpu_hours
    out.print(
        f"[bold green]{escape(answer.name)}: {format_hours(total)} GPU-hours on {answer.gpu.name}, "
        f"{answer.share(total):,.4g} × the main run[/]"
    )
    _ledger(answer, out)
    if answer.price is not None:
        per = f"${answer.price.low:.2f}"
        if answer.price.high != answer.price.low:
            per += f" to ${answer.price.high:.2f}"
        out.print(f"[dim]At {per} per GPU-hour: {escape(answer.price.source)}.[/]")
    for part in answer.rl:
        out.print(f"\n[bold]{escape(part.name)}, both ways on the same GPUs[/]")
        _rl(part, out)
    out.print("\n[bold]Checks[/]")
    for check in answer.checks:
        mark = "[green]ok     [/]" if check.ok else "[yellow]warning[/]"
        out.print(_hanging(mark, f"{check.name}: {escape(check.text)}."))
    out.print("\n[bold]Energy and carbon[/]")
    out.print(_energy(answer))
    if answer.storage is not None:
        out.print("\n[bold]Storage and bandwidth[/]")
        out.print(_storage(answer.storage))
    if answer.inference is not None:
        out.print("\n[bold]Serving it[/]")
        _inference(answer.inference, out)
    if explain:
        _explain(answer, out)
    for note in answer.assumptions:
        out.print(f"[dim]Assumed: {escape(note)}.[/]")


_NAME, _HOURS, _SHARE, _DOLLARS = 40, 12, 9, 18
"""Widths of the ledger's columns, 79 together."""


def _ledger(answer: Budget, out: Console) -> None:
    """Name and figures on one line, formula and source below it, as wide as the page."""
    out.print(f"[dim]{_columns('', 'GPU-hours', 'of main', 'dollars')}[/]")
    section = ""
    for line in answer.lines:
        if line.section != section:
            section = line.section
            out.print(f"[bold]{section}[/]")
        figures = _figures(answer, line.gpu_hours)
        if line.beside_total:
            figures = [f"({figure})" for figure in figures]
        name = f"  {line.name}"
        if len(name) > _NAME:
            out.print(Padding(escape(line.name), (0, 0, 0, 2)))
            name = ""
        out.print(escape(_columns(name, *figures)))
        source = "" if line.source == OWN_PLAN else f"; {line.source}"
        out.print(Padding(f"[dim]{escape(line.formula + source)}[/]", (0, 0, 0, 4)))
    total = answer.total_gpu_hours
    beside = ("beside the main run", total - answer.main_gpu_hours)
    for name, hours in (beside, ("total", total)):
        out.print(f"[bold]{escape(_columns(name, *_figures(answer, hours)))}[/]")
    if any(line.beside_total for line in answer.lines):
        out.print("[dim](In brackets: not in the total.)[/]")


def _columns(name: str, hours: str, share: str, dollars: str) -> str:
    return f"{name:<{_NAME}}{hours:>{_HOURS}}{share:>{_SHARE}}{dollars:>{_DOLLARS}}"


def _figures(answer: Budget, gpu_hours: float) -> list[str]:
    share = answer.share(gpu_hours)
    shown = f"{share:.1%}" if share >= 1e-3 or share == 0 else f"{share:.2%}"
    if share >= 100:
        shown = f"{scientific(share)} ×"
    return [format_hours(gpu_hours), shown, _dollars(answer, gpu_hours)]


def _dollars(answer: Budget, hours: float) -> str:
    dollars = answer.dollars(hours)
    if dollars is None:
        return "?"
    low, high = dollars
    if low == high:
        return f"${low:,.0f}" if low < 1e9 else f"${_short(low)}"
    return f"${_short(low)} - {_short(high)}"


def _short(dollars: float) -> str:
    """Three digits: 744k, 1.18M."""
    for scale, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if dollars >= scale:
            return f"{dollars / scale:,.3g}{suffix}" if dollars < 1e12 else f"{dollars:.3g}"
    return f"{dollars:,.3g}"


def _rl(part: RlLine, out: Console) -> None:
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    table.add_column("one run", width=13)
    for title in ("sample", "train", "step", "GPU-hours", "rollout", "trainer", "tok/s/GPU"):
        table.add_column(title, justify="right", no_wrap=True)
    answer = part.answer
    for mode in (answer.synchronous, answer.asynchronous):
        table.add_row(
            f"[bold]{mode.name}[/]" if mode.name == part.chosen else mode.name,
            *(_seconds(s) for s in (mode.sample_s, mode.train_s, mode.step_s)),
            format_hours(mode.gpu_hours),
            f"{mode.rollout_utilisation:.0%}",
            f"{mode.training_utilisation:.0%}",
            f"{mode.tokens_per_s_per_gpu:,.0f}",
        )
    out.print(table)
    out.print(
        f"[dim]rollout, trainer: share of their time in use. A synchronous step waits for "
        f"{answer.longest:,.0f} tokens where the mean is {answer.mean_length:,.0f} "
        f"({answer.share_cut:.1%} are cut off). Asynchronous, with {part.rollout_share:.0%} of the "
        f"GPUs sampling (in balance: {answer.best_rollout_share:.0%}), is {answer.speedup:.2g} "
        f"times as fast; the Smol Training Playbook quotes 4 to 5 times.[/]"
    )


def _seconds(seconds: float) -> str:
    """In seconds where that has few digits, so that both ways compare at a glance."""
    if not 0.1 <= seconds < 1e5:
        return format_duration(seconds)
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=12)
    grid.add_column()
    return grid


def _hanging(mark: str, text: str) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row(mark, text)
    return grid


def _energy(answer: Budget) -> Table:
    facts, energy = _grid(), answer.energy
    power, _, with_pue, emitted, made = energy.lines
    facts.add_row("power", f"{power.value:,.0f} W per GPU = {power.formula}")
    machines, whole = (f"{kwh / 1e3:,.4g} MWh" for kwh in (energy.it_kwh, energy.kwh))
    facts.add_row("energy", f"{whole} = {machines} {with_pue.formula}")
    facts.add_row("emissions", f"{energy.tonnes_co2e:,.4g} t CO2e = {whole} {emitted.formula}")
    facts.add_row("", f"{made.value:,.4g} t CO2e of making the hardware, beside it")
    return facts


def _storage(answer: StorageAnswer) -> Table:
    facts, stored, plan = _grid(), answer.bytes, answer.plan
    facts.add_row(
        "kept",
        f"{format_bytes(stored.total_bytes)} in all: text {format_bytes(stored.text_bytes)}, "
        f"tokens {format_bytes(stored.token_bytes)} ({plan.token_bytes:g} B each), checkpoints "
        f"{format_bytes(stored.checkpoints_kept_bytes)}, "
        f"{count_of(plan.milestones, 'milestone')} {format_bytes(stored.milestone_bytes)}, "
        f"evaluation {format_bytes(stored.eval_bytes)}",
    )
    facts.add_row(
        "checkpoint",
        f"{format_bytes(stored.checkpoint_bytes)} every "
        f"{format_duration(plan.checkpoint_every_s)}: {stored.checkpoints_written:,} written, "
        f"{format_bytes(stored.checkpoints_written_bytes)} if all were kept",
    )
    facts.add_row(
        "to write one",
        f"{format_bytes(stored.write_bytes_per_s)}/s within {format_duration(plan.stall_s)} "
        f"({format_bytes(stored.write_bytes_per_s_per_node)}/s a node), or "
        f"{format_bytes(stored.background_write_bytes_per_s)}/s in the background",
    )
    facts.add_row(
        "to read data",
        f"{format_bytes(stored.read_bytes_per_s)}/s of all, "
        f"{format_bytes(stored.read_bytes_per_s_per_node)}/s a node of {plan.nodes:,}",
    )
    facts.add_row(
        "a new node",
        f"is filled in {format_duration(stored.fill_from_object_store_s)} from object storage, "
        f"{format_duration(stored.fill_from_neighbour_s)} from a neighbour",
    )
    if answer.node is not None:
        facts.add_row(answer.node.name, _node(answer.node))
    return facts


def _node(node: NodeType) -> str:
    """What the catalogue has of it; what was not read is left out."""
    link = node.gpu_link
    if node.gpu_link_bytes_per_s is not None:
        link += f" of {format_bytes(node.gpu_link_bytes_per_s)}/s a GPU"
    parts = [f"{node.gpus} × {node.gpu}", link]
    if node.fabric_bits_per_s is not None:
        parts.append(f"network {node.fabric_bits_per_s / 1e9:,.0f} Gb/s")
    if node.local_nvme_bytes is not None:
        parts.append(f"NVMe {format_bytes(node.local_nvme_bytes)}")
    if node.host_memory_gib is not None:
        parts.append(f"memory {node.host_memory_gib:,.0f} GiB")
    return ", ".join(parts)


def _inference(answer: InferenceAnswer, out: Console) -> None:
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    table.add_column("weights", no_wrap=True)
    for title in ("size", "sequences", "tokens/s", "of one", "alone"):
        table.add_column(title, justify="right")
    for weights, row in answer.formats.items():
        table.add_row(
            weights,
            format_bytes(row.weights_bytes),
            f"{row.concurrent_sequences:,}",
            f"{row.tokens_per_s:,.0f}",
            f"{row.tokens_per_s_per_sequence:,.0f}",
            f"{row.tokens_per_s_alone:,.0f}",
        )
    first = next(iter(answer.formats.values()))
    out.print(table)
    out.print(
        f"[dim]{escape(answer.model)} on {first.gpus} × {first.gpu.name}: sequences of "
        f"{answer.sequence_tokens:,} tokens that fit at once, and decoded tokens/s at most, "
        f"by memory bandwidth. Cache in bf16: {answer.kv_bytes_per_token / 1024:,.4g} KiB a token, "
        f"{format_bytes(first.kv_bytes_per_sequence)} a sequence.[/]"
    )


def _explain(answer: Budget, out: Console) -> None:
    out.print("\n[bold]Line by line[/]")
    for line in answer.lines:
        text = f"{line.name}: {line.formula} = [bold]{line.gpu_hours:,.1f} GPU-hours[/]"
        out.print(Padding(text, (0, 2)))
        out.print(Padding(f"[dim]{escape(line.source)}[/]", (0, 0, 0, 6)))
    for step in answer.energy.lines:
        out.print(Padding(f"{step.name}: {escape(step.formula)} = [bold]{step.text}[/]", (0, 2)))
        if step.source:
            out.print(Padding(f"[dim]{escape(step.source)}[/]", (0, 0, 0, 6)))
    for check in answer.checks:
        if check.source:
            out.print(Padding(f"check, {check.name}: [dim]{escape(check.source)}[/]", (0, 2)))
    if answer.storage is not None and answer.storage.node is not None:
        node = answer.storage.node
        out.print(Padding(f"{node.name}: [dim]{escape(node.source)}[/]", (0, 2)))
