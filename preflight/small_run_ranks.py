"""The trainer's ranks as preflight starts them, without torchrun, and how they may fail."""

from typing import TYPE_CHECKING

from preflight import ranks
from smolplan.rundir import RunDir

if TYPE_CHECKING:
    from preflight.context import Context

TIMEOUT_S = 90.0
"""Of each part of the small run, which takes a second or two on two idle cores."""
COMPILED_TIMEOUT_S = 240.0
"""Where its blocks are compiled, which takes half a minute or more."""


class TrainingFailed(Exception):
    """The trainer itself ended with an error: training does not work on this machine."""


def start_ranks(
    context: "Context", run: RunDir, count: int, attempt: int, module: str = "trainer"
) -> list[ranks.Child]:
    """The ranks of a run whose folder has spec and dataset, as torchrun would start them."""
    run.attempt(attempt).mkdir(parents=True)
    return context.server().start_ranks(
        module,
        [str(run), "--attempt", str(attempt)],
        count,
        run.attempt(attempt) / "logs" / "trainer",
    )


def raise_if_failed(children: list[ranks.Child]) -> None:
    """Raises TrainingFailed if one of them has ended with an error."""
    for child in children:
        if code := child.poll():
            raise TrainingFailed(f"exit code {code}: {child.error_line()}")
