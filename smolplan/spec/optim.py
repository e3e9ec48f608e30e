"""How long is trained, and how the weights move."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from smolplan.spec.fields import ADDED_LATER, Count, CountOrZero, SpecPart

Precision = Literal["fp32", "bf16", "fp8"]


class SmallBatchSpec(SpecPart):
    """A smaller global batch, with which a run begins."""

    global_batch_size: Count = Field(description="Sequences in one optimiser step.")
    until_step: Count | None = Field(default=None, description="The last step of that size.")
    until_tokens: Count | None = Field(
        default=None,
        description="Instead of until_step: the first step before which so many tokens were read "
        "is of the next size.",
    )

    @model_validator(mode="after")
    def _ends_once(self) -> Self:
        if (self.until_step is None) == (self.until_tokens is None):
            raise ValueError("give exactly one of until_step and until_tokens")
        return self


class OptimSpec(SpecPart):
    """The optimiser; a warm-up, and a schedule of the learning rate behind it."""

    steps: Count | None = Field(default=None, description="Optimiser steps; or give tokens.")
    tokens: Count | None = Field(
        default=None, description="Tokens to train on (11T); or give steps."
    )
    global_batch_size: Count = Field(description="Sequences in one optimiser step, over all ranks.")
    batch_warmup: Annotated[tuple[SmallBatchSpec, ...], ADDED_LATER] = Field(
        default=(),
        description="Smaller batches that come before, in order, each larger than the one before. "
        "The learning rate goes by steps all the same.",
    )
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    warmup_steps: CountOrZero = Field(default=0, description="Steps of linear warm-up.")
    decay_steps: CountOrZero = Field(
        default=0, description="Steps of decay at the end, of schedule wsd."
    )
    schedule: Annotated[Literal["wsd", "cosine", "linear"], ADDED_LATER] = Field(
        default="wsd",
        description="wsd: constant, then down in the last decay_steps; cosine and linear go down "
        "from the end of the warm-up.",
    )
    decay_shape: Annotated[Literal["linear", "1-sqrt"], ADDED_LATER] = Field(
        default="linear", description="How wsd goes down; 1-sqrt: arXiv 2405.18392."
    )
    final_lr_fraction: Annotated[float, ADDED_LATER] = Field(
        default=0.0, ge=0, lt=1, description="Of the peak, where the decay ends."
    )
    optimizer: Annotated[Literal["adamw", "muon"], ADDED_LATER] = Field(
        default="adamw",
        description="muon: for the matrices of the blocks, each expert's by itself, at the same "
        "learning rate (scaled as in arXiv 2502.16982); AdamW for embeddings, head and norms.",
    )
    muon_momentum: Annotated[float, ADDED_LATER] = Field(default=0.95, ge=0, lt=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(
        default=0.1,
        ge=0,
        description="Not applied to norms, nor to embeddings without embedding_decay.",
    )
    embedding_decay: Annotated[bool, ADDED_LATER] = Field(
        default=False, description="weight_decay is applied to the token embedding too."
    )
    clip_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Precision = Field(
        default="bf16",
        description="Type of the compute; weights and sums stay fp32. fp8: as bf16, but that the "
        "blocks' linear layers multiply in fp8; it needs smolplan[fp8] and GPUs that have it.",
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give exactly one of steps and tokens; the other follows from it")
        return self

    @model_validator(mode="after")
    def _batch_grows(self) -> Self:
        sizes = [*(small.global_batch_size for small in self.batch_warmup), self.global_batch_size]
        for size, larger in pairwise(sizes):
            if size >= larger:
                raise ValueError(
                    f"batch_warmup: {size} sequences come before {larger}; each size is to be "
                    f"larger than the one before, and the last smaller than global_batch_size"
                )
        return self

    @model_validator(mode="after")
    def _one_decay(self) -> Self:
        if self.schedule == "wsd":
            return self
        if self.decay_steps:
            raise ValueError(
                f"decay_steps {self.decay_steps} is of schedule wsd; {self.schedule} goes down "
                "from the end of the warm-up, so leave it out"
            )
        if self.decay_shape != "linear":
            raise ValueError(
                f"decay_shape {self.decay_shape} is of schedule wsd; leave it out of "
                f"{self.schedule}"
            )
        return self

    def decay_length(self, steps: int) -> int:
        """Of a run of so many steps, those that the learning rate goes down in."""
        return self.decay_steps if self.schedule == "wsd" else steps - self.warmup_steps
