"""Network, host and config: planted faults are found and named."""

import os
import socket
from pathlib import Path

import pytest

from preflight.runner import run
from preflight.small_run_layouts import with_parts
from smolplan.spec import load_preset
from tests.preflight.support import only, with_part
from tests.support import make_spec


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(data_cache: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in only("storage.writable", make_spec(data_cache), tmp_path).why


def test_a_port_in_use_is_named_with_its_holder(data_cache: Path, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        spec = with_part(make_spec(data_cache), "launch", rendezvous_port=port)
        report = run(spec, tmp_path, only=["network.rendezvous_port", "network.all_reduce"])
    taken, collective = report.results
    assert taken.state == "fail"
    assert f"port {port}" in taken.why
    assert f"(pid {os.getpid()}) holds it" in taken.why
    assert collective.state == "skipped"
    assert report.exit_code == 1


def test_variables_that_make_training_slow_are_named(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    spec = with_part(make_spec(data_cache), "launch", environment={"NCCL_DEBUG": "TRACE"})
    result = only("host.environment", spec, tmp_path)
    assert result.state == "warn"
    assert "CUDA_LAUNCH_BLOCKING=1" in result.why
    assert "NCCL_DEBUG=TRACE" in result.why


def test_a_layout_that_the_trainer_cannot_run_is_named(tmp_path: Path) -> None:
    result = only("config.layout", load_preset("deepseek-v2"), tmp_path)
    assert result.state == "fail"
    assert "schedule is zero-bubble" in result.why
    assert "tensor_parallel" not in result.why


def test_tensor_parallel_groups_across_hosts_are_told_of(tmp_path: Path) -> None:
    spec = load_preset("smollm2-1.7b")
    assert spec.cluster.nodes > 1
    for tensor, state in [(8, "pass"), (16, "warn")]:
        data = spec.cluster.gpus // tensor
        degrees = {"tensor_parallel": tensor, "data_parallel": data, "zero_stage": 3}
        split = with_parts(spec, parallel=degrees)
        result = only("config.layout", split, tmp_path)
        assert (result.state, "tensor_parallel 16" in result.why) == (state, state == "warn")


def test_a_model_too_large_for_its_gpu_is_named(tmp_path: Path) -> None:
    spec = with_part(load_preset("smollm3-3b"), "model", layers=360)
    result = only("config.memory", spec, tmp_path)
    assert result.state == "fail"
    assert result.needed["memory_bytes"] > result.measured["memory_bytes"] == 80e9


def test_a_schedule_without_decay_and_a_single_checkpoint_warn(
    data_cache: Path, tmp_path: Path
) -> None:
    spec = with_part(make_spec(data_cache), "optim", decay_steps=0)
    spec = with_part(spec, "checkpoint", every_steps=spec.steps)
    report = run(spec, tmp_path, only=["config"])
    states = {r.name: r.why for r in report.results if r.state == "warn"}
    assert "the learning rate never decays" in states["config.schedule"]
    assert "the run is saved at its end only" in states["config.checkpoints"]
    assert report.exit_code == 0
