"""What can be known wrong before anything starts: each bad setting is named, sound specs pass."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from planner.plan import Plan, make_plan
from preflight.expected import expected_step_s
from preflight.report import Result
from preflight.runner import run
from smolplan.spec import RunSpec, load_preset, preset_names
from tests.preflight.support import only, with_part

SMOLLM3 = load_preset("smollm3-3b")
TINY = load_preset("tiny-cpu")


def changed(spec: RunSpec, changes: dict[str, object]) -> RunSpec:
    """A spec with these fields, by their dotted names, parsed anew."""
    content = spec.model_dump(mode="json")
    for name, value in changes.items():
        *parts, last = name.split(".")
        place = content
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return RunSpec.model_validate(content)


def found(check: str, spec: RunSpec, folder: Path) -> Result:
    return only(check, spec, folder)


@pytest.fixture(autouse=True)
def _shell_without_oddities(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("preset", ["tiny-cpu", "smollm3-3b", "llama3-8b", "smollm2-1.7b"])
def test_a_sound_spec_raises_no_alarm(preset: str, tmp_path: Path) -> None:
    report = run(
        load_preset(preset), tmp_path, only=["config"], skip=["config.layout", "config.memory"]
    )
    assert {
        r.name: (r.state, r.why) for r in report.results if r.state not in ("pass", "skipped")
    } == {}


@pytest.mark.parametrize("preset", preset_names())
def test_published_runs_have_usual_schedules_and_shapes(preset: str, tmp_path: Path) -> None:
    report = run(load_preset(preset), tmp_path, only=["config.schedule", "config.model"])
    assert {r.name: r.why for r in report.results if r.state != "pass"} == {}


BAD: list[tuple[str, RunSpec, dict[str, object], str, str]] = [
    # check, spec, the bad setting, state, what the finding names
    ("schedule", SMOLLM3, {"optim.learning_rate": 0.01}, "warn", "optim.learning_rate 0.01"),
    ("schedule", SMOLLM3, {"optim.learning_rate": 1e-6}, "warn", "compute is wasted"),
    ("schedule", SMOLLM3, {"optim.warmup_steps": 0}, "warn", "optim.warmup_steps 0"),
    ("schedule", SMOLLM3, {"optim.warmup_steps": 5}, "warn", "40 steps to settle"),
    ("schedule", SMOLLM3, {"optim.warmup_steps": 2_000_000}, "warn", "42% of the"),
    ("schedule", SMOLLM3, {"optim.decay_steps": 0}, "warn", "never decays"),
    ("schedule", SMOLLM3, {"optim.decay_steps": 5000}, "warn", "optim.decay_steps 5,000"),
    ("schedule", SMOLLM3, {"optim.weight_decay": 5.0}, "warn", "optim.weight_decay 5"),
    ("schedule", SMOLLM3, {"optim.clip_norm": 1000.0}, "warn", "optim.clip_norm 1000"),
    ("schedule", SMOLLM3, {"optim.beta2": 0.5}, "warn", "optim.beta2 0.5"),
    ("schedule", SMOLLM3, {"optim.beta1": 0.5}, "warn", "optim.beta1 0.5"),
    ("schedule", SMOLLM3, {"optim.eps": 1e-2}, "warn", "optim.eps 0.01"),
    ("model", SMOLLM3, {"data.seq_len": 65536}, "warn", "model.rope_theta 50,000"),
    ("model", SMOLLM3, {"optim.precision": "fp32"}, "warn", "optim.precision fp32"),
    ("model", SMOLLM3, {"optim.precision": "fp8"}, "warn", "uncompiled, casts and scales"),
    ("model", SMOLLM3, {"model.vocab_size": 128258}, "warn", "model.vocab_size 128,258"),
    ("model", SMOLLM3, {"data.max_epochs": 8}, "warn", "data.max_epochs 8"),
    ("model", SMOLLM3, {"data.held_out_fraction": 0}, "warn", "data.held_out_fraction 0"),
    ("model", SMOLLM3, {"model.learned_positions": 1024}, "fail", "data.seq_len 4,096"),
    ("checkpoints", SMOLLM3, {"checkpoint.every_steps": 10**7}, "warn", "any fault loses all"),
    ("checkpoints", SMOLLM3, {"checkpoint.every_steps": 200_000}, "warn", "saving and doing again"),
    ("checkpoints", SMOLLM3, {"checkpoint.every_steps": 40_000}, "warn", "a fault loses up to"),
    ("monitor", SMOLLM3, {"monitor.checkpoint_timeout_s": 0.1}, "fail", "called a hang"),
    ("monitor", SMOLLM3, {"monitor.startup_timeout_s": 1}, "fail", "no restart will ever"),
    ("monitor", SMOLLM3, {"monitor.stop_grace_s": 0.2}, "warn", "monitor.stop_grace_s"),
    ("monitor", SMOLLM3, {"launch.collective_timeout_s": 60}, "warn", "ranks that wait"),
    ("monitor", SMOLLM3, {"launch.collective_timeout_s": 0.1}, "fail", "one slow step"),
    ("monitor", TINY, {"monitor.hang_step_multiple": 1.1}, "warn", "hang_step_multiple 1.1"),
    ("monitor", SMOLLM3, {"monitor.hang_min_s": "2h"}, "warn", "384 GPUs idle"),
    ("monitor", TINY, {"monitor.poll_s": 60}, "warn", "monitor.poll_s 1 min"),
    ("monitor", TINY, {"launch.hosts": ["a"], "monitor.host_timeout_s": 0.3}, "warn", "lost"),
    ("monitor", TINY, {"monitor.backoff_initial_s": 900}, "warn", "backoff_initial_s"),
    ("monitor", TINY, {"monitor.backoff_max_s": "6h"}, "warn", "backoff_max_s"),
    ("monitor", TINY, {"monitor.crash_loop_limit": 1}, "warn", "crash_loop_limit 1"),
    ("monitor", TINY, {"monitor.crash_loop_limit": 1000}, "warn", "crash_loop_limit 1,000"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "spec", "changes", "state", "named"), BAD)
def test_a_bad_setting_is_named_with_what_would_be_right(
    check: str, spec: RunSpec, changes: dict[str, object], state: str, named: str, tmp_path: Path
) -> None:
    result = found(f"config.{check}", changed(spec, changes), tmp_path)
    assert (result.state, named in result.why) == (state, True), result
    assert result.remedy.startswith(("Set ", "Raise ", "Lower "))
    assert len(result.summary) <= 52


@pytest.mark.parametrize(
    ("slurm", "state", "named"),
    [
        ({}, "pass", ""),
        ({"time_limit_s": "24h"}, "pass", ""),
        ({"time_limit_s": "24h", "requeue": False}, "warn", "nothing starts the rest"),
        ({"time_limit_s": "24h", "signal_before_s": 0.5}, "fail", "killed while it saves"),
        ({"time_limit_s": 200, "signal_before_s": 180}, "fail", "asked to end as soon as"),
        ({"time_limit_s": 600}, "warn", "startup_timeout_s"),
    ],
)
def test_a_slurm_job_has_time_to_start_to_train_and_to_save(
    slurm: dict[str, object], state: str, named: str, tmp_path: Path
) -> None:
    spec = changed(SMOLLM3, {"launch.backend": "slurm", "launch.slurm": slurm})
    result = found("config.time_limit", spec, tmp_path)
    assert (result.state, named in result.why) == (state, True), result


def test_a_job_that_ends_before_its_first_checkpoint_is_told_of(tmp_path: Path) -> None:
    slurm = {"launch.backend": "slurm", "launch.slurm": {"time_limit_s": "2h"}}
    spec = changed(SMOLLM3, {**slurm, "checkpoint.every_steps": 100_000})
    result = found("config.time_limit", spec, tmp_path)
    assert "checkpoint.every_steps 100,000" in result.why


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("CUDA_LAUNCH_BLOCKING", "1", "warn"),
        ("CUDA_LAUNCH_BLOCKING", "0", "pass"),
        ("NCCL_DEBUG", "INFO", "warn"),
        ("NCCL_DEBUG", "WARN", "pass"),
        ("TORCH_DISTRIBUTED_DEBUG", "detail", "warn"),
        ("NCCL_P2P_DISABLE", "1", "warn"),
        ("NCCL_IB_DISABLE", "1", "warn"),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", "warn"),
        ("NCCL_SOCKET_IFNAME", "lo", "fail"),
        ("CUDA_VISIBLE_DEVICES", "0,1", "fail"),
        ("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7", "pass"),
        ("CUBLAS_WORKSPACE_CONFIG", ":0:0", "fail"),
        ("RANK", "0", "fail"),
        ("OMP_NUM_THREADS", "8", "warn"),
    ],
)
def test_a_variable_that_poisons_a_run_is_named(
    name: str, value: str, state: str, tmp_path: Path
) -> None:
    spec = with_part(SMOLLM3, "launch", environment={name: value})
    result = found("config.environment", spec, tmp_path)
    assert result.state == state, result
    assert state == "pass" or f"launch.environment.{name} {value}" in result.why


def test_a_secret_in_the_spec_is_told_of_and_not_shown(tmp_path: Path) -> None:
    spec = with_part(TINY, "launch", environment={"WANDB_API_KEY": "abc123"})
    result = found("config.environment", spec, tmp_path)
    assert result.state == "warn"
    assert "WANDB_API_KEY" in result.why
    assert "abc123" not in result.model_dump_json()


def test_the_launching_shells_variables_count_where_the_spec_sets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert "of this shell" in found("config.environment", SMOLLM3, tmp_path).why
    mended = with_part(SMOLLM3, "launch", environment={"NCCL_P2P_DISABLE": "0"})
    assert found("config.environment", mended, tmp_path).state == "pass"
    # What only GPUs mind is nothing to a run on CPUs.
    assert found("config.environment", TINY, tmp_path).state == "pass"


@dataclass(frozen=True)
class Planned:
    spec: RunSpec
    plan: Plan


def test_a_small_model_on_a_gpu_is_expected_to_wait_for_its_host() -> None:
    """Of a tiny model the share of the peak says a thousandth of the time that a step takes."""
    spec = changed(TINY, {"cluster.gpu": "h100", "optim.precision": "bf16"})
    plan = make_plan(spec)
    assert plan.tokens_per_s is not None and plan.peak_flops_per_gpu is not None
    at_peak_s = plan.flops_per_token * plan.global_batch_tokens / plan.peak_flops_per_gpu
    step_s = expected_step_s(Planned(spec, plan))
    assert step_s is not None and step_s > 100 * at_peak_s
