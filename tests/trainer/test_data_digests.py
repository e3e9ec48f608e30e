"""Text that did not change is not read again, and text that did is noticed."""

import gzip
import json
import os
from pathlib import Path

import pytest

from smolplan.spec import RunSpec, SourceSpec
from tests.preflight.support import with_part
from tests.support import make_spec
from trainer.data import digests
from trainer.data.formats import Kind
from trainer.data.prepare import find, prepare
from trainer.data.sources import list_files


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    words = Path(json.__file__).read_text()
    for number in range(40):
        (folder / f"{number}.txt").write_text(words[number * 100 :])
    rows = "".join(json.dumps({"text": line}) + "\n" for line in words.splitlines() if line)
    (folder / "a.json.gz").write_bytes(gzip.compress(rows.encode()))
    (folder / "b.bin").write_bytes(b"\xff")
    return folder


@pytest.fixture
def spec(text: Path, tmp_path: Path) -> RunSpec:
    source = SourceSpec(path=str(text), glob="*")
    return with_part(make_spec(tmp_path / "cache"), "data", sources=(source,))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to tell them apart; all are old enough to be remembered."""
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    names, real = [], digests.read_digest

    def counted(path: Path, kind: Kind, size: int) -> str | None:
        names.append(path.name)
        return real(path, kind, size)

    monkeypatch.setattr(digests, "read_digest", counted)
    return names


def test_what_did_not_change_is_not_read_again(spec: RunSpec, text: Path, read: list[str]) -> None:
    first = prepare(spec)
    assert sorted(read) == sorted(path.name for path in text.iterdir())
    read.clear()
    assert prepare(spec) == first == find(spec)
    assert read == []
    assert first.sources[0].left_out == 1, "that it is no text is remembered too"


def test_a_changed_file_is_noticed_though_its_size_and_time_are_as_before(
    spec: RunSpec, text: Path, read: list[str]
) -> None:
    first = prepare(spec)
    read.clear()
    path = text / "7.txt"
    status, content = path.stat(), path.read_text()
    path.write_text("Z" + content[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and path.stat().st_mtime_ns == status.st_mtime_ns
    second = prepare(spec)
    assert read == ["7.txt"]
    assert second.fingerprint != first.fingerprint
    (text / "8.txt").unlink()
    (text / "new.txt").write_text("new")
    assert prepare(spec).fingerprint not in (first.fingerprint, second.fingerprint)
    assert read == ["7.txt", "new.txt"]
    (kept,) = (Path(first.folder) / "digests").iterdir()
    assert str(text / "8.txt") not in json.loads(kept.read_text())["files"]


def test_a_file_that_was_only_just_written_is_not_remembered_yet(
    spec: RunSpec, text: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", 3600 * 10**9)
    monkeypatch.setattr(digests, "SAVE_EVERY_S", 0)
    for _ in range(2):
        list_files(spec, 0)
    assert len(read) == 2 * len(list(text.iterdir()))


@pytest.mark.parametrize("content", ["", "[]", '{"format": 0}', '{"format": 1, "files": [1]}'])
def test_what_is_remembered_may_be_lost_or_damaged(
    content: str, spec: RunSpec, read: list[str]
) -> None:
    assert spec.data.cache_dir is not None
    first = list_files(spec, 0)
    assert not spec.data.cache_dir.exists(), "who only looks makes no cache"
    spec.data.cache_dir.mkdir()
    assert list_files(spec, 0) == first
    (kept,) = (spec.data.cache_dir / "digests").iterdir()
    kept.write_text(content)
    assert list_files(spec, 0) == first
    kept.unlink()
    kept.mkdir()  # nor can it be written
    assert list_files(spec, 0) == first
    assert len(read) == 4 * (len(first.files) + len(first.left_out))
