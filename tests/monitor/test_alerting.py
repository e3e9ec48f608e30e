"""The metrics, rules and dashboard in a real Prometheus and a real Alertmanager."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher.store import Store
from monitor.collect.host_sample import DiskSample, GpuSample, HostSample, write_host_sample
from monitor.dashboard import dashboard
from monitor.rules import alert_rules
from monitor.web.server import start_server
from planner.plan import make_plan
from smolplan.ports import free_port
from smolplan.rundir import Heartbeat, RunDir, append_line, write_text
from smolplan.spec import RunSpec
from tests.monitor.support import InThread, Receiver, listening, quiet_run, with_alerts
from tests.support import make_spec, wait_until

PROGRAMS = ("prometheus", "prometheus-alertmanager")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"no {', '.join(MISSING)} here: apt install {' '.join(MISSING)}"
    ),
]

PROMETHEUS = """
global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}
rule_files: [rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{alertmanager}"]}}]}}]}}
scrape_configs:
  - {{job_name: smolplan, static_configs: [{{targets: ["127.0.0.1:{exporter}"]}}]}}
"""
ALERTMANAGER = """
route: {{receiver: hook, group_by: [alertname], group_wait: 0s, group_interval: 1s}}
receivers: [{{name: hook, webhook_configs: [{{url: "{url}"}}]}}]
"""


@dataclass
class Alerting:
    run: RunDir
    hook: Receiver
    """Where Alertmanager sends what fires."""
    prometheus: int
    alertmanager: int

    def ask(self, query: str) -> list[Any]:
        """Series of an instant query; none before Prometheus is up. Raises HTTPError for a query
        that it does not understand."""
        query = urllib.parse.urlencode({"query": query})
        found = _get(self.prometheus, f"/api/v1/query?{query}")
        return [] if found is None else list(found["data"]["result"])

    def sent(self, status: str) -> dict[str, dict[str, Any]]:
        """What Alertmanager sent, by name."""
        return {
            alert["labels"]["alertname"]: alert
            for body in self.hook.bodies
            for alert in body["alerts"]
            if alert["status"] == status
        }

    def standing(self) -> set[str]:
        """Names of the alerts that stand in Alertmanager."""
        found = _get(self.alertmanager, "/api/v2/alerts?active=true") or []
        return {alert["labels"]["alertname"] for alert in found}


def _get(port: int, path: str) -> Any:
    """None before it is up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return None
        raise
    except urllib.error.URLError:
        return None


def sample(*, remap_failed: bool) -> HostSample:
    gpu = GpuSample(
        index=3,
        uuid="GPU-3",
        pci_bus_id="00000000:9B:00.0",
        model="H100",
        sm_clock_mhz=1980,
        temperature_c=60,
        memory_temperature_c=70,
        power_w=600,
        utilisation_percent=99,
        memory_used_mib=70_000,
        ecc_double_bit=0,
        last_xid=13,
        xids={"13": 1},
        row_remap_failed=remap_failed,
    )
    return HostSample(
        host="node1",
        node=0,
        time=time.time(),
        memory_total_bytes=10**12,
        memory_available_bytes=10**11,
        load_1min=3.0,
        gpus=(gpu,),
        disks=(DiskSample("/data", 10**13, 10**12),),
    )


def fill(run: RunDir, spec: RunSpec) -> None:
    """What launcher and trainer would have written by now."""
    write_text(run.plan, make_plan(spec).model_dump_json())
    beat = Heartbeat(2, 0, "node1", 1, 5, "training", time.time(), 1.0, 0.1)
    run.write_heartbeat(beat)
    figures = {"loss": 2.5, "grad_norm": 1.0, "lr": 1e-3, "mfu": 0.3, "memory_bytes": 10**9}
    times = {"tokens_per_s": 1280.0, "step_s": 0.1, "data_wait_s": 0.001, "time": time.time()}
    append_line(run.metrics, {"step": 5, "tokens": 640, **figures, **times})
    run.record("launched", "launcher", attempt=1, reason="first start")
    run.record("checkpoint_saved", "trainer", step=4, seconds=0.2, bytes=100)
    write_host_sample(run, sample(remap_failed=False))


@pytest.fixture
def alerting(store: Store, data_cache: Path, tmp_path: Path) -> Iterator[Alerting]:
    """All of it at work, watching a run that is between two attempts."""
    with ExitStack() as stack:
        hook = stack.enter_context(listening(Receiver()))
        prometheus, alertmanager = free_port(), free_port()
        receiver = {"kind": "alertmanager", "url": f"http://127.0.0.1:{alertmanager}"}
        spec = with_alerts(make_spec(data_cache), receiver)
        run = quiet_run(store, tmp_path / "r", spec)
        fill(run, spec)
        daemon = InThread(store.folder)
        stack.callback(daemon.end)
        exporter = start_server(daemon.daemon, store.folder, "127.0.0.1", 0).rpartition(":")[2]
        (tmp_path / "rules.yml").write_text(alert_rules(spec, make_plan(spec), "r"))
        (tmp_path / "prometheus.yml").write_text(
            PROMETHEUS.format(alertmanager=alertmanager, exporter=exporter)
        )
        (tmp_path / "alertmanager.yml").write_text(ALERTMANAGER.format(url=hook.url))
        for command in (
            ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}",
             f"--storage.tsdb.path={tmp_path / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{prometheus}"],
            ["prometheus-alertmanager", f"--config.file={tmp_path / 'alertmanager.yml'}",
             f"--storage.path={tmp_path / 'alerts'}", "--cluster.listen-address=",
             f"--web.listen-address=127.0.0.1:{alertmanager}"],
        ):  # fmt: skip
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield Alerting(run, hook, prometheus, alertmanager)


def test_every_panel_of_the_dashboard_has_something_to_draw(alerting: Alerting) -> None:
    wait_until(lambda: bool(alerting.ask("smolplan_train_loss")))
    alerting.run.record("finding", "monitor", finding="odd", severity="warning", summary="it is")
    alerting.run.record("non_finite_loss", "trainer", step=6, loss="nan")
    queries = {
        panel["title"]: target["expr"].replace("$run", ".*")
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    }
    assert len(queries) > 20
    empty = set(queries)

    def all_drawn() -> bool:
        empty.difference_update({title for title in empty if alerting.ask(queries[title])})
        return not empty

    try:
        wait_until(all_drawn)
    except AssertionError:
        pytest.fail(f"nothing to draw: {sorted(empty)}")


def test_what_fires_reaches_the_receiver_and_ends_there(alerting: Alerting) -> None:
    run = alerting.run
    wait_until(lambda: "SmolplanWatchdog" in alerting.sent("firing"))
    write_host_sample(run, sample(remap_failed=True))
    run.record("non_finite_loss", "trainer", step=6, loss="nan")
    wait_until(lambda: "SmolplanGpuRemapFailed" in alerting.sent("firing"))
    fired = alerting.sent("firing")["SmolplanGpuRemapFailed"]
    assert fired["annotations"]["summary"] == "GPU 3 of node1 could not remap a memory row."
    assert (fired["labels"]["severity"], fired["labels"]["UUID"]) == ("critical", "GPU-3")
    write_host_sample(run, sample(remap_failed=False))
    wait_until(lambda: "SmolplanGpuRemapFailed" in alerting.sent("resolved"))
    wait_until(lambda: "SmolplanNonFiniteLoss" in alerting.sent("firing"))
    assert not alerting.ask('ALERTS{alertname="SmolplanMonitorGone", alertstate="firing"}')


def test_alertmanager_takes_what_the_monitor_tells_it_and_that_it_is_over(
    alerting: Alerting,
) -> None:
    run, odd = alerting.run, {"finding": "odd_thing", "key": "node1"}
    wait_until(lambda: alerting.standing() != set())
    run.record("finding", "monitor", **odd, severity="critical", summary="it is odd", hosts=[])
    wait_until(lambda: "SmolplanOddThing" in alerting.standing())
    run.record("finding_over", "monitor", **odd, lasted_s=1.0)
    wait_until(lambda: "SmolplanOddThing" not in alerting.standing())
    wait_until(lambda: "SmolplanOddThing" in alerting.sent("resolved"))
    assert alerting.sent("firing")["SmolplanOddThing"]["labels"]["severity"] == "critical"
