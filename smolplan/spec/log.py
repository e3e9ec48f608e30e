"""Where a run's metrics are shown, beside the monitor's own pages."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from smolplan.spec.fields import SpecPart


def _project(name: str) -> str:
    # What W&B refuses in the name of a project (wandb.init, project); trackio takes less care.
    if not name.strip() or len(name) > 128 or set(name) & set("/\\#?%:\n"):
        raise ValueError(
            f"{name!r} is empty, longer than 128 characters or has one of / \\ # ? % :; "
            "name it like smollm3"
        )
    return name


Project = Annotated[str, AfterValidator(_project)]


class WandbSpec(SpecPart):
    """Weights & Biases. The key is WANDB_API_KEY or ~/.netrc of whoever runs the monitor."""

    project: Project
    entity: Project | None = Field(
        default=None, description="Team or user; the key's own if unset."
    )
    mode: Literal["online", "offline"] = Field(
        default="online", description="offline writes to RUN/tracking/wandb, for `wandb sync`."
    )


class TrackioSpec(SpecPart):
    """Trackio, which keeps its files in the home folder of whoever runs the monitor."""

    project: Project


class LogSpec(SpecPart):
    """Trackers that the monitor passes metrics and evaluations on to; they need smolplan[log]."""

    tensorboard: bool = Field(default=False, description="Event files in RUN/tensorboard.")
    wandb: WandbSpec | None = Field(default=None, description="Weights & Biases.")
    trackio: TrackioSpec | None = Field(default=None, description="Trackio.")

    @property
    def trackers(self) -> tuple[str, ...]:
        """Names of those that are wanted; each is the name of its package too."""
        return tuple(name for name in ("tensorboard", "wandb", "trackio") if getattr(self, name))
