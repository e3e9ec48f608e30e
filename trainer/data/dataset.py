"""A tokenised dataset on disk: dataset.json in the run directory names it and vouches for it."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolplan.errors import ExitCode, NamedExit
from smolplan.rundir import RunDir, read_json

TRAIN, HELD_OUT, TOKENIZER = "train.bin", "held-out.bin", "tokenizer.json"
SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True)
class DatasetFile:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    folder: str
    fingerprint: str
    """Hash of everything that the tokens follow from: texts, tokeniser settings, format."""
    tokens: int
    documents: int
    held_out_tokens: int
    held_out_bytes: int
    """UTF-8 bytes of the held-out text: what bits per byte divides by."""
    vocab_size: int
    separator: int
    token_bytes: int
    files: dict[str, DatasetFile]

    def array(self, name: str) -> NDArray[Any]:
        dtype = {2: "<u2", 4: "<u4"}[self.token_bytes]
        return np.memmap(Path(self.folder) / name, dtype=dtype, mode="r")

    def damage(self) -> str:
        """What is wrong with the files; empty if they are as they were written."""
        for name, expected in self.files.items():
            path = Path(self.folder) / name
            try:
                if path.stat().st_size != expected.bytes:
                    return f"{path} has {path.stat().st_size} bytes, not {expected.bytes}"
                if file_sha256(path) != expected.sha256:
                    return f"{path} has changed: its checksum differs"
            except OSError as error:
                return f"{path}: {error.strerror}"
        return ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Dataset":
        files = {name: DatasetFile(**entry) for name, entry in content["files"].items()}
        return Dataset(**{**content, "files": files})


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_dataset(run: RunDir) -> Dataset:
    """The dataset that the run was created with. Raises NamedExit DATA_EXHAUSTED where it is
    missing or damaged: training on other tokens would break the promise of exact resumption."""
    content = read_json(run.dataset)
    if content is None:
        raise NamedExit(
            ExitCode.DATA_EXHAUSTED,
            f"{run.dataset} is missing; make it by: python -m trainer.data.prepare {run}",
        )
    dataset = Dataset.from_json(content)
    if damage := dataset.damage():
        raise NamedExit(ExitCode.DATA_EXHAUSTED, f"the tokenised data is not whole: {damage}")
    return dataset
