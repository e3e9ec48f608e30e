"""Several hosts on one machine: each is a process of its own, with something before it that makes
it differ."""

import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from launcher.hosts.fleet import local_fleet
from preflight import fleet_run, registry
from preflight.checks import storage_shared
from preflight.fleet_run import HostProgress, run_fleet
from preflight.reach import CommandHosts
from preflight.report import Report, Result
from smolplan.spec import RunSpec
from tests.preflight.support import put_first
from tests.support import make_spec, wait_until

CAN_MOUNT = os.geteuid() == 0 and shutil.which("unshare") is not None


class Hosts:
    """a, b, c; what stands before a host's commands is planted by the test."""

    def __init__(self) -> None:
        self.before: dict[str, list[str]] = {}
        self.reach = CommandHosts("abc", lambda host: self.before.get(host, []))


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.reach.close()


@pytest.fixture
def spec(data_cache: Path) -> RunSpec:
    return make_spec(data_cache)


def run(spec: RunSpec, folder: Path, hosts: Hosts, *only: str, names: str = "abc") -> Report:
    return run_fleet(spec, folder, hosts.reach, list(names), only=only)


def of(report: Report, name: str, host: str) -> Result:
    (found,) = [r for r in report.results if (r.name, r.host) == (name, host)]
    return found


def test_every_host_checks_itself_and_what_is_the_same_everywhere_is_checked_once(
    spec: RunSpec, tmp_path: Path, hosts: Hosts
) -> None:
    hosts.before["b"] = ["prlimit", "--nofile=1100:1100"]
    report = run(spec, tmp_path, hosts, "host.open_files", "config.layout", "host.memory")
    assert [r.host for r in report.results if r.name == "config.layout"] == [""]
    assert [r.host for r in report.results if r.name == "host.memory"] == ["a", "b", "c"]
    assert {h: of(report, "host.open_files", h).state for h in "abc"} == {
        "a": "pass",
        "b": "fail",
        "c": "pass",
    }
    assert of(report, "host.open_files", "b").remedy
    assert of(report, "host.reached", "").summary == "3 of 3 hosts"
    assert [r.name for r in report.failed("b")] == ["host.open_files"]


def test_a_host_that_cannot_be_reached_or_has_no_smolplan_is_named_and_the_others_go_on(
    spec: RunSpec, tmp_path: Path, hosts: Hosts
) -> None:
    hosts.before["a"] = [str(tmp_path / "no-such-command")]
    hosts.before["c"] = ["env", "PYTHONPATH=", sys.executable, "-S", "-P"]
    hosts.reach._python = "-I"  # of c; b runs the interpreter through env
    hosts.before["b"] = ["env", "sh", "-c", 'shift; exec "$0" "$@"', sys.executable]
    report = run(spec, tmp_path, hosts, "host.memory")
    assert "No such file" in of(report, "host.reached", "a").summary
    assert "No module named" in of(report, "host.reached", "c").why
    assert "Install smolplan there" in of(report, "host.reached", "c").remedy
    assert of(report, "host.memory", "b").state == "pass"
    assert not report.fit


def test_a_host_that_falls_silent_is_given_up_while_the_others_are_heard(
    spec: RunSpec, tmp_path: Path, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_run, "START_S", 4.0)
    hosts.before["b"] = ["sh", "-c", "exec sleep 600"]
    report = run(spec, tmp_path, hosts, "host.memory", names="ab")
    lost = of(report, "host.reached", "b")
    assert lost.state == "fail"
    assert "before its first word" in lost.summary
    assert of(report, "host.reached", "").summary == "1 of 2 hosts"
    hosts.reach.close()
    assert not [p for p in psutil.Process().children() if "sleep" in p.name()]


def test_hosts_are_asked_over_the_launchers_connections(
    spec: RunSpec, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = str(tmp_path_factory.mktemp("cache"))
    only = ["host.memory", "host.clock_offset", "storage.shared"]
    with local_fleet(["a", "b"], python=sys.executable, cache=cache) as fleet:
        report = run_fleet(spec, tmp_path, fleet, ["a", "b"], only=only)
    assert [(r.name, r.host, r.state) for r in report.results] == [
        ("host.reached", "", "pass"),
        ("host.memory", "a", "pass"),
        ("host.memory", "b", "pass"),
        ("host.clock_offset", "a", "pass"),
        ("host.clock_offset", "b", "pass"),
        ("storage.shared", "", "pass"),
    ]


def test_progress_is_told_by_host(spec: RunSpec, tmp_path: Path, hosts: Hosts) -> None:
    seen: list[dict[str, HostProgress]] = []

    def note(told: Mapping[str, HostProgress]) -> None:
        seen.append(dict(told))

    run_fleet(spec, tmp_path, hosts.reach, ["a", "b"], only=["host.memory"], on_progress=note)
    assert {h: p.done for h, p in seen[0].items()} == {"a": 0, "b": 0}
    assert {h: (p.done, p.of, p.ended) for h, p in seen[-1].items()} == {
        "a": (1, 1, True),
        "b": (1, 1, True),
    }


def test_a_runs_folder_that_all_hosts_see_passes_and_nothing_is_left_there(
    spec: RunSpec, tmp_path: Path, hosts: Hosts
) -> None:
    report = run(spec, tmp_path, hosts, "storage.shared", names="ab")
    assert of(report, "storage.shared", "").state == "pass"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not CAN_MOUNT, reason="mounting takes root and util-linux")
def test_a_host_with_a_runs_folder_of_its_own_is_named(
    spec: RunSpec, tmp_path: Path, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_shared, "WAIT_S", 3.0)
    script = 'mount -t tmpfs none "$0" && exec "$@"'
    hosts.before["b"] = ["unshare", "--mount", "sh", "-c", script, str(tmp_path)]
    report = run(spec, tmp_path, hosts, "storage.shared")
    (found,) = [r for r in report.results if r.name == "storage.shared"]
    assert (found.host, found.state) == ("b", "fail")
    assert "not that of a, c" in found.summary
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_is_5_s_off_is_found_and_the_others_are_not_blamed(
    spec: RunSpec, tmp_path: Path, hosts: Hosts
) -> None:
    shifted = "import time\nnow = time.time_ns\ntime.time_ns = lambda: now() + 5 * 10**9\n"
    (tmp_path / "sitecustomize.py").write_text(shifted)
    path = os.pathsep.join([str(tmp_path), *sys.path[:1], os.environ.get("PYTHONPATH", "")])
    hosts.before["b"] = ["env", f"PYTHONPATH={path}"]
    report = run(spec, tmp_path, hosts, "host.clock_offset")
    states = {h: of(report, "host.clock_offset", h) for h in "abc"}
    assert {h: r.state for h, r in states.items()} == {"a": "pass", "b": "fail", "c": "pass"}
    assert states["b"].summary.startswith("5 s ± ")
    assert "chronyc" in states["b"].remedy


PLANTED = """
import os, time
from preflight.registry import check
from preflight.report import Finding

@check("host.planted", remedy="Pull it out.", peers={"speed_per_s": "higher"})
def planted(context):
    folder = context.folder(context.runs_dir)
    time.sleep(float(os.environ.get("SLEEP", 0)))
    speed, version = float(os.environ.get("SPEED", 100)), os.environ.get("VERSION", "1")
    return Finding(state="pass", summary="", measured={"speed_per_s": speed},
                   facts={"library": version})
"""


@pytest.fixture
def planted(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every host has one more check; the folder of the runs."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(PLANTED)
    put_first(tmp_path / "code", monkeypatch)
    monkeypatch.setattr(registry, "_checks", dict(registry._checks))
    exec(PLANTED, {"__name__": "planted"})
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def test_a_host_that_is_slower_or_has_another_version_is_named_by_the_comparison(
    spec: RunSpec, planted: Path, hosts: Hosts
) -> None:
    hosts.before["b"] = ["env", "SPEED=80"]
    hosts.before["c"] = ["env", "VERSION=2"]
    report = run(spec, planted, hosts, "host.planted")
    found = {h: of(report, "host.planted", h) for h in "abc"}
    assert {h: (r.state, r.source) for h, r in found.items()} == {
        "a": ("pass", "none"),
        "b": ("warn", "fleet"),
        "c": ("fail", "fleet"),
    }
    assert found["b"].why == "speed_per_s 80/s, the fleet's median 100/s: 20% worse"
    assert found["c"].why == "library is 2 here, 1 on a, b"
    assert found["c"].remedy == "Pull it out."


def test_a_host_killed_outright_in_the_middle_of_its_checks_leaves_no_folder(
    spec: RunSpec, planted: Path, hosts: Hosts
) -> None:
    hosts.before["a"] = ["env", "SLEEP=600"]
    reports: list[Report] = []
    thread = threading.Thread(
        target=lambda: reports.append(run(spec, planted, hosts, "host.planted", names="a"))
    )
    thread.start()
    wait_until(lambda: bool(list(planted.iterdir())), 30.0)
    (process,) = hosts.reach._running
    process.kill()
    thread.join()
    assert "exit code -9" in of(reports[0], "host.reached", "a").summary
    wait_until(lambda: list(planted.iterdir()) == [], 10.0)
