"""What only hosts with links of their own can show."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.hosts import fleet as fleet_module
from launcher.hosts import loop
from launcher.hosts.fleet import Fleet
from launcher.hosts.host import Host, Trouble
from launcher.hosts.ssh import SshConnector
from tests.lab.namespaces import Lab, lab, missing
from tests.support import wait_until

MISSING = missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("cluster"), 3, tmpfs={"/dev/shm": "64m"}) as made:
        yield made


@pytest.fixture
def fleet(cluster: Lab, cache: Path) -> Iterator[Fleet]:
    connector = SshConnector(cluster.spec(connect_timeout_s=2))
    hosts = [Host(name) for name in cluster.names]
    with Fleet(
        hosts, connector, python=sys.executable, cache=str(cache), on_close=connector.close
    ) as opened:
        yield opened
    for host in cluster.hosts:
        host.heal()


def answers(fleet: Fleet, operation: str, timeout_s: float = 20.0, **arguments: Any) -> Any:
    return fleet.call(operation, arguments, timeout_s=timeout_s)


def test_hosts_have_names_processes_and_files_of_their_own(cluster: Lab, fleet: Fleet) -> None:
    said = answers(fleet, "ping")
    assert [a["hostname"] for a in said.values()] == ["node1", "node2", "node3"]
    script = f"echo $$ > /dev/shm/{os.getpid()}; cat /dev/shm/*; getent hosts node3; ls -d /proc/1"
    for answer in answers(fleet, "run", argv=["sh", "-c", script]).values():
        own, *rest = answer["stdout"].split()
        assert int(own) < 1000 and rest == [cluster["node3"].address, "node3", "/proc/1"]


def test_one_silent_link_costs_only_its_own_deadline_and_comes_back(
    cluster: Lab, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "GRACE_S", 0.3)
    answers(fleet, "ping")
    cluster["node2"].link_down()
    seen: list[str] = []
    said = fleet.call("ping", timeout_s=0.2, on_answer=lambda host, _: seen.append(host))["node2"]
    assert seen[-1] == "node2", "the others do not wait for it"
    assert isinstance(said, Trouble)
    assert said.kind == "unreachable" and "no sign of life" in said.message
    down = answers(fleet, "ping")["node2"]
    assert down.kind == "unreachable" and "does not answer within 2 s" in down.message
    cluster["node2"].link_up()
    assert answers(fleet, "ping")["node2"]["hostname"] == "node2"


def test_a_link_that_dies_in_a_long_call_is_noticed_before_its_time_is_over(
    cluster: Lab, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SILENCE_S", 2.0)
    monkeypatch.setattr(loop, "BEAT_S", 0.5)
    cut: list[str] = []

    def cut_link(host: str, note: dict[str, Any]) -> None:
        cut.append(note["line"])
        cluster["node3"].link_down()

    said = fleet.call(
        "run",
        {"argv": ["sh", "-c", "echo $$; exec sleep 300"]},
        hosts=["node3"],
        timeout_s=300.0,
        on_note=cut_link,
    )["node3"]
    assert isinstance(said, Trouble) and said.kind == "unreachable"
    assert "no sign of life" in said.message
    assert cluster["node3"].run("ls", f"/proc/{cut[0]}", check=False).returncode == 0
    # Over there nobody can know yet. Once the link is back, the session is found to be over.
    cluster["node3"].link_up()
    gone = ["ls", f"/proc/{cut[0]}"]
    wait_until(lambda: cluster["node3"].run(*gone, check=False).returncode != 0)


def test_a_wrong_clock_shows_and_right_ones_do_not(cluster: Lab, fleet: Fleet) -> None:
    cluster["node1"].set_clock_off(-5.0)
    try:
        said = answers(fleet, "ping")
    finally:
        cluster["node1"].server.environment = ""
        cluster["node1"].stop_sshd()
        cluster["node1"].start_sshd()
    assert abs(said["node1"]["clock_offset_s"] + 5.0) <= said["node1"]["round_trip_s"]
    for name in ("node2", "node3"):
        assert abs(said[name]["clock_offset_s"]) <= said[name]["round_trip_s"]


def test_faults_of_a_host_are_what_they_say_and_healing_undoes_them(
    cluster: Lab, fleet: Fleet
) -> None:
    node1, node2 = cluster["node1"], cluster["node2"]
    answers(fleet, "ping")
    node2.block_port(2222)

    def reach(port: int) -> dict[str, Any]:
        asked = {"address": "node2", "port": port, "timeout_s": 2.0}
        return dict(fleet.call("connect", asked, hosts=["node1"], timeout_s=5.0)["node1"])  # type: ignore[arg-type]

    assert reach(22)["connected"] and not reach(2222)["connected"]
    node2.heal()
    node1.slow_link("2mbit")
    node1.heal()
    node1.lossy_link(99)
    assert node1.run("nft", "list", "ruleset").stdout.count("drop") == 1
    node1.heal()
    node1.swap_host_key()
    swapped = SshConnector(cluster.spec())
    with Fleet([Host("node1")], swapped, python=sys.executable, cache="/none") as other:
        (changed,) = answers(other, "ping").values()
    assert changed.kind == "host_key" and "HAS CHANGED" in changed.message


def test_a_host_that_dies_is_told_of_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    with lab(tmp_path, 1) as own:
        host = own.hosts[0]
        connector = SshConnector(own.spec(connect_timeout_s=2))
        with Fleet(
            [Host("node1")],
            connector,
            python=sys.executable,
            cache=str(cache),
            on_close=connector.close,
        ) as fleet:
            started = answers(fleet, "spawn", argv=["sleep", "300"])["node1"]
            assert host.run("cat", f"/proc/{started['pid']}/comm").stdout == "sleep\n"
            host.die()
            dead = answers(fleet, "ping", timeout_s=2.0)["node1"]
            assert isinstance(dead, Trouble) and dead.kind == "unreachable"
    for namespace in (host.namespace, host.hub):
        assert not Path(f"/run/netns/{namespace}").exists()
