"""A tokenised dataset on disk: dataset.json in the run directory names it and vouches for it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from smolplan.errors import ExitCode, NamedExit
from smolplan.rundir import RunDir, read_json
from trainer.data.shards import Tokens

RECORD = "source.json"
"""In a source's folder of tokens: what they are, and the checksums of its files."""

TOKENIZER = "tokenizer.json"
SEPARATOR = "<|endoftext|>"

READ_WHOLE_BYTES = 2**30
"""A second or two of a disk. Reading terabytes on every rank at every start would cost more than
it saves: such data is checked once, when it is prepared."""


@dataclass(frozen=True)
class DatasetFile:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DatasetSource:
    """One source, tokenised. All of it but the held-out part is trained on."""

    name: str
    fingerprint: str
    """Hash of everything that the tokens follow from: texts, tokeniser, format. Also the name of
    the folder in the cache that they are made in."""
    tokens: int
    documents: int
    bytes: int
    """UTF-8 bytes of the text."""
    held_out_tokens: int
    held_out_documents: int
    held_out_bytes: int
    train: tuple[str, ...]
    """Its files among the dataset's, in the order of the text."""
    held_out: tuple[str, ...]
    document_ends: tuple[str, ...]
    """int64: where, in the file of `train` beside it, each document ends, separator included."""
    left_out: int = 0
    """Files that its pattern names, and that are not read."""
    left_out_named: str = ""
    """The first of them, with why."""

    @property
    def told_of_left_out(self) -> str:
        """A sentence; empty if all were read."""
        if not self.left_out:
            return ""
        files = "file is" if self.left_out == 1 else "files are"
        return f"{self.name}: {self.left_out:,} {files} left out{self.left_out_named}"

    def sequences(self, seq_len: int) -> int:
        """Neighbours share one token: the last target of one is the first input of the next."""
        return max(0, (self.tokens - 1) // seq_len)


@dataclass(frozen=True)
class Dataset:
    folder: str
    fingerprint: str
    tokens: int
    documents: int
    held_out_tokens: int
    held_out_bytes: int
    """UTF-8 bytes of the held-out text: what bits per byte divides by."""
    vocab_size: int
    separator: int
    token_bytes: int
    tokenizer: str
    """Its file among the files."""
    files: dict[str, DatasetFile]
    """By their names within the folder; absolute ones of tokens that lie elsewhere."""
    sources: tuple[DatasetSource, ...]
    separator_token: str = SEPARATOR
    """As it is spelt; on record since it may be another."""

    @property
    def tokenizer_path(self) -> Path:
        return Path(self.folder) / self.tokenizer

    def folder_of(self, source: DatasetSource) -> Path:
        """Where its tokens are, and what says what they are: all of it that need be copied."""
        files = (*source.train, *source.held_out)
        return (Path(self.folder) / files[0]).parent if files else Path(self.folder)

    def train(self, source: DatasetSource) -> Tokens:
        return self._tokens(source.train)

    @property
    def held_out(self) -> Tokens:
        """Of all sources, one after the other."""
        return self._tokens([name for source in self.sources for name in source.held_out])

    def _tokens(self, names: Sequence[str]) -> Tokens:
        dtype = {2: "<u2", 4: "<u4"}[self.token_bytes]
        lengths = [self.files[name].bytes // self.token_bytes for name in names]
        return Tokens([Path(self.folder) / name for name in names], lengths, dtype)

    def damage(self) -> str:
        """What is wrong with the files; empty if they are as they were written."""
        return damage(Path(self.folder), self.files)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Dataset":
        """Fields of a run's own dataset.json that are not the dataset's are left out. Raises
        ValueError if some are missing."""
        known = {field.name for field in fields(Dataset)}
        try:
            if "sources" not in content:
                content = _of_one_file(content)
            files = {name: DatasetFile(**entry) for name, entry in content["files"].items()}
            sources = tuple(source_from_json(source) for source in content["sources"])
            kept = {name: value for name, value in content.items() if name in known}
            return Dataset(**{**kept, "files": files, "sources": sources})
        except (KeyError, TypeError, AttributeError):
            raise ValueError("it is not the description of a dataset") from None


def named_separator(spelling: str) -> dict[str, str]:
    """Part of what tokens are named by; empty for the usual one, which was the only one when the
    first were named."""
    return {} if spelling == SEPARATOR else {"separator": spelling}


def source_from_json(content: dict[str, Any]) -> DatasetSource:
    """Raises TypeError if it is not one."""
    files = ("train", "held_out", "document_ends")
    return DatasetSource(**{**content, **{name: tuple(content[name]) for name in files}})


def read_record(
    folder: Path, prefix: str, **own: object
) -> tuple[DatasetSource, dict[str, DatasetFile]] | None:
    """What a folder of tokens holds, whatever became of its files, which are called `prefix`/NAME;
    None if nothing says so. `own`: what each spec that reads it has its own of."""
    content = read_json(folder / RECORD)
    if content is None:
        return None
    try:
        files = {f"{prefix}/{n}": DatasetFile(**entry) for n, entry in content["files"].items()}
        named = {
            what: [f"{prefix}/{Path(name).name}" for name in content["source"][what]]
            for what in ("train", "held_out", "document_ends")
        }
        return source_from_json({**content["source"], **named, **own}), files
    except (KeyError, TypeError, AttributeError):
        return None


def _of_one_file(content: dict[str, Any]) -> dict[str, Any]:
    """What stood in dataset.json when all sources were tokenised into one file: they are read as
    one source, so that a run of then goes on where it was."""
    source = {
        **{name: content[name] for name in ("fingerprint", "tokens", "documents")},
        **{name: content[name] for name in ("held_out_tokens", "held_out_bytes")},
        "name": "all",
        "bytes": 0,  # was not counted
        "held_out_documents": 0,
        "train": ["train.bin"],
        "held_out": ["held-out.bin"],
        "document_ends": [],
    }
    return {**content, "tokenizer": TOKENIZER, "sources": [source]}


def damage(folder: Path, files: Mapping[str, DatasetFile]) -> str:
    """What is wrong with files of a folder; empty if they are as they were written. Checksums are
    looked at up to READ_WHOLE_BYTES, sizes always."""
    thorough = sum(entry.bytes for entry in files.values()) <= READ_WHOLE_BYTES
    for name, expected in files.items():
        path = folder / name
        try:
            if path.stat().st_size != expected.bytes:
                return f"{path} has {path.stat().st_size} bytes, not {expected.bytes}"
            if thorough and file_sha256(path) != expected.sha256:
                return f"{path} has changed: its checksum differs"
        except OSError as error:
            return f"{path}: {error.strerror}"
    return ""


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
