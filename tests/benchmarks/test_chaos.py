"""What the benchmark of random faults makes of a run's record."""

from typing import Any

from benchmarks.chaos.measure import Fault, outcome_of, table

CAUSE = "rank 1 was ended by signal 9 on node2"


def fault(**fields: Any) -> Fault:
    values: dict[str, Any] = {
        "number": 1,
        "kind": "rank killed",
        "time": 100.0,
        "attempt": 1,
        "step": 20,
        "restart": True,
        "silent": False,
        "blamed": ("node2",),
        "named": CAUSE,
        "step_s": 0.1,
        "load": 1.0,
        "restarts": 1,
    }
    return Fault(**(values | fields))


def record(
    cause: str = CAUSE, left_out: str = "node2", decided: float = 100.5, again: float = 110.0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    decision = {"time": decided, "kind": "decision", "action": "end_attempt", "attempt": 1}
    events = [
        {**decision, "time": 99.0},  # of another fault
        decision,
        {"time": decided, "kind": "host_left_out", "host": left_out, "reason": cause},
        {"time": decided + 0.1, "kind": "attempt_ended", "attempt": 1, "cause": cause},
        {"time": again - 1.0, "kind": "resumed", "attempt": 2, "load_s": 0.5},
    ]
    return events, [{"time": again, "step": 21, "attempt": 2}]


def test_detection_counts_from_the_fault_and_recovery_from_the_decision_without_loading() -> None:
    found = outcome_of(fault(), *record(), told_at=100.25)
    assert (found.on_host_s, found.decided_s, found.next_step_s) == (0.25, 0.5, 9.0)
    assert not found.wrong and not found.late


def test_what_comes_too_late_is_told() -> None:
    found = outcome_of(fault(), *record(decided=106.0, again=125.0), told_at=102.0)
    assert len(found.late) == 3
    # Of what nobody tells, it takes longer to know.
    assert not outcome_of(fault(silent=True), *record(decided=110.1)).late
    assert outcome_of(fault(silent=True), *record(decided=110.3)).late


def test_a_wrong_name_a_stranger_left_out_and_a_second_restart_are_wrong() -> None:
    assert outcome_of(fault(), *record(cause="rank 0 exited with 1")).wrong
    assert outcome_of(fault(), *record(left_out="node3")).wrong
    assert outcome_of(fault(restarts=2), *record()).wrong
    assert outcome_of(fault(restarts=0), *record()).wrong
    assert outcome_of(fault(got_over=False), *record()).wrong


def test_a_restart_after_what_is_no_fault_is_one_without_need() -> None:
    quiet = fault(kind="slow rank", restart=False, restarts=0)
    assert not outcome_of(quiet, [], []).wrong
    restarted = outcome_of(fault(kind="slow rank", restart=False), *record())
    assert restarted.wrong_restart
    assert "| slow rank | 1 |  |  |  |  |  | 1 | 0 |" in table([restarted])
