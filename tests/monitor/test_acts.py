"""The table of what is done about a finding."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monitor.acts import TABLE, act_on, as_markdown
from monitor.policy import decide
from monitor.record import Record
from monitor.view import Finding, History, RunView
from smolplan.checkpoint_request import CheckpointRequest, request_checkpoint
from smolplan.rundir import RunDir
from tests.monitor.test_policy import attempt, view
from tests.support import make_spec

PENDING = Finding("gpu_row_remap_pending", "a row is to be remapped", {}, severity="warning")
EVERY_S = 600.0


def told(*findings: Finding, at: float = 1000.0, now: float = 1001.0, **times: float) -> RunView:
    history = History({finding.id: at for finding in findings}, **times)
    return view(attempt(1), now=now, history=history)


def test_the_document_shows_the_table() -> None:
    assert as_markdown() in (Path(__file__).parents[2] / "docs" / "monitor.md").read_text()


def test_every_finding_has_an_act() -> None:
    for severity in ("info", "warning", "critical"):
        finding = Finding("whatever", "", {}, severity=severity)
        assert act_on(finding, told()) == ("end" if severity == "critical" else "tell")
    assert TABLE[-1].act == "tell"


def test_a_warning_that_foretells_a_loss_has_a_checkpoint_saved() -> None:
    decision = decide(told(PENDING), (PENDING,))
    assert (decision.action, decision.reason) == ("save", PENDING.summary)


@pytest.mark.parametrize(
    ("times", "action"),
    [
        ({"saved_at": 999.0}, "save"),
        ({"saved_at": 1000.5}, "wait"),  # there is one by now
        ({"asked_at": 1000.5}, "wait"),  # it is on its way
        ({"asked_at": 900.0}, "wait"),  # for another warning, just now …
        ({"asked_at": 900.0, "now": 900.0 + EVERY_S}, "save"),  # … which is some time ago
    ],
)
def test_it_is_saved_once_and_not_too_often(times: dict[str, float], action: str) -> None:
    assert decide(told(PENDING, **times), (PENDING,)).action == action


def test_nothing_is_saved_for_what_is_not_told_or_foretells_nothing() -> None:
    assert decide(told(), (PENDING,)).action == "wait"
    for other in (replace(PENDING, severity="info"), replace(PENDING, kind="data_wait")):
        assert decide(told(other), (other,)).action == "wait"


@pytest.mark.parametrize(("full_in_s", "action"), [(3600.0, "save"), (0.0, "wait")])
def test_a_disk_that_is_full_has_no_room_for_one_more(full_in_s: float, action: str) -> None:
    disk = Finding("disk_full", "", {"full_in_s": full_in_s}, severity="warning")
    assert decide(told(disk), (disk,)).action == action


def test_a_stop_is_not_held_up_by_it() -> None:
    seen = told(PENDING)
    stopping = replace(seen, run=replace(seen.run, stop_requested_at=1.0))
    assert decide(stopping, (PENDING,)).action == "wait"


def test_a_new_monitor_knows_by_the_record_what_was_saved_and_asked_for(
    tmp_path: Path, data_cache: Path
) -> None:
    run = RunDir(tmp_path)
    record = Record(run, make_spec(data_cache))
    assert record.look(told()) == () and record.history == History()
    details: dict[str, Any] = {"finding": PENDING.kind, "key": "", "severity": "warning"}
    run.record("finding", "monitor", **details)
    run.record("decision", "monitor", action="save")
    run.record("checkpoint_saved", "trainer", step=4)
    record.look(told())
    history = record.history
    assert history.told[PENDING.id] <= history.asked_at <= history.saved_at


def test_who_asks_while_a_request_stands_is_answered_with_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    first = request_checkpoint(run, "user", "why")
    assert request_checkpoint(run, "monitor", "other") == first == CheckpointRequest.read(run)
    assert [e["request"] for e in run.read_events()] == [first.id]
    run.checkpoint_request.write_text("")  # by a person's touch
    assert CheckpointRequest.read(run) == CheckpointRequest("", "", "")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-requested", "events.jsonl"}
