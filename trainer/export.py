"""`python -m trainer.export RUN --to FOLDER`: a checkpoint as transformers loads it."""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded

from smolplan.errors import SmolplanError, UserError
from smolplan.rundir import RunDir, read_json, sync_folder
from smolplan.spec import RunSpec, load_spec
from trainer.data.dataset import Dataset
from trainer.evaluate import whole_checkpoint
from trainer.huggingface.families import Family, family_of
from trainer.huggingface.tokenizer import write_tokenizer
from trainer.huggingface.weights import write_weights
from trainer.model.transformer import CausalLM
from trainer.shards import saved_tensors

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def export(run: RunDir, spec: RunSpec, step: int | None, to: Path, dtype: str) -> dict[str, Any]:
    """Write the checkpoint of a step, or the newest, to a folder that is not there yet, whole or
    not at all; what was written. It holds about SHARD_BYTES in memory. Raises UserError where no
    class of transformers has the model, the checkpoint is not whole, or the folder is there."""
    family, config = family_of(spec.model, spec.data.seq_len)
    if to.exists():
        raise UserError("it is there already", where=str(to), remedy="Name a new folder.")
    if not to.parent.is_dir():
        raise UserError(f"there is no folder {to.parent}", where="--to", remedy="Make it first.")
    manifest = whole_checkpoint(run, step)
    dataset = _described(run)
    # Under another name until it is whole; what a kill leaves has a dot before its name.
    staging = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        files = write_from_checkpoint(
            run.checkpoint(manifest.step), spec, family, staging, DTYPES[dtype]
        )
        with_tokenizer, tokens = write_tokenizer(
            staging, dataset, spec.tokenizer, spec.data.seq_len
        )
        torch_dtype = {"bf16": "bfloat16", "fp32": "float32"}[dtype]
        content = {**config, **tokens, "torch_dtype": torch_dtype}
        (staging / "config.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        staging.chmod(0o755)
        staging.rename(to)
        sync_folder(to.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return {
        "step": manifest.step,
        "architecture": family.architecture,
        "folder": str(to),
        "files": files,
        "bytes": sum((to / name).stat().st_size for name in files),
        "dtype": dtype,
        "tokenizer": with_tokenizer,
    }


def write_from_checkpoint(
    checkpoint: Path, spec: RunSpec, family: Family, folder: Path, dtype: torch.dtype
) -> list[str]:
    """Write the weights of a checkpoint known to be whole; the names of the files."""
    with torch.device("meta"):
        model = CausalLM(spec.model, spec.data.seq_len)
    saved = saved_tensors(model)
    shapes = {name.partition(".")[2]: tensor.shape for name, tensor in saved.items()}
    keys = {name.partition(".")[2]: name for name in saved}

    def load(names: list[str]) -> dict[str, Tensor]:
        wanted = {keys[name]: torch.empty(shapes[name]) for name in names}
        reader = HuggingFaceStorageReader(path=str(checkpoint))
        load_sharded(wanted, storage_reader=reader, no_dist=True)
        return {key.partition(".")[2]: tensor for key, tensor in wanted.items()}

    return write_weights(folder, family, shapes, load, dtype)


def _described(run: RunDir) -> Dataset:
    """The run's dataset as it is on record: its tokens need not be here. Raises UserError."""
    try:
        return Dataset.from_json(read_json(run.dataset) or {})
    except ValueError as error:
        raise UserError(str(error), where=str(run.dataset)) from None


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a checkpoint as transformers loads it.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--step", type=int, help="the newest unless given")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    try:
        spec, to = load_spec(run.spec), arguments.to.absolute()
        done = export(run, spec, arguments.step, to, arguments.dtype)
    except (SmolplanError, OSError) as error:
        sys.stderr.write(f"smolplan: {error}\n")
        return int(error.exit_code) if isinstance(error, SmolplanError) else 1
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
