"""Text in every format that is read, and what is said of text that cannot be."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smolplan.errors import UserError
from smolplan.spec import SourceSpec, dump_spec
from tests.preflight.support import with_part
from tests.support import make_spec, smolplan
from trainer.data import pieces
from trainer.data.pieces import cut, documents
from trainer.data.prepare import prepare
from trainer.data.sources import list_files
from trainer.data.tokenise import held_out

TEXTS = [f"Document {n}: ünïcode, “quotes”\nand a line." + " word" * (n % 17) for n in range(120)]


def read(path: str, field: str = "text", glob: str = "**/*.txt") -> list[str]:
    source = SourceSpec(path=path, text_field=field, glob=glob)
    spec = with_part(make_spec(Path("/nowhere")), "data", sources=(source,))
    return [text for piece in cut(list_files(spec, 0).files, field) for text in documents(piece)]


def lines(texts: list[str], field: str = "text") -> bytes:
    rows = ({"id": n, field: text} for n, text in enumerate(texts))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table() -> pa.Table:
    return pa.table({"id": list(range(len(TEXTS))), "text": TEXTS})


def write_parquet(path: Path) -> None:
    pq.write_table(table(), path, row_group_size=7)


def write_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table().schema) as out:
        out.write_table(table(), max_chunksize=50)


def write_feather(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table().schema) as out:
        out.write_table(table(), max_chunksize=50)


def write_zstd(path: Path, content: bytes | None = None) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as out:
        out.write(lines(TEXTS) if content is None else content)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(lines(TEXTS)),
    "b.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(TEXTS))),
    "c.jsonl.zst": write_zstd,
    "d.parquet": write_parquet,
    "e.arrow": write_stream,
    "f.feather": write_feather,
    "g.ndjson": lambda path: path.write_bytes(lines(TEXTS)),
    "h.json": lambda path: path.write_bytes(lines(TEXTS)),
    "i.JSON.gz": lambda path: path.write_bytes(gzip.compress(lines(TEXTS))),
    "j.json.zst": write_zstd,
}


@pytest.mark.parametrize("least_bytes", [10**6, 700])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents_however_it_is_cut(
    name: str, least_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "LEAST_BYTES", least_bytes)
    WRITERS[name](tmp_path / name)
    assert read(str(tmp_path / name)) == TEXTS
    assert read(f"file://{tmp_path}", glob="*") == TEXTS


def test_lines_are_not_lost_or_repeated_wherever_a_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["x" * random.Random(n).randrange(40) for n in range(60)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(texts).rstrip(b"\n"))
    wanted = [text for text in texts if text]
    for size in range(1, 120, 7):
        monkeypatch.setattr(pieces, "LEAST_BYTES", size)
        assert read(str(path)) == wanted


def test_files_in_a_store_are_read_as_here(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/texts/deep/a.jsonl", lines(TEXTS, field="content"))
    store.pipe("/texts/b.txt", b"one document")
    assert read("memory://texts", "content", "**/*.jsonl") == TEXTS
    assert read("memory://texts/b.txt") == ["one document"]


def test_compressed_plain_text_is_a_document_a_file_and_shares_a_piece(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS[:6]):
        (tmp_path / f"{number}.txt.gz").write_bytes(gzip.compress(text.encode()))
    write_zstd(tmp_path / "6.md.zst", TEXTS[6].encode())
    (tmp_path / "7.txt").write_text(TEXTS[7])
    assert read(str(tmp_path), glob="*") == TEXTS[:8] == read(f"file://{tmp_path}", glob="*")
    spec = with_part(
        make_spec(tmp_path), "data", sources=(SourceSpec(path=str(tmp_path), glob="*"),)
    )
    assert len(cut(list_files(spec, 0).files, "text")) == 1


def test_files_that_are_no_text_are_counted_and_named(tmp_path: Path) -> None:
    cache, text = tmp_path / "cache", tmp_path / "text"
    text.mkdir()
    for number in range(40):
        (text / f"{number}.txt").write_text(TEXTS[number] * 20)
    (text / "a.bin").write_bytes(b"\xff" * 9)
    (text / "b.gz").write_bytes(gzip.compress(b"\xff"))
    (text / "c.tar.gz").write_bytes(gzip.compress(b"an archive"))
    (text / "d.txt").touch()
    spec = with_part(make_spec(cache), "data", sources=(SourceSpec(path=str(text), glob="*"),))
    spec = with_part(spec, "model", vocab_size=290)
    path = tmp_path / "run.yaml"
    path.write_text(dump_spec(spec))
    first = f"text: 4 files are left out: {text}/a.bin is not UTF-8, {text}/b.gz is not UTF-8, "
    said = smolplan("data", "prepare", str(path))
    assert said.stdout.startswith(f"{first}{text}/c.tar.gz is not UTF-8, and 1 more\n")
    found = json.loads(smolplan("data", "inspect", str(path), "--json").stdout)
    assert found["sources"][0]["left_out"] == 4
    shown = smolplan("data", "inspect", str(path)).stdout
    assert "".join(first.split()) in "".join(shown.split())
    # The same tokens, of a folder that holds nothing else.
    for name in ("a.bin", "b.gz", "c.tar.gz", "d.txt"):
        (text / name).unlink()
    again = prepare(spec)
    assert again.fingerprint == found["dataset"] and again.sources[0].left_out == 0
    for one in text.iterdir():
        one.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"has no UTF-8 text in files that match '\*': .*0.txt is"):
        prepare(spec)


def packed(content: bytes) -> bytes:
    """Without the time, which would give the tests below other names in each worker."""
    return gzip.compress(content, mtime=0)


ROW = "Mend or drop that row, or name the field of the text by text_field."


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "good"}\n{"text": \n', "a.jsonl: line 2 is no JSON"),
        ("a.jsonl", b'{"text": "good"}\n["x"]\n', "line 2 is no JSON object"),
        ("a.jsonl", b'{"body": "x"}\n', "line 1 has no field 'text'; its fields: 'body'"),
        ("a.jsonl", b'\n{"text": "a"}\n{"text": 7}\n', "line 3 has 7 in 'text', which is no text"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1 has '\\ud800' in 'text', which is no text"),
        ("a.jsonl", b'{"text": "\xff"}\n', "line 1 is no JSON"),
        ("a.jsonl.gz", packed(lines(TEXTS))[:-30], "a.jsonl.gz: cannot unpack it"),
        ("a.jsonl.gz", b"no gzip at all", "a.jsonl.gz: cannot unpack it"),
        ("a.json", json.dumps([{"text": "x"}]).encode(), "a.json: it is one JSON array, and a doc"),
        ("a.json", json.dumps(["x"] * 9, indent=1).encode(), "it is one JSON array"),
        ("a.json", json.dumps({"text": "x"}, indent=1).encode(), "it is one JSON object"),
        ("a.json.gz", packed(b"[1]"), "a.json.gz: it is one JSON array"),
        ("a.csv", b"text,n\nx,1\n", "a.csv is CSV, which is not read. Make JSON lines"),
        ("a.tsv.gz", packed(b"text\tn\n"), "a.tsv.gz is CSV, which is not read"),
        ("a.txt.gz", packed(b"words" * 99)[:-12], "a.txt.gz: cannot unpack it"),
        ("a.parquet", b"PAR1 and nothing else", "a.parquet: it cannot be read"),
        ("a.arrow", b"no Arrow at all", "a.arrow: it cannot be read"),
    ],
)
def test_rows_and_files_that_cannot_be_read_are_named(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        read(str(tmp_path / name))
    assert said in str(refused.value)


def test_a_null_and_a_column_that_is_not_there_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None], "n": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="row 2 has None in 'text', which is no text"):
        read(str(tmp_path / "a.parquet"))
    with pytest.raises(UserError, match="there is no column 'body'; its columns: 'text', 'n'"):
        read(str(tmp_path / "a.parquet"), "body")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no-such-protocol://a", "it is no URL that fsspec can read"),
        ("memory://there-is-nothing", "has no UTF-8 text in files that match"),
    ],
)
def test_a_store_that_cannot_be_read_is_named(path: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(path)


def test_a_file_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(TEXTS))
    spec = with_part(make_spec(Path("/nowhere")), "data", sources=(SourceSpec(path=str(path)),))
    (piece,) = cut(list_files(spec, 0).files, "text")
    reading = documents(piece)
    next(reading)
    path.write_bytes(lines(TEXTS[:-1]))
    with pytest.raises(UserError, match=r"a\.jsonl changed while it was tokenised"):
        list(reading)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.5, 0.9])
def test_as_many_documents_are_held_out_as_asked_and_never_the_first(fraction: float) -> None:
    one_piece = [held_out(n, 0, fraction) for n in range(1000)]
    a_document_each = [held_out(0, n, fraction) for n in range(1000)]
    assert not one_piece[0]
    for found in (one_piece, a_document_each):
        assert abs(sum(found) - 1000 * fraction) <= 3
        evenly = [sum(found[n : n + 200]) for n in range(0, 1000, 200)]
        assert max(evenly) - min(evenly) <= 3
