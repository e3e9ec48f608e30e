"""Tokens of another tokeniser, or out of order, and a loader that grows with the run, are found."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from planner.plan import make_plan
from preflight.checks.data.loader import judge_loader, judge_order
from preflight.checks.data.tokeniser import judge_tokenizer, judge_values
from preflight.checks.storage.needs import StorageNeeds, storage_needs
from preflight.context import Context
from preflight.probes import tokens as probe
from preflight.probes.loader import measure
from preflight.probes.tokens import correlation
from preflight.runner import run
from smolplan.spec import RunSpec, load_preset
from tests.preflight.support import with_part
from tests.support import make_spec
from trainer.data.dataset import SEPARATOR, Dataset, DatasetFile
from trainer.data.order import sequence_at
from trainer.data.prepare import prepare


def make_tokenizer(path: Path, text: str, first: list[str], size: int = 380) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=first,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, RunSpec]:
    """The same text by two tokenisers."""
    folder = tmp_path_factory.mktemp("two")
    code = Path(json.__file__).read_text()
    ours = make_tokenizer(folder / "ours.json", code, [SEPARATOR])
    theirs = make_tokenizer(folder / "theirs.json", "ab" * 500 + code[::-1], ["<pad>", SEPARATOR])
    spec = make_spec(folder / "cache")
    made = [with_part(spec, "data", tokenizer=path) for path in (ours, theirs)]
    for one in made:
        prepare(one)
    return made[0], made[1]


def planted(spec: RunSpec, folder: Path, other: RunSpec | None = None) -> Dataset:
    """The spec's tokens in a folder of the test's own; the training ones another spec's."""
    dataset = prepare(spec)
    shutil.copytree(dataset.folder, folder)
    if other is not None:
        theirs = prepare(other)
        (mine,), (others,) = dataset.sources[0].train, theirs.sources[0].train
        shutil.copy(Path(theirs.folder) / others, folder / mine)
        size = DatasetFile((folder / mine).stat().st_size, "")
        dataset = replace(dataset, files={**dataset.files, mine: size})
    return replace(dataset, folder=str(folder))


def rewrite(dataset: Dataset, change: Callable[[NDArray[Any]], None]) -> None:
    path = Path(dataset.folder) / dataset.sources[0].train[0]
    tokens = np.fromfile(path, dtype="<u2")
    change(tokens)
    tokens.tofile(path)


def test_tokens_of_the_specs_own_tokeniser_pass(
    two: tuple[RunSpec, RunSpec], tmp_path: Path
) -> None:
    names = ["data.tokenizer", "data.values", "data.loader", "data.order"]
    found = {r.name: r for r in run(two[0], tmp_path, only=names).results}
    assert {name: (r.state, r.why) for name, r in found.items()} == dict.fromkeys(
        names, ("pass", "")
    )
    assert found["data.tokenizer"].measured["round_trip_ratio"] > 0.99
    assert all(len(r.summary) <= 51 for r in found.values())


def test_a_dataset_of_another_tokeniser_is_named(
    two: tuple[RunSpec, RunSpec], tmp_path: Path
) -> None:
    ours, theirs = two
    dataset = planted(theirs, tmp_path / "made")
    finding = judge_tokenizer(probe.tokenizer(ours, dataset), dataset.to_json(), ours)
    assert finding.state == "fail"
    assert f"data.tokenizer {ours.data.tokenizer} and {tmp_path}/made/" in finding.why
    assert "entries" in finding.why
    assert "documents end with token 1, the tokeniser's end of text is 0" in finding.why


def test_tokens_alone_of_another_tokeniser_are_found_by_the_text(
    two: tuple[RunSpec, RunSpec], tmp_path: Path
) -> None:
    ours, theirs = two
    dataset = planted(ours, tmp_path / "made", theirs)
    finding = judge_tokenizer(probe.tokenizer(ours, dataset), dataset.to_json(), ours)
    assert finding.state == "fail"
    assert "differs from what the tokeniser makes of it at token 0" in finding.why


def test_a_tokeniser_without_decoder_is_judged_by_the_text_alone(
    two: tuple[RunSpec, RunSpec], tmp_path: Path
) -> None:
    content = json.loads(Path(str(two[0].data.tokenizer)).read_text())
    (tmp_path / "bare.json").write_text(json.dumps({**content, "decoder": None}))
    spec = with_part(two[0], "data", tokenizer=tmp_path / "bare.json")
    dataset = prepare(spec)
    finding = judge_tokenizer(probe.tokenizer(spec, dataset), dataset.to_json(), spec)
    assert (finding.state, finding.why) == ("pass", "")
    assert "tokens are the text's" in finding.summary


def test_a_token_beyond_the_vocabulary_is_named(
    two: tuple[RunSpec, RunSpec], tmp_path: Path
) -> None:
    spec = two[0]
    dataset = planted(spec, tmp_path / "made")
    rewrite(dataset, lambda tokens: tokens.__setitem__(77, 400))
    finding = judge_values(probe.values(spec, dataset), dataset.to_json(), spec)
    assert finding.state == "fail"
    assert "token 400 is there, model.vocab_size is 400" in finding.why


def test_empty_and_repeated_sequences_are_found(
    two: tuple[RunSpec, RunSpec], tmp_path: Path
) -> None:
    spec = two[0]
    dataset = planted(spec, tmp_path / "made")

    def half_empty(tokens: NDArray[Any]) -> None:
        tokens[len(tokens) // 2 :] = 5

    rewrite(dataset, half_empty)
    finding = judge_values(probe.values(spec, dataset), dataset.to_json(), spec)
    assert finding.state == "fail"
    assert "of the sequences are one token all along" in finding.why
    assert "ends of document, but" in finding.why

    def repeated(tokens: NDArray[Any]) -> None:
        tokens[:] = np.resize(np.arange(1, 321), len(tokens))

    rewrite(dataset, repeated)
    found = {**probe.values(spec, dataset), "separators": dataset.documents}
    finding = judge_values(found, dataset.to_json(), spec)
    assert finding.state == "warn"
    assert finding.remedy == "Deduplicate the text."


def smollm3(steps: int) -> tuple[RunSpec, StorageNeeds]:
    spec = with_part(load_preset("smollm3-3b"), "optim", steps=steps, decay_steps=1000)
    return spec, storage_needs(Context(spec, make_plan(spec), Path("/")))


def own_order(spec: RunSpec) -> Callable[[], Callable[[range], NDArray[Any]]]:
    """The trainer's, over 10 million sequences that are not there."""

    def open_loader() -> Callable[[range], NDArray[Any]]:
        return lambda positions: np.array([sequence_at(p, 10**7, spec.seed) for p in positions])

    return open_loader


def test_the_order_of_4_720_000_steps_takes_no_memory_and_is_as_quick_at_its_end() -> None:
    spec, needs = smollm3(4_720_000)
    found = measure(own_order(spec), spec, 0.3)
    finding = judge_loader(found, needs, spec.steps, spec.parallel.data_parallel)
    assert finding.state == "pass", finding.why
    assert finding.source == "plan"
    assert found["memory_bytes"] < 10e6


def test_a_loader_whose_index_grows_with_the_steps_is_found() -> None:
    long, needs = smollm3(150_000)
    spec = long

    def open_loader() -> Callable[[range], NDArray[Any]]:
        index = np.arange(spec.steps * spec.optim.global_batch_size, dtype=np.int32)
        np.negative(index, out=index)  # so that its pages are there
        return lambda positions: index[positions.start : positions.stop].copy()

    short = with_part(long, "optim", steps=20_000)
    memory = {}
    for spec in (short, long):
        found = measure(open_loader, spec, 0.05)
        memory[spec.steps] = found["memory_bytes"]
        finding = judge_loader({**found, "sequences_per_s": [1e9] * 3}, needs, spec.steps, 192)
    assert finding.state == "warn"
    assert "of each rank for 150,000 steps" in finding.why
    assert memory[150_000] > 5 * memory[20_000]


def test_a_loader_that_slows_down_or_is_too_slow_is_found() -> None:
    _, needs = smollm3(4_720_000)
    assert needs.sequences_per_s is not None
    wished = needs.sequences_per_s / 192
    rates = {"sequences_per_s": [100 * wished, 60 * wished, 3 * wished]}
    found = {**rates, "memory_bytes": 0, "open_s": 0.1}
    finding = judge_loader(found, needs, 4_720_000, 192)
    assert (finding.state, finding.why) == (
        "warn",
        "at step 4,720,000 batches come at 3% of the first step's rate",
    )
    found["sequences_per_s"] = [0.5 * wished] * 3
    assert judge_loader(found, needs, 4_720_000, 192).state == "fail"
    fast = replace(needs, sequences_per_s=None)
    assert judge_loader(found, fast, 4_720_000, 192).state == "pass"


def test_shuffled_documents_whose_sequences_are_not_shuffled_are_found() -> None:
    # 1,000 documents of 1 to 400 sequences, in the order of the text.
    sizes = np.random.default_rng(1).integers(1, 400, 1000)
    documents = np.repeat(np.arange(1000), sizes)
    in_order = [list(range(n * 3000, n * 3000 + 64)) for n in range(20)]
    finding = judge_order(correlation(in_order, len(documents), documents))
    assert finding.state == "warn"
    assert "pairs of sequences in 20 batches are neighbours in the text" in finding.why
    assert "come from one document" in finding.why
    count = len(documents)
    shuffled = [[sequence_at(n * 640 + k, count, 1) for k in range(64)] for n in range(20)]
    finding = judge_order(correlation(shuffled, count, documents))
    assert finding.state == "pass", finding.why
    assert judge_order(correlation(in_order, count, None)).state == "warn"


def test_one_document_that_is_half_of_the_text_is_no_fault_of_the_order() -> None:
    documents = np.repeat([0, *range(1, 501)], [500, *[1] * 500])
    shuffled = [[sequence_at(n * 64 + k, 1000, 3) for k in range(64)] for n in range(20)]
    finding = judge_order(correlation(shuffled, 1000, documents))
    assert finding.state == "pass", finding.why
    assert finding.measured["same_document_ratio"] == pytest.approx(0.25, abs=0.05)
