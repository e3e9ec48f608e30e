"""Collectives across hosts: their factors, who is blamed where they are slow, and a real group."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from planner.plan import make_plan
from preflight.checks.network import across
from preflight.checks.network.assumed import assumed_busbw
from preflight.fleet import Answer, FleetContext
from preflight.once import ProbeError
from smolplan.spec import RunSpec, load_preset
from tests.preflight.fleet_support import LocalAsk, fleet_of
from tests.preflight.support import with_part
from tests.support import make_spec

HOSTS = tuple(f"gpu{i:02}" for i in range(16))


class FakeRanks:
    """Hosts whose collectives are as slow as the slowest host of their group."""

    def __init__(self, usual: float, slow: dict[str, float], broken: str = "") -> None:
        self._usual, self._slow, self._broken = usual, slow, broken
        self.rounds = 0

    def __call__(
        self,
        probe: str,
        arguments: Sequence[str] | Callable[[str], Sequence[str]] = (),
        *,
        hosts: Collection[str] | None = None,
        timeout_s: float,
    ) -> dict[str, Answer]:
        assert probe == "collectives"
        assert hosts is not None
        assert callable(arguments)
        self.rounds += 1
        groups: dict[int, list[tuple[int, str]]] = {}
        told = {host: json.loads(arguments(host)[0]) for host in hosts}
        for host, one in told.items():
            groups.setdefault(one["port"], []).append((one["node"], host))
        answers: dict[str, Answer] = {}
        for members in groups.values():
            group = [host for _, host in sorted(members)]
            assert told[group[0]]["nodes"] == len(group)
            for host in group:
                answers[host] = {}
                if self._broken in group:
                    answers[host] = {"error": "no end within 45 s", "hung": True}
            if self._broken not in group:
                rate = min(self._slow.get(host, self._usual) for host in group)
                answers[group[0]] = self._measured(told[group[0]], rate)
        return answers

    def _measured(self, told: dict[str, list[str]], rate: float) -> dict[str, object]:
        rows = [
            {"kind": kind, "bytes": size, "seconds": 1e-4, "busbw_bytes_per_s": rate, "correct": 1}
            for kind in told["kinds"]
            for size in (8, 2**30)
        ]
        return {"backend": "nccl", "ranks": 128, "correct": True, "rows": rows}


def fleet(spec: RunSpec, hosts: tuple[str, ...], ask: FakeRanks) -> FleetContext:
    return FleetContext(spec, make_plan(spec), Path("/tmp"), hosts, (), ask)


@pytest.fixture
def spec() -> RunSpec:
    return with_part(load_preset("smollm3-3b"), "cluster", nodes=16, gpus_per_node=8)


def test_the_plan_takes_for_16_h100_nodes_about_what_was_measured(spec: RunSpec) -> None:
    """320 to 350 GB/s on AWS p5 (Smol Training Playbook)."""
    assumed = assumed_busbw(spec, 16)
    assert assumed is not None
    assert 200e9 < assumed < 480e9


def test_collectives_as_fast_as_planned_pass_in_one_round(spec: RunSpec) -> None:
    ask = FakeRanks(350e9, {})
    (finding,) = across.collectives(fleet(spec, HOSTS, ask))
    assert (finding.state, finding.source) == ("pass", "plan")
    assert finding.summary == "128 ranks, nccl: 350 GB/s busbw at 1.07 GB, 0.1 ms at 8 B"
    assert "all_to_all_1073741824_busbw_bytes_per_s" in finding.measured
    assert ask.rounds == 1


def test_the_throttled_host_that_slows_sixteen_is_named(spec: RunSpec) -> None:
    """The playbook's story: one GPU took 16 nodes from 350 to 100 GB/s."""
    ask = FakeRanks(350e9, {"gpu11": 100e9})
    culprit, whole = across.collectives(fleet(spec, HOSTS, ask))
    assert (culprit.state, culprit.host, culprit.source) == ("fail", "gpu11", "fleet")
    assert culprit.summary == "100 GB/s with any other host, elsewhere 350 GB/s"
    assert "found in 4 rounds" in culprit.why
    assert (whole.state, whole.source) == ("fail", "plan")
    assert whole.why.startswith("the plan takes ")
    assert "a step's gradients take" in whole.why
    assert ask.rounds == 5


def test_a_host_whose_ranks_hang_is_named(spec: RunSpec) -> None:
    ask = FakeRanks(350e9, {}, broken="gpu03")
    culprit, whole = across.collectives(fleet(spec, HOSTS, ask))
    assert (culprit.state, culprit.host) == ("fail", "gpu03")
    assert culprit.summary == "nothing with any other host, elsewhere 350 GB/s"
    assert whole.summary == "the ranks of 16 hosts did not end well"


def test_without_a_plan_hosts_are_held_against_each_other(tmp_path: Path) -> None:
    cpu = make_spec(tmp_path)
    (finding,) = across.collectives(fleet(cpu, HOSTS, FakeRanks(1e9, {})))
    assert (finding.state, finding.source) == ("pass", "fleet")
    first, *_ = across.collectives(fleet(cpu, HOSTS, FakeRanks(1e9, {"gpu05": 0.1e9})))
    assert (first.state, first.host) == ("fail", "gpu05")


def test_where_time_is_over_the_whole_is_told_without_a_culprit(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(across, "DEADLINE_S", 1.0)
    (whole,) = across.collectives(fleet(spec, HOSTS, FakeRanks(350e9, {"gpu11": 100e9})))
    assert whole.state == "fail"
    assert whole.why.endswith("no time was left to search for whom")


def test_real_ranks_of_two_hosts_measure_all_four_collectives(tmp_path: Path) -> None:
    addresses = {"a": "127.0.0.1", "b": "127.0.0.1"}
    ask = LocalAsk(addresses, lambda host: [])
    context = fleet_of(make_spec(tmp_path), list(addresses), ask, addresses)
    (finding,) = across.collectives(context)
    assert finding.state == "pass", finding
    assert finding.summary.startswith("2 ranks, gloo: ")
    assert {
        name.rpartition("_4194304_")[0] for name in finding.measured if "_4194304_" in name
    } == {"all_reduce", "all_gather", "reduce_scatter", "all_to_all"}
    assert min(finding.measured.values()) > 0


def test_ranks_whose_fellows_never_come_are_ended(tmp_path: Path) -> None:
    told = {
        "node": 0,
        "nodes": 2,
        "local_ranks": 1,
        "master": "127.0.0.1",
        "port": 0,
        "device": "cpu",
        "kinds": ["all_reduce"],
        "sizes": [8],
        "timeout_s": 0.5,
        "environment": {},
    }
    began = time.monotonic()
    answer = LocalAsk("a", lambda host: [])("collectives", [json.dumps(told)], timeout_s=30.0)["a"]
    assert not isinstance(answer, ProbeError)
    assert answer == {"error": "no end within 0.5 s", "hung": True}
    assert time.monotonic() - began < 25


def test_ranks_of_a_probe_leave_no_folders_of_logs(tmp_path: Path) -> None:
    program = [sys.executable, "-P", "-m", "preflight.probes.agent", "2", "0", "-c", "pass"]
    subprocess.run(program, env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []
