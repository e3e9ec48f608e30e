"""Which format a file has, and its reader."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smolplan.errors import UserError
from smolplan.importers import huggingface, megatron, nanotron, torchtitan
from smolplan.importers.options import Options
from smolplan.importers.result import Imported
from smolplan.spec.parse import suggestion

MAX_BYTES = 500_000
"""Configurations are smaller by far; a data set given by mistake is not read whole."""


@dataclass(frozen=True)
class Format:
    """One format that can be imported."""

    read: Callable[[str, str, Options], Imported]
    """(content, where, options) → the import."""
    recognises: Callable[[str, str], bool]
    """(content, where): whether the file is of this format. May raise UserError."""
    suffixes: tuple[str, ...]
    """Endings of such files, asked where the content is too broken to tell."""


def _parsed(
    parse: Callable[[str, str], Any], recognises: Callable[[Any], bool]
) -> Callable[[str, str], bool]:
    return lambda content, where: recognises(parse(content, where))


# In this order: JSON is YAML too, and so is many a list of arguments.
FORMATS: dict[str, Format] = {
    "huggingface": Format(
        huggingface.read, _parsed(huggingface.parse, huggingface.recognises), (".json",)
    ),
    "torchtitan": Format(
        torchtitan.read, _parsed(torchtitan.parse, torchtitan.recognises), (".toml", ".py")
    ),
    "megatron": Format(
        megatron.read, lambda content, where: megatron.recognises(content), (".sh", ".args", ".txt")
    ),
    "nanotron": Format(
        nanotron.read, _parsed(nanotron.parse, nanotron.recognises), (".yaml", ".yml")
    ),
}


def import_file(path: Path, options: Options, format_name: str | None = None) -> Imported:
    """Read a file of any format into a run spec. Raises UserError."""
    if format_name is not None and format_name not in FORMATS:
        raise UserError(
            f"there is no format {format_name!r}",
            where="--format",
            remedy=suggestion(format_name, list(FORMATS)),
        )
    where = str(path)
    content = _content(path, where[:200])
    return FORMATS[format_name or detect(content, where)].read(content, where, options)


def import_weights(folder: Path, options: Options) -> Imported:
    """Read a Hugging Face folder into the spec of a run that starts from its weights. Raises
    UserError."""
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(
            "there is no config.json in it" if folder.is_dir() else "it is no folder",
            where=str(folder),
            remedy="Name the folder of a Hugging Face model.",
        )
    return import_file(config, replace(options, starts_from=folder), "huggingface")


def detect(content: str, where: str) -> str:
    """The name of a content's format. Raises UserError where it has none."""
    for name, known in FORMATS.items():
        try:
            if known.recognises(content, where):
                return name
        except UserError:
            continue
    suffix = Path(where).suffix.lower()
    for known in FORMATS.values():
        if suffix in known.suffixes:
            known.recognises(content, where)  # raises where the file is broken
    raise UserError(
        "the file is of no format that can be imported",
        where=where,
        remedy=f"Known: {', '.join(FORMATS)}. Say which by --format.",
    )


def _content(path: Path, where: str) -> str:
    try:
        if path.is_dir():
            raise UserError("it is a folder", where=where, remedy="Name a file in it.")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UserError(
                f"more than {MAX_BYTES:,} bytes: this is no configuration file", where=where
            )
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("it is not UTF-8 text", where=where) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the file: {reason}", where=where) from None
