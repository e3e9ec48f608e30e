"""The text that is trained on."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from smolplan.spec.fields import ADDED_LATER, Count, SpecPart, UserPath

PYTHON_STDLIB = "python-stdlib"
"""The source that every machine has: the sources of Python's own standard library."""


class SourceSpec(SpecPart):
    """A folder of text files, or the built-in name `python-stdlib`."""

    path: str = Field(min_length=1, description="Folder or file of UTF-8 text; or python-stdlib.")
    glob: str = Field(default="**/*.txt", description="Which files of the folder, by pattern.")


class StageSpec(SpecPart):
    """A mixture of sources, from one step to the next stage's."""

    name: str = Field(min_length=1)
    start_step: Count = Field(description="Its first step; the first stage's is 1.")
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        min_length=1,
        description="Share of the tokens by source, named by the last part of its path. They are "
        "to add up to 1: preflight looks at it.",
    )


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
    stages: Annotated[tuple[StageSpec, ...], ADDED_LATER] = Field(
        default=(), description="Mixtures of the sources, in the order of their steps."
    )

    @model_validator(mode="after")
    def _stages_follow(self) -> Self:
        starts = [stage.start_step for stage in self.stages]
        if starts and starts[0] != 1:
            raise ValueError(f"the first stage starts at step {starts[0]}; let it start at 1")
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if after.start_step <= before.start_step:
                raise ValueError(
                    f"stage {after.name!r} starts at step {after.start_step}, not after "
                    f"{before.name!r}, which starts at {before.start_step}; write them in order"
                )
        return self
