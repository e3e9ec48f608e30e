"""An estimate as people see it: the answer first, at most 80 columns."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from planner.answer import Answer
from planner.explain import scientific
from planner.params import parameter_counts
from smolplan.cli import style
from smolplan.units import DAY_S, count_of, format_count, format_duration, three_digits


def show(answer: Answer, *, explain: bool) -> None:
    style.show(lambda out: _show(answer, out, explain), narrow=False)


def _show(answer: Answer, out: Console, explain: bool) -> None:
    out.print(f"[bold green]{headline(answer)}[/]")
    out.print(_facts(answer))
    if answer.exact is not None:
        out.print(_exact(answer))
    if len(answer.readings) > 1:
        out.print(f"\nIf {answer.mfu:.1%} were meant by another convention:")
        out.print(_readings(answer))
    if answer.unknown in ("gpus", "deadline"):
        out.print("\nGPUs → in whole nodes, by MFU and deadline")
        out.print(f"[dim](MFU: {answer.mfu_label})[/]")
        out.print(_sensitivity(answer))
    if explain:
        _explain(answer, out)
    for note in answer.notes:
        out.print(f"[dim]Note: {escape(note)}.[/]")


def headline(answer: Answer) -> str:
    q = answer.question
    assert q.params and q.tokens and q.deadline_s
    nodes, rest = divmod(answer.gpus, q.node_size)
    on = f"{answer.gpus:,} × {q.gpu.name}"
    if answer.unknown == "gpus":
        return f"{on} = {count_of(nodes, 'node')} of {q.node_size}"
    if not rest:
        on += f" ({count_of(nodes, 'node')} of {q.node_size})"
    return {
        "deadline": f"{format_duration(q.deadline_s)} on {on}",
        "tokens": f"{format_count(q.tokens)} tokens in {format_duration(q.deadline_s)} on {on}",
        "params": f"{format_count(q.params)} parameters in {format_duration(q.deadline_s)} on {on}",
        "mfu": f"{answer.mfu:.1%} MFU ({answer.mfu_label})",
    }[answer.unknown]


def _facts(answer: Answer) -> Table:
    q, facts = answer.question, style.facts_grid()
    assert q.params and q.tokens and q.deadline_s
    per_token = (
        f"6 × {scientific(q.params)}"
        if q.flops_formula == "6nd"
        else f"{scientific(answer.flops_per_token)} (exact)"
    )
    facts.add_row(
        "FLOPs", f"{scientific(answer.flops)} = {per_token} × {scientific(q.tokens)} tokens"
    )
    facts.add_row(
        "per GPU",
        f"{answer.flops_per_s_per_gpu / 1e12:,.4g} TFLOP/s = "
        f"{three_digits(answer.tokens_per_s_per_gpu)} tokens/s, which is an MFU of",
    )
    for name, value in answer.mfu_views.items():
        facts.add_row("", f"{value:6.1%}  {name}")
    if answer.unknown == "gpus":
        facts.add_row(
            "quotient", f"{answer.gpus_quotient:,.1f} → {count_of(answer.gpus_plain, 'GPU')}"
        )
    facts.add_row(
        "stepping",
        f"{format_duration_exact(answer.stepping_s)}, {three_digits(answer.gpu_hours)} GPU-hours"
        + (f" with {q.lost_s / 3600:g} h lost to failures" if q.lost_s else ""),
    )
    if answer.slack_s is not None:
        beyond = f", beyond the {q.lost_s / 3600:g} h set aside" if q.lost_s else ""
        facts.add_row(
            "slack",
            f"{format_duration_exact(answer.slack_s)} for failures "
            f"({answer.slack_s / q.deadline_s:.1%} of the deadline){beyond}",
        )
    if answer.cost is not None:
        facts.add_row("cost", _cost(answer))
    return facts


def format_duration_exact(seconds: float) -> str:
    """Days to the hundredth; shorter spans as format_duration says them."""
    days = seconds / DAY_S
    return f"{days:,.2f} days" if days >= 0.01 else format_duration(max(0.0, seconds))


def _cost(answer: Answer) -> str:
    cost = answer.cost
    assert cost is not None
    if cost.low == cost.high:
        return f"${cost.low:,.0f} at ${cost.price_low:g} per GPU-hour"
    return (
        f"${format_count(cost.low)} to ${format_count(cost.high)} at ${cost.price_low:.2f} to "
        f"${cost.price_high:.2f} per GPU-hour\n[dim]{escape(cost.source)}[/]"
    )


def _exact(answer: Answer) -> Table:
    exact, facts = answer.exact, style.facts_grid()
    assert exact is not None
    facts.add_row(
        "exactly",
        f"{exact.params:,} parameters ({exact.non_embedding_params:,}\n"
        f"without embedding), {scientific(exact.flops)} FLOPs",
    )
    facts.add_row(
        "per token",
        f"{exact.flops_per_token / 1e9:,.4g} GFLOP: all matrix multiplications, causal attention\n"
        f"{exact.flops_per_token_full_attention / 1e9:,.4g} GFLOP with full attention, "
        f"{exact.flops_per_token_6n / 1e9:,.4g} by 6N (at {exact.seq_len:,} tokens)",
    )
    return facts


def _readings(answer: Answer) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("MFU by", no_wrap=True)
    for title in ("tokens/s/GPU", "GPUs", "whole nodes"):
        table.add_column(title, justify="right")
    q = answer.question
    for reading in answer.readings:
        asked = reading.mfu_base == q.mfu_base and reading.flops_formula == q.flops_formula
        name = "6ND" if reading.flops_formula == "6nd" else "exact"
        table.add_row(
            f"{name} over {reading.mfu_base}" + (" (asked)" if asked else ""),
            f"{reading.tokens_per_s_per_gpu:,.0f}",
            f"{reading.gpus_quotient:,.1f}",
            f"{reading.gpus:,}",
        )
    return table


def _sensitivity(answer: Answer) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("MFU", justify="right")
    deadlines = [cell[0] for cell in answer.sensitivity[0].cells]
    # Numbers of seven digits and more leave room for fewer columns.
    widest = max(len(_cell(cell)) for row in answer.sensitivity for cell in row.cells)
    shown = deadlines[-max(1, min(len(deadlines), 68 // (widest + 4))) :]
    for deadline_s in shown:
        table.add_column(format_duration(deadline_s), justify="right", no_wrap=True)
    for row in answer.sensitivity:
        cells = [_cell(cell) for cell in row.cells if cell[0] in shown]
        table.add_row(f"{row.mfu:.1%}", *cells)
    return table


def _cell(cell: tuple[float, int, int]) -> str:
    _, plain, whole = cell
    if whole < 10_000_000:
        return f"{plain:,} → {whole:,}"
    return f"{scientific(plain)} → {scientific(whole)}"


def _explain(answer: Answer, out: Console) -> None:
    style.print_lines(answer.lines, out)
    if answer.question.model is not None:
        for name, number in parameter_counts(answer.question.model).items():
            out.print(f"  parameters, {name}: [bold]{number:,}[/]")
