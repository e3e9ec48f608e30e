"""Tokens on the disk: made by several processes, whole whatever is killed, and found again."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from tokenizers import Tokenizer

from launcher.create import prepare_data
from smolplan.errors import ExitCode, NamedExit, UserError
from smolplan.rundir import RunDir, write_json, write_text
from smolplan.spec import RunSpec, SourceSpec, dump_spec
from tests.preflight.support import with_part
from tests.support import make_spec, smolplan, wait_until
from trainer.data.dataset import Dataset, file_sha256, open_dataset
from trainer.data.loader import Loader, open_loader
from trainer.data.order import sequence_at
from trainer.data.prepare import find, prepare

PIECES = 6

PAUSE = """
import os, signal, sys

if "--multiprocessing-fork" in sys.argv or "multiprocessing.spawn" in " ".join(sys.orig_argv):
    from trainer.data import tokenise

    real = tokenise.held_out

    def pausing(index, piece, fraction):
        if piece >= 3 and index == 5:
            os.kill(os.getpid(), signal.SIGSTOP)
        return real(index, piece, fraction)

    tokenise.held_out = pausing
"""


def write_texts(folder: Path, seed: int, count: int = PIECES) -> Path:
    """Compressed files, each of which is a piece."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("aeioulnrst", k=draw.randint(2, 9))) for _ in range(400)]
    folder.mkdir()
    for number in range(count):
        texts = (" ".join(draw.choices(words, k=draw.randint(5, 90))) for _ in range(60))
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    return folder


def spec_of(cache: Path, *folders: Path) -> RunSpec:
    sources = tuple(SourceSpec(path=str(folder), glob="*.gz") for folder in folders)
    return with_part(make_spec(cache), "data", sources=sources)


def contents(dataset: Dataset) -> dict[str, str]:
    return {name: file_sha256(Path(dataset.folder) / name) for name in dataset.files}


def test_a_tokeniser_that_was_killed_goes_on_and_gives_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write_texts(tmp_path / "text", seed=1)
    run, spec = RunDir(tmp_path / "run"), spec_of(tmp_path / "cache", text)
    write_text(run.spec, dump_spec(spec))
    (tmp_path / "sitecustomize.py").write_text(PAUSE)
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.data.prepare", str(run)],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )

    def paused() -> list[psutil.Process]:
        workers = psutil.Process(process.pid).children(recursive=True)
        return [w for w in workers if w.status() == psutil.STATUS_STOPPED]

    cores = min(PIECES, len(os.sched_getaffinity(0)))
    if cores < 2:
        pytest.skip("one core: there are no processes to kill")
    wait_until(lambda: len(paused()) >= min(cores, PIECES - 3), timeout_s=240)
    workers = paused()
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(worker.is_running() for worker in workers))

    assert find(spec) is None, "what is half made is not found"
    (partial,) = (tmp_path / "cache").glob(".*.partial")
    finished = {path.name: path.stat().st_mtime_ns for path in partial.glob("train-*.bin")}
    assert set(finished) == {f"train-{n:05}.bin" for n in range(3)}
    dataset = prepare(spec)
    (source,) = dataset.sources
    folder = Path(dataset.folder) / source.fingerprint
    assert {n: (folder / n).stat().st_mtime_ns for n in finished} == finished, "made once"
    undisturbed = prepare(spec_of(tmp_path / "other", text))
    assert contents(dataset) == contents(undisturbed)
    assert dataset.fingerprint == undisturbed.fingerprint
    assert not list((tmp_path / "cache").glob(".*.partial"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Dataset]:
    """Two sources, of two pieces and of one."""
    folder = tmp_path_factory.mktemp("made")
    texts = [write_texts(folder / f"text-{n}", seed=n, count=2 - n) for n in range(2)]
    spec = spec_of(folder / "cache", *texts)
    return spec, prepare(spec)


def test_tokens_are_the_texts_with_their_ends_and_counts(made: tuple[RunSpec, Dataset]) -> None:
    spec, dataset = made
    tokenizer = Tokenizer.from_file(str(dataset.tokenizer_path))
    for source in dataset.sources:
        files = sorted(Path(spec.data.sources[dataset.sources.index(source)].text_path).iterdir())
        rows = [row for file in files for row in gzip.decompress(file.read_bytes()).splitlines()]
        texts = [json.loads(row)["text"] for row in rows]
        assert source.documents + source.held_out_documents == len(texts)
        assert source.bytes + source.held_out_bytes == sum(len(t.encode()) for t in texts)
        tokens = dataset.train(source)
        assert len(tokens) == source.tokens
        ids = tokens.read(0, len(tokens))
        assert np.count_nonzero(ids == dataset.separator) == source.documents
        kept = "".join(tokenizer.decode(ids.tolist(), skip_special_tokens=False))
        assert kept.split("<|endoftext|>")[0] == texts[0]
        at = 0
        for train, ends in zip(source.train, source.document_ends, strict=True):
            file_ends = np.fromfile(Path(dataset.folder) / ends, dtype="<i8")
            assert file_ends[-1] * dataset.token_bytes == dataset.files[train].bytes
            assert all(ids[at + end - 1] == dataset.separator for end in file_ends)
            at += int(file_ends[-1])


def test_specs_that_share_a_source_share_its_tokens(
    made: tuple[RunSpec, Dataset], tmp_path: Path
) -> None:
    spec, dataset = made
    before = set(Path(dataset.folder).glob("*/source.json"))
    assert len(before) == 2
    given = with_part(spec, "data", tokenizer=dataset.tokenizer_path)
    assert prepare(given) == dataset, "a tokeniser given is as good as the same one trained"
    alone = prepare(with_part(given, "data", sources=given.data.sources[1:]))
    assert alone.sources == dataset.sources[1:]
    assert set(Path(dataset.folder).glob("*/source.json")) == before


def test_a_damaged_source_is_made_anew_and_the_others_stay(made: tuple[RunSpec, Dataset]) -> None:
    spec, dataset = made
    before = contents(dataset)
    first, second = (Path(dataset.folder) / source.train[0] for source in dataset.sources)
    stays = second.stat().st_mtime_ns
    first.write_bytes(b"x" * first.stat().st_size)
    assert "its checksum differs" in dataset.damage()
    found = find(spec)
    assert found == dataset, "damage is not hidden from preflight"
    assert contents(prepare(spec)) == before
    assert second.stat().st_mtime_ns == stays


def test_a_row_that_cannot_be_read_ends_the_command_with_its_place(tmp_path: Path) -> None:
    text = write_texts(tmp_path / "text", seed=3, count=3)
    (text / "1.jsonl.gz").write_bytes(gzip.compress(b'{"text": "fine"}\n{"txt": "no"}\n'))
    spec = spec_of(tmp_path / "cache", text)
    tokenizer = make_spec(tmp_path / "cache")  # of Python's json package
    spec = with_part(spec, "data", tokenizer=prepare(tokenizer).tokenizer_path)
    run = RunDir(tmp_path / "run")
    write_text(run.spec, dump_spec(spec))
    with pytest.raises(UserError, match=r"1\.jsonl\.gz: line 2 has no field 'text'"):
        prepare_data(run)
    assert not run.dataset.exists()
    assert find(spec) is None


def old_run(folder: Path, tokens: int) -> tuple[RunDir, RunSpec]:
    """As the first smolplan left it: all sources in one file, dataset.json without `sources`."""
    run, data = RunDir(folder / "run"), folder / "data"
    spec = with_part(make_spec(folder), "data", max_epochs=4.0)
    write_text(run.spec, dump_spec(spec))
    data.mkdir()
    np.arange(tokens, dtype="<u2").tofile(data / "train.bin")
    np.arange(100, dtype="<u2").tofile(data / "held-out.bin")
    (data / "tokenizer.json").write_text("{}")
    names = ("train.bin", "held-out.bin", "tokenizer.json")
    files = {
        name: {"bytes": (data / name).stat().st_size, "sha256": file_sha256(data / name)}
        for name in names
    }
    content = {
        **{"folder": str(data), "fingerprint": "0123", "tokens": tokens, "documents": 3},
        **{"held_out_tokens": 100, "held_out_bytes": 300, "vocab_size": 400, "separator": 0},
        **{"token_bytes": 2, "files": files, "sequences": (tokens - 1) // 32},
    }
    write_json(run.dataset, content)
    return run, spec


def test_a_run_of_an_earlier_smolplan_reads_on_where_it_was(tmp_path: Path) -> None:
    run, spec = old_run(tmp_path, 2_001)
    dataset = open_dataset(run)
    assert dataset.fingerprint == "0123"
    assert dataset.held_out.read(98, 100).tolist() == [98, 99]
    loader = open_loader(spec, dataset)
    for position in (0, 3, 61, 62, 200):
        start = sequence_at(position, 62, spec.seed) * 32
        assert loader.sequence(position).tolist() == list(range(start, start + 33))


def test_text_that_would_repeat_too_often_ends_before_the_first_step(tmp_path: Path) -> None:
    run, spec = old_run(tmp_path, 300)
    with pytest.raises(
        NamedExit, match=r"9 sequences and is drawn 48 times: 5\.33 epochs"
    ) as ended:
        open_loader(spec, open_dataset(run))
    assert ended.value.exit_code == ExitCode.DATA_EXHAUSTED


def test_inspect_shows_the_mixture_as_planned_and_as_drawn(
    made: tuple[RunSpec, Dataset], tmp_path: Path
) -> None:
    spec, dataset = made
    sources = tuple(
        source.model_copy(update={"weight": weight})
        for source, weight in zip(spec.data.sources, (0.25, 0.75), strict=True)
    )
    spec = with_part(spec, "data", sources=sources)
    path = tmp_path / "run.yaml"
    path.write_text(dump_spec(spec))
    said = smolplan("data", "inspect", str(path), "--json", "--show", "2")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    (stage,) = found["stages"]
    assert (stage["name"], stage["steps"], stage["sequences_looked_at"]) == ("all", 12, 48)
    assert stage["planned"] == {"text-0": 0.25, "text-1": 0.75} == stage["drawn"]
    loader = Loader.of(spec, dataset)
    for number, source in enumerate(found["sources"]):
        assert source["sequences"] == loader.sequences[number]
        assert source["epochs"] == pytest.approx((12, 36)[number] / source["sequences"])
        texts = gzip.decompress(Path(sources[number].text_path, "0.jsonl.gz").read_bytes()).decode()
        assert len(source["excerpts"]) == 2 and source["excerpts"][0][:30] in texts
    said = smolplan("data", "inspect", str(path))
    assert said.returncode == 0 and max(map(len, said.stdout.splitlines())) <= 80
    assert "25.00% / 25.00%" in said.stdout and "sequences counted" in said.stdout


def test_weights_of_a_source_that_there_is_not_are_refused_with_exit_code_2(
    made: tuple[RunSpec, Dataset], tmp_path: Path
) -> None:
    stages = "  stages: [{name: one, start_step: 1, weights: {text-0: 0.5, tekst-1: 0.5}}]\n"
    path = tmp_path / "run.yaml"
    path.write_text(dump_spec(made[0]).replace("data:\n", "data:\n" + stages, 1))
    said = smolplan("data", "prepare", str(path))
    assert said.returncode == 2
    assert "data.stages.0 (one): its weights name tekst-1, and the sources are" in said.stderr
