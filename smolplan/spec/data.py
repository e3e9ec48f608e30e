"""The text that is trained on."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from smolplan.spec.fields import ADDED_LATER, Count, CountOrZero, SpecPart, UserPath

PYTHON_STDLIB = "python-stdlib"
"""The source that every machine has: the sources of Python's own standard library."""

ALL_TEXT = "**/*.txt"


class SourceSpec(SpecPart):
    """Files of text on a disk or in an object store, or the built-in name `python-stdlib`; or a
    folder of tokens that were made of such."""

    path: Annotated[str | None, ADDED_LATER] = Field(
        default=None,
        min_length=1,
        description="Folder or file, or their URL as fsspec reads it (s3://…); or python-stdlib. "
        "Files that end in .jsonl, .ndjson, .json, .parquet, .arrow or .feather hold a document a "
        "row, any other is UTF-8 text and one document; JSON lines and text may be .gz or .zst. A "
        ".bin with an .idx beside it is one of Megatron-LM's.",
    )
    tokens: Annotated[UserPath | None, ADDED_LATER] = Field(
        default=None,
        description="Instead of path: a folder of tokens that `smolplan data prepare` made and "
        "told, or a copy of one. The text need not be there.",
    )
    glob: str = Field(default=ALL_TEXT, description="Which files of the folder, by pattern.")
    name: Annotated[str | None, ADDED_LATER] = Field(
        default=None,
        min_length=1,
        description="What stages and metrics call it; the last part of its path unless given.",
    )
    text_field: Annotated[str, ADDED_LATER] = Field(
        default="text", min_length=1, description="Where a row holds its text."
    )
    weight: Annotated[float | None, ADDED_LATER] = Field(
        default=None,
        ge=0,
        description="Its share of the sequences, for all sources or for none, where there are no "
        "stages; in proportion to its own sequences unless given.",
    )
    max_epochs: Annotated[float | None, ADDED_LATER] = Field(
        default=None, gt=0, description="How often it may repeat; data.max_epochs unless given."
    )

    @property
    def text_path(self) -> str:
        """Its path, where it is one of text. Only such a source is asked."""
        assert self.path is not None
        return self.path

    @property
    def is_remote(self) -> bool:
        """Whether fsspec is to reach it."""
        return self.path is not None and "://" in self.path

    @property
    def place(self) -> Path | None:
        """Where it lies on this machine's file systems; None of one that lies elsewhere, or that
        every machine has."""
        if self.tokens is not None:
            return self.tokens
        return None if self.is_remote or self.path == PYTHON_STDLIB else Path(self.text_path)

    @property
    def label(self) -> str:
        named = str(self.tokens or self.path)
        return self.name or Path(named).name or named

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = super()._written(handler)
        if self.tokens is not None:
            content.pop("glob", None)
        return content

    @model_validator(mode="after")
    def _is_text_or_tokens(self) -> Self:
        if (self.path is None) == (self.tokens is None):
            raise ValueError(
                "a source has either path, which is of text, or tokens, which is a folder that "
                "`smolplan data prepare` made"
            )
        if self.tokens is not None:
            for name in ("glob", "text_field"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} says what to read of text, and beside tokens there is none; leave "
                        "it out"
                    )
        return self


class StageSpec(SpecPart):
    """A mixture of sources, until the next stage begins."""

    name: str = Field(min_length=1)
    start_step: Count | None = Field(
        default=None, description="Its first step; the first stage's is 1."
    )
    start_tokens: Annotated[CountOrZero | None, ADDED_LATER] = Field(
        default=None,
        description="Instead of start_step: it begins with the first step before which so many "
        "tokens were read.",
    )
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        min_length=1,
        description="Share of the tokens by source, named by data.sources' name or the last part "
        "of its path. They are to add up to 1: preflight looks at it.",
    )

    @model_validator(mode="after")
    def _starts_once(self) -> Self:
        if (self.start_step is None) == (self.start_tokens is None):
            raise ValueError(f"stage {self.name!r} is to have either start_step or start_tokens")
        return self


class DataSpec(SpecPart):
    """Text, its tokeniser, and how it is cut into sequences."""

    sources: tuple[SourceSpec, ...] = Field(default=(), description="Where the text comes from.")
    tokenizer: UserPath | None = Field(
        default=None,
        description="A tokenizer.json of the tokenizers library; unless given, that of "
        "model.init_from's folder, or where there is none, a byte-level BPE of model.vocab_size "
        "entries is trained on the sources.",
    )
    separator: Annotated[str | None, ADDED_LATER] = Field(
        default=None,
        min_length=1,
        description="The token, as it is spelt, that ends a document. Unless given, the eos_token "
        "of a tokenizer_config.json or config.json beside the tokeniser, else <|endoftext|>.",
    )
    seq_len: Count = Field(description="Tokens in one training sequence.")
    max_epochs: float = Field(
        default=4.0,
        gt=0,
        description="How often the text may repeat. Up to four epochs are nearly as good as new "
        "text (Muennighoff et al. 2023, arXiv 2305.16264).",
    )
    held_out_fraction: float = Field(
        default=0.01, ge=0, lt=1, description="Share of the documents kept back for evaluation."
    )
    cache_dir: UserPath | None = Field(
        default=None, description="Where tokenised data is kept; the user's cache unless given."
    )
    stages: Annotated[tuple[StageSpec, ...], ADDED_LATER] = Field(
        default=(), description="Mixtures of the sources, in the order of their steps."
    )

    @property
    def source_names(self) -> tuple[str, ...]:
        return tuple(source.label for source in self.sources)

    @model_validator(mode="after")
    def _sources_are_told_apart(self) -> Self:
        given = [source.weight for source in self.sources if source.weight is not None]
        if given and self.stages:
            raise ValueError("weights stand in the stages, or with the sources, but not in both")
        if given and len(given) < len(self.sources):
            raise ValueError(f"{len(given)} of {len(self.sources)} sources have a weight; give all")
        if self.sources and (given or self.stages):
            name, times = max(Counter(self.source_names).items(), key=lambda item: item[1])
            if times > 1:
                raise ValueError(f"{times} sources are called {name!r}; give each a name")
        return self
