"""What the commands that import share: options, and how a spec and its report are handed out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from smolplan.importers.result import Imported

Gpus = Annotated[
    int | None, typer.Option(min=1, help="GPUs of the run, where the file gives no number.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the spec, over what the file says; may be repeated.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Write the spec here, not to the output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file of --out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Spec and report as JSON.")]


def hand_out(
    imported: "Imported",
    where: str,
    out: Path | None,
    *,
    force: bool,
    as_json: bool,
    more: dict[str, Any] | None = None,
) -> None:
    """The spec to --out or standard output, the report to standard error; or both as JSON, with
    `more`. Raises UserError for a spec that is not fit for every command, and writes nothing."""
    import json
    import sys

    from planner.plan import make_plan
    from smolplan.cli.options import write_file
    from smolplan.importers.report import report_lines
    from smolplan.spec import dump_spec, parse_spec

    text = dump_spec(imported.spec)
    make_plan(parse_spec(text, where=where))
    if out is not None:
        write_file("--out", out, text.encode(), force=force)
    if as_json:
        print(json.dumps({**imported.as_json(), **(more or {})}, indent=1, allow_nan=False))
        return
    if out is None:
        print(text, end="", flush=True)
    print("\n".join(report_lines(imported)), file=sys.stderr)
