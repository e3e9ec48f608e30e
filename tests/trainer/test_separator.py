"""The token that ends a document is the tokeniser's own, from the text to the exported model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from preflight.checks.data.tokeniser import judge_tokenizer, judge_values
from preflight.probes import tokens as probe
from smolplan.errors import UserError
from smolplan.spec import RunSpec
from tests.preflight.support import with_part
from tests.preflight.test_data_tokens import make_tokenizer
from tests.support import make_spec
from trainer.data.dataset import Dataset
from trainer.data.prepare import find, prepare
from trainer.huggingface.tokenizer import write_tokenizer

BEGIN, END, TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A tokeniser as Llama 3 has it: no <|endoftext|>, and a text begins with a token too."""
    (tmp_path / "model").mkdir()
    code = Path(json.__file__).read_text()
    path = make_tokenizer(tmp_path / "model" / "tokenizer.json", code, [BEGIN, END, TURN])
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=None, special_tokens=[(BEGIN, 0)]
    )
    tokenizer.save(str(path))
    return path


def beside(tokenizer: Path, name: str, **content: Any) -> None:
    tokenizer.with_name(name).write_text(json.dumps(content))


def spec_of(tokenizer: Path | None, cache: Path, **data: Any) -> RunSpec:
    return with_part(make_spec(cache), "data", tokenizer=tokenizer, **data)


def ends(dataset: Dataset) -> str | None:
    """Of the first document, as it is spelt."""
    (source,) = dataset.sources
    end = int(np.fromfile(Path(dataset.folder) / source.document_ends[0], dtype="<i8")[0])
    last = int(dataset.train(source).read(end - 1, end)[0])
    assert last == dataset.separator
    return Tokenizer.from_file(str(dataset.tokenizer_path)).id_to_token(last)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"eos_token": END}),
        ("tokenizer_config.json", {"eos_token": {"content": END, "__type": "AddedToken"}}),
        ("config.json", {"eos_token_id": 1}),
        ("config.json", {"eos_token_id": [1, 2]}),
    ],
)
def test_documents_end_as_the_files_beside_the_tokeniser_say(
    name: str, content: dict[str, Any], published: Path, tmp_path: Path
) -> None:
    beside(published, name, **content)
    spec = spec_of(published, tmp_path / "cache")
    dataset = prepare(spec)
    assert ends(dataset) == dataset.separator_token == END
    assert Dataset.from_json(json.loads(json.dumps(dataset.to_json()))) == dataset == find(spec)
    found = probe.tokenizer(spec, dataset)
    assert judge_tokenizer(found, dataset.to_json(), spec).state == "pass"
    assert judge_values(probe.values(spec, dataset), dataset.to_json(), spec).state == "pass"


def test_the_spec_has_the_last_word_and_other_ends_are_other_tokens(
    published: Path, tmp_path: Path
) -> None:
    beside(published, "tokenizer_config.json", eos_token=END)
    told, named = (
        prepare(spec_of(published, tmp_path / "cache", separator=separator))
        for separator in (None, TURN)
    )
    assert (ends(told), ends(named)) == (END, TURN)
    assert told.fingerprint != named.fingerprint
    again = prepare(spec_of(published, tmp_path / "cache", separator=END))
    assert again == told


def test_a_tokeniser_of_our_own_ends_documents_as_the_spec_says(tmp_path: Path) -> None:
    usual, named = (prepare(spec_of(None, tmp_path, separator=s)) for s in (None, "</s>"))
    assert (ends(usual), ends(named)) == ("<|endoftext|>", "</s>")


def test_the_usual_separator_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    """Tokens of before stay where they are found."""
    usual = prepare(spec_of(None, tmp_path))
    assert prepare(spec_of(None, tmp_path, separator="<|endoftext|>")) == usual
    content = usual.to_json()
    del content["separator_token"]
    assert Dataset.from_json(content) == usual


def test_where_nothing_says_how_documents_end_the_error_names_candidates(
    published: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"^data\.separator: nothing says by which token"
    ) as refused:
        prepare(spec_of(published, tmp_path / "cache"))
    assert f"it may be one of {END}, {TURN}." in str(refused.value)
    with pytest.raises(UserError, match=r"data\.separator: the tokeniser has no token </s>"):
        prepare(spec_of(published, tmp_path / "cache", separator="</s>"))


def test_an_exported_tokeniser_begins_and_ends_texts_as_the_one_it_came_from(
    published: Path, tmp_path: Path
) -> None:
    template = "{% for m in messages %}{{ bos_token }}{{ m.content }}{% endfor %}"
    code = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    beside(
        published, "tokenizer_config.json",
        eos_token=TURN, bos_token=BEGIN, tokenizer_class="OwnTokenizer", auto_map=code,
        model_max_length=131072,
    )  # fmt: skip
    published.with_name("chat_template.jinja").write_text(template)
    dataset = prepare(spec_of(published, tmp_path / "cache", separator=END))
    folder = tmp_path / "exported"
    folder.mkdir()
    is_here, numbers = write_tokenizer(folder, dataset, published, 32)
    assert is_here and numbers == {"eos_token_id": 1, "bos_token_id": 0}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == (BEGIN, END)
    assert tokenizer("def").input_ids[0] == 0
    assert tokenizer.model_max_length == 32
    said = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert said == BEGIN + "hi"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"eos_token_id": 1, "pad_token_id": 1, "bos_token_id": 0}
