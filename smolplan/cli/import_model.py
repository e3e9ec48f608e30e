"""smolplan import: a Hugging Face folder as the start of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smolplan.cli.imported import AsJson, Force, Gpus, Out, Settings, hand_out

if TYPE_CHECKING:
    from smolplan.spec import RunSpec


def import_model(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Of a Hugging Face model: config.json, safetensors, and its tokenizer.json."
        ),
    ],
    gpus: Gpus = None,
    settings: Settings = None,
    out: Out = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a run spec that goes on from the weights of a Hugging Face folder.

    The weights are held against the model, name by name and shape by shape, and not read. The rest
    of the spec, and the report, are those of `smolplan spec import`. Exit 2, and nothing written,
    where the weights are not the model's.

    Example: `smolplan import my-model --out imported.yaml`

    Such a folder of a run of yours: `smolplan export latest --to my-model`
    """
    import sys

    from smolplan.importers.detect import import_weights
    from smolplan.importers.options import Options, parse_overrides
    from smolplan.touch import require_answer
    from smolplan.units import format_bytes

    require_answer(folder.absolute(), where="FOLDER")
    imported = import_weights(folder.absolute(), Options(gpus, parse_overrides(settings or ())))
    weights = _checked(imported.spec)
    more = {"weights": weights}
    hand_out(imported, str(folder), out, force=force, as_json=as_json, more=more)
    if not as_json:
        told = f"{weights['tensors']:,} tensors of {weights['architecture']}"
        print(f"weights: {told}, {format_bytes(weights['bytes'])}: the model's", file=sys.stderr)


def _checked(spec: "RunSpec") -> dict[str, Any]:
    """What the weights are. Raises UserError if they are another model's."""
    import json
    import tempfile

    from smolplan.cli.style import progress_line
    from smolplan.cli.trainer_program import answer_of
    from smolplan.spec import dump_spec

    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(dump_spec(spec))
        file.flush()
        with progress_line("Checking the weights") as say:
            (line,) = answer_of("trainer.huggingface.start", [file.name], say)
    found: dict[str, Any] = json.loads(line)
    return found


def register(app: typer.Typer) -> None:
    """`import` is a word of Python, so that the function has another name."""
    app.command("import")(import_model)
