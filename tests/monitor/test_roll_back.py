"""Where a run goes back to, and what it skips."""

from dataclasses import replace

import pytest

from monitor.detect.loss import SPIKE_STAYS
from monitor.policy import decide
from monitor.roll_back import roll_back
from monitor.view import Finding, RunView
from smolplan.origin import Origin
from smolplan.roll_back import RollBack
from smolplan.skipped import Skipped
from smolplan.spec.batch import BatchPhase, BatchSizes
from smolplan.spec.monitor import MonitorSpec
from tests.monitor.test_policy import attempt, ended, view

SETTINGS = MonitorSpec(on_loss_spike="roll_back", skip_batches=200, roll_back_limit=2)
SPIKE = Finding(SPIKE_STAYS, "it stays up", {"step": 1050.0, "onset": 1000.0}, severity="warning")


def spiking(*checkpoints: int, **fields: object) -> RunView:
    seen = view(
        attempt(3),
        settings=SETTINGS,
        checkpoints=checkpoints,
        batches=BatchSizes((BatchPhase(0, 0, 8),)),
    )
    return replace(seen, **fields)  # type: ignore[arg-type]


def test_it_goes_back_to_the_newest_checkpoint_before_the_batches_that_it_skips() -> None:
    planned = roll_back(spiking(700, 800, 900, 950, 1040), 1000, "why")
    assert planned is not None
    # Step 900 is the first of the 200 batches, 100 of them before the onset.
    assert (planned.attempt, planned.onset_step, planned.from_step) == (4, 1000, 800)
    assert planned.skip == Skipped(((8 * 899, 8 * 1099 - 1),))


def test_where_checkpoints_are_near_the_oldest_is_taken_and_all_after_it_skipped() -> None:
    planned = roll_back(spiking(950, 975), 1000, "why")
    assert planned is not None
    assert planned.from_step == 950
    assert planned.skip == Skipped(((8 * 950, 8 * 1150 - 1),))


def test_without_a_checkpoint_of_before_nothing_is_rolled_back() -> None:
    assert roll_back(spiking(1000, 1040), 1000, "why") is None
    assert decide(spiking(1000, 1040), (SPIKE,)).action == "wait"


def test_what_was_skipped_before_stays_skipped_and_counts_for_no_batch() -> None:
    before = RollBack(2, 500, 400, Skipped(((8 * 400, 8 * 600 - 1),)), "")
    planned = roll_back(spiking(700, roll_backs=(before,)), 1000, "why")
    assert planned is not None
    assert planned.skip == Skipped(((3200, 4799), (8 * (899 + 200), 8 * (1099 + 200) - 1)))


def test_a_spike_that_stays_ends_the_attempt_only_where_that_is_asked_for() -> None:
    told = replace(spiking(800), settings=MonitorSpec())
    assert decide(told, (SPIKE,)).action == "wait"
    decision = decide(spiking(800), (SPIKE,))
    assert decision.action == "condemn" and decision.roll_back is not None
    assert "it stays up; going back to step 800" in decision.cause
    assert decision.evidence["skip"] == [[7192, 8791]]


def test_one_that_is_decided_is_carried_out_whatever_happens_in_between() -> None:
    planned = decide(spiking(800), (SPIKE,)).roll_back
    assert planned is not None
    seen = spiking(800, roll_backs=(planned,))
    assert decide(seen, ()).action == "condemn"
    over = replace(seen, attempts=(ended(3, -9, end=1050),))
    decision = decide(over, ())
    assert (decision.action, decision.roll_back) == ("roll_back", planned)


@pytest.mark.parametrize("onsets", [(1000,), (300, 600)])
def test_the_same_spike_or_too_many_end_no_further_attempt(onsets: tuple[int, ...]) -> None:
    before = tuple(RollBack(2, onset, 100, Skipped(), "") for onset in onsets)
    assert decide(spiking(800, roll_backs=before), (SPIKE,)).action == "wait"


def test_a_fork_counts_what_its_parent_skipped_for_no_batch_either() -> None:
    skipped = Skipped(((8 * 400, 8 * 600 - 1),))
    origin = Origin("stem-1", "/runs/stem-1", 700, skipped, ())
    planned = roll_back(spiking(700, origin=origin), 1000, "why")
    assert planned is not None
    assert planned.skip == Skipped(((3200, 4799), (8 * (899 + 200), 8 * (1099 + 200) - 1)))
