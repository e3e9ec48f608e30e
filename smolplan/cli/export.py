"""smolplan export: a checkpoint of a run as a Hugging Face model."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from smolplan.cli.run import Json, RunArgument


class Dtype(StrEnum):
    """Of the exported weights."""

    bf16 = "bf16"
    fp32 = "fp32"


def export(
    to: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    run: RunArgument = "latest",
    step: Annotated[int | None, typer.Option(min=0, help="The newest unless given.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights written.")] = Dtype.bf16,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as transformers loads it: config, safetensors and tokeniser.

    The class is the one that has the run's model: SmolLM3ForCausalLM, LlamaForCausalLM,
    Qwen3MoeForCausalLM and others.

    Example: `smolplan export latest --to my-model`
    """
    import json

    from launcher.store import Store
    from smolplan.cli.style import progress_line
    from smolplan.cli.trainer_program import answer_of
    from smolplan.units import format_bytes

    found = Store().find(run)
    arguments = [str(found.path), "--to", str(to.absolute()), "--dtype", dtype.value]
    arguments += [] if step is None else ["--step", str(step)]
    with progress_line("Exporting") as say:
        (line,) = answer_of("trainer.export", arguments, say)
    done = json.loads(line)
    if as_json:
        print(json.dumps(done, indent=1))
        return
    lacking = "" if done["tokenizer"] else ", without its tokeniser, which is gone"
    print(
        f"step {done['step']:,} as {done['architecture']} in {done['folder']}: "
        f"{format_bytes(done['bytes'])} of {done['dtype']}{lacking}"
    )
