"""Between hosts that are network namespaces: planted faults are found, and none without them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from preflight.checks.network import links, meeting, reach
from preflight.fleet import FleetContext
from preflight.report import Finding
from smolplan.spec import RunSpec
from tests.preflight.fleet_support import fleet_in
from tests.preflight.namespaces import Namespaces, namespaces
from tests.preflight.support import with_part
from tests.support import make_spec


@pytest.fixture(scope="module")
def lab() -> Iterator[Namespaces]:
    with namespaces(4) as made:
        yield made


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    return with_part(make_spec(tmp_path / "cache"), "launch", rendezvous_port=29512)


@pytest.fixture
def fleet(
    lab: Namespaces, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FleetContext]:
    """Without faults at its beginning and end; impatient, as all hosts are this machine."""
    monkeypatch.setattr(meeting, "PATIENCE_S", 1.5)
    monkeypatch.setattr(links, "SENDING_S", 0.1)
    yield fleet_in(spec, lab)
    for host in lab.hosts:
        lab.no_rules(host)


def told(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    return [(f.state, f.host, f.summary) for f in findings]


def test_hosts_that_reach_each_other_pass(fleet: FleetContext) -> None:
    assert told(reach.reach(fleet)) == [("pass", "", "12 ways between 4 hosts are open")]


def test_a_firewall_that_drops_is_named_with_its_host(lab: Namespaces, fleet: FleetContext) -> None:
    lab.rule("n3", "tcp dport 29512 drop")
    (finding,) = reach.reach(fleet)
    assert (finding.state, finding.host) == ("fail", "n3")
    assert finding.summary == "is not reached by n1, n2, n4"
    assert finding.why.startswith("no answer (a firewall drops it, or the link is down): ")
    assert "10.98.7.3 port 29512" in finding.why


def test_a_firewall_that_rejects_one_host_is_named_as_a_pair(
    lab: Namespaces, fleet: FleetContext
) -> None:
    opening = "tcp flags & (syn | ack) == syn"
    lab.rule("n2", f"ip saddr {lab.addresses['n1']} {opening} reject with tcp reset")
    (finding,) = reach.reach(fleet)
    assert (finding.state, finding.host) == ("fail", "")
    assert finding.summary == "n1 does not reach n2"
    assert finding.why.startswith("refused")


def test_a_link_that_is_down_is_named_with_its_host(lab: Namespaces, fleet: FleetContext) -> None:
    lab.on("hub", "ip", "link", "set", "vn4", "down")
    try:
        findings = reach.reach(fleet)
    finally:
        lab.on("hub", "ip", "link", "set", "vn4", "up")
    assert [(f.state, f.host) for f in findings] == [("fail", "n4")]
    assert findings[0].summary == "is cut off from n1, n2, n3"


def test_healthy_links_raise_no_alarm(fleet: FleetContext) -> None:
    (bandwidth,) = links.bandwidth(fleet)
    assert (bandwidth.state, bandwidth.source) == ("pass", "fleet")
    (loss,) = links.loss(fleet)
    assert (loss.state, loss.summary) == ("pass", "0 of 12,000 packets lost, 12 ways")
    (mtu,) = links.mtu(fleet)
    assert mtu.summary == "MTU 1500 on all, and packets of it arrive, 12 ways"


def test_a_throttled_link_is_named_with_its_host_and_direction(
    lab: Namespaces, fleet: FleetContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "TRIES_AGAIN", 1)
    shape = ("rate", "20mbit", "burst", "32kb", "latency", "50ms")
    lab.on("n2", "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *shape)
    try:
        # A pair without a host: other work on this machine may well slow one down.
        (finding,) = [found for found in links.bandwidth(fleet) if found.host]
    finally:
        lab.on("n2", "tc", "qdisc", "del", "dev", "eth0", "root")
    assert (finding.state, finding.host, finding.source) == ("fail", "n2", "fleet")
    assert "from it, elsewhere" in finding.summary
    assert finding.measured["bytes_per_s"] < 4e6 < finding.needed["bytes_per_s"]


def test_a_link_that_drops_packets_is_named_with_their_share(
    lab: Namespaces, fleet: FleetContext
) -> None:
    lab.rule("n3", "meta l4proto udp numgen random mod 100 < 5 drop")
    (finding,) = links.loss(fleet)
    assert (finding.state, finding.host) == ("fail", "n3")
    assert finding.summary.endswith("% of packets are lost to it")
    assert 0.03 < finding.measured["loss_share"] < 0.07


def test_an_mtu_that_differs_is_named_with_what_vanishes(
    lab: Namespaces, fleet: FleetContext
) -> None:
    lab.on("n4", "ip", "link", "set", "eth0", "mtu", "1400")
    try:
        (finding,) = links.mtu(fleet)
    finally:
        lab.on("n4", "ip", "link", "set", "eth0", "mtu", "1500")
    assert (finding.state, finding.host) == ("fail", "n4")
    assert finding.summary == "its MTU is 1400, others' 1500: packets of 1500 B vanish to it"


def test_blocked_datagrams_are_no_loss(lab: Namespaces, fleet: FleetContext) -> None:
    lab.rule("n1", "meta l4proto udp drop")
    (finding,) = links.loss(fleet)
    assert (finding.state, finding.host) == ("warn", "n1")
    assert finding.summary == "no datagram arrives to it"
