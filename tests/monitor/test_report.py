import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from launcher.host_faults import HostFault
from launcher.store import Run
from monitor.collect.goodput_meter import GoodputMeter
from monitor.curve import MOST_POINTS, Curve, point
from monitor.report.content import document_of
from monitor.report.facts import facts_of
from monitor.report.html import html
from monitor.report.markdown import markdown, plain
from monitor.story import Story, StoryReader
from planner.catalog import price_of
from planner.observed import Mean
from smolplan.origin import Origin
from smolplan.rundir import RunDir, append_line
from smolplan.skipped import Skipped
from tests.monitor.recorded import History
from tests.monitor.test_goodput import attempt, broken_once
from tests.support import make_spec

EVIL = "<script>alert('x')</script> | **bold** & [a](b)\n# no heading"


def write(history: History, folder: Path) -> None:
    """What the store would know is left to the caller."""
    run = RunDir(folder)
    for record in history.records:
        if record.get("kind") not in ("planned", "ended", "reported"):
            append_line(run.events if "kind" in record else run.metrics, record)


def read(history: History, folder: Path, *, cause: str = "killed", state: str = "failed") -> Story:
    write(history, folder)
    plans = [record for record in history.records if record.get("kind") == "planned"]
    ends = {r["attempt"]: r["time"] for r in history.records if r.get("kind") == "ended"}
    attempts = [
        attempt(
            plan["attempt"],
            state="ended",
            exit_code=-9,
            cause=cause,
            created_at=plan["time"],
            not_before=plan["not_before"],
            ended_at=ends.get(plan["attempt"], history.now),
            step_at_end=14,
        )
        for plan in plans
    ]
    run = Run("r-1", folder, "hash", "active", "", None, True, history.launched_at, "", 1)
    fault = HostFault("n<2>", "killed", EVIL, (), "r-1", 1, history.now, None, "")
    spec = make_spec(folder / "cache", steps=40, every=10)
    ended = replace(run, state=state, reason=cause)  # type: ignore[arg-type]
    return StoryReader(run, spec).read(ended, attempts, [fault])


class Tags(HTMLParser):
    """Which tags there are, whether each is closed, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_failure_is_told_with_what_was_seen_and_what_it_cost(tmp_path: Path) -> None:
    story = read(broken_once(), tmp_path)
    first = story.failures[0]
    assert first.decided == "end attempt: rank 1 was ended by signal 9"
    assert (first.detection_s, first.redone_s) == (0.5, 2.0)
    assert first.restart_s == pytest.approx(0.25 + 2.0 + 2.0 + 1.0)
    assert story.observed.spans["provision"].seconds == pytest.approx(2.25)
    assert story.observed.spans["load"] == Mean(1.0, 1)
    assert story.observed.spans["stall"].count == 2
    assert story.observed.step == 20 and len(story.observed.step_times_s) == 22
    assert story.gpu_hours == pytest.approx(2 * 21.25 / 3600)


def test_what_a_person_ends_and_what_a_scheduler_plans_are_no_failures(tmp_path: Path) -> None:
    history = broken_once()
    history.records.insert(
        -1, {"time": history.now - 0.01, "kind": "killed", "source": "user", "attempt": 2}
    )
    assert [f.attempt for f in read(history, tmp_path).failures] == [1]


def test_the_page_is_whole_needs_nothing_else_and_runs_nothing(tmp_path: Path) -> None:
    story = read(broken_once(), tmp_path, cause=EVIL)
    page = html(document_of(story, {"tokens_per_s": 1024.0}, price_of("h100", None)))
    tags = Tags(page)
    assert tags.open == []
    assert not tags.seen & {"script", "img", "link", "iframe", "a"}
    assert {"svg", "polyline", "table"} <= tags.seen
    assert EVIL in tags.text and "n<2>" in tags.text
    assert not re.search(r"\b(?:src|href)\s*=|url\(|https?:", page)


def test_markdown_shows_every_character_as_it_is(tmp_path: Path) -> None:
    story = read(broken_once(), tmp_path, cause=EVIL)
    text = markdown(document_of(story, {}, None))
    assert "<script>" not in text and "\n# no heading" not in text
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) >= 5
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1
    assert plain("a|b\x1b[31m") == "a\\|b \\[31m"


def test_the_report_adds_up(tmp_path: Path) -> None:
    story = read(broken_once(), tmp_path)
    facts = facts_of(story, {"tokens_per_s": 512.0}, price_of("h100", 2.0))
    assert sum(facts["seconds"].values()) == pytest.approx(facts["wall_s"], abs=1e-6)
    stretches = sum(i["end"] - i["start"] for i in facts["intervals"])
    assert stretches == pytest.approx(facts["wall_s"], abs=1e-3)
    # 20 steps of 4 × 32 tokens, at 512 tokens/s, on two ranks
    assert facts["gpu_hours_planned"] == pytest.approx(20 * 128 / 512 * 2 / 3600)
    assert facts["dollars"] == pytest.approx([2 * facts["gpu_hours"]] * 2)


def test_a_run_without_a_record_still_has_a_report(tmp_path: Path) -> None:
    history = History()
    history.attempt = 1
    history.note("planned", reason="", not_before=history.now)
    history.passes(5.0)
    story = read(history, tmp_path)
    assert story.goodput.ratio == 0.0
    assert "failed: step 0 of 40" in markdown(document_of(story, {}, None))


def test_a_fork_tells_of_its_parent_and_pays_for_its_own_steps(tmp_path: Path) -> None:
    origin = Origin("stem-1", "/runs/stem-1", 5, Skipped(), ("optim.steps",))
    (tmp_path / "a").mkdir()
    story = replace(read(broken_once(), tmp_path / "a"), origin=origin)
    facts = facts_of(story, {"tokens_per_s": 512.0}, None)
    assert facts["gpu_hours_planned"] == pytest.approx(15 * 128 / 512 * 2 / 3600)
    assert facts["forked_from"]["step"] == 5
    told = markdown(document_of(story, {"tokens_per_s": 512.0}, None)).replace("\\", "")
    assert "Forked from stem-1 at step 5; changed: optim.steps." in told
    assert "planned for 15 steps" in told

    history = History()
    history.attempt = 1
    history.note("planned", reason="", not_before=history.now)
    (tmp_path / "b").mkdir()
    origin.write(RunDir(tmp_path / "b"))
    young = read(history, tmp_path / "b")
    assert (young.observed.step, young.saved_step, young.steps_done) == (5, 5, 0)


def test_reading_on_gives_what_reading_at_once_does(tmp_path: Path) -> None:
    history = broken_once()
    (tmp_path / "whole").mkdir()
    whole = read(history, tmp_path / "whole")
    run = Run("r-1", tmp_path, "hash", "active", "", None, True, history.launched_at, "", 1)
    reader = StoryReader(run, make_spec(tmp_path / "cache", steps=40, every=10))
    records, history.records = history.records, []
    for record in records:
        history.records = [record]
        write(history, tmp_path)
        attempts = [a for a in whole.attempts if a.created_at <= record["time"]]
        attempts = [
            a if a.ended_at and a.ended_at <= record["time"] else replace(a, ended_at=None)
            for a in attempts
        ]
        reader.read(run, attempts, [])
    piecewise = reader.read(replace(run, state="failed"), list(whole.attempts), [])
    assert piecewise.goodput == whole.goodput
    assert piecewise.observed == whole.observed
    assert [i.cause for i in piecewise.intervals] == [i.cause for i in whole.intervals]


def test_a_meter_tells_nothing_before_it_has_caught_up_and_never_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.collect.goodput_meter.RECORDS_A_LOOK", 10)
    history = broken_once()
    shift = time.time() - history.now
    history.launched_at += shift
    for record in history.records:
        record["time"] += shift
    write(history, tmp_path)
    run = Run("r-1", tmp_path, "hash", "active", "", None, True, history.launched_at, "", 1)
    meter = GoodputMeter(run, make_spec(tmp_path / "cache"))
    attempts = [attempt(1, created_at=run.created_at)]
    looks = 0
    while meter.ratio is None:
        meter.look(attempts)
        looks += 1
    assert looks == 4  # of 31 records on file and one of the store
    assert 0 < meter.ratio < 1
    before = dict(meter.badput_s)
    meter.look(attempts)
    assert all(meter.badput_s[cause] >= seconds for cause, seconds in before.items())


def test_a_curve_of_any_length_is_short_and_keeps_its_extremes() -> None:
    curve = Curve()
    for step in range(1, 50_001):
        loss = 9.0 if step == 12_345 else 2.0
        speed = 1.0 if step == 40_000 else 100.0
        figures = {"loss": loss, "tokens_per_s": speed}
        curve.add(point(step, step / 3600, 1 + step // 20_000, figures))
        assert len(curve.points) <= MOST_POINTS
    assert sum(p.count for p in curve.points) == 50_000
    assert max(p.values["loss"].high for p in curve.points) == 9.0
    assert min(p.values["tokens_per_s"].low for p in curve.points) == 1.0
    assert [p.step for p in curve.points] == sorted(p.step for p in curve.points)
    assert {p.attempt for p in curve.points} == {1, 2, 3}
