import importlib.util
import time
from pathlib import Path

import psutil
import pytest

from planner.plan import make_plan
from preflight.context import Context
from preflight.registry import Check, all_checks, select
from preflight.report import Finding, Report, Result, Severity, State
from preflight.runner import run, run_check
from smolplan.errors import UserError
from tests.support import make_spec


def check(function: object, *, deadline_s: float = 5.0, severity: Severity = "required") -> Check:
    assert callable(function)
    return Check("host.planted", severity, "call somebody", deadline_s, False, function)


@pytest.fixture
def context(data_cache: Path, tmp_path: Path) -> Context:
    spec = make_spec(data_cache)
    return Context(spec, make_plan(spec), tmp_path)


def test_a_probe_that_raises_is_unknown_and_says_what_it_raised(context: Context) -> None:
    def broken(context: Context) -> Finding:
        raise RuntimeError("no such tool")

    result = run_check(check(broken), context)
    assert (result.state, result.why) == ("unknown", "RuntimeError: no such tool")


def test_a_check_that_hangs_is_unknown_at_its_deadline(context: Context) -> None:
    def hanging(context: Context) -> Finding:
        time.sleep(600)
        return Finding(state="pass", summary="")

    result = run_check(check(hanging, deadline_s=0.2), context)
    assert (result.state, result.why) == ("unknown", "no answer within 0.2 s")


def test_a_hanging_process_is_ended_at_its_checks_deadline(context: Context) -> None:
    def hanging(context: Context) -> Finding:
        context.run(["-c", "import time; time.sleep(600)"], timeout_s=500)
        return Finding(state="pass", summary="")

    result = run_check(check(hanging, deadline_s=1.0), context)
    assert result.state == "unknown"
    assert not [p for p in psutil.Process().children() if "sleep(600)" in " ".join(p.cmdline())]


def test_a_probe_process_that_does_not_answer_in_time_is_unknown(context: Context) -> None:
    def slow(context: Context) -> Finding:
        context.run(["-c", "import time; time.sleep(600)"], timeout_s=0.3)
        return Finding(state="pass", summary="")

    result = run_check(check(slow), context)
    assert (result.state, result.why) == ("unknown", "no answer within 0.3 s")


def test_a_probe_that_is_out_of_time_removes_what_it_has_made(
    context: Context, tmp_path: Path
) -> None:
    def waits_for_b(context: Context) -> Finding:
        context.probe("shared", str(tmp_path), "planted", "a", "600", "a", "b", timeout_s=500)
        return Finding(state="pass", summary="")

    result = run_check(check(waits_for_b, deadline_s=2.0), context)
    assert result.why == "no answer within 2 s"
    assert list(tmp_path.iterdir()) == []


def test_a_probe_process_that_crashes_is_unknown_with_its_last_line(context: Context) -> None:
    def crashing(context: Context) -> Finding:
        context.probe("no_such_probe", timeout_s=5)
        return Finding(state="pass", summary="")

    result = run_check(check(crashing), context)
    assert result.state == "unknown"
    assert "no_such_probe" in result.why


def test_an_advisory_check_warns_and_never_fails(context: Context) -> None:
    def failing(context: Context) -> Finding:
        return Finding(state="fail", summary="bad")

    advisory = run_check(check(failing, severity="advisory"), context)
    assert (advisory.state, advisory.remedy) == ("warn", "call somebody")
    assert run_check(check(failing), context).state == "fail"


@pytest.mark.parametrize(
    ("state", "exit_code"),
    [("pass", 0), ("warn", 0), ("skipped", 0), ("unknown", 0), ("fail", 1)],
)
def test_only_a_failed_required_check_makes_the_exit_code_1(state: State, exit_code: int) -> None:
    result = Result(name="a.b", area="a", severity="required", state=state, summary="", seconds=0.0)
    report = Report(spec_name="x", spec_hash="", runs_dir="", results=(result,), seconds=0.0)
    assert report.exit_code == exit_code


def test_what_needs_torch_is_unknown_without_it_and_says_how_to_get_it(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    report = run(make_spec(data_cache), tmp_path, only=["checkpoint", "network.all_reduce"])
    assert {r.state for r in report.results} == {"unknown"}
    assert all("pip install 'smolplan[train]'" in r.remedy for r in report.results)


def test_only_and_skip_take_areas_and_names() -> None:
    names = [c.name for c in select(["storage", "config.memory"], ["storage.fsync"])]
    assert names[:3] == ["config.memory", "storage.mounts", "storage.writable"]
    assert {name.partition(".")[0] for name in names} == {"config", "storage"}
    assert "storage.fsync" not in names


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UserError, match=r"--skip: there is no check 'storge'.*storage"):
        select((), ["storge"])


def test_every_check_says_what_it_looks_at_and_what_to_do() -> None:
    for registered in all_checks():
        assert registered.doc, registered.name
        assert registered.remedy, registered.name
        assert registered.deadline_s > 0
