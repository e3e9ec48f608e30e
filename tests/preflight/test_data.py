"""Text and tokens that are missing, damaged, not really there, or not the spec's are named."""

import json
import os
import shutil
from pathlib import Path

import pytest

from preflight.checks.data.files import judge_files
from preflight.probes import files
from preflight.report import Finding, Result
from preflight.runner import run
from smolplan.spec import RunSpec, SourceSpec, load_preset
from tests.preflight.support import only, with_part
from tests.support import make_spec

QUICK = ("data.sources", "data.files")


@pytest.fixture(scope="module")
def tokenised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the tokens of the small spec: made once, copied by each test."""
    cache = tmp_path_factory.mktemp("tokenised")
    assert only("data.tokens", make_spec(cache), cache).state == "pass"
    return cache


@pytest.fixture
def cache(tokenised: Path, tmp_path: Path) -> Path:
    shutil.copytree(tokenised, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def tokens(cache: Path) -> Path:
    (found,) = cache.glob("*/train-00000.bin")
    return found


def results(spec: RunSpec, runs_dir: Path, *only: str) -> dict[str, Result]:
    return {r.name: r for r in run(spec, runs_dir, only=only).results}


def test_missing_text_is_named(data_cache: Path, tmp_path: Path) -> None:
    sources = (SourceSpec(path="/no/such"), SourceSpec(path=str(tmp_path), glob="*.none"))
    spec = with_part(make_spec(data_cache), "data", sources=sources)
    found = results(spec, tmp_path, *QUICK, "data.tokens", "data.checksums")
    assert found["data.sources"].state == "fail"
    assert "data.sources.0: /no/such: does not exist" in found["data.sources"].why
    assert f"data.sources.1: {tmp_path}: no text matches '*.none'" in found["data.sources"].why
    assert found["data.tokens"].state == "fail"
    assert "/no/such does not exist" in found["data.tokens"].why
    assert found["data.files"].state == found["data.checksums"].state == "skipped"


def test_no_text_at_all_is_named(tmp_path: Path) -> None:
    result = only("data.sources", load_preset("smollm3-3b"), tmp_path)
    assert (result.state, result.why) == ("fail", "data.sources is empty")


def test_text_that_was_evicted_from_the_disk_is_named(data_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_bytes(b"text " * 2**19)
    with (tmp_path / "gone.txt").open("wb") as stub:
        stub.truncate(8 * 2**20)
    sources = (SourceSpec(path=str(tmp_path)),)
    spec = with_part(make_spec(data_cache), "data", sources=sources)
    result = only("data.sources", spec, tmp_path)
    assert result.state == "fail"
    assert f"{tmp_path}/gone.txt: only 0 of its 8,388,608 bytes are on the disk" in result.why
    assert "here.txt" not in result.why


def test_too_little_text_for_the_tokens_asked_fails(cache: Path, tmp_path: Path) -> None:
    spec = with_part(make_spec(cache), "data", max_epochs=0.001)
    result = only("data.tokens", spec, tmp_path)
    assert result.state == "fail"
    assert result.measured["epochs"] > result.needed["epochs_max"]


def test_whole_tokens_pass_and_hosts_can_compare_them(cache: Path, tmp_path: Path) -> None:
    found = results(make_spec(cache), tmp_path, *QUICK, "data.checksums")
    assert {r.state for r in found.values()} == {"pass"}
    assert found["data.files"].measured["checksums"] == 4
    assert set(found["data.files"].facts) == {"dataset", "sample of the tokens"}


def test_text_that_was_not_tokenised_yet_is_no_fault(tmp_path: Path) -> None:
    result = only("data.files", make_spec(tmp_path / "none"), tmp_path)
    assert (result.state, result.summary) == ("skipped", "the text has not been tokenised yet")
    assert list((tmp_path / "none").glob("*")) == []


def test_a_flipped_byte_in_the_tokens_is_named(tokens: Path, cache: Path, tmp_path: Path) -> None:
    content = bytearray(tokens.read_bytes())
    content[100] ^= 1
    tokens.write_bytes(content)
    found = results(make_spec(cache), tmp_path, "data.files", "data.checksums")
    why = f"{tokens}: its checksum differs"
    assert {(r.state, r.why) for r in found.values()} == {("fail", why)}
    assert "remove their folder" in found["data.files"].remedy
    assert tokens.read_bytes() == content, "the damage is left for the user to see"


def sampled(tokens: Path) -> Finding:
    """What data.files says of the folder, without a process."""
    record = json.loads(tokens.with_name("source.json").read_text())
    dataset = {**record["source"], "folder": str(tokens.parent), "files": record["files"]}
    found = files.sample({"dataset": dataset, "seed": 1, "limit_bytes": 2**20})
    return judge_files(found, dataset)


def test_missing_and_short_files_are_named(tokens: Path) -> None:
    (tokens.with_name("held-out-00000.bin")).unlink()
    with tokens.open("r+b") as file:
        file.truncate(1000)
    finding = sampled(tokens)
    assert finding.state == "fail"
    assert finding.summary == "missing or damaged: 2 of 4 files"
    assert "held-out-00000.bin: it is missing" in finding.why
    assert f"{tokens}: it has 1,000 bytes, not " in finding.why


def test_a_file_that_has_holes_is_named(tokens: Path) -> None:
    size = tokens.stat().st_size
    content = tokens.read_bytes()
    with tokens.open("wb") as file:
        file.write(content[:4096])
        file.truncate(size)
    finding = sampled(tokens)
    assert finding.state == "fail"
    assert f"{tokens}: {size - 4096:,} of its {size:,} bytes were never written" in finding.why


def test_a_stub_is_told_from_a_file_by_its_blocks(tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    with stub.open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(2**22)
    assert "of its 4,194,304 bytes are on the disk" in files.absent(stub.stat())
    stub.write_bytes(b"x" * 2**22)
    with stub.open("rb") as file:
        os.fsync(file.fileno())  # some file systems find it a place only then
    assert files.absent(stub.stat()) == ""


def test_a_host_with_other_tokens_has_another_fact(tokens: Path) -> None:
    before = sampled(tokens)
    tokens.write_bytes(bytes(reversed(tokens.read_bytes())))
    after = sampled(tokens)
    assert before.facts["dataset"] == after.facts["dataset"]
    assert before.facts["sample of the tokens"] != after.facts["sample of the tokens"]
