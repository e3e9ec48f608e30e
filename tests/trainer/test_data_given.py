"""Tokens without their text: a folder that was made of it elsewhere is the same source."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from launcher import create
from launcher.create import put_on_record
from launcher.store import Store
from preflight.runner import run as preflight
from smolplan.errors import UserError
from smolplan.rundir import RunDir, read_json, write_text
from smolplan.spec import RunSpec, SourceSpec, dump_spec
from tests.preflight.support import with_part
from tests.preflight.test_data_tokens import make_tokenizer
from tests.support import make_spec, smolplan
from tests.trainer.test_data_tokenise import contents, spec_of, write_texts
from tests.trainer.test_resume import make_run, train
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.prepare import find, prepare

CODE = Path(json.__file__).read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Dataset]:
    """Two sources of text, with a tokeniser that was trained on it."""
    folder = tmp_path_factory.mktemp("made")
    texts = [write_texts(folder / f"text-{n}", seed=n, count=2) for n in range(2)]
    spec = spec_of(folder / "cache", *texts)
    return spec, prepare(spec)


@pytest.fixture
def copies(made: tuple[RunSpec, Dataset], tmp_path: Path) -> list[Path]:
    """As somebody carries them to where the text is not."""
    _, dataset = made
    folders = [dataset.folder_of(source) for source in dataset.sources]
    for number, folder in enumerate(folders):
        subprocess.run(["cp", "-r", folder, tmp_path / f"copy-{number}"], check=True)
    return [tmp_path / f"copy-{number}" for number in range(2)]


def spec_of_tokens(spec: RunSpec, cache: Path, *folders: Path | None) -> RunSpec:
    """With these instead of its sources, where one is given."""
    sources = [
        source if folder is None else SourceSpec(tokens=folder, name=source.label)
        for source, folder in zip(spec.data.sources, folders, strict=True)
    ]
    return with_part(spec, "data", sources=tuple(sources), cache_dir=cache)


def test_copied_tokens_are_the_same_dataset_in_the_same_order(
    made: tuple[RunSpec, Dataset], copies: list[Path], tmp_path: Path
) -> None:
    spec, dataset = made
    given = spec_of_tokens(spec, tmp_path / "none", *copies)
    found = find(given)
    assert found is not None and found == prepare(given)
    assert found.fingerprint == dataset.fingerprint
    assert [found.folder_of(source) for source in found.sources] == copies
    assert found.damage() == "" and found.tokenizer_path == copies[0] / "tokenizer.json"
    one, other = Loader.of(spec, dataset), Loader.of(given, found)
    positions = range(sum(one.sequences) + 10)
    assert np.array_equal(one.batch(positions), other.batch(positions))
    held_out = dataset.held_out
    assert np.array_equal(held_out.read(0, len(held_out)), found.held_out.read(0, len(held_out)))
    for name in ("separator", "separator_token", "token_bytes", "vocab_size", "held_out_bytes"):
        assert getattr(found, name) == getattr(dataset, name)
    assert not list((tmp_path / "none").glob("*")), "nothing is made"
    again = Dataset.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found


def test_text_beside_tokens_is_tokenised_by_their_tokeniser(
    made: tuple[RunSpec, Dataset], copies: list[Path], tmp_path: Path
) -> None:
    spec, dataset = made
    mixed = spec_of_tokens(spec, tmp_path / "cache", None, copies[1])
    assert find(mixed) is None
    found = prepare(mixed)
    assert found == find(mixed) and found.fingerprint == dataset.fingerprint
    assert sorted(contents(found).values()) == sorted(contents(dataset).values())


def test_a_relative_folder_is_of_the_current_one(
    made: tuple[RunSpec, Dataset],
    copies: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = spec_of_tokens(made[0], tmp_path / "none", *(Path(c.name) for c in copies))
    assert prepare(given) == prepare(spec_of_tokens(made[0], tmp_path / "none", *copies))


def short(folder: Path) -> None:
    with (folder / "train-00001.bin").open("r+b") as file:
        file.truncate(10)


def changed(folder: Path) -> None:
    content = bytearray((folder / "train-00001.bin").read_bytes())
    content[20] ^= 1
    (folder / "train-00001.bin").write_bytes(content)


def renamed(folder: Path) -> None:
    record = read_json(folder / "source.json")
    assert record is not None
    del record["files"]["train-00001.bin"]
    (folder / "source.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (shutil.rmtree, r"there is no folder .*copy-1\."),
        (lambda f: (f / "source.json").unlink(), r"its source\.json is not there"),
        (lambda f: (f / "source.json").write_text("{}"), r"its source\.json cannot be read"),
        (renamed, r"its source\.json has no checksum of .*train-00001\.bin"),
        (lambda f: (f / "train-00001.bin").unlink(), r"train-00001\.bin: No such file"),
        (lambda f: (f / "train-00000.bin").unlink(), r"cannot read .*train-00000\.bin and"),
        (lambda f: (f / "documents-00000.bin").write_bytes(b""), r"cannot read .*documents-00000"),
        (lambda f: (f / "tokenizer.json").write_text("{"), r"cannot read its tokenizer\.json"),
        (short, r"train-00001\.bin has 10 bytes, not "),
        (changed, r"train-00001\.bin has changed: its checksum differs"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    harm: Callable[[Path], None],
    why: str,
    made: tuple[RunSpec, Dataset],
    copies: list[Path],
    tmp_path: Path,
) -> None:
    harm(copies[1])
    with pytest.raises(UserError, match=why) as refused:
        prepare(spec_of_tokens(made[0], tmp_path / "none", *copies))
    assert str(refused.value).startswith("data.sources.1.tokens: ")
    assert str(refused.value).endswith("told of the source, or a whole copy of it.")


def test_tokens_of_another_tokeniser_or_separator_are_refused(
    made: tuple[RunSpec, Dataset], copies: list[Path], tmp_path: Path
) -> None:
    given = spec_of_tokens(made[0], tmp_path / "none", *copies)
    own = with_part(given, "data", tokenizer=copies[1] / "tokenizer.json")
    assert prepare(own).fingerprint == made[1].fingerprint, "the same one may be named"

    another = make_tokenizer(tmp_path / "tokenizer.json", CODE, ["<|endoftext|>"])
    with pytest.raises(UserError, match=r"of .*copy-0 is not the run's: it differs in \d+ entries"):
        prepare(with_part(given, "data", tokenizer=another))
    rules = Tokenizer.from_file(str(copies[1] / "tokenizer.json"))
    rules.pre_tokenizer = None
    rules.save(str(tmp_path / "rules.json"))
    with pytest.raises(UserError, match=r"is not the run's: it cuts text otherwise"):
        prepare(with_part(given, "data", tokenizer=tmp_path / "rules.json"))
    # Of two folders one is of another tokeniser.
    others = spec_of(tmp_path / "others", Path(made[0].data.sources[0].text_path))
    dataset = prepare(with_part(others, "data", tokenizer=another))
    two = spec_of_tokens(
        made[0], tmp_path / "none", copies[0], dataset.folder_of(dataset.sources[0])
    )
    with pytest.raises(UserError, match=r"data\.sources\.1\.tokens: the tokeniser of"):
        prepare(two)
    with pytest.raises(UserError, match=r"end with <\|endoftext\|>, and the run's with e"):
        prepare(with_part(given, "data", separator="e"))


def test_the_separator_of_the_tokens_is_the_runs(
    made: tuple[RunSpec, Dataset], tmp_path: Path
) -> None:
    text = Path(made[0].data.sources[0].text_path)
    tokenizer = make_tokenizer(tmp_path / "tokenizer.json", CODE, ["<|end|>"])
    spec = with_part(
        spec_of(tmp_path / "cache", text), "data", tokenizer=tokenizer, separator="<|end|>"
    )
    dataset = prepare(spec)
    given = spec_of_tokens(spec, tmp_path / "none", dataset.folder_of(dataset.sources[0]))
    bare = with_part(given, "data", tokenizer=None, separator=None)
    found = prepare(bare)
    assert found.separator_token == "<|end|>" and found.fingerprint == dataset.fingerprint


def test_tokens_of_other_widths_are_refused(
    made: tuple[RunSpec, Dataset], copies: list[Path], tmp_path: Path
) -> None:
    spec, dataset = made
    wide = with_part(
        with_part(spec, "model", vocab_size=70_000), "data", tokenizer=dataset.tokenizer_path
    )
    alone = spec_of_tokens(wide, tmp_path / "none", *copies)
    assert prepare(alone).token_bytes == 2, "padding the model's vocabulary changes no tokens"
    with pytest.raises(UserError, match="tokens of text-1 have 2 bytes, those of text-0 4"):
        prepare(spec_of_tokens(wide, tmp_path / "wide", None, copies[1]))


def test_the_commands_tell_and_take_folders_of_tokens(
    made: tuple[RunSpec, Dataset], copies: list[Path], tmp_path: Path
) -> None:
    spec, dataset = made
    path = tmp_path / "run.yaml"
    path.write_text(dump_spec(spec))
    said = smolplan("data", "prepare", str(path))
    assert [
        f"  {source.name}: {dataset.folder}/{source.fingerprint}" for source in dataset.sources
    ] == said.stdout.splitlines()[-2:]
    of_text = json.loads(smolplan("data", "inspect", str(path), "--json", "--show", "3").stdout)

    path.write_text(dump_spec(spec_of_tokens(spec, tmp_path / "none", *copies)))
    assert f"tokens: {copies[0]}" in path.read_text() and "glob:" not in path.read_text()
    said = smolplan("data", "prepare", str(path), "--part", "1/2")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-2:] == [f"  text-{n}: {copies[n]}" for n in range(2)]
    said = smolplan("data", "inspect", str(path), "--json", "--show", "3")
    assert {**json.loads(said.stdout), "folder": ""} == {**of_text, "folder": ""}
    (copies[1] / "train-00000.bin").unlink()
    said = smolplan("data", "prepare", str(path))
    assert said.returncode == 2 and "data.sources.1.tokens: the tokens of" in said.stderr


def test_a_launch_makes_a_run_of_tokens(
    made: tuple[RunSpec, Dataset], copies: list[Path], tmp_path: Path, store: Store
) -> None:
    given = spec_of_tokens(made[0], tmp_path / "none", *copies)
    run, _ = create.create_run(given, store, tmp_path / "runs", monitored=False)
    content = read_json(RunDir(run.path).dataset)
    assert content is not None and Dataset.from_json(content) == find(given)


def test_preflight_looks_at_given_tokens(
    made: tuple[RunSpec, Dataset], copies: list[Path], tmp_path: Path
) -> None:
    given = spec_of_tokens(made[0], tmp_path / "none", *copies)

    def results(*names: str) -> dict[str, tuple[str, str]]:
        found = preflight(given, tmp_path, only=names or ("data", "storage.mounts")).results
        return {r.name: (r.state, r.why) for r in found}

    found = results()
    assert {state for state, _ in found.values()} <= {"pass", "skipped"}, found
    passed = {name for name, (state, _) in found.items() if state == "pass"}
    wanted = ("sources", "files", "checksums", "tokens", "tokenizer", "values", "order")
    assert {f"data.{name}" for name in wanted} <= passed
    changed(copies[1])
    state, why = results("data.checksums")["data.checksums"]
    assert state == "fail" and f"{copies[1]}/train-00001.bin: its checksum differs" in why
    short(copies[1])
    state, why = results("data.sources")["data.sources"]
    assert state == "fail" and f"{copies[1]}: train-00001.bin has 10 bytes, not" in why
    shutil.rmtree(copies[1])
    state, why = results("data.sources")["data.sources"]
    assert state == "fail" and f"{copies[1]}: source.json: it is missing" in why


@pytest.mark.slow
def test_a_run_of_text_goes_on_with_a_copy_of_its_tokens(tmp_path: Path, store: Store) -> None:
    text = write_texts(tmp_path / "text", seed=5)
    spec = with_part(make_spec(tmp_path / "cache", ranks=1), "data", sources=())
    spec = with_part(spec, "data", sources=spec_of(tmp_path, text).data.sources)
    run = make_run(tmp_path / "run", spec)
    assert train(run, 1, 1) == 0
    whole = {line["step"]: line for line in run.read_metrics()}
    for step in (8, 12):
        shutil.rmtree(run.checkpoint(step))
    put_on_record(spec, store, run.path, monitored=False)
    dataset = Dataset.from_json(json.loads(run.dataset.read_text()))
    own, copy = dataset.folder_of(dataset.sources[0]), tmp_path / "tokens"
    subprocess.run(["cp", "-r", own, copy], check=True)
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(text)

    others = prepare(spec_of(tmp_path / "others", write_texts(tmp_path / "other", seed=6)))
    another = others.folder_of(others.sources[0])
    before = run.dataset.read_text()
    write_text(run.spec, dump_spec(spec_of_tokens(spec, tmp_path / "none", another)))
    said = smolplan("data", "prepare", "run")
    assert said.returncode == 2 and "it has read other tokens" in " ".join(said.stderr.split())
    assert run.dataset.read_text() == before

    write_text(run.spec, dump_spec(spec_of_tokens(spec, tmp_path / "none", copy)))
    said = smolplan("data", "prepare", "run")
    assert said.returncode == 0, said.stderr
    assert f"  text: {copy}" in said.stdout.splitlines()
    assert train(run, 2, 1) == 0
    resumed = {line["step"]: line for line in run.read_metrics() if line["attempt"] == 2}
    assert list(resumed) == list(range(5, 13))
    for step, line in resumed.items():
        for name in ("batch_checksum", "data_position", "loss", "grad_norm"):
            assert line[name] == whole[step][name], "the same bits"
    said = smolplan("export", "run", "--to", str(tmp_path / "exported"))
    assert said.returncode == 0, said.stderr
    exported = (tmp_path / "exported" / "tokenizer.json").read_bytes()
    assert exported == (copy / "tokenizer.json").read_bytes()
