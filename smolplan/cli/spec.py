"""smolplan spec: look at run specs, check and import them, and publish their schema."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolplan.cli.imported import AsJson, Force, Gpus, Out, Settings, hand_out
from smolplan.units import count_of

if TYPE_CHECKING:
    from smolplan.cli.spec_view import PresetRow

app = typer.Typer(
    no_args_is_help=True,
    help="Show, check, import and describe run specs.\n\n"
    "Example: `smolplan spec show tiny-cpu > run.yaml`",
)

SpecArgument = Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")]


@app.command()
def show(
    spec: SpecArgument,
    as_json: Annotated[bool, typer.Option("--json", help="JSON in place of YAML.")] = False,
) -> None:
    """Print a spec with every default written out.

    Example: `smolplan spec show tiny-cpu > run.yaml`
    """
    from smolplan.spec import dump_spec, load_spec

    loaded = load_spec(spec)
    print(loaded.model_dump_json(indent=1) if as_json else dump_spec(loaded), end="")
    if as_json:
        print()


@app.command()
def validate(
    spec: SpecArgument,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """Check a spec; exit 0 if it is right, 2 with what is wrong and where if not.

    Example: `smolplan spec validate examples/my-text.yaml`
    """
    import json

    from planner.plan import make_plan
    from smolplan.errors import UserError
    from smolplan.spec import load_spec
    from smolplan.spec.parse import place_of
    from smolplan.units import format_count

    loaded = load_spec(spec)
    try:
        make_plan(loaded)  # refuses what only the catalogue knows to be wrong
    except UserError as error:
        if error.where != "cluster.gpu" or not Path(spec).is_file():
            raise
        place = place_of(Path(spec).read_text("utf-8"), error.where, where=spec)
        raise UserError(error.what, where=place, remedy=error.remedy) from None
    summary = {
        "name": loaded.name,
        "hash": loaded.content_hash(),
        "steps": loaded.steps,
        "tokens": loaded.tokens,
        "global_batch_tokens": loaded.global_batch_tokens,
        "ranks": loaded.parallel.ranks,
        "gradient_accumulation": loaded.gradient_accumulation,
    }
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        print(
            f"{spec} is valid: {count_of(loaded.steps, 'step')} of "
            f"{'up to ' * bool(loaded.optim.batch_warmup)}{loaded.global_batch_tokens:,} tokens "
            f"= {format_count(loaded.tokens)} tokens on "
            f"{count_of(loaded.parallel.ranks, 'rank')} (hash {loaded.content_hash()[:12]})"
        )


@app.command()
def schema() -> None:
    """Print the JSON schema of the run spec, for editors.

    Example: `smolplan spec schema > run-spec.schema.json`
    """
    import json

    from smolplan.spec import RunSpec

    print(json.dumps(RunSpec.model_json_schema(), indent=1))


@app.command()
def presets(
    as_json: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False,
) -> None:
    """List the bundled specs, a line each.

    Example: `smolplan spec presets`
    """
    import json
    from dataclasses import asdict

    from smolplan.cli import spec_view

    rows = _preset_rows()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False))
    else:
        spec_view.show(rows)


def _preset_rows() -> "list[PresetRow]":
    from planner.params import active_parameter_count, parameter_count
    from smolplan.cli.spec_view import PresetRow
    from smolplan.spec import load_preset, preset_names

    return [
        PresetRow(
            name=name,
            params=parameter_count(spec.model),
            active_params=active_parameter_count(spec.model),
            tokens=spec.tokens,
            seq_len=spec.data.seq_len,
            gpus=spec.cluster.gpus,
            gpu=spec.cluster.gpu,
            trainer_runs_it=not spec.unsupported_by_trainer(),
        )
        for name, spec in ((name, load_preset(name)) for name in preset_names())
    ]


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="A nanotron YAML, a torchtitan TOML, a script or "
            "list of Megatron arguments, or a config.json."
        ),
    ],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="nanotron, torchtitan, megatron or huggingface; told by the content unless given.",
        ),
    ] = None,
    gpus: Gpus = None,
    settings: Settings = None,
    out: Out = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a run spec of another trainer's configuration, and say what could not be taken over.

    The report goes to standard error. Exit 2, and nothing written, where no spec can be made.

    Example: `smolplan spec import tests/importers/data/nanotron_stage1.yaml --out imported.yaml`
    """
    from smolplan.importers.detect import import_file
    from smolplan.importers.options import Options, parse_overrides

    options = Options(gpus, parse_overrides(settings or ()))
    hand_out(import_file(file, options, format_name), str(file), out, force=force, as_json=as_json)
