"""Who is told what, and how much of it: the pure part of the notifier."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.notify.events import message_of
from monitor.notify.limit import (
    BURST,
    DIGEST_S,
    MOST_KEPT,
    REPEAT_S,
    Memory,
    as_begun,
    digest,
    judge,
)
from monitor.notify.message import Message, Severity
from monitor.notify.payloads import alertmanager_body, email_of, slack_body, webhook_body

HOUR_S = 3600.0


def told(kind: str, **event: object) -> Message:
    message = message_of({"time": 1e9, "kind": kind, **event}, "r", 7)
    assert message is not None
    return message


def about(key: str, severity: Severity = "warning", *, over: bool = False) -> Message:
    return Message(
        id=key, kind="finding", key=key, severity=severity, run="r", time=1e9,
        what=f"{key} is odd", lasts=not over, over=over,
    )  # fmt: skip


def test_a_restart_says_what_happened_what_was_done_and_what_is_to_do() -> None:
    message = told("decision", action="restart", reason="attempt 2 ended: rank 1 was killed")
    assert message.severity == "warning"
    assert "rank 1 was killed" in message.what
    assert "starts the next attempt" in message.done
    assert "smolplan logs r" in message.todo


def test_a_run_that_failed_needs_a_person_and_one_that_finished_does_not() -> None:
    failed = told("run_ended", state="failed", reason="5 attempts without a new step")
    assert (failed.severity, "launch --resume r" in failed.todo) == ("critical", True)
    finished = told("run_ended", state="finished", reason="all steps are done")
    assert (finished.severity, finished.todo) == ("info", "")


def test_hosts_that_preflight_leaves_out_are_told_of() -> None:
    assert told("preflight", checked=30, left_out=["a", "b"]).what == "preflight left out a, b"


def test_what_fails_beside_a_run_is_told_with_what_is_left_to_do() -> None:
    evaluation = told("evaluation_failed", step=40, reason="no held-out text")
    assert "step 40" in evaluation.what and "no held-out text" in evaluation.what
    assert evaluation.todo.endswith("smolplan eval r --step 40")
    refused = told("evaluation_failed", step=40, reason="srun: no", tried_again=True)
    assert "is tried again" in refused.done and "eval.through" in refused.todo
    tracker = told("tracker_failed", tracker="wandb", reason="no route")
    assert (tracker.severity, tracker.key) == ("warning", "wandb")
    assert "wandb is not told" in tracker.what and "tracking/wandb.log" in tracker.todo


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "checkpoint_saved", "step": 3},
        {"kind": "decision", "action": "condemn"},
        {"kind": "preflight", "checked": 30, "left_out": []},
        {"kind": "something of the future"},
        {},
    ],
)
def test_what_is_nobodys_concern_is_not_told(event: dict[str, object]) -> None:
    assert message_of(event, "r", 1) is None


def test_the_end_of_a_finding_is_that_of_its_beginning() -> None:
    begins = told("finding", finding="slow", key="node1", severity="critical", summary="…",
                  advice="swap it", hosts=["node1"])  # fmt: skip
    ends = told("finding_over", finding="slow", key="node1", lasted_s=61.0)
    assert begins.about == ends.about
    assert (begins.todo, begins.lasts, ends.over) == ("swap it", True, True)
    _, memory = judge(Memory(), begins, 1e9)
    ended = as_begun(memory, ends)
    labels = [alertmanager_body(m)[0]["labels"] for m in (begins, ended)]
    assert labels[0] == labels[1], "or Alertmanager would not know what is over"
    assert judge(memory, ended, 1e9)[0] == "tell"
    assert judge(Memory(), ends, 1e9)[0] == "drop", "nobody knows of its beginning"


def test_the_same_is_told_once_an_hour_and_counted_meanwhile() -> None:
    now, memory, verdicts = 1e9, Memory(), []
    for _ in range(4):
        verdict, memory = judge(memory, about("a"), now)
        verdicts.append(verdict)
        now += 60
    assert verdicts == ["tell", "hold", "hold", "hold"]
    assert digest(memory, "r", now)[0] is None, "it is not due"
    summary, memory = digest(memory, "r", now + DIGEST_S)
    assert summary is not None and "3 × a is odd" in summary.what
    assert digest(memory, "r", now + 2 * DIGEST_S)[0] is None
    assert judge(memory, about("a"), 1e9 + REPEAT_S)[0] == "tell"


def test_a_flood_of_news_does_not_hold_back_what_is_critical() -> None:
    now, memory = 1e9, Memory()
    for number in range(3 * BURST):
        verdict, memory = judge(memory, about(f"n{number}"), now)
        assert verdict == ("tell" if number < BURST else "hold")
    assert judge(memory, about("x", "critical"), now)[0] == "tell"
    assert judge(memory, about("y"), now + HOUR_S)[0] == "tell", "an hour later there is room"


def test_what_is_left_at_the_end_of_a_run_is_told_at_once() -> None:
    _, memory = judge(Memory(), about("a"), 1e9)
    _, memory = judge(memory, about("a", "critical"), 1e9)
    summary, memory = digest(memory, "r", 1e9, last=True)
    assert summary is not None and summary.severity == "critical"
    assert not memory.held


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2000),
            st.sampled_from(["info", "warning", "critical"]),
            st.floats(-10, 5000),
        ),
        max_size=300,
    )
)
def test_nothing_is_lost_and_memory_stays_small(
    sequence: list[tuple[int, Severity, float]],
) -> None:
    now, memory, told_ones, counted = 1e9, Memory(), 0, 0
    for key, severity, later_s in sequence:
        now += later_s  # a clock may be set back
        verdict, memory = judge(memory, about(f"k{key}", severity), now)
        told_ones += verdict == "tell"
        memory = Memory.from_json(json.loads(json.dumps(memory.to_json())))
        held_before = sum(memory.held.values())
        summary, memory = digest(memory, "r", now)
        counted += held_before if summary else 0
        assert max(len(memory.told), len(memory.held), len(memory.standing)) <= MOST_KEPT + 1
    assert told_ones + counted + sum(memory.held.values()) == len(sequence)


def test_a_message_in_the_forms_that_receivers_take() -> None:
    message = told("host_silent", host="<node&1>", reason="a\nb")
    hook = webhook_body(message)
    assert (hook["version"], hook["status"]) == ("4", "firing")
    (alert,) = hook["alerts"]
    assert alert["labels"]["alertname"] == "SmolplanHostSilent"
    assert alert["annotations"]["message_id"] == "r:7"
    text = slack_body(message)["text"]
    assert text.startswith("*[warning] r: &lt;node&amp;1&gt; does not answer: a b*")
    mail = email_of(message, "a@x.org", ("b@x.org", "c@x.org"))
    assert mail["Subject"] == "[warning] r: <node&1> does not answer: a b", "a header is one line"
    assert mail["To"] == "b@x.org, c@x.org"
    assert "To do: look whether it is up" in mail.get_content()
    again = email_of(message, "a@x.org", ("b@x.org",))
    assert again["Message-ID"] == mail["Message-ID"]
