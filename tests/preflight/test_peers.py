import random
from collections.abc import Mapping

import pytest

from preflight.peers import judge, medians
from preflight.registry import Better, Check
from preflight.report import Finding, Result, Severity


def check(way: Better = "higher", *, severity: Severity = "required", **options: float) -> Check:
    return Check(
        "gpu.gemm",
        severity,
        "Look at it.",
        1.0,
        False,
        lambda context: Finding(state="pass", summary=""),
        peers={"gemm_flops_per_s": way, "busbw_*_bytes_per_s": way},
        **options,  # type: ignore[arg-type]
    )


def result(
    host: str,
    value: float | None = None,
    *,
    name: str = "gemm_flops_per_s",
    facts: Mapping[str, str] | None = None,
    severity: Severity = "required",
    measured: Mapping[str, float] | None = None,
) -> Result:
    figures = {**({} if value is None else {name: value}), **(measured or {})}
    return Result(
        name="gpu.gemm",
        area="gpu",
        severity=severity,
        state="pass",
        summary="",
        seconds=0.0,
        host=host,
        measured=figures,
        facts=dict(facts or {}),
    )


def blamed(results: list[Result], check: Check) -> dict[str, str]:
    return {r.host: r.state for r in judge(results, [check]) if r.state != "pass"}


def test_a_host_a_fifth_slower_than_the_median_is_warned_of_and_one_far_slower_fails() -> None:
    hosts = [result(h, v) for h, v in zip("abcd", (700e12, 710e12, 705e12, 560e12), strict=True)]
    assert blamed(hosts, check()) == {"d": "warn"}
    hosts[3] = result("d", 300e12)
    assert blamed(hosts, check()) == {"d": "fail"}
    (told,) = [r for r in judge(hosts, [check()]) if r.host == "d"]
    assert (told.source, told.remedy) == ("fleet", "Look at it.")
    assert "the fleet's median 702T/s: 57% worse" in told.why


def test_an_advisory_check_only_warns_and_a_faster_host_is_no_fault() -> None:
    hosts = [result(h, v, severity="advisory") for h, v in (("a", 1.0), ("b", 1.0), ("c", 0.1))]
    assert blamed(hosts, check(severity="advisory")) == {"c": "warn"}
    assert blamed([result("a", 1.0), result("b", 1.0), result("c", 9.0)], check()) == {}
    assert blamed([result("a", 1.0), result("b", 1.0), result("c", 9.0)], check("lower")) == {
        "c": "fail"
    }


def test_of_two_hosts_the_worse_is_warned_of_since_nobody_is_the_median() -> None:
    two = judge([result("a", 100.0), result("b", 50.0)], [check()])
    assert [r.state for r in two] == ["pass", "warn"]
    assert two[1].why == ("gemm_flops_per_s 50/s, but a has 100/s; of two nobody is the median")


def test_a_host_that_is_slow_but_has_what_the_plan_needs_is_warned_of_only() -> None:
    hosts = [result("a", 100.0), result("b", 100.0), result("c", 10.0)]
    assert blamed(hosts, check()) == {"c": "fail"}
    hosts[2] = hosts[2].model_copy(update={"source": "plan"})
    assert blamed(hosts, check()) == {"c": "warn"}


def test_one_slow_gpu_among_those_of_its_own_host_is_named() -> None:
    figures = {f"gpu{n}_gemm_flops_per_s": 700e12 for n in range(8)}
    told = judge([result("a", measured={**figures, "gpu5_gemm_flops_per_s": 560e12})], [check()])
    assert told[0].state == "warn"
    assert told[0].why.startswith("gpu5_gemm_flops_per_s 560T/s, the fleet's median 700T/s")


def test_figures_of_different_sizes_are_not_compared_with_each_other() -> None:
    sizes = {"busbw_1024_bytes_per_s": 1e6, "busbw_1048576_bytes_per_s": 1e9}
    assert blamed([result(h, measured=sizes) for h in "abc"], check()) == {}


def test_the_share_that_counts_can_be_set_by_the_check() -> None:
    hosts = [result("a", 100.0), result("b", 100.0), result("c", 75.0)]
    assert blamed(hosts, check()) == {"c": "warn"}
    assert blamed(hosts, check(peers_apart=0.3)) == {}


@pytest.mark.parametrize("hosts", [2, 3, 4, 8, 64, 256])
def test_a_healthy_fleet_with_ordinary_noise_raises_an_alarm_once_in_a_thousand_times_at_most(
    hosts: int,
) -> None:
    chance, fleets = random.Random(hosts), 4000 // hosts
    alarms = 0
    for _ in range(fleets):
        noisy = [result(str(n), chance.gauss(100.0, 2.0)) for n in range(hosts)]
        alarms += bool(blamed(noisy, check()))
    assert alarms <= fleets / 1000


def test_where_the_fleet_differs_in_itself_only_what_stands_out_of_that_counts() -> None:
    spread = (100.0, 80.0, 120.0, 90.0, 110.0, 70.0)
    noisy = [result(str(n), value) for n, value in enumerate(spread)]
    assert blamed(noisy, check()) == {}
    assert blamed([*noisy, result("slow", 5.0)], check()) == {"slow": "fail"}


def test_hosts_that_differ_from_the_most_are_named_with_both_values() -> None:
    hosts = [result(h, facts={"torch": "2.11"}) for h in "abd"]
    hosts.append(result("c", facts={"torch": "2.10"}))
    assert blamed(hosts, check()) == {"c": "fail"}
    assert judge(hosts, [check()])[-1].why == "torch is 2.10 here, 2.11 on a, b, d"


def test_a_fact_that_a_host_does_not_tell_differs_too() -> None:
    hosts = [result("a", facts={"ofed": "24"}), result("b", facts={"ofed": "24"}), result("c")]
    assert blamed(hosts, check()) == {"c": "fail"}


def test_who_something_is_is_compared_with_nobodys() -> None:
    hosts = [result(h, facts={"id.gpu0": f"165{h}", "driver": "570"}) for h in "abc"]
    assert blamed(hosts, check()) == {}


def test_where_no_value_has_most_hosts_all_are_told_of() -> None:
    two = judge([result("a", facts={"k": "1"}), result("b", facts={"k": "2"})], [check()])
    assert [r.why for r in two] == ["k is 1 here, 2 on b", "k is 2 here, 1 on a"]


def test_a_host_found_wanting_by_itself_is_left_out_of_the_comparison() -> None:
    broken = result("c", 1.0).model_copy(update={"state": "fail", "why": "its own"})
    told = judge([result("a", 100.0), result("b", 100.0), broken], [check()])
    assert told[2] == broken


def test_medians_are_of_figures_that_several_hosts_have() -> None:
    found = medians([result("a", 1.0), result("b", 2.0), result("c", 9.0, measured={"only": 1.0})])
    assert found == {("gpu.gemm", "gemm_flops_per_s"): 2.0}
