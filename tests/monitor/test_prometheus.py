"""The metrics as a real Prometheus sees them (Debian: apt-get install prometheus)."""

import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher import control
from launcher.processes import is_alive
from launcher.store import Run, Store
from smolplan.ports import free_port
from smolplan.rundir import RunDir
from tests.support import make_spec, start, steps_done, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]

CONFIG = """
global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}
scrape_configs:
  - {{job_name: smolplan, static_configs: [{{targets: ["{target}"]}}]}}
"""

Ask = Callable[[str], list[tuple[dict[str, str], float]]]


@pytest.fixture
def run(store: Store, data_cache: Path, tmp_path: Path) -> Run:
    run = start(make_spec(data_cache, steps=2000), store, tmp_path, monitored=True)
    wait_until(lambda: steps_done(run) >= 5)
    return run


@pytest.fixture
def metrics_url(store: Store, run: Run) -> str:
    (daemon,) = store.live_daemons(is_alive)
    return daemon.metrics_url


@pytest.fixture
def ask(metrics_url: str, tmp_path: Path) -> Iterator[Ask]:
    """A PromQL query to a Prometheus that scrapes the daemon: (labels, value) of each series."""
    address = f"127.0.0.1:{free_port()}"
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(target=urllib.parse.urlparse(metrics_url).netloc))
    flags = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]

    def query(promql: str) -> list[tuple[dict[str, str], float]]:
        url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": promql})
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
        except urllib.error.URLError:
            return []
        return [(series["metric"], float(series["value"][1])) for series in result]

    with subprocess.Popen(
        ["prometheus", *flags, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL
    ) as server:
        try:
            yield query
        finally:
            server.kill()


def test_prometheus_reads_the_run_and_sees_the_restart(run: Run, store: Store, ask: Ask) -> None:
    wait_until(lambda: any(value >= 5 for _, value in ask("smolplan_train_step")))
    ((labels, value),) = ask("smolplan_train_step")
    assert labels["run"] == run.id and value <= steps_done(run)
    wait_until(lambda: any(rate > 0 for _, rate in ask("deriv(smolplan_train_tokens[3s])")))
    assert len(ask("smolplan_rank_idle_seconds")) == 2
    assert not ask("smolplan_train_mfu_ratio"), "a CPU has no datasheet peak"
    assert ask("time() - smolplan_monitor_heartbeat_timestamp_seconds")[0][1] < 5
    assert 0 < ask("smolplan_goodput_ratio")[0][1] < 1
    assert ask('smolplan_badput_seconds_total{bucket="starting"}')[0][1] > 0
    os.kill(RunDir(run.path).read_heartbeats()[1].pid, signal.SIGKILL)
    wait_until(lambda: any(value == 2 for _, value in ask("smolplan_run_attempt")))
    ((labels, value),) = ask("smolplan_restarts_total")
    assert (labels["cause"], value) == ("killed", 1)
    control.request_stop(store, run)


def test_names_and_types_pass_promtools_lint(metrics_url: str) -> None:
    with urllib.request.urlopen(metrics_url, timeout=5) as answer:
        text = answer.read()
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"smolplan_train_loss" in text
