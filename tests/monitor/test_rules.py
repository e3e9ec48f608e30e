"""The alert rules, as Prometheus' own tool judges them: each fires at its time, not before."""

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from monitor.catalog import METRICS, MONITOR_RULES
from monitor.rules import alert_rules
from planner.plan import make_plan
from smolplan.spec import load_preset

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here: apt install prometheus"
)

RUN = "smollm3-3b-0101-000000-abcd"
NAMES = RUN[:-4] + ".*"
R, G = f'{{run="{RUN}"}}', '{gpu="3", Hostname="node1"}'


@dataclass(frozen=True)
class Case:
    """`values`: a value a minute, in promtool's notation (docs: unit testing rules)."""

    alert: str
    series: dict[str, str]
    quiet_at: int
    """Minute at which it does not fire yet, or never."""
    fires_at: int | None = None


def _kind(kind: str) -> str:
    return f'smolplan_events_total{{run="{RUN}", kind="{kind}"}}'


HEARTBEAT = "smolplan_monitor_heartbeat_timestamp_seconds"
XID, THROTTLE = "DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"
CLOCKS = {
    f'DCGM_FI_DEV_SM_CLOCK{{gpu="{gpu}", Hostname="node1"}}': f"{1200 if gpu == 3 else 1980}x60"
    for gpu in range(8)
}
# The plan: 5.28 M tokens/s, 0.446 s a step, a checkpoint every 2,000 steps, of 43 GB.
CASES = [
    Case(
        "SmolplanThroughputBelowPlan",
        {"smolplan_train_tokens_per_second" + R: "5.2e6x9 4e6x40"},
        15,
        24,
    ),
    Case("SmolplanThroughputBelowPlan", {"smolplan_train_tokens_per_second" + R: "5.1e6x60"}, 60),
    Case(
        "SmolplanThroughputDropped",
        {"smolplan_train_tokens_per_second" + R: "6e6x119 5e6x60"},
        126,
        146,
    ),
    Case(
        "SmolplanLossSpike",
        {"smolplan_train_loss" + R: " ".join(["2.0 2.02"] * 40 + ["3"] * 20)},
        80,
        83,
    ),
    Case(
        "SmolplanDataWait",
        {
            "smolplan_train_step_duration_seconds" + R: "0.45x90",
            "smolplan_train_data_wait_seconds" + R: "0.001x19 0.2x60",
        },
        22,
        32,
    ),
    Case("SmolplanNoNewStep", {"smolplan_train_last_step_timestamp_seconds" + R: "0x90"}, 31, 33),
    Case(
        "SmolplanNoNewStep",
        {
            "smolplan_train_last_step_timestamp_seconds" + R: "0x90",
            "smolplan_run_waiting" + R: "1x90",
        },
        60,
    ),
    Case(
        "SmolplanHung",
        {
            f'smolplan_rank_idle_seconds{{run="{RUN}", rank="1"}}': "0+60x60",
            f'smolplan_rank_idle_limit_seconds{{run="{RUN}", rank="1"}}': "120x60",
        },
        2,
        4,
    ),
    Case("SmolplanRestartsOften", {"smolplan_run_attempt" + R: "1 1 2 3 4x60"}, 3, 4),
    Case("SmolplanRunUnseen", {"smolplan_run_unseen" + R: "0 0 1x60"}, 3, 5),
    Case(
        "SmolplanStorageFullSoon",
        {"smolplan_run_storage_free_bytes" + R: "1e13-5e10x60"},
        5,
        15,
    ),
    Case("SmolplanStorageFullSoon", {"smolplan_run_storage_free_bytes" + R: "1e13-5e9x60"}, 60),
    Case("SmolplanStorageLow", {"smolplan_run_storage_free_bytes" + R: "1e12x4 3e10x60"}, 5, 8),
    Case(
        "SmolplanCheckpointLate",
        {"smolplan_checkpoint_last_success_timestamp_seconds" + R: "0x90"},
        30,
        32,
    ),
    Case("SmolplanNonFiniteLoss", {_kind("non_finite_loss"): "0 0 0 1x60"}, 2, 4),
    Case("SmolplanCheckpointFailed", {_kind("checkpoint_failed"): "0 0 0 1x60"}, 2, 4),
    Case(
        "SmolplanFinding",
        {f'smolplan_finding{{run="{RUN}", finding="x", severity="info"}}': "_ _ 1x60"},
        1,
        3,
    ),
    Case("SmolplanWatchdog", {HEARTBEAT: "0 60 120 180x60"}, 10, 3),
    Case("SmolplanMonitorGone", {HEARTBEAT: "0 60 120 180x60"}, 3, 6),
    Case("SmolplanMonitorGone", {}, 0, 2),
    Case("SmolplanRecordUnusable", {"smolplan_record_unusable": "0 0 1x60"}, 2, 4),
    Case(
        "SmolplanNobodyTold",
        {f'smolplan_notification_failing{{run="{RUN}", receiver="slack"}}': "1x60"},
        4,
        6,
    ),
    Case("SmolplanExporterDown", {'up{job="smolplan", instance="a"}': "1 1 0x60"}, 2, 4),
    Case("SmolplanExporterDown", {'up{job="other", instance="a"}': "0x60"}, 60),
    Case(
        "SmolplanHostUnsampled",
        {'smolplan_host_sample_timestamp_seconds{Hostname="node1"}': "0x60"},
        2,
        5,
    ),
    Case(
        "SmolplanHostMemoryLow",
        {
            'smolplan_host_memory_available_bytes{Hostname="node1"}': "5e10x4 1e9x60",
            'smolplan_host_memory_total_bytes{Hostname="node1"}': "1e12x60",
        },
        4,
        11,
    ),
    Case("SmolplanHostOomKill", {'smolplan_host_oom_kills_total{Hostname="n"}': "3 3 4x60"}, 1, 3),
    Case(
        "SmolplanHostDiskFullSoon",
        {'smolplan_host_disk_free_bytes{Hostname="n", path="/data"}': "1e12-5e9x60"},
        8,
        13,
    ),
    Case(
        "SmolplanGpuSlow",
        {**CLOCKS, "DCGM_FI_DEV_GPU_UTIL" + G: "97x60"},
        4,
        6,
    ),
    Case("SmolplanGpuSlow", {**CLOCKS, "DCGM_FI_DEV_GPU_UTIL" + G: "0x60"}, 30),
    Case("SmolplanGpuHot", {"DCGM_FI_DEV_GPU_TEMP" + G: "70x4 83x60"}, 9, 11),
    Case("SmolplanGpuTooHot", {"DCGM_FI_DEV_GPU_TEMP" + G: "83x4 88x60"}, 5, 7),
    Case("SmolplanGpuMemoryHot", {"DCGM_FI_DEV_MEMORY_TEMP" + G: "99x60"}, 4, 6),
    Case("SmolplanGpuMemoryHot", {"DCGM_FI_DEV_MEMORY_TEMP" + G: "9.2e18x60"}, 30),
    Case("SmolplanGpuXid", {XID + G: "0 0 79x60"}, 1, 3),
    Case("SmolplanGpuXid", {XID + G: "79x60"}, 30),  # what happened before, and is not new
    Case(
        "SmolplanGpuXid",
        {'smolplan_gpu_xid_total{gpu="3", xid="13"}': "1x29 2x60", XID + G: "13x90"},
        29,
        31,
    ),
    Case("SmolplanGpuThrottled", {THROTTLE + G: "68x60"}, 1, 3),  # 0x40 | 0x4
    Case("SmolplanGpuThrottled", {THROTTLE + G: "5x60"}, 30),  # idle, and its power cap
    Case("SmolplanGpuMemoryError", {"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL" + G: "0 0 1x60"}, 1, 3),
    Case("SmolplanGpuRemapPending", {"DCGM_FI_DEV_ROW_REMAP_PENDING" + G: "0 0 1x60"}, 1, 3),
    Case("SmolplanGpuRemapFailed", {"DCGM_FI_DEV_ROW_REMAP_FAILURE" + G: "0 0 1x60"}, 1, 3),
]


@cache
def _rules(preset: str, run: str) -> str:
    spec = load_preset(preset)
    return alert_rules(spec, make_plan(spec), run)


def _promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
@pytest.mark.parametrize("preset", ["smollm3-3b", "tiny-cpu"])
def test_prometheus_takes_the_rules(preset: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(_rules(preset, NAMES))
    assert "SUCCESS" in _promtool("check", "rules", str(tmp_path / "rules.yml"))


def _count(alert: str, minute: int, count: int) -> dict[str, object]:
    expr = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    samples = [{"labels": "{}", "value": count}] if count else []
    return {"expr": expr, "eval_time": f"{minute}m", "exp_samples": samples}


@needs_promtool
def test_each_alert_fires_at_its_time_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(_rules("smollm3-3b", NAMES))
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": k, "values": v} for k, v in case.series.items()],
            "promql_expr_test": [_count(case.alert, case.quiet_at, 0)]
            + ([_count(case.alert, case.fires_at, 1)] if case.fires_at is not None else []),
        }
        for case in CASES
    ]
    content = {"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(content))
    assert "SUCCESS" in _promtool("test", "rules", str(tmp_path / "test.yml"))


def test_no_alert_is_without_a_case() -> None:
    rules = [rule for metric in METRICS for rule in metric.rules] + list(MONITOR_RULES)
    assert {rule.alert for rule in rules} == {c.alert for c in CASES if c.fires_at is not None}


def test_thresholds_are_of_the_runs_own_plan() -> None:
    def expressions(preset: str) -> dict[str, str]:
        groups = yaml.safe_load(_rules(preset, "r"))["groups"]
        return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}

    gpus, cpu = expressions("smollm3-3b"), expressions("tiny-cpu")
    plan = make_plan(load_preset("smollm3-3b"))
    assert plan.tokens_per_s is not None
    assert f"0.95 * {plan.tokens_per_s:.0f}" in gpus["SmolplanThroughputBelowPlan"]
    assert str(plan.checkpoint_bytes) in gpus["SmolplanStorageLow"]
    # Of a CPU nobody knows how fast it trains: its own pace counts.
    assert "SmolplanThroughputBelowPlan" not in cpu
    assert "avg_over_time(smolplan_train_step_duration_seconds" in cpu["SmolplanCheckpointLate"]
