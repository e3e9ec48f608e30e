"""The small run: on a sound machine all passes; a trainer that resumes wrongly is found out."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from planner.params import parameter_count
from preflight.runner import run
from preflight.small_model import small_model
from smolplan.spec import ModelSpec, dump_spec, load_preset, preset_names
from tests.preflight.support import only, put_first, with_part
from tests.support import make_spec, smolplan, wait_until

BROKEN_TRAINER = '''
import importlib.abc, importlib.util, inspect, sys

class Breaker(importlib.abc.MetaPathFinder):
    """Patches the trainer as it is imported: moments are not restored, damage is not seen."""

    def find_spec(self, name, path, target=None):
        if name not in ("trainer.checkpoint", "trainer.manifest"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            if name == "trainer.manifest":
                module.wrong_sizes = module.wrong_contents = lambda *given, **named: ""
            else:
                load = module.load

                def without_moments(*given, **named):
                    call = inspect.signature(load).bind(*given, **named)
                    call.arguments["optimizer"] = None
                    return load(*call.args, **call.kwargs)

                module.load = without_moments

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Breaker())
'''


@pytest.mark.slow
def test_a_fit_machine_passes_and_nothing_is_left_behind(data_cache: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    report = run(make_spec(data_cache), runs, skip=["host", "storage", "gpu"])
    unfit = {r.name: (r.state, r.why) for r in report.results if r.state in ("fail", "unknown")}
    assert unfit == {}
    states = {r.name: r.state for r in report.results}
    for name in (
        "network.all_reduce",
        "training.loss",
        "training.layouts",
        "training.weights",
        "training.speed",
    ):
        assert states[name] == "pass"
    for what in ("save", "resume", "torn", "reshard"):
        assert states[f"checkpoint.{what}"] == "pass"
    # checkpoint.stall is not among them: it is of seconds, and this machine may be busy.
    for name in ("evaluation.held_out", "metrics.lines", "metrics.heartbeats"):
        assert states[name] == "pass"
    assert list(runs.iterdir()) == []


@pytest.mark.slow
def test_a_trainer_that_resumes_wrongly_is_found_out(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(BROKEN_TRAINER)
    put_first(tmp_path / "broken", monkeypatch)
    names = [f"checkpoint.{what}" for what in ("save", "resume", "torn", "reshard")]
    report = run(make_spec(data_cache), tmp_path, only=names)
    saved, resumed, torn, reshard = report.results
    assert saved.state == "pass"
    assert reshard.state == "fail"
    assert reshard.measured["apart"] > 1e-2
    assert resumed.state == "fail"
    assert "do not equal the undisturbed run's" in resumed.why
    assert torn.state == "fail"
    assert report.exit_code == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_broken_off_it_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "smolplan", "preflight", "tiny-cpu", "--only", "checkpoint"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    me = psutil.Process(process.pid)
    # The fork server and two ranks.
    wait_until(lambda: len(me.children(recursive=True)) >= 3)
    family = me.children(recursive=True)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=30)
    wait_until(lambda: not any(p.is_running() and p.status() != "zombie" for p in family))
    assert "Traceback" not in said
    if number == signal.SIGKILL:  # nobody is left to remove files
        return
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ranks_that_cannot_reach_each_other_are_told_of_in_their_own_words(
    data_cache: Path, tmp_path: Path
) -> None:
    wrong = {"GLOO_SOCKET_IFNAME": "nosuch0"}
    spec = with_part(make_spec(data_cache), "launch", environment=wrong)
    result = only("network.all_reduce", spec, tmp_path)
    assert result.state == "fail"
    assert "nosuch0" in result.why


def wrongly_laid_out(folder: Path) -> str:
    path = folder / "run.yaml"
    path.write_text(dump_spec(with_part(load_preset("smollm3-3b"), "parallel", zero_stage=1)))
    return str(path)


def test_the_command_answers_in_json_and_by_exit_code(tmp_path: Path) -> None:
    done = smolplan("preflight", wrongly_laid_out(tmp_path), "--only", "config", "--json")
    assert done.returncode == 1
    results = {r["name"]: r for r in json.loads(done.stdout)["results"]}
    assert results["config.layout"]["state"] == "fail"
    assert results["config.memory"]["needed"]["memory_bytes"] > 0
    assert smolplan("preflight", "tiny-cpu", "--only", "config").returncode == 0


def test_an_unknown_check_or_spec_exits_2_with_near_names() -> None:
    done = smolplan("preflight", "tiny-cpu", "--only", "storge")
    assert done.returncode == 2
    assert "Did you mean storage" in done.stderr
    assert smolplan("preflight", "tiny-cup").returncode == 2
    assert smolplan("preflight").returncode == 2


@pytest.mark.parametrize("preset", ["bloom-176b", "gpt-oss-20b"])
def test_a_model_that_the_trainer_cannot_run_is_refused_before_any_check(
    preset: str, tmp_path: Path
) -> None:
    done = smolplan("preflight", preset, "--json", "--runs-dir", str(tmp_path / "runs"))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{preset}: model." in done.stderr
    assert "the bundled trainer does not run it" in done.stderr
    assert "such as smollm3-3b" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_80_columns_wide_and_says_why_and_what_to_do(tmp_path: Path) -> None:
    checks = ("--only", "config.layout", "--only", "data.sources")
    done = smolplan("preflight", wrongly_laid_out(tmp_path), *checks)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "fail data.sources: data.sources is empty" in done.stdout
    assert "→ Add a source" in done.stdout
    assert "2 fail" in done.stdout
    assert "NOT fit to start" in done.stdout


def test_the_list_names_every_check() -> None:
    listed = json.loads(smolplan("preflight", "--list", "--json").stdout)
    assert {"storage.throughput", "checkpoint.resume"} <= {c["name"] for c in listed}


def test_the_small_run_has_the_ranks_and_sharding_of_the_real_one(tmp_path: Path) -> None:
    from preflight.small_run import small_spec

    spec = load_preset("smollm3-3b")
    small = small_spec(spec, 2, gpu=False, folder=tmp_path)
    assert small.parallel.ranks == 2
    assert small.parallel.tensor_parallel == spec.parallel.tensor_parallel
    assert small.optim.precision == spec.optim.precision
    assert small.seed == spec.seed
    assert small.model.no_rope_every == spec.model.no_rope_every
    assert small.unsupported_by_trainer() == []


@pytest.mark.parametrize("preset", preset_names())
def test_a_small_model_has_every_kind_of_layer_of_the_real_one(preset: str) -> None:
    model = load_preset(preset).model
    small = ModelSpec.model_validate(small_model(model))
    assert set(small.layer_kinds) == set(model.layer_kinds)
    assert small.unsupported_by_trainer() == model.unsupported_by_trainer()
    for part in ("experts", "latent_attention", "mamba", "delta_net"):
        assert (getattr(small, part) is None) == (getattr(model, part) is None)
    assert parameter_count(small) < 500_000
