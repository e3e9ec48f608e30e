"""smolplan spec: look at run specs, check them, and publish their schema."""

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Show, check and describe run specs.\n\nExample: `smolplan spec show tiny-cpu > run.yaml`",
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

    Example: `smolplan spec validate run.yaml`
    """
    import json

    from planner.plan import make_plan
    from smolplan.spec import load_spec
    from smolplan.units import format_count

    loaded = load_spec(spec)
    make_plan(loaded)  # refuses what only the catalogue knows to be wrong
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
            f"{spec} is valid: {loaded.steps:,} steps of {loaded.global_batch_tokens:,} tokens "
            f"= {format_count(loaded.tokens)} tokens on {loaded.parallel.ranks} ranks "
            f"(hash {loaded.content_hash()[:12]})"
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
    """List the bundled specs.

    Example: `smolplan spec presets`
    """
    import json

    from smolplan.spec import preset_names

    names = preset_names()
    print(json.dumps(names) if as_json else "\n".join(names))
