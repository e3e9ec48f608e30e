"""A host's own network: interface, RDMA devices and limits, with faults planted as files."""

from pathlib import Path

import pytest

from preflight.checks.network import interfaces, limits, rdma
from preflight.registry import select
from preflight.runner import run
from smolplan.spec import RunSpec, load_preset
from tests.preflight.support import only, with_part
from tests.support import make_spec


def write(folder: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    return make_spec(tmp_path / "cache")


@pytest.fixture
def cluster() -> RunSpec:
    """Two nodes of 8 H100, which the planner takes to have 3.2 Tb/s of network each."""
    return with_part(load_preset("smollm3-3b"), "cluster", nodes=2, gpus_per_node=8)


def test_this_machine_raises_no_alarm(spec: RunSpec, tmp_path: Path) -> None:
    names = [c.name for c in select(only=["network"], tier="quick") if c.scope == "host"]
    report = run(spec, tmp_path, only=names)
    wrong = [r for r in report.results if r.state not in ("pass", "skipped")]
    assert not wrong
    assert {"network.interface", "network.conntrack", "network.rdma"} <= set(names)


@pytest.fixture
def eth0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up eth0 of 100 Gb/s, which the run is told to take."""
    folder = tmp_path / "sys/class/net/eth0"
    write(folder, {"operstate": "up", "speed": 100000, "duplex": "full", "mtu": 9000})
    write(folder, {"carrier_changes": 2, "statistics/rx_packets": 10**9})
    write(folder, {f"statistics/{name}": 0 for name in interfaces.ERROR_COUNTERS})
    monkeypatch.setattr(interfaces, "SYSFS", tmp_path / "sys")
    monkeypatch.setattr(interfaces, "LOOK_S", 0.0)
    monkeypatch.setattr(interfaces, "chosen", lambda context: ("eth0", "the default route"))
    return folder


def test_speed_and_state_of_the_interface_are_told(eth0: Path, cluster: RunSpec) -> None:
    result = only("network.interface", cluster, eth0)
    assert result.state == "pass"
    assert result.summary == "eth0 by the default route: up, 100 Gb/s, MTU 9000"
    assert result.measured["speed_bits_per_s"] == 100e9


@pytest.mark.parametrize(
    ("planted", "words"), [({"operstate": "down"}, "it is down"), ({"duplex": "half"}, "half")]
)
def test_an_interface_that_is_down_or_half_duplex_fails_a_run_of_several_nodes(
    eth0: Path, cluster: RunSpec, planted: dict[str, object], words: str
) -> None:
    write(eth0, planted)
    result = only("network.interface", cluster, eth0)
    assert result.state == "fail"
    assert words in result.why


def test_an_interface_that_is_not_there_is_named_with_who_asked_for_it(
    cluster: RunSpec, tmp_path: Path
) -> None:
    wanted = with_part(cluster, "launch", environment={"NCCL_SOCKET_IFNAME": "=ib17"})
    result = only("network.interface", wanted, tmp_path)
    assert result.state == "fail"
    assert result.why.startswith("NCCL_SOCKET_IFNAME==ib17; there are ")


def test_without_a_default_route_the_fastest_interface_that_is_up_is_taken(
    eth0: Path, cluster: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(interfaces, "SYSFS", eth0.parent.parent.parent)
    monkeypatch.setattr(interfaces, "meeting_interface", lambda address, port: {})
    monkeypatch.setattr("psutil.net_if_addrs", lambda: {"lo": [], "eth0": []})
    assert only("network.interface", cluster, eth0).summary.startswith("eth0 by being up: up, ")
    write(eth0, {"operstate": "down"})
    result = only("network.interface", cluster, eth0)
    assert (result.state, result.summary) == ("fail", "no interface but lo is up")


def test_interfaces_are_chosen_as_nccl_reads_the_variable() -> None:
    names = ["lo", "eth0", "eth1", "ib0"]
    assert interfaces._matching("eth", names) == ["eth0", "eth1"]
    assert interfaces._matching("=eth1", names) == ["eth1"]
    assert interfaces._matching("^lo,eth", names) == ["ib0"]


def test_errors_and_lost_carriers_are_told(eth0: Path, cluster: RunSpec) -> None:
    assert only("network.errors", cluster, eth0).state == "pass"
    write(eth0, {"statistics/rx_crc_errors": 50_000, "carrier_changes": 24})
    result = only("network.errors", cluster, eth0)
    assert result.state == "warn"
    assert "50,000 errors in 1,000,000,000 packets, most of them rx_crc_errors" in result.why
    assert "the carrier was lost 12 times" in result.why


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight adapters of 400 Gb/s InfiniBand, in order."""
    folder = tmp_path / "infiniband"
    for number in range(8):
        write(
            folder / f"mlx5_{number}/ports/1",
            {
                "state": "4: ACTIVE",
                "phys_state": "5: LinkUp",
                "rate": "400 Gb/sec (4X NDR)",
                "link_layer": "InfiniBand",
                "counters/link_downed": 0,
                "counters/symbol_error": 7,
            },
        )
    monkeypatch.setattr(rdma, "DEVICES", folder)
    monkeypatch.setattr(rdma, "LOOK_S", 0.0)
    return folder


def test_sound_adapters_pass_against_the_plan(devices: Path, cluster: RunSpec) -> None:
    report = run(cluster, devices, only=["network.rdma", "network.rdma_errors", "network.roce"])
    first, second, third = report.results
    assert (first.state, first.source) == ("pass", "plan")
    assert first.summary == "8 × 400 Gb/s InfiniBand, 0 not active"
    assert first.facts == {"rdma_ports": "8 × 400 Gb/s InfiniBand"}
    assert (second.state, third.state) == ("pass", "skipped")


def test_a_port_that_is_down_is_named_against_the_plan(devices: Path, cluster: RunSpec) -> None:
    write(devices / "mlx5_3/ports/1", {"state": "1: DOWN", "phys_state": "2: Polling"})
    result = only("network.rdma", cluster, devices)
    assert result.state == "fail"
    assert "the plan takes 3200 Gb/s a node" in result.why
    assert "mlx5_3/1 is DOWN/Polling" in result.why
    assert result.facts == {"rdma_ports": "7 × 400 Gb/s InfiniBand"}


def test_a_cable_that_has_lost_lanes_is_named(devices: Path, cluster: RunSpec) -> None:
    write(devices / "mlx5_5/ports/1", {"rate": "100 Gb/sec (1X NDR)"})
    assert "mlx5_5/1 has 1 of 4 lanes" in only("network.rdma", cluster, devices).why


def test_a_link_that_was_lost_often_is_named(devices: Path, cluster: RunSpec) -> None:
    write(devices / "mlx5_2/ports/1", {"counters/link_downed": 40})
    result = only("network.rdma_errors", cluster, devices)
    assert result.state == "warn"
    assert result.why.startswith("mlx5_2/1: link_downed 40;")


def test_roce_needs_a_gid_of_version_2(devices: Path, cluster: RunSpec) -> None:
    for number in range(8):
        port = devices / f"mlx5_{number}/ports/1"
        write(port, {"link_layer": "Ethernet", "gid_attrs/types/0": "IB/RoCE v1"})
        if number:
            write(port, {"gid_attrs/types/3": "RoCE v2"})
    result = only("network.roce", cluster, devices)
    assert (result.state, result.summary) == ("fail", "7 of 8 ports have a GID of RoCE v2")
    assert result.why.startswith("mlx5_0/1: ")
    write(devices / "mlx5_0/ports/1", {"gid_attrs/types/3": "RoCE v2"})
    assert only("network.roce", cluster, devices).state == "pass"
    wrong = with_part(cluster, "launch", environment={"NCCL_IB_GID_INDEX": "0"})
    assert only("network.roce", wrong, devices).state == "fail"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "proc"
    write(
        folder,
        {
            "sys/net/netfilter/nf_conntrack_count": 1_000,
            "sys/net/netfilter/nf_conntrack_max": 262_144,
            "sys/net/ipv4/ip_local_port_range": "32768\t60999",
            "sys/net/core/somaxconn": 4096,
            "net/sockstat": "sockets: used 60\nTCP: inuse 18 orphan 0 tw 103 alloc 29 mem 0",
        },
    )
    monkeypatch.setattr(limits, "PROC", folder)
    return folder


LIMITS = ("network.conntrack", "network.ephemeral_ports", "network.backlog")


def test_usual_limits_are_enough(proc: Path, cluster: RunSpec) -> None:
    assert [only(name, cluster, proc).state for name in LIMITS] == ["pass"] * 3


def test_limits_that_are_too_low_are_named(proc: Path, cluster: RunSpec) -> None:
    write(
        proc,
        {
            "sys/net/netfilter/nf_conntrack_count": 262_000,
            "net/sockstat": "TCP: inuse 200 orphan 0 tw 28000 alloc 29 mem 0",
            "sys/net/core/somaxconn": 8,
        },
    )
    states = [only(name, cluster, proc).state for name in LIMITS]
    assert states == ["fail", "fail", "warn"]


def test_a_rendezvous_port_that_any_connection_may_take_warns(proc: Path, cluster: RunSpec) -> None:
    chosen = with_part(cluster, "launch", rendezvous_port=40_000)
    result = only("network.ephemeral_ports", chosen, proc)
    assert result.state == "warn"
    assert "ip_local_reserved_ports=40000" in result.remedy
    write(proc, {"sys/net/ipv4/ip_local_reserved_ports": "8080,39990-40010"})
    assert only("network.ephemeral_ports", chosen, proc).state == "pass"
