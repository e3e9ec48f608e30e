from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.store import RESUMED, Attempt
from monitor.collect.record import RunRecord
from monitor.goodput import CAUSES, Goodput, Interval, Ledger
from smolplan.rundir import RunDir, append_line
from tests.monitor.recorded import History, Record


def booked(records: list[Record], launched_at: float) -> tuple[Goodput, list[Interval]]:
    ledger = Ledger(launched_at)
    intervals = [interval for record in records for interval in ledger.take(record)]
    return ledger.goodput(), intervals


def broken_once() -> History:
    run = History()
    run.starts()
    run.steps(10)
    run.saves()
    run.steps(4)
    run.breaks()
    run.starts(backoff_s=2.0, from_step=10)
    run.steps(10)
    run.saves()
    return run


def spent(goodput: Goodput) -> dict[str, float]:
    return {cause: round(s, 6) for cause, s in goodput.seconds.items() if s}


def test_each_second_is_booked_to_its_cause() -> None:
    run = broken_once()
    goodput, _ = booked(run.records, run.launched_at)
    assert spent(goodput) == {
        "starting": 4.0,
        "loading": 2.0,
        "useful": 10.0,
        "redone": 2.0,
        "checkpoint": 0.5,
        "detection": 0.5,
        "ending": 0.25,
        "backoff": 2.0,
    }
    assert goodput.ratio == pytest.approx(10.0 / 21.25)
    assert (goodput.useful_steps, goodput.redone_steps) == (20, 4)
    assert goodput.data_wait_s == pytest.approx(0.2)
    assert goodput.by_attempt[2]["backoff"] == 2.0


def test_of_a_checkpoint_written_beside_training_only_the_stall_counts() -> None:
    history = History()
    history.starts()
    history.steps(4)
    history.passes(0.4)  # amid a step, of which 0.25 s were spent waiting for the copies
    history.note("checkpoint_staged", step=4, stall_s=0.25)
    history.passes(-0.4)
    history.steps(3)
    history.passes(0.2)
    history.note("checkpoint_saved", step=4, seconds=1.95, stall_s=0.25)
    history.passes(-0.2)
    history.steps(1)
    # The last one is waited for whole.
    history.passes(2.25)
    history.note("checkpoint_saved", step=8, seconds=2.25, stall_s=2.25)
    seconds = spent(booked(history.records, history.launched_at)[0])
    assert (seconds["checkpoint"], seconds["useful"]) == (2.5, 3.75) and "unseen" not in seconds


def test_the_stretches_follow_each_other_from_launch_to_now() -> None:
    run = broken_once()
    _, intervals = booked(run.records, run.launched_at)
    assert intervals[0].start == run.launched_at and intervals[-1].end == run.now
    assert all(a.end == b.start for a, b in pairwise(intervals))


kinds = st.sampled_from(
    [
        *("step", "planned", "launched", "reported", "waiting", "started", "resumed"),
        *("checkpoint_saved", "evaluated", "checkpoint_failed", "non_finite_loss", "killed"),
        *("attempt_ended", "ended", "stopped", "finished", "run_ended", "decision", "unheard_of"),
    ]
)
records = st.fixed_dictionaries(
    {
        "kind": kinds,
        "time": st.floats(0, 1000),
        "attempt": st.integers(1, 4),
        "step": st.integers(1, 30),
        "step_s": st.floats(0, 100),
        "seconds": st.floats(0, 100),
        "load_s": st.floats(0, 100),
        "not_before": st.floats(0, 1000),
        "action": st.sampled_from(["start", "condemn", "end_attempt", "adopt", "restart"]),
        "reason": st.sampled_from(["", RESUMED]),
    }
)
fields = ("kind", "time", "attempt", "step", "step_s", "load_s", "not_before", "action", "reason")
odd: st.SearchStrategy[Record] = st.dictionaries(
    st.sampled_from(fields), st.sampled_from([None, "x", [], {}, -1, float("nan"), 1e300, True])
)
histories = st.lists(st.tuples(records, st.just({}) | odd).map(lambda two: two[0] | two[1]))


@given(histories, st.booleans())
def test_whatever_is_on_record_the_parts_add_up_and_never_shrink(
    history: list[Record], queues: bool
) -> None:
    """Clocks set back, records lost, repeated, or damaged: all are among these histories."""
    ledger = Ledger(500.0, queues=queues)
    before = ledger.goodput()
    end = 500.0
    for record in [*history, None]:
        for interval in ledger.close(1001.0) if record is None else ledger.take(record, 1001.0):
            assert interval.start == end < interval.end
            end = interval.end
        now = ledger.goodput()
        assert now.wall_s == pytest.approx(end - 500.0, abs=1e-6)
        assert sum(now.seconds.values()) == pytest.approx(now.wall_s, abs=1e-6)
        assert all(now.seconds[cause] >= before.seconds[cause] for cause in CAUSES)
        assert 0 <= now.ratio <= 1
        before = now
    assert end == 1001.0


def test_a_step_is_useful_once_however_often_it_is_done() -> None:
    run = History()
    for _ in range(4):
        run.starts()
        run.steps(10)
        run.breaks()
    goodput, _ = booked(run.records, run.launched_at)
    assert (goodput.useful_steps, goodput.redone_steps) == (10, 30)
    assert goodput.seconds["useful"] == pytest.approx(5.0)
    assert goodput.seconds["redone"] == pytest.approx(15.0)


def test_a_first_step_that_compiles_counts_as_long_as_the_second() -> None:
    run = History()
    run.starts()
    run.steps(1, step_s=8.0)
    run.steps(3)
    goodput, _ = booked(run.records, run.launched_at)
    assert spent(goodput) == {"starting": 2.0 + 7.5, "loading": 1.0, "useful": 2.0}


def test_a_monitor_that_was_dead_leaves_no_hole() -> None:
    """Its successor ends the attempt an hour later, and what it had decided is not on record."""
    run = History()
    run.starts()
    run.steps(4)
    run.passes(3600.0)
    run.breaks(told=False)
    run.starts(from_step=2)
    run.steps(4)
    told = [r for r in run.records if r.get("kind") != "decision"]
    goodput, _ = booked(told, run.launched_at)
    assert goodput.seconds["detection"] == pytest.approx(3600.75)
    assert goodput.seconds["unseen"] == 0


def test_a_clock_set_back_loses_no_step_and_one_set_forward_is_told_apart() -> None:
    run = History()
    run.starts()
    run.steps(10)
    run.passes(-600.0)
    run.steps(10)
    back, _ = booked(run.records, run.launched_at)
    assert back.useful_steps == 20
    assert back.wall_s == pytest.approx(8.0)  # nothing is booked twice
    run.passes(600.0 + 3600.0)
    run.steps(10)
    forth, _ = booked(run.records, run.launched_at)
    assert forth.seconds["unseen"] == pytest.approx(3605.0)


def test_a_time_far_beyond_now_is_not_believed() -> None:
    run = broken_once()
    run.records.insert(5, {**run.records[5], "time": 4e9})
    ledger = Ledger(run.launched_at)
    for record in run.records:
        ledger.take(record, run.now)
    assert ledger.until == run.now


def test_a_queue_a_stop_and_a_pause_for_hosts_are_told_apart() -> None:
    run = History()
    ledger = Ledger(run.launched_at, queues=True)
    run.attempt = 1
    run.note("planned", reason="first start", not_before=run.now)
    run.passes(100.0)
    run.note("reported")
    run.passes(3.0)
    run.note("started", step=0, load_s=0.0)
    run.steps(4)
    run.note("stopped", step=4)
    run.passes(1.0)
    run.note("ended")
    run.passes(1000.0)
    run.starts(RESUMED, from_step=4)
    run.steps(2)
    run.breaks()
    run.attempt = 3
    run.note("planned", reason="again", not_before=run.now)
    run.note("waiting", reason="no spare")
    run.passes(30.0)
    run.note("reported")
    for record in run.records:
        ledger.take(record)
    goodput = ledger.goodput()
    assert goodput.seconds["queued"] == pytest.approx(100.0 + 2.0 + 30.0)
    assert goodput.seconds["stopped"] == pytest.approx(1000.0)
    assert goodput.seconds["ending"] == pytest.approx(1.0 + 0.25)


def test_a_run_that_goes_on_is_booked_up_to_now() -> None:
    run = broken_once()
    ledger = Ledger(run.launched_at)
    for record in run.records:
        ledger.take(record)
    (interval,) = ledger.close(run.now + 7.0)
    assert (interval.cause, interval.end) == ("unseen", run.now + 7.0)


def attempt(number: int, **fields: Any) -> Attempt:
    values: dict[str, Any] = {
        **{"run_id": "r", "token": "t", "state": "running", "reason": "", "cause": ""},
        **{"exit_code": None, "not_before": 0.0, "created_at": 0.0, "ended_at": None},
        **{"step_at_start": 0, "step_at_end": None},
    }
    return Attempt(**{**values, "number": number, **fields})


def test_the_record_is_handed_out_once_in_the_order_of_its_times(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    reader = RunRecord(run)
    attempts = [attempt(1, created_at=1.0)]
    for time in (2.0, 4.0):
        append_line(run.metrics, {"time": time, "step": int(time)})
        append_line(run.events, {"time": time + 0.5, "kind": "checkpoint_saved"})
    with run.metrics.open("a") as file:
        file.write('{"time": 6.0, "st')  # being written
    assert [r["time"] for r in reader.new(attempts)] == [1.0, 2.0, 2.5, 4.0, 4.5]
    with run.metrics.open("a") as file:
        file.write('ep": 6}\n{"no": "time"}\n[1]\nnot json\n')
    attempts = [attempt(1, created_at=1.0, ended_at=7.0), attempt(2, created_at=8.0)]
    assert [r["time"] for r in reader.new(attempts, most=2)] == [6.0, 7.0]
    assert [r["time"] for r in reader.new(attempts)] == [8.0]
    assert list(reader.new(attempts)) == []
