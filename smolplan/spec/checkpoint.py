"""When the run is saved."""

from pydantic import Field

from smolplan.spec.fields import Count, SpecPart


class CheckpointSpec(SpecPart):
    every_steps: Count = Field(default=2000, description="Steps between two checkpoints.")
    keep_last: Count = Field(
        default=2, ge=2, description="Whole checkpoints kept; two, so that one may be damaged."
    )
