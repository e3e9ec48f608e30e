"""The text that is trained on."""

from pydantic import Field

from smolplan.spec.fields import Count, SpecPart, UserPath

PYTHON_STDLIB = "python-stdlib"
"""The source that every machine has: the sources of Python's own standard library."""


class SourceSpec(SpecPart):
    """A folder of text files, or the built-in name `python-stdlib`."""

    path: str = Field(min_length=1, description="Folder or file of UTF-8 text; or python-stdlib.")
    glob: str = Field(default="**/*.txt", description="Which files of the folder, by pattern.")


class DataSpec(SpecPart):
    """Text, its tokeniser, and how it is cut into sequences."""

    sources: tuple[SourceSpec, ...] = Field(default=(), description="Where the text comes from.")
    tokenizer: UserPath | None = Field(
        default=None,
        description="A tokenizer.json of the tokenizers library; unless given, a byte-level BPE "
        "of model.vocab_size entries is trained on the sources.",
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
