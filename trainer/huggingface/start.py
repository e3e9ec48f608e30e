"""A run that starts from weights in a Hugging Face folder (model.init_from).

`python -m trainer.huggingface.start SPEC`: whether they are those of the spec's model.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn

from smolplan.errors import ExitCode, NamedExit, SmolplanError, UserError
from smolplan.rundir import RunDir, read_json, write_json
from smolplan.spec import ModelSpec, load_spec
from trainer.data.dataset import file_sha256
from trainer.huggingface.families import differences, family_of_config
from trainer.huggingface.weights import StoredWeights
from trainer.model.transformer import CausalLM
from trainer.parallel import World, shard_of
from trainer.shards import saved_tensors

ROTARY = ("rope_theta", "rope_scaling")
"""Fields that may differ: they are changed to go on with longer sequences; no weight is theirs."""


def check(spec: ModelSpec, folder: Path) -> StoredWeights:
    """The weights of a folder whose config and tensors are those of the spec's model. Raises
    UserError with the fields that differ."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"it cannot be read: {error}", where=str(path)) from None
    family = family_of_config(config if isinstance(config, dict) else {}, str(path))
    differing = differences(spec, config, str(path))
    if differing := [name for name in differing if name not in ROTARY]:
        raise UserError(
            "the model there differs in " + ", ".join(f"model.{name}" for name in differing),
            where=str(path),
            remedy=f"Make the spec's model by: smolplan spec import {path}",
        )
    with torch.device("meta"):
        saved = saved_tensors(CausalLM(spec, 1))
    shapes = {name.partition(".")[2]: tensor.shape for name, tensor in saved.items()}
    return StoredWeights(folder, family, shapes)


def load_weights(run: RunDir, spec: ModelSpec, model: nn.Module, world: World) -> None:
    """Set a model's weights, sharded in any way, to those of model.init_from; every rank reads
    them whole, a tensor at a time. What the files held when the run first started from them is
    kept in RUN/initial.json. Raises NamedExit BAD_SPEC for other weights than the spec's or, at a
    later start, than those."""
    assert spec.init_from is not None
    try:
        stored = check(spec, spec.init_from)
        _vouch(run, spec.init_from, stored.files, world)
        for name, tensor in saved_tensors(model).items():
            whole = stored.read(name.partition(".")[2], tensor.shape)
            tensor.copy_(shard_of(whole, tensor))
    except UserError as error:
        raise NamedExit(ExitCode.BAD_SPEC, f"model.init_from: {error}") from None


def _vouch(run: RunDir, folder: Path, files: list[str], world: World) -> None:
    mine = {name: file_sha256(folder / name) for name in files[world.rank :: world.size]}
    found = {name: sha for share in world.gather(mine) for name, sha in share.items()}
    kept = world.gather(read_json(run.initial))[0]
    if kept is None:
        if world.rank == 0:
            write_json(run.initial, {"folder": str(folder), "sha256": found})
        world.barrier()
    elif kept.get("sha256") != found:
        raise UserError(
            f"its weights are not those that the run started from ({run.initial})",
            where=str(folder),
            remedy="Put them back, or make a new run.",
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Hold the weights of model.init_from against a spec's model."
    )
    parser.add_argument("spec", type=Path)
    arguments = parser.parse_args()
    try:
        model = load_spec(arguments.spec).model
        if model.init_from is None:
            raise UserError("the run starts from no weights", where="model.init_from")
        stored = check(model, model.init_from)
    except SmolplanError as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code)
    told = {
        "folder": str(model.init_from),
        "architecture": stored.architecture,
        "tensors": stored.tensors,
        "bytes": sum((model.init_from / name).stat().st_size for name in stored.files),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
