"""Text that several hosts tokenise, a part each: every piece once, whatever is killed or given
twice, and in the end what one host would have made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolplan.errors import UserError
from smolplan.spec import RunSpec, SourceSpec, dump_spec
from tests.preflight.support import with_part
from tests.support import make_spec, smolplan, wait_until
from tests.trainer.test_data_tokenise import PIECES, contents, spec_of, write_texts
from trainer.data import digests, sources
from trainer.data.dataset import Dataset
from trainer.data.formats import Kind
from trainer.data.locks import piece_lock
from trainer.data.pieces import cut
from trainer.data.prepare import find, prepare, prepare_share
from trainer.data.share import Share
from trainer.data.sources import list_files
from trainer.data.tokenise import Job, tokenise

PAUSE = """
import os, signal
from trainer.data import tokenise

real = tokenise._write

def pausing(job):
    real(job)
    if job.number == int(os.environ["PAUSED_PIECE"]):
        job.record.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)

tokenise._write = pausing
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of six pieces, and of two."""
    folder = tmp_path_factory.mktemp("texts")
    return [
        write_texts(folder / f"text-{number}", seed=number, count=count)
        for number, count in enumerate((PIECES, 2))
    ]


@pytest.fixture(scope="module")
def undisturbed(texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Of one host."""
    return prepare(spec_of(tmp_path_factory.mktemp("undisturbed"), *texts))


def start(spec: RunSpec, part: str, folder: Path, **environment: str) -> "subprocess.Popen[str]":
    """As a host of its own would."""
    path = folder / "run.yaml"
    path.write_text(dump_spec(spec))
    return subprocess.Popen(
        [sys.executable, "-m", "smolplan", "data", "prepare", str(path), "--part", part],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_as_one_host_made_it(spec: RunSpec, undisturbed: Dataset) -> bool:
    made = find(spec)
    assert made is not None and spec.data.cache_dir is not None
    for source in made.sources:  # nothing but what one host leaves either
        own, its = (Path(d.folder) / source.fingerprint for d in (made, undisturbed))
        assert sorted(p.name for p in own.iterdir()) == sorted(p.name for p in its.iterdir())
        assert (own / "source.json").read_bytes() == (its / "source.json").read_bytes()
    assert not list(spec.data.cache_dir.glob(".*.partial"))
    return contents(made) == contents(undisturbed) and made.sources == undisturbed.sources


def test_parts_at_once_make_what_one_host_would_have(
    texts: list[Path], undisturbed: Dataset, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path / "cache", *texts)
    parts = [start(spec, part, tmp_path) for part in ("1/2", "2/2", "2/2")]
    said = [part.communicate(timeout=240)[0] for part in parts]
    assert [part.returncode for part in parts] == [0] * 3, said
    if find(spec) is None:  # the part given twice: each left to the other what that one was at
        assert smolplan("data", "prepare", str(tmp_path / "run.yaml")).returncode == 0
    assert is_as_one_host_made_it(spec, undisturbed)


def test_parts_one_after_the_other_say_what_is_left(
    texts: list[Path], undisturbed: Dataset, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path / "cache", *texts)
    (tmp_path / "run.yaml").write_text(dump_spec(spec))
    command = ("data", "prepare", str(tmp_path / "run.yaml"), "--part")
    for _ in range(2):
        said = smolplan(*command, "2/2")
        assert said.returncode == 0, said.stderr
        lines = said.stdout.splitlines()
        assert lines[0].startswith("text-0: 3 of 6 pieces are done, 3 (")
        assert lines[1].startswith("text-1: 1 of 2 pieces are done, 1 (")
        assert lines[2] == "Part 2/2 is done."
        assert find(spec) is None, "what is half made is not found"
    said = smolplan(*command, "1/2")
    assert f"tokens of {undisturbed.documents} documents in 2 sources" in said.stdout
    assert is_as_one_host_made_it(spec, undisturbed)
    assert smolplan(*command, "2/2").stdout == said.stdout


def test_one_host_alone_makes_what_parts_left(
    texts: list[Path], undisturbed: Dataset, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path / "cache", *texts)
    left = prepare_share(spec, Share(1, 4))
    assert isinstance(left, list)
    assert [one.pieces for one in left] == [6, 2] and sum(one.left for one in left) == 6
    prepare(spec)
    assert is_as_one_host_made_it(spec, undisturbed)


def test_a_part_that_is_killed_holds_up_nobody_and_leaves_nothing(
    texts: list[Path], undisturbed: Dataset, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path / "cache", *texts)
    (tmp_path / "sitecustomize.py").write_text(PAUSE)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    part = start(spec, "1/1", tmp_path, PYTHONPATH=path, PAUSED_PIECE="1")

    def paused() -> list[psutil.Process]:
        own = psutil.Process(part.pid)
        every = [own, *own.children(recursive=True)]
        return [process for process in every if process.status() == psutil.STATUS_STOPPED]

    wait_until(lambda: len(paused()) == 1, timeout_s=240)
    # The same part a second time, while the first is at a piece.
    left = prepare_share(spec, Share(1, 1))
    assert isinstance(left, list)
    assert [(one.left, one.elsewhere) for one in left] == [(1, 1), (0, 0)]
    workers = paused()
    part.send_signal(signal.SIGKILL)
    part.wait()
    wait_until(lambda: not any(worker.is_running() for worker in workers))
    (staging,) = (tmp_path / "cache").glob(".*.partial")
    (staging / ".train-00001.bin.0123abcd").write_text("half")
    assert isinstance(prepare_share(spec, Share(1, 1)), Dataset)
    assert is_as_one_host_made_it(spec, undisturbed)


def test_what_another_process_writes_is_not_swept_away(texts: list[Path], tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "cache", *texts)
    prepare_share(spec, Share(1, 6))
    staging = next(p for p in (tmp_path / "cache").glob(".*.partial") if len(list(p.iterdir())) > 2)
    half = staging / ".train-00003.bin.0123abcd"
    half.write_text("half")
    held = """
import sys
from pathlib import Path
from trainer.data.locks import piece_lock
with piece_lock(Path(sys.argv[1]), 3, wait=False) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""
    lock = staging.with_name(f"{staging.name}.lock")
    with subprocess.Popen(
        [sys.executable, "-c", held, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"True\n"
        prepare_share(spec, Share(2, 6))
        assert half.read_text() == "half"
        with piece_lock(lock, 3, wait=False) as is_mine:
            assert not is_mine
    prepare_share(spec, Share(2, 6))
    assert not half.exists()


def test_killed_just_before_the_end_it_is_put_together_by_the_next(
    texts: list[Path], undisturbed: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path / "cache", *texts)
    real = Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        if self.name == "piece-00001.json":
            raise KeyboardInterrupt
        real(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_share(spec, Share(1, 1))
    assert isinstance(prepare_share(spec, Share(1, 1)), Dataset)
    assert is_as_one_host_made_it(spec, undisturbed)


def test_parts_at_once_train_one_tokeniser(texts: list[Path], tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "cache", *texts)
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nfrom trainer.data import tokenizer\nreal = tokenizer._sample\n"
        "def sample(pieces):\n"
        "    os.close(os.open(os.environ['TRAINED'], os.O_CREAT | os.O_EXCL))\n"
        "    return real(pieces)\n"
        "tokenizer._sample = sample\n"
    )
    environment = {
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        "TRAINED": str(tmp_path / "trained"),
    }
    parts = [start(spec, part, tmp_path, **environment) for part in ("1/2", "2/2")]
    said = [part.communicate(timeout=240)[0] for part in parts]
    assert [part.returncode for part in parts] == [0, 0], said
    assert (tmp_path / "trained").exists() and find(spec) is not None


SIZES = st.lists(st.lists(st.integers(1, 10**10), max_size=60), max_size=5)


@given(SIZES, st.integers(1, 20))
def test_each_piece_is_of_one_part_and_parts_have_about_the_same(
    sizes: list[list[int]], count: int
) -> None:
    shares = [list(Share(number, count).of(sizes)) for number in range(1, count + 1)]
    loads = [0] * count
    for source, of_source in enumerate(sizes):
        taken = [piece for share in shares for piece in share[source]]
        assert sorted(taken) == list(range(len(of_source)))
        for number, share in enumerate(shares):
            loads[number] += sum(of_source[piece] for piece in share[source])
    largest = max((size for of_source in sizes for size in of_source), default=0)
    assert max(loads) - min(loads) <= largest


@pytest.mark.parametrize("part", ["0/4", "5/4", "x", "1/0", "-1/4", "1/4/2", "1", "", "1/1000000"])
def test_a_part_that_there_is_not_is_refused(part: str) -> None:
    with pytest.raises(UserError, match="the first of four hosts has 1/4") as refused:
        Share.parse(part)
    assert str(refused.value).startswith("--part: ")


def test_a_part_that_there_is_not_is_told_with_exit_code_2(tmp_path: Path) -> None:
    said = smolplan("data", "prepare", "tiny-cpu", "--part", "5/4")
    assert said.returncode == 2
    assert "--part: there is no part 5 of 4. Write K/N" in said.stderr


def test_hosts_that_list_the_same_text_share_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for number in range(8):
        (text / f"{number}.txt").write_text(f"text {number}")
    monkeypatch.setattr(sources, "THREADS", 1)
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    read = list[str]()
    real = digests.read_digest

    def spying(path: Path, kind: Kind, size: int) -> str | None:
        read.append(path.name)
        return real(path, kind, size)

    monkeypatch.setattr(digests, "read_digest", spying)
    source = SourceSpec(path=str(text), glob="*.txt")
    spec = with_part(make_spec(tmp_path / "cache"), "data", sources=(source,))
    listing = list_files(spec, 0, Share(2, 4))
    assert [Path(file.path).name for file in listing.files] == [f"{n}.txt" for n in range(8)]
    assert read == [f"{n}.txt" for n in (2, 3, 4, 5, 6, 7, 0, 1)], "each begins elsewhere"

    monkeypatch.setattr(digests, "SAVE_EVERY_S", -1)
    one, other = (digests.Digests(tmp_path / "kept.json") for _ in range(2))
    paths = [text / f"{number}.txt" for number in range(2)]
    read.clear()
    for host, path in ((one, paths[0]), (other, paths[1])):
        host.of(path, "text", path.stat())
        host.save_now_and_then()
    one.save_now_and_then()
    for host, path in ((one, paths[1]), (other, paths[0])):
        assert host.of(path, "text", path.stat()) is not None
    assert read == ["0.txt", "1.txt"], "one of them has read it"


@pytest.mark.parametrize("is_moved", [False, True])
def test_who_waited_for_a_piece_that_is_put_together_by_now_leaves_it(
    is_moved: bool, texts: list[Path], tmp_path: Path
) -> None:
    (piece, *_) = cut(list_files(spec_of(tmp_path, texts[0]), 0).files, "text")
    folder = tmp_path / ".f.partial"
    if not is_moved:
        folder.mkdir()
        (folder / "source.json").write_text("{}")
    job = Job(0, piece, str(folder), str(folder / "tokenizer.json"), 0, 2, 0.1)
    assert tokenise(job, wait=True)
    assert folder.exists() != is_moved
    assert not list(folder.glob("train*"))
