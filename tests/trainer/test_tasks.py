"""Tasks of lm-eval on checkpoints: its questions get the model's own answers, and are told of."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from launcher.create import create_run
from launcher.store import Store
from smolplan.errors import UserError
from smolplan.rundir import RunDir, read_json
from smolplan.spec import ModelSpec, RunSpec
from smolplan.spec.eval import CONTINUATION, EvalSpec
from tests.support import make_spec, smolplan
from tests.trainer.test_resume import train
from trainer.data.dataset import Dataset, open_dataset
from trainer.model.transformer import CausalLM, initialise

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'smolplan[eval]'")
pytestmark = pytest.mark.slow

LENGTH, SEPARATOR = 24, 0

LOCAL = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: {kind}
doc_to_text: question
doc_to_target: gold
{more}
metadata: {{version: 3}}
"""
CHOICE = "doc_to_choice: choices"
WRITTEN = """
generation_kwargs: {until: ["."], max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(["the cat sat on the mat. the dog ate the cat. " * 9], trainer)
    return made


def make_model(*, masked: bool) -> CausalLM:
    shape: dict[str, Any] = {"layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2}
    shape |= {"ffn_hidden": 64, "vocab_size": 300, "intra_document_mask": masked}
    model = CausalLM(ModelSpec.model_validate(shape), LENGTH)
    initialise(model, 0.2, seed=3)
    return model.eval()


def asked(model: CausalLM, tokenizer: Tokenizer) -> Any:
    from trainer.task_model import TaskModel

    return TaskModel(model, tokenizer, SEPARATOR, LENGTH, lambda line: None)


def request(kind: str, *arguments: object) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, arguments, 0, ("drawn", 0, 1))


def peer_of(model: CausalLM) -> Any:
    """transformers' model with the same weights; it sees across documents."""
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    config = SmolLM3Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        no_rope_layer_interval=4,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
        pad_token_id=SEPARATOR,
        bos_token_id=None,
        eos_token_id=SEPARATOR,
    )
    peer = SmolLM3ForCausalLM(config)
    peer.load_state_dict(model.state_dict(), strict=False)
    return peer.eval()


@torch.no_grad()
def test_log_likelihoods_are_those_of_transformers(tokenizer: Tokenizer) -> None:
    model = make_model(masked=False)
    peer, ours = peer_of(model), asked(model, tokenizer)
    pairs = [
        ("the cat", " sat on the mat"),
        ("", "the dog"),  # after a separator
        ("the mat. " * 20 + "the dog", " ate"),  # its beginning is cut off
        ("the ", "cat"),  # the space is the continuation's
    ]
    found = ours.loglikelihood([request("loglikelihood", *pair) for pair in pairs])
    for (context, continuation), (total, greedy) in zip(pairs, found, strict=True):
        before = tokenizer.encode(context.rstrip()).ids or [SEPARATOR]
        whole = tokenizer.encode(context + continuation).ids
        whole = whole if context else [SEPARATOR, *whole]
        wanted = whole[len(before) :]
        given = whole[:-1][-LENGTH:]
        logs = peer(torch.tensor([given])).logits[0, -len(wanted) :].log_softmax(-1)
        expected = sum(logs[i, token].item() for i, token in enumerate(wanted))
        assert total == pytest.approx(expected, abs=1e-4)
        assert greedy == (logs.argmax(-1).tolist() == wanted)


@torch.no_grad()
def test_longer_rows_as_a_gpu_has_them_give_the_same_answers(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(masked=True)
    hidden, given = model.hidden, []

    def tell(tokens: Tensor, separator: int) -> Tensor:
        given.append(tokens.shape[1])
        return hidden(tokens, separator)

    monkeypatch.setattr(model, "hidden", tell)
    pairs = [("the cat", " sat"), ("the dog ate the cat. the cat sat on", " the mat")]
    requests = [request("loglikelihood", *pair) for pair in pairs]
    expected = asked(model, tokenizer).loglikelihood(requests)
    assert not set(given) <= {16, LENGTH}
    ours = asked(model, tokenizer)
    ours._lengths = 16
    given.clear()
    for (found, same), (total, greedy) in zip(ours.loglikelihood(requests), expected, strict=True):
        assert found == pytest.approx(total, abs=1e-4) and same == greedy
    assert set(given) <= {16, LENGTH}


@torch.no_grad()
def test_a_long_text_is_scored_whole_each_token_once(tokenizer: Tokenizer) -> None:
    model = make_model(masked=True)
    text = "the cat sat on the mat. " * 8
    ids = tokenizer.encode(text).ids
    assert len(ids) > 2 * LENGTH
    ours = asked(model, tokenizer)
    (total,) = ours.loglikelihood_rolling([request("loglikelihood_rolling", text)])
    whole, expected = [SEPARATOR, *ids], 0.0
    for first in range(1, len(whole), LENGTH):
        last = min(first + LENGTH, len(whole))
        given = whole[max(0, last - 1 - LENGTH) : last - 1]
        logs = model(torch.tensor([given]), SEPARATOR)[0].log_softmax(-1)
        for place in range(first, last):
            expected += logs[place - last, whole[place]].item()
    assert total == pytest.approx(expected, abs=1e-3)
    # As a continuation it is the same text, however long.
    ((again, _),) = ours.loglikelihood([request("loglikelihood", "", text)])
    assert again == total


def test_a_continuation_that_merges_with_its_context_is_still_judged(tokenizer: Tokenizer) -> None:
    assert (
        tokenizer.encode("the").ids == tokenizer.encode("th").ids[:0] + tokenizer.encode("the").ids
    )
    ours = asked(make_model(masked=True), tokenizer)
    ((total, _),) = ours.loglikelihood([request("loglikelihood", "th", "e")])
    assert total < 0


@torch.no_grad()
def test_greedy_text_is_that_of_transformers_and_ends_before_a_stop(tokenizer: Tokenizer) -> None:
    model = make_model(masked=False)
    peer, ours = peer_of(model), asked(model, tokenizer)
    prompts = ["the cat sat", "the dog"]
    until: dict[str, Any] = {"until": [], "max_gen_toks": 8}
    texts = ours.generate_until([request("generate_until", p, until) for p in prompts])
    for prompt, text in zip(prompts, texts, strict=True):
        given = torch.tensor([tokenizer.encode(prompt).ids])
        written = peer.generate(given, max_new_tokens=8, do_sample=False)[0, given.shape[1] :]
        assert text == tokenizer.decode(written.tolist())
    stop = texts[0][2:4]
    (short,) = ours.generate_until([request("generate_until", prompts[0], until | {"until": stop})])
    assert short == texts[0][: texts[0].find(stop)]


def test_a_task_that_draws_at_random_is_refused_by_name(tokenizer: Tokenizer) -> None:
    drawn = request("generate_until", "the", {"do_sample": True, "temperature": 0.8})
    with pytest.raises(UserError, match="drawn draws its answers at random"):
        asked(make_model(masked=True), tokenizer).generate_until([drawn])


def write_tasks(folder: Path) -> None:
    """Two that run, and one whose data are not there."""
    folder.mkdir()
    documents = [
        {"question": f"import {name}", "choices": choices, "gold": 0}
        for name, choices in (("os", [".", "?"]), ("re", ["\n", "a", "b", "c"]))
    ]
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    for name, kind, more, read in (
        ("choice", "multiple_choice", CHOICE, data),
        ("written", "generate_until", WRITTEN, data),
        ("lacking", "multiple_choice", CHOICE, folder / "no.jsonl"),
    ):
        text = LOCAL.format(name=f"local_{name}", data=read, kind=kind, more=more)
        (folder / f"{name}.yaml").write_text(text)


def with_tasks(spec: RunSpec, folder: Path, *tasks: str) -> RunSpec:
    asked_for = {"tasks": tasks, "task_path": str(folder), "limit": 40}
    return spec.model_copy(update={"eval": EvalSpec.model_validate(asked_for)})


@pytest.fixture
def trained(tmp_path: Path, data_cache: Path, store: Store) -> Iterator[RunDir]:
    write_tasks(tmp_path / "tasks")
    names = (CONTINUATION, "local_choice", "local_written")
    spec = with_tasks(make_spec(data_cache, steps=8, ranks=1), tmp_path / "tasks", *names)
    run, _ = create_run(spec, store, tmp_path, monitored=False)
    assert train(RunDir(run.path), 1, 1) == 0
    yield RunDir(run.path)


def test_checkpoints_are_scored_by_tasks_of_local_data(trained: RunDir) -> None:
    done = smolplan("eval", "latest", "--step", "4", "--step", "8")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "local_choice" in done.stdout
    for step in (4, 8):
        result = read_json(trained.evals / f"step-{step}.json")
        assert result is not None and result["limit"] == 40
        assert result["bits_per_byte"] < 2 * result["chance_bits_per_byte"]
        own, choice, written = result["tasks"].values()
        assert (own["documents"], own["metrics"]["acc"]["chance"]) == (40, 0.25)
        # Of two and of four choices.
        assert choice["metrics"]["acc"]["chance"] == (1 / 2 + 1 / 4) / 2
        assert (choice["version"], choice["documents"], choice["few_shot"]) == (3, 2, 0)
        assert written["metrics"]["exact_match"] == {
            "score": 0.0,
            "standard_error": 0.0,
            "chance": None,
        }
    refused = smolplan("eval", "latest", "--step", "5")
    assert refused.returncode == 2
    assert "There are steps" in refused.stderr and "Traceback" not in refused.stderr


def suite(dataset: Dataset, spec: RunSpec) -> Any:
    from trainer.tasks import Suite

    return Suite(spec.eval, dataset, spec.data.seq_len, lambda line: None)


def test_what_cannot_be_loaded_is_named_with_what_to_do(
    tmp_path: Path, data_cache: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks import TaskManager

    spec, folder = make_spec(data_cache, ranks=1), tmp_path / "tasks"
    write_tasks(folder)
    run, _ = create_run(spec, store, tmp_path, monitored=False)
    dataset = open_dataset(RunDir(run.path))
    with pytest.raises(UserError, match=r"local_lacking cannot be loaded.*HF_HOME"):
        suite(dataset, with_tasks(spec, folder, "local_choice", "local_lacking"))
    with pytest.raises(UserError, match=r"eval\.task_path: there is no folder"):
        suite(dataset, with_tasks(spec, tmp_path / "no", "local_choice"))
    # lm-eval's own ten thousand take it long to read.
    own = TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr("trainer.tasks.TaskManager", lambda **_: own)
    with pytest.raises(UserError, match=r"no task 'local_chioce'.*Did you mean local_choice"):
        suite(dataset, with_tasks(spec, folder, "local_chioce"))


def test_without_lm_eval_it_is_told_how_to_install_it_and_only_where_there_are_tasks() -> None:
    code = """
import sys
sys.modules["lm_eval"] = None
from trainer.evaluate import _suite
assert "trainer.tasks" not in sys.modules
try:
    _suite(None, None, lambda line: None)
except Exception as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert "Install it: pip install 'smolplan[eval]'" in done.stderr
