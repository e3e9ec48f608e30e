import time
from pathlib import Path

import pytest

from preflight import history
from preflight.registry import Check
from preflight.report import Finding, Report, Result, State

CHECK = Check(
    "storage.planted",
    "required",
    "Mend it.",
    1.0,
    False,
    lambda context: Finding(state="pass", summary=""),
    peers={"write_bytes_per_s": "higher"},
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOLPLAN_STATE", str(tmp_path))


def report(
    ago_s: float,
    *results: tuple[str, str, State, float],
    hosts: str = "ab",
    spec_hash: str = "ab" * 32,
    made_on: str = "",
) -> Report:
    return Report(
        spec_name="x",
        spec_hash=spec_hash,
        runs_dir="",
        results=tuple(
            Result(
                name=name,
                area=name.partition(".")[0],
                severity="required",
                state=state,
                summary="",
                host=host,
                measured={"write_bytes_per_s": figure},
                seconds=0.0,
            )
            for name, host, state, figure in results
        ),
        seconds=0.0,
        hosts=tuple(hosts),
        started_at=time.time() - ago_s,
        made_on=made_on,
    )


def planted(ago_s: float, figure: float, host: str = "a", state: State = "pass") -> Report:
    return report(ago_s, (CHECK.name, host, state, figure))


def test_a_kept_report_is_read_back_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    for ago_s in (50, 40, 30, 20):
        history.keep(planted(ago_s, ago_s))
    figures = [r.results[0].measured["write_bytes_per_s"] for r in history.reports("x")]
    assert figures == [20, 30, 40]


def test_a_torn_file_or_a_folder_that_cannot_be_written_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = history.keep(planted(1, 1.0))
    assert path is not None
    path.write_text(path.read_text()[:50])
    assert history.reports("x") == []
    monkeypatch.setenv("SMOLPLAN_STATE", str(path))
    assert history.keep(planted(1, 1.0)) is None


def test_a_figure_that_fell_since_the_last_good_reports_is_warned_of() -> None:
    before = [planted(100 * n, figure) for n, figure in enumerate((100.0, 101.0, 99.0), 1)]
    (told,) = history.compare(planted(0, 70.0), [CHECK], before).results
    assert (told.state, told.source, told.remedy) == ("warn", "history", "Mend it.")
    assert told.why.startswith("write_bytes_per_s 70 B/s, but 100 B/s until ")
    assert history.compare(planted(0, 95.0), [CHECK], before).results[0].state == "pass"
    assert history.compare(planted(0, 500.0), [CHECK], before).results[0].state == "pass"


def test_neither_other_hosts_nor_bad_reports_nor_one_noisy_figure_count() -> None:
    now = planted(0, 75.0)
    assert history.compare(now, [CHECK], [planted(9, 100.0, "b")]).results == now.results
    assert history.compare(now, [CHECK], [planted(9, 999.0, state="warn")]).results == now.results
    assert history.compare(now, [CHECK], [planted(9, 100.0)]).results == now.results
    noisy = [planted(n, figure) for n, figure in enumerate((100.0, 60.0, 140.0, 80.0), 1)]
    assert history.compare(now, [CHECK], noisy).results == now.results


def test_a_result_of_no_host_is_compared_on_the_machine_that_made_it_only() -> None:
    now = report(0, (CHECK.name, "", "pass", 10.0), hosts="", made_on="here")
    there = report(9, (CHECK.name, "", "pass", 100.0), hosts="", made_on="there")
    assert history.compare(now, [CHECK], [there]).results[0].state == "pass"
    here = there.model_copy(update={"made_on": "here"})
    assert history.compare(now, [CHECK], [here]).results[0].state == "warn"


def test_a_failure_stands_until_the_same_check_of_the_same_host_was_made_again() -> None:
    assert history.latest_report("ab" * 32) is None
    memory, shared = "host.memory", "storage.shared"
    history.keep(report(90, (memory, "a", "fail", 0), (memory, "b", "fail", 0)))
    history.keep(report(80, (shared, "b", "fail", 0)))
    history.keep(report(70, (memory, "b", "pass", 0), hosts="b"))
    history.keep(report(60, ("host.cpus", "a", "fail", 0), spec_hash="cd" * 32))
    standing = history.latest_report("ab" * 32)
    assert standing is not None
    assert 69 < standing.age_s < 80
    assert {(r.name, r.host) for r in standing.failed} == {(memory, "a"), (shared, "b")}
    # A check of all hosts together has one result where all is well.
    history.keep(report(50, (shared, "", "pass", 0)))
    standing = history.latest_report("ab" * 32)
    assert standing is not None
    assert standing.failed_hosts == {"a"}
