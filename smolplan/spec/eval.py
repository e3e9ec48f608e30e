"""What is measured on a checkpoint."""

from pydantic import Field

from smolplan.spec.fields import Count, SpecPart


class EvalSpec(SpecPart):
    sequences: Count = Field(
        default=64, description="Held-out sequences that bits per byte are measured on."
    )
