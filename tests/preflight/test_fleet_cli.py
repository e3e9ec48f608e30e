"""The command over several hosts, which are all agents of this machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest

from launcher.hosts.host import Host
from preflight.report import Report, Result, State
from preflight.targets import choose, targets
from preflight.watch import Change, changes
from smolplan.errors import UserError
from smolplan.spec import dump_spec
from tests.preflight.support import with_part
from tests.support import make_spec, smolplan


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory, data_cache: Path) -> Path:
    spec = with_part(make_spec(data_cache), "launch", hosts=("gpu[01-03]",))
    path = tmp_path_factory.mktemp("spec") / "run.yaml"
    path.write_text(dump_spec(spec))
    return path


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOLPLAN_STATE", str(tmp_path / "state"))


def test_hosts_are_chosen_by_pattern_and_the_report_goes_to_files_and_is_kept(
    spec_file: Path, tmp_path: Path
) -> None:
    page, cases = tmp_path / "report.html", tmp_path / "report.xml"
    done = smolplan(
        *["preflight", str(spec_file), "--runs-dir", str(tmp_path / "runs")],
        *["--only", "host.memory", "--only", "storage.shared", "--hosts", "gpu0[12]"],
        *["--html", str(page), "--junit", str(cases)],
    )
    assert done.returncode == 0, done.stderr
    assert "pass host.reached   2 of 2 hosts" in done.stdout
    assert "pass storage.shared 2 hosts see each other's files" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "gpu02" in page.read_text()
    assert [s.get("name") for s in xml.parse(cases).getroot()][-2:] == ["gpu01", "gpu02"]
    assert not (tmp_path / "runs").exists()

    last = smolplan("preflight", str(spec_file), "--last", "--json")
    assert json.loads(last.stdout)["hosts"] == ["gpu01", "gpu02"]


def test_a_mistake_of_the_users_is_told_in_one_line(spec_file: Path, tmp_path: Path) -> None:
    done = smolplan("preflight", str(spec_file), "--hosts", "cpu1")
    assert done.returncode == 2
    there = "There are gpu01, gpu02, gpu03."
    assert done.stderr == f"smolplan: --hosts: no host is called 'cpu1'. {there}\n"
    never = smolplan("preflight", str(spec_file), "--last")
    assert "was never checked here" in never.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watching_ends_cleanly_when_it_is_told_to(spec_file: Path, number: signal.Signals) -> None:
    watching = subprocess.Popen(
        [
            *[sys.executable, "-m", "smolplan", "preflight", str(spec_file), "--here", "--watch"],
            *["--every", "0.1s", "--only", "host"],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout
    assert watching.stdout.readline().startswith("Watching by ")
    watching.send_signal(number)
    _, errors = watching.communicate(timeout=20)
    assert watching.returncode == 0
    assert errors == ""


def looked(*results: tuple[str, str, State]) -> Report:
    return Report(
        spec_name="x",
        spec_hash="",
        runs_dir="",
        results=tuple(
            Result(
                name=name,
                area="host",
                severity="required",
                state=state,
                summary="",
                host=host,
                seconds=0.0,
            )
            for name, host, state in results
        ),
        seconds=0.0,
    )


def told(found: list[Change]) -> list[tuple[str, State | None, State]]:
    return [(c.result.host, c.before, c.result.state) for c in found]


def test_only_what_changes_is_told() -> None:
    well = looked(("host.memory", "a", "pass"), ("host.memory", "b", "warn"))
    assert told(changes(None, well)) == [("b", None, "warn")]
    assert changes(well, well) == []
    worse = looked(("host.memory", "a", "fail"), ("host.memory", "b", "pass"))
    assert told(changes(well, worse)) == [("a", "pass", "fail"), ("b", "warn", "pass")]


def test_a_host_that_is_lost_and_comes_back_is_told_of_twice() -> None:
    well, lost = (
        looked(("host.reached", "", "pass")),
        looked(("host.reached", "a", "fail"), ("host.reached", "", "pass")),
    )
    assert told(changes(well, lost)) == [("a", None, "fail")]
    assert told(changes(lost, well)) == [("a", "fail", "pass")]


def test_hosts_are_named_by_wildcards_and_ranges_in_the_inventorys_order() -> None:
    hosts = [Host(name) for name in ("gpu02", "gpu01", "login")]
    assert [h.name for h in choose(hosts, ["gpu[01-09]"])] == ["gpu02", "gpu01"]
    assert [h.name for h in choose(hosts, ["log*", "gpu01"])] == ["gpu01", "login"]
    with pytest.raises(UserError, match=r"--hosts: no host is called 'x\*'"):
        choose(hosts, ["x*"])


def test_within_an_allocation_hosts_are_reached_by_srun(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun is replaced by a script that keeps to what we give it: what it would start is real."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    spec = with_part(make_spec(data_cache), "launch", backend="slurm", hosts=("n[1-2]",))
    found = targets(spec, {"SLURM_JOB_ID": "7"}, [])
    assert found is not None and found.hosts == ("n1", "n2")
    answers = found.reach.call("ping", {}, timeout_s=20.0)
    found.reach.close()
    assert [abs(a["clock_offset_s"]) < 1 for a in answers.values() if isinstance(a, dict)] == [
        True,
        True,
    ]


def test_kubernetes_says_how_it_is_done_from_pods(data_cache: Path) -> None:
    spec = with_part(make_spec(data_cache), "launch", backend="kubernetes")
    with pytest.raises(UserError, match="In a pod on each node"):
        targets(spec, {})
