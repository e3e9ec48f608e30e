"""How long is trained, and how the weights move."""

from typing import Literal, Self

from pydantic import Field, model_validator

from smolplan.spec.fields import Count, CountOrZero, SpecPart


class OptimSpec(SpecPart):
    """AdamW under a warm-up, stable, decay (WSD) schedule."""

    steps: Count | None = Field(default=None, description="Optimiser steps; or give tokens.")
    tokens: Count | None = Field(
        default=None, description="Tokens to train on (11T); or give steps."
    )
    global_batch_size: Count = Field(description="Sequences in one optimiser step, over all ranks.")
    learning_rate: float = Field(gt=0, description="Peak learning rate.")
    warmup_steps: CountOrZero = Field(default=0, description="Steps of linear warm-up.")
    decay_steps: CountOrZero = Field(
        default=0, description="Steps of linear decay to 0 at the end."
    )
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(
        default=0.1, ge=0, description="Not applied to embeddings and norms."
    )
    clip_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Literal["fp32", "bf16"] = Field(
        default="bf16", description="Type of the compute; weights and sums stay fp32."
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give exactly one of steps and tokens; the other follows from it")
        return self
