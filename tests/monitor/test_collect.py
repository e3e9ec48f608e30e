"""What is read of a run: the events by offset, and the samples of hosts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from monitor.catalog import FROM_LINES, GPU, HOST, METRICS
from monitor.collect.event_facts import MOST_KINDS, EventFacts
from monitor.collect.host_sample import (
    GpuSample,
    HostSample,
    read_host_samples,
    sample_path,
    write_host_sample,
)
from monitor.collect.lines import lines_after
from monitor.exporter import Readings
from smolplan.rundir import RunDir


def test_a_log_is_read_from_where_it_was_left_and_half_a_line_is_not_taken(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert list(lines_after(log, 0)) == [], "it is not there yet"
    log.write_text('{"a": 1}\nno json\n[2]\n{"a": 3}\n{"a":')
    found = list(lines_after(log, 0))
    assert [content["a"] for _, content in found] == [1, 3]
    with log.open("a") as file:
        file.write(' 4}\n{"ä": 5}\n')
    again = list(lines_after(log, found[-1][0]))
    assert [content for _, content in again] == [{"a": 4}, {"ä": 5}]
    assert again[-1][0] == log.stat().st_size


def test_facts_of_events_are_kept_up_and_bounded(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    facts = EventFacts(run)
    facts.look()
    assert (facts.counts["non_finite_loss"], facts.checkpoint_at) == (0, None)
    run.record("launched", "launcher", attempt=1)
    facts.look()
    launched_at = facts.checkpoint_at
    assert launched_at is not None
    run.record("checkpoint_saved", "trainer", step=4, seconds=1.0)
    run.record("launched", "launcher", attempt=2)
    run.record("finding", "monitor", finding="slow", key="a", severity="warning")
    run.record("finding", "monitor", finding="slow", key="b", severity="warning")
    run.record("finding_over", "monitor", finding="slow", key="a")
    facts.look()
    facts.look()
    assert facts.counts["launched"] == 2
    assert facts.checkpoint is not None and facts.checkpoint["step"] == 4
    assert facts.checkpoint_at is not None and facts.checkpoint_at > launched_at
    assert facts.findings == {("slow", "b"): "warning"}
    for number in range(2 * MOST_KINDS):
        run.record(f"kind {number}", "test")
    facts.look()
    assert len(facts.counts) == MOST_KINDS


GPU_SAMPLE = GpuSample(index=0, uuid="GPU-0", temperature_c=61.5, xids={"79": 1})
SAMPLE = HostSample(host="node1", node=1, time=1e9, load_1min=2.0, gpus=(GPU_SAMPLE,))


def test_a_sample_is_read_as_it_was_written_and_what_is_broken_is_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert read_host_samples(run) == []
    other = replace(SAMPLE, node=0, host="node0", gpus=())
    for sample in (SAMPLE, other):
        write_host_sample(run, sample)
    assert read_host_samples(run) == [other, SAMPLE]
    content = json.loads(sample_path(run, 1).read_text())
    sample_path(run, 1).write_text(json.dumps({**content, "of the future": 3}))
    assert read_host_samples(run) == [other, SAMPLE]
    for broken in ("{", "[]", '{"host": "x"}', '{"gpus": 3}', '{"gpus": [4]}'):
        sample_path(run, 1).write_text(broken)
        assert read_host_samples(run) == [other], broken


def test_the_catalogue_names_fields_that_are_there() -> None:
    assert {metric.source for metric in HOST} <= set(vars(SAMPLE))
    assert {metric.source for metric in GPU} <= set(vars(GPU_SAMPLE))
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        ours, counts = metric.name.startswith("smolplan_"), metric.name.endswith("_total")
        assert not ours or counts == (metric.kind == "counter"), metric.name
    assert all(metric.labels == ("run",) for metric in FROM_LINES)


def test_a_value_of_no_metric_in_the_catalogue_is_refused() -> None:
    readings = Readings()
    readings.add("smolplan_train_loss", ["r"], 2.0)
    readings.add("smolplan_train_mfu_ratio", ["r"], None)
    readings.add("smolplan_train_tokens", ["r"], {"odd": 1})
    (family,) = readings.families()
    assert [(s.name, s.labels, s.value) for s in family.samples] == [
        ("smolplan_train_loss", {"run": "r"}, 2.0)
    ]
    readings.add("smolplan_invented", ["r"], 1.0)
    with pytest.raises(KeyError, match="smolplan_invented"):
        list(readings.families())
