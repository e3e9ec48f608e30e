"""smolplan monitor rules and dashboard, as a user calls them."""

import json
import runpy
from pathlib import Path

import yaml

from launcher.store import Store
from monitor.catalog import METRICS, MONITOR_RULES
from monitor.rules import RUNBOOK
from smolplan.spec import dump_spec, load_preset
from tests.support import smolplan

ROOT = Path(__file__).parents[2]


def expressions(text: str) -> str:
    groups = yaml.safe_load(text)["groups"]
    return "\n".join(rule["expr"] for group in groups for rule in group["rules"])


def test_rules_are_for_a_run_or_for_all_runs_of_a_spec(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.b-1").mkdir()
    (tmp_path / "a.b-1" / "spec.yaml").write_text(dump_spec(load_preset("tiny-cpu")))
    store.add_run("a.b-1", tmp_path / "a.b-1", "hash", monitored=False)
    done = smolplan("monitor", "rules", "latest")
    assert done.returncode == 0, done.stderr
    assert 'smolplan_train_loss{run=~"a[.]b-1"}' in expressions(done.stdout)
    out = tmp_path / "rules.yml"
    done = smolplan("monitor", "rules", "tiny-cpu", "--output", str(out))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert '{run=~"tiny-cpu-[0-9]{4}-' in expressions(out.read_text())


def test_what_is_neither_run_nor_spec_ends_with_code_2(store: Store, tmp_path: Path) -> None:
    done = smolplan("monitor", "rules", "nothing")
    assert (done.returncode, "there is no run 'nothing'" in done.stderr) == (2, True), done.stderr
    done = smolplan("monitor", "dashboard", "--output", str(tmp_path / "no" / "file"))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


def test_the_dashboard_is_json() -> None:
    done = smolplan("monitor", "dashboard")
    assert json.loads(done.stdout)["uid"] == "smolplan"


def test_the_reference_is_that_of_the_catalogue_and_each_alert_links_to_its_place_there() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_alerts_reference.py"))["reference"]()
    page = (ROOT / RUNBOOK).read_text("utf-8")
    assert page == made, "run: python docs/make_alerts_reference.py"
    rules = [rule for metric in METRICS for rule in metric.rules] + list(MONITOR_RULES)
    assert all(f"### {rule.alert}\n" in page for rule in rules)
