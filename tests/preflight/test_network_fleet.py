"""Between hosts that are network namespaces: planted faults are found, and none without them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from planner.plan import make_plan
from preflight.checks.network import links, meeting, packets, reach
from preflight.fleet import Ask, FleetContext
from preflight.report import Finding
from smolplan.spec import RunSpec
from tests.lab.namespaces import Lab, LabHost, lab, missing
from tests.preflight.fleet_support import fleet_in
from tests.preflight.support import with_part
from tests.support import make_spec

MISSING = missing()
in_lab = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("cluster"), 3) as made:
        yield made


def plant(host: LabHost, rule: str) -> None:
    """A rule of nft for what the host receives."""
    host.run("nft", "add table inet lab")
    host.run("nft", "add chain inet lab input { type filter hook input priority 0; }")
    host.run("nft", f"add rule inet lab input {rule}")


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    return with_part(make_spec(tmp_path / "cache"), "launch", rendezvous_port=29512)


@pytest.fixture
def fleet(cluster: Lab, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> Iterator[FleetContext]:
    """Without faults at its beginning and end."""
    monkeypatch.setattr(links, "SENDING_S", 0.1)
    yield fleet_in(spec, cluster)
    for host in cluster.hosts:
        host.heal()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts of one machine start together: who does not answer is not waited for so long."""
    monkeypatch.setattr(meeting, "PATIENCE_S", 2.5)


def told(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    return [(f.state, f.host, f.summary) for f in findings]


@in_lab
def test_hosts_that_reach_each_other_pass(fleet: FleetContext) -> None:
    assert told(reach.reach(fleet)) == [("pass", "", "6 ways between 3 hosts are open")]


@in_lab
@pytest.mark.usefixtures("impatient")
def test_a_firewall_that_drops_is_named_with_its_host(cluster: Lab, fleet: FleetContext) -> None:
    cluster["node3"].block_port(29512, silently=True)
    (finding,) = reach.reach(fleet)
    assert (finding.state, finding.host) == ("fail", "node3")
    assert finding.summary == "is not reached by node1, node2"
    assert finding.why.startswith("no answer (a firewall drops it, or the link is down): ")
    assert f"{cluster['node3'].address} port 29512" in finding.why


@in_lab
@pytest.mark.usefixtures("impatient")
def test_a_firewall_that_rejects_one_host_is_named_as_a_pair(
    cluster: Lab, fleet: FleetContext
) -> None:
    opening = "tcp flags & (syn | ack) == syn"
    source = f"ip saddr {cluster['node1'].address}"
    plant(cluster["node2"], f"{source} {opening} reject with tcp reset")
    (finding,) = reach.reach(fleet)
    assert (finding.state, finding.host) == ("fail", "")
    assert finding.summary == "node1 does not reach node2"
    assert finding.why.startswith("refused")


@in_lab
@pytest.mark.usefixtures("impatient")
def test_a_link_that_is_down_is_named_with_its_host(cluster: Lab, fleet: FleetContext) -> None:
    cluster["node3"].link_down()
    findings = reach.reach(fleet)
    assert [(f.state, f.host) for f in findings] == [("fail", "node3")]
    assert findings[0].summary == "is cut off from node1, node2"


@in_lab
def test_healthy_links_raise_no_alarm(fleet: FleetContext, monkeypatch: pytest.MonkeyPatch) -> None:
    # However much else this machine has to do: what is slow is measured again until it is not.
    monkeypatch.setattr(links, "TRIES_AGAIN", 12)
    (bandwidth,) = links.bandwidth(fleet)
    assert (bandwidth.state, bandwidth.source) == ("pass", "fleet")
    (loss,) = packets.loss(fleet)
    assert (loss.state, loss.summary) == ("pass", "0 of 6,000 packets lost, 6 ways")
    (mtu,) = packets.mtu(fleet)
    assert mtu.summary == "MTU 1500 on all, and packets of it arrive, 6 ways"


@in_lab
def test_a_throttled_link_is_named_with_its_host(
    cluster: Lab, fleet: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "TRIES_AGAIN", 2)
    cluster["node2"].slow_link("20mbit")
    # A pair without a host: other work on this machine may well slow one down.
    (finding,) = [found for found in links.bandwidth(fleet) if found.host]
    assert (finding.state, finding.host, finding.source) == ("fail", "node2", "fleet")
    assert "to and from it, elsewhere" in finding.summary
    assert finding.measured["bytes_per_s"] < 8e6 < finding.needed["bytes_per_s"]


@in_lab
def test_a_link_that_drops_packets_is_named_with_their_share(
    cluster: Lab, fleet: FleetContext
) -> None:
    plant(cluster["node3"], "meta l4proto udp numgen random mod 100 < 5 drop")
    (finding,) = packets.loss(fleet)
    assert (finding.state, finding.host) == ("fail", "node3")
    assert finding.summary.endswith("% of packets are lost to it")
    assert 0.03 < finding.measured["loss_share"] < 0.07


@in_lab
def test_an_mtu_that_differs_is_named_with_what_vanishes(cluster: Lab, fleet: FleetContext) -> None:
    cluster["node3"].run("ip", "link", "set", "eth0", "mtu", "1400")
    try:
        (finding,) = packets.mtu(fleet)
    finally:
        cluster["node3"].run("ip", "link", "set", "eth0", "mtu", "1500")
    assert (finding.state, finding.host) == ("fail", "node3")
    assert finding.summary == "its MTU is 1400, others' 1500: packets of 1500 B vanish to it"


@in_lab
def test_blocked_datagrams_are_no_loss(cluster: Lab, fleet: FleetContext) -> None:
    plant(cluster["node1"], "meta l4proto udp drop")
    (finding,) = packets.loss(fleet)
    assert (finding.state, finding.host) == ("warn", "node1")
    assert finding.summary == "no datagram arrives to it"


def test_names_that_mean_different_hosts_are_told(spec: RunSpec) -> None:
    answers = {
        "a": {"a": ["10.0.0.1"], "b": ["10.0.0.2"], "c": ["10.0.0.3"]},
        "b": {"a": ["10.0.0.1"], "b": ["127.0.1.1"], "c": ["10.0.0.9"]},
        "c": {"a": ["10.0.0.1"], "b": ["10.0.0.2"], "c": []},
    }

    def ask(probe: str, names: Sequence[str], *, timeout_s: float) -> dict[str, object]:
        assert (probe, list(names)) == ("network_names", ["a", "b", "c"])
        return {host: {"names": found} for host, found in answers.items()}

    context = FleetContext(spec, make_plan(spec), Path("/tmp"), tuple("abc"), (), cast(Ask, ask))
    assert told(reach.resolve(context)) == [
        ("fail", "b", "b is 127.0.1.1 here"),
        ("fail", "b", "c is 10.0.0.9, elsewhere 10.0.0.3"),
        ("fail", "c", "c does not resolve"),
    ]
    answers["b"] = answers["c"] = answers["a"]
    assert told(reach.resolve(context)) == [("pass", "", "3 names, the same on all")]
