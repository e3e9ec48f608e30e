"""All hosts write at once: one that is slow is named, and none on a healthy fleet."""

from pathlib import Path

import pytest

from planner.plan import make_plan
from preflight.checks.storage.needs import storage_needs
from preflight.checks.storage.together import judge_together, together
from preflight.fleet import FleetContext
from smolplan.spec import RunSpec, load_preset
from tests.preflight.fleet_support import LocalAsk
from tests.preflight.storage_faults import throttled
from tests.preflight.support import with_part
from tests.support import make_spec

HOSTS = ("a", "b", "c")


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    monkeypatch.setattr("preflight.checks.storage.together.HOST_BYTES", 16 * 2**20)
    monkeypatch.setattr("preflight.checks.storage.together.PHASE_S", 1.0)
    return with_part(make_spec(tmp_path / "cache"), "cluster", nodes=3)


def fleet(spec: RunSpec, runs: Path, ask: LocalAsk, *hosts: str) -> FleetContext:
    return FleetContext(spec, make_plan(spec), runs, hosts or HOSTS, (), ask)


def test_hosts_that_write_fast_enough_at_once_pass(spec: RunSpec, tmp_path: Path) -> None:
    ask = LocalAsk(HOSTS, lambda host: [])
    (finding,) = together(fleet(spec, tmp_path / "runs", ask))
    assert finding.state == "pass"
    assert finding.summary.startswith("3 hosts write ")
    assert finding.measured["share_of_alone_ratio"] > 0
    assert finding.source == "plan"
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_is_slow_while_all_write_is_named(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = 2_000_000
    share = make_plan(spec).checkpoint_bytes / 3
    spec = with_part(spec, "monitor", checkpoint_timeout_s=share / (2 * slow))
    with throttled(tmp_path, monkeypatch, write_bps=slow) as disk:
        join = f'echo $$ > "{disk.group}/tasks"; exec "$@"'
        ask = LocalAsk(HOSTS, lambda host: ["sh", "-c", join, "sh"] if host == "b" else [])
        findings = together(fleet(spec, tmp_path, ask))
    (finding,) = findings
    assert finding.state == "fail"
    assert finding.why.startswith("b of 3 write less than 4 MB/s while all write: b's ")
    assert "it is hung" in finding.why


def test_hosts_that_cannot_be_asked_are_unknown_and_the_others_are_judged(
    spec: RunSpec, tmp_path: Path
) -> None:
    ask = LocalAsk(HOSTS, lambda host: ["false"] if host == "c" else [])
    found = together(fleet(spec, tmp_path, ask))
    assert [(f.state, f.host) for f in found] == [("unknown", "c"), ("pass", "")]
    (alone,) = together(fleet(spec, tmp_path, ask, "a"))
    assert alone.state == "skipped"


def test_all_hosts_together_are_judged_by_the_plan() -> None:
    spec = load_preset("smollm3-3b")
    needs = storage_needs(fleet(spec, Path("/"), LocalAsk((), lambda host: [])))
    wished = needs.wished_write_bytes_per_s

    def answer(rate: float) -> dict[str, dict[str, float]]:
        return {"write": {"bytes_per_s": rate}}

    alone = answer(10 * wished)
    told = {f"n{n}": answer(2 * wished) for n in range(48)}
    (finding,) = judge_together(told, alone, needs)
    assert finding.state == "pass"
    assert finding.summary.endswith(", each 20% of one alone")
    told["n7"] = answer(0.9 * wished)
    (finding,) = judge_together(told, alone, needs)
    assert finding.state == "warn"
    assert finding.why.startswith("n7 of 48 write less than")
