"""What became of a run's spec on the way to its proxy, as people and programs read it."""

from typing import IO, Any

from planner.params import active_parameter_count
from planner.plan import make_plan
from planner.scale import Scaled
from planner.scale_text import value_text
from smolplan.cli.style import WIDTH, console
from smolplan.units import count_of, format_count, format_duration

NEAR = 0.05
"""A miss of the target beyond it is explained."""


def as_content(scaled: Scaled) -> dict[str, Any]:
    return {
        "spec": scaled.spec.model_dump(mode="json"),
        "target_params": scaled.target,
        "params": scaled.params,
        "active_params": active_parameter_count(scaled.spec.model),
        "tokens": scaled.spec.tokens,
        "steps": scaled.spec.steps,
        "compute_share": scaled.compute_share,
        "changes": [
            {
                "field": ".".join(change.path),
                "from": _plain(change.old),
                "to": _plain(change.new),
                "rule": str(change.rule),
            }
            for change in scaled.changes
        ],
    }


def _plain(value: Any) -> Any:
    """Of lists their parts' content."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def show(scaled: Scaled, file: IO[str]) -> None:
    """A row a changed field, then what the proxy comes to."""
    from rich.table import Table

    out = console(file)
    out.width = WIDTH  # a table with columns left out would be no answer
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    table.add_column("field", overflow="fold", max_width=26)
    for title in ("from", "to"):
        table.add_column(title, justify="right", overflow="fold", max_width=18)
    table.add_column("by which rule")
    for change in scaled.changes:
        field, old, new = ".".join(change.path), value_text(change.old), value_text(change.new)
        table.add_row(field, old, new, change.rule.told)
    with out.capture() as captured:
        out.print(table)
        for line in _told(scaled):
            out.print(line, markup=False)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=file)


def _told(scaled: Scaled) -> list[str]:
    spec, miss = scaled.spec, scaled.params / scaled.target - 1
    active = active_parameter_count(spec.model)
    of_them = "" if active == scaled.params else f" ({active:,} active)"
    lines = [
        "\nWhere a rule is from stands beside it in the spec, and in docs/scale.md.",
        f"{scaled.params:,} parameters{of_them}, {miss:+.1%} of {format_count(scaled.target)}"
        + (": whole heads and patterns of layers come no nearer" if abs(miss) > NEAR else ""),
        f"{format_count(spec.tokens)} tokens in {count_of(spec.steps, 'step')} of "
        f"{format_count(spec.global_batch_tokens)}; {scaled.compute_share:.3g} of the run's FLOPs "
        "without embedding and head",
    ]
    if (speed := make_plan(spec).tokens_per_s) is not None:
        gpus = f"{spec.cluster.gpus} {spec.cluster.gpu}"
        lines.append(f"about {format_duration(spec.tokens / speed)} on {gpus} by smolplan plan")
    return lines
