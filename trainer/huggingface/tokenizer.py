"""A run's tokeniser as transformers loads it, with what the folder that it came from says of it:
the token that a text begins with, the template of a chat."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from smolplan.rundir import read_json
from trainer.data.dataset import TOKENIZER, Dataset
from trainer.data.separator import TOKENIZER_CONFIG, spelt

log = logging.getLogger("trainer.export")

CHAT_TEMPLATE = "chat_template.jinja"


def write_tokenizer(
    folder: Path, dataset: Dataset, source: Path | None, longest: int
) -> tuple[bool, dict[str, int]]:
    """False where the run's is not here any more; and which tokens begin and end a text, as
    config.json has them. `source`: the tokenizer.json that the spec names."""
    end, told = dataset.separator_token, _told(source) if source is not None else {}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": end,
        "clean_up_tokenization_spaces": False,
        **told,
        "eos_token": end,
        "model_max_length": longest,
    }
    is_here = dataset.tokenizer_path.exists()
    numbers = {"eos_token_id": dataset.separator, "pad_token_id": dataset.separator}
    if is_here:
        shutil.copyfile(dataset.tokenizer_path, folder / TOKENIZER)
        _write(folder / TOKENIZER_CONFIG, settings)
        if source is not None and (template := source.with_name(CHAT_TEMPLATE)).is_file():
            shutil.copyfile(template, folder / CHAT_TEMPLATE)
        tokenizer = Tokenizer.from_file(str(dataset.tokenizer_path))
        for name in ("bos_token", "pad_token"):
            number = tokenizer.token_to_id(spelt(settings.get(name)) or "")
            if number is not None:
                numbers[f"{name}_id"] = number
    else:
        log.warning("%s is gone: the folder has no tokeniser", dataset.tokenizer_path)
    _write(folder / "generation_config.json", numbers)
    return is_here, {name: number for name, number in numbers.items() if name != "pad_token_id"}


def _told(source: Path) -> dict[str, Any]:
    if not source.is_file():
        log.warning("%s is gone: what stood beside it is not carried over", source)
    # Older models have these in a file of their own.
    special = read_json(source.with_name("special_tokens_map.json")) or {}
    told = {**special, **(read_json(source.with_name(TOKENIZER_CONFIG)) or {})}
    if told.pop("auto_map", None) is not None:  # the model's own code, which is not carried over
        told.pop("tokenizer_class", None)
    return {name: value for name, value in told.items() if value is not None}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
