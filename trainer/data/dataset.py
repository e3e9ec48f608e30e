"""A tokenised dataset on disk: dataset.json in the run directory names it and vouches for it."""

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolplan.errors import ExitCode, NamedExit
from smolplan.rundir import RunDir, read_json

TRAIN, HELD_OUT, TOKENIZER = "train.bin", "held-out.bin", "tokenizer.json"
SEPARATOR = "<|endoftext|>"

READ_WHOLE_BYTES = 2**30
"""A second or two of a disk. Reading terabytes on every rank at every start would cost more than
it saves: such data is checked once, when it is prepared."""


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
        if self.files[name].bytes == 0:  # which cannot be mapped
            return np.empty(0, dtype=dtype)
        return np.memmap(Path(self.folder) / name, dtype=dtype, mode="r")

    def damage(self) -> str:
        """What is wrong with the files; empty if they are as they were written. Checksums are
        looked at up to READ_WHOLE_BYTES, sizes always."""
        thorough = sum(entry.bytes for entry in self.files.values()) <= READ_WHOLE_BYTES
        for name, expected in self.files.items():
            path = Path(self.folder) / name
            try:
                if path.stat().st_size != expected.bytes:
                    return f"{path} has {path.stat().st_size} bytes, not {expected.bytes}"
                if thorough and file_sha256(path) != expected.sha256:
                    return f"{path} has changed: its checksum differs"
            except OSError as error:
                return f"{path}: {error.strerror}"
        return ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Dataset":
        """Fields of a run's own dataset.json that are not the dataset's are left out. Raises
        ValueError if some are missing."""
        known = {field.name for field in fields(Dataset)}
        try:
            files = {name: DatasetFile(**entry) for name, entry in content["files"].items()}
            kept = {name: value for name, value in content.items() if name in known}
            return Dataset(**{**kept, "files": files})
        except (KeyError, TypeError, AttributeError):
            raise ValueError("it is not the description of a dataset") from None


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
            f"{run.dataset} is missing or damaged; make it by: "
            f"python -m trainer.data.prepare {run}",
        )
    try:
        dataset = Dataset.from_json(content)
    except ValueError as error:
        raise NamedExit(ExitCode.DATA_EXHAUSTED, f"{run.dataset}: {error}") from None
    if damage := dataset.damage():
        raise NamedExit(ExitCode.DATA_EXHAUSTED, f"the tokenised data is not whole: {damage}")
    return dataset
