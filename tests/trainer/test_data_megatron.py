"""Tokens that Megatron-LM's preprocess_data.py made are a source like their text."""

import json
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from preflight.probes import tokens as probe
from smolplan.errors import UserError
from smolplan.spec import RunSpec, SourceSpec
from tests.preflight.support import with_part
from tests.preflight.test_data_tokens import make_tokenizer
from tests.support import make_spec
from trainer.data import pieces
from trainer.data.dataset import Dataset, file_sha256
from trainer.data.prepare import find, prepare, prepare_share
from trainer.data.share import Share

CODE = Path(json.__file__).read_text()
END, OTHER = "<|endoftext|>", "<|im_end|>"
CODES = {"<u2": 8, "<i4": 4, "<i8": 5}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return make_tokenizer(path, CODE, [END, OTHER])


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw, words = random.Random(1), CODE.split()
    return [" ".join(draw.choices(words, k=draw.randint(1, 60))) for _ in range(300)]


def write_indexed(
    path: Path, documents: Sequence[Sequence[Sequence[int]]], dtype: str = "<u2"
) -> None:
    """As documents of sequences of tokens, in the format that its IndexedDataset reads."""
    sequences = [np.array(s, dtype=dtype) for document in documents for s in document]
    path.write_bytes(b"".join(sequence.tobytes() for sequence in sequences))
    lengths = np.array([len(sequence) for sequence in sequences], dtype="<i4")
    starts = np.cumsum([0, *lengths[:-1]]).astype("<i8") * np.dtype(dtype).itemsize
    ends = np.cumsum([0, *(len(document) for document in documents)]).astype("<i8")
    with path.with_suffix(".idx").open("wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QB", 1, CODES[dtype]))
        file.write(struct.pack("<QQ", len(lengths), len(ends)))
        for numbers in (lengths, starts, ends):
            file.write(numbers.tobytes())


def tokenised(texts: Sequence[str], tokenizer: Path, *ends: str) -> list[list[list[int]]]:
    """A sequence a document, as preprocess_data.py makes them; `ends` by --append-eod."""
    made_by = Tokenizer.from_file(str(tokenizer))
    behind = [made_by.get_vocab()[end] for end in ends]
    return [[made_by.encode(text).ids + behind] for text in texts]


def spec_of(cache: Path, path: Path, tokenizer: Path, glob: str = "**/*.bin") -> RunSpec:
    source = SourceSpec(path=str(path), glob=glob, name="web")
    return with_part(make_spec(cache), "data", sources=(source,), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def of_text(texts: list[str], tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("of-text")
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "web.jsonl").write_text(rows)
    return prepare(spec_of(folder / "cache", folder / "web.jsonl", tokenizer))


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("ends", [(), (END,)])
def test_its_tokens_are_those_of_the_text(
    dtype: str,
    ends: tuple[str, ...],
    texts: list[str],
    tokenizer: Path,
    of_text: Dataset,
    tmp_path: Path,
) -> None:
    documents = tokenised(texts, tokenizer, *ends)
    (whole,) = documents[5]  # in sequences, as of --split-sentences; empty ones are left out
    documents[5] = [whole[:3], [], whole[3:]]
    documents[9:9] = [[], [[]]]
    write_indexed(tmp_path / "web.bin", documents, dtype)
    dataset = prepare(spec_of(tmp_path / "cache", tmp_path, tokenizer))
    (made,), (wanted,) = dataset.sources, of_text.sources
    for what in ("tokens", "documents", "held_out_tokens", "held_out_documents", "held_out_bytes"):
        assert getattr(made, what) == getattr(wanted, what)
    for name in ("train-00000.bin", "held-out-00000.bin", "documents-00000.bin"):
        assert file_sha256(dataset.folder_of(made) / name) == file_sha256(
            of_text.folder_of(wanted) / name
        )


def test_it_is_cut_into_pieces_for_several_hosts(
    texts: list[str],
    tokenizer: Path,
    of_text: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_indexed(tmp_path / "web.bin", tokenised(texts, tokenizer))
    monkeypatch.setattr(pieces, "LEAST_BYTES", (tmp_path / "web.bin").stat().st_size // 5)
    spec = spec_of(tmp_path / "cache", tmp_path / "web.bin", tokenizer)
    left = prepare_share(spec, Share(1, 2))
    assert isinstance(left, list) and (left[0].pieces, left[0].left) == (6, 3)
    dataset = prepare_share(spec, Share(2, 2))
    assert isinstance(dataset, Dataset) and dataset.documents + len(texts) // 5 == len(texts)

    def all_of(one: Dataset) -> list[int]:
        train = one.train(one.sources[0])
        return sorted([*train.read(0, len(train)), *one.held_out.read(0, len(one.held_out))])

    assert all_of(dataset) == all_of(of_text)
    found = probe.tokenizer(spec, dataset)
    assert (found["differing"], found["first_text"]["differs_at"]) == (0, -1)


def test_a_changed_index_is_another_source(
    texts: list[str], tokenizer: Path, tmp_path: Path
) -> None:
    documents = tokenised(texts, tokenizer)
    write_indexed(tmp_path / "web.bin", documents)
    spec = spec_of(tmp_path / "cache", tmp_path, tokenizer)
    first = prepare(spec)
    write_indexed(tmp_path / "web.bin", [[*documents[0], *documents[1]], *documents[2:]])
    assert find(spec) is None
    assert prepare(spec).fingerprint != first.fingerprint


def harmed(index: Path, start: int, content: bytes) -> None:
    whole = bytearray(index.read_bytes())
    whole[start : start + len(content)] = content
    index.write_bytes(whole)


@pytest.mark.parametrize(
    ("start", "content", "why"),
    [
        (0, b"MMIDIDX\1\0", r"web\.idx: it is no index of Megatron-LM"),
        (9, struct.pack("<Q", 2), r"its version is 2 and its type of token 8"),
        (17, b"\7", r"its version is 1 and its type of token 7"),
        (18, struct.pack("<Q", 10**9), r"it ends before its numbers do"),
        (34, struct.pack("<i", 10**6), r"its sequences do not stand one behind the other"),
    ],
)
def test_an_index_that_is_damaged_is_refused(
    start: int, content: bytes, why: str, texts: list[str], tokenizer: Path, tmp_path: Path
) -> None:
    write_indexed(tmp_path / "web.bin", tokenised(texts, tokenizer))
    harmed(tmp_path / "web.idx", start, content)
    with pytest.raises(UserError, match=why):
        prepare(spec_of(tmp_path / "cache", tmp_path, tokenizer))


def test_tokens_of_another_tokeniser_or_separator_are_refused(
    texts: list[str], tokenizer: Path, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path / "cache", tmp_path, tokenizer)
    write_indexed(tmp_path / "web.bin", [*tokenised(texts, tokenizer), [[7, 385]]])
    with pytest.raises(UserError, match=r"holds the token 385, and the tokeniser ends with 379\."):
        prepare(spec)
    write_indexed(tmp_path / "web.bin", tokenised(texts, tokenizer, OTHER))
    with pytest.raises(
        UserError, match=r"end with <\|im_end\|>, .* Name <\|im_end\|> by data\.sep"
    ):
        prepare(spec)
    assert prepare(with_part(spec, "data", separator=OTHER)).separator_token == OTHER
    # What happens to end all documents and is no special token is text.
    write_indexed(tmp_path / "web.bin", tokenised([f"{text}\n" for text in texts], tokenizer))
    assert prepare(spec).separator_token == END
    with pytest.raises(UserError, match=r"data\.tokenizer: .* holds tokens, and no tokeniser"):
        prepare(with_part(spec, "data", tokenizer=None))
