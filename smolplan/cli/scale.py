"""smolplan scale: a run's proxy of another size, for ablations."""

from pathlib import Path
from typing import Annotated

import typer

from smolplan.cli.spec import SpecArgument


def scale(
    spec: SpecArgument,
    to: Annotated[str, typer.Option(help="Parameters of the proxy, all counted: 100M.")],
    tokens: Annotated[
        str | None,
        typer.Option(help="Its training tokens (2B); as many a parameter as the run unless given."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the spec here, not to the output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Spec and changes as JSON.")] = False,
) -> None:
    """Make the spec of a smaller run of the same kind: model, learning rate, batch, schedule and
    GPUs, each by a rule that is named beside it.

    Without --out the spec is the output, and the table of what changed goes to standard error.

    Example: `smolplan scale smollm3-3b --to 100M --tokens 2B --out proxy.yaml`
    """
    import json
    import sys

    from planner.scale import scale as scaled_run
    from planner.scale_text import commented_yaml
    from smolplan.cli.options import check_file, positive, write_file
    from smolplan.cli.scale_view import as_content, show
    from smolplan.spec import load_spec, parse_spec
    from smolplan.units import parse_count

    check_file("--out", out, force=force)
    target = positive("--to", to, parse_count)
    loaded = load_spec(spec)
    scaled = scaled_run(loaded, target, positive("--tokens", tokens, parse_count))
    text = commented_yaml(scaled, loaded)
    parse_spec(text, where="the proxy")  # what is handed out is fit for every command
    if out is not None:
        write_file("--out", out, text.encode(), force=force)
    if as_json:
        print(json.dumps(as_content(scaled), indent=1, allow_nan=False))
        return
    if out is None:
        print(text, end="", flush=True)
    show(scaled, sys.stderr if out is None else sys.stdout)
