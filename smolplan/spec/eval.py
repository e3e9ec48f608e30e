"""What is measured on a checkpoint."""

from pydantic import Field

from smolplan.spec.fields import SpecPart


class EvalSpec(SpecPart):
    sequences: int = Field(
        default=64, gt=0, description="Held-out sequences that bits per byte are measured on."
    )
