"""When the monitor acts."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from smolplan.spec.alerts import Receivers, Url
from smolplan.spec.fields import ADDED_LATER, Count, Seconds, SpecPart, UserPath


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(
            f"{str(path)!r} has to be a whole path, as /runs/smollm2: the monitor may be started "
            "from another folder"
        )
    return path


WholePath = Annotated[UserPath, AfterValidator(_absolute)]


class MonitorSpec(SpecPart):
    poll_s: Seconds = Field(default=1.0, description="Time between two looks at the run.")
    hang_step_multiple: float = Field(
        default=10.0, gt=1, description="No step for this many recent step times is a hang …"
    )
    hang_min_s: Seconds = Field(default=60.0, description="… but never sooner than this.")
    host_timeout_s: Annotated[Seconds, ADDED_LATER] = Field(
        default=30.0,
        description="A host that is silent for this long, while no step is made, is lost.",
    )
    startup_timeout_s: Seconds = Field(
        default=900.0, description="From start to the first step (import, load, compile)."
    )
    checkpoint_timeout_s: Seconds = Field(
        default=1800.0, description="Longest that a checkpoint or an evaluation may take."
    )
    backoff_initial_s: Seconds = Field(
        default=1.0, description="Pause before the first restart; doubles at each without progress."
    )
    backoff_max_s: Seconds = Field(default=300.0, description="Longest pause before a restart.")
    crash_loop_limit: Count = Field(
        default=5, description="Attempts in a row without a new step: stop, call a person."
    )
    stop_grace_s: Seconds = Field(
        default=120.0, description="Time that a graceful stop has to save its checkpoint."
    )
    alerts: Annotated[Receivers, ADDED_LATER] = Field(
        default=(), description="Who is told, one receiver or a list; nobody unless given."
    )
    prometheus: Annotated[Url | None, ADDED_LATER] = Field(
        default=None, description="The Prometheus that scrapes the monitor, to be asked back."
    )
    on_loss_spike: Annotated[Literal["tell", "roll_back"], ADDED_LATER] = Field(
        default="tell",
        description="When the loss jumps and stays there: tell people, or go back to a checkpoint "
        "of before and skip the batches around it.",
    )
    save_on_warning_every_s: Annotated[Seconds, ADDED_LATER] = Field(
        default=600.0,
        description="A warning that a host or GPU may be lost has a checkpoint saved, but no more "
        "than one in this time.",
    )
    # PaLM went back about 100 steps and skipped 200 to 500 batches, some 20 times in a run
    # (arXiv 2204.02311, section 5.1).
    skip_batches: Annotated[Count, ADDED_LATER] = Field(
        default=200, description="Batches that a roll-back skips, half of them before the onset."
    )
    roll_back_limit: Annotated[Count, ADDED_LATER] = Field(
        default=20, description="Roll-backs of one run; then a person is needed."
    )
    reference: Annotated[WholePath | None, ADDED_LATER] = Field(
        default=None,
        description="Evaluations to compare with at equal tokens: a CSV (run_name, tokens, "
        "metric, value) or the folder of another run.",
    )
