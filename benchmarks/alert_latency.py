"""`python -m benchmarks.alert_latency`: how long from an Xid in a host's kernel log until a
receiver has been told of it by a web hook. Exit 1 if LIMIT_S is not held. Needs root.

The hosts (namespaces with links, processes and SSH servers of their own) train, and are watched
over SSH. Each has one Xid, of a kind that ends nothing: more within minutes would be one finding.
"""

import argparse
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.chaos.many_hosts import PATIENCE_S, goes_on
from benchmarks.chaos.site import (
    SmolplanSite,
    await_true,
    end_monitors,
    hosts_and_spare,
    kernel_log,
    launch,
    spec_of,
)
from benchmarks.peers.document import markdown_table, write_section
from launcher import control
from launcher.store import Store
from tests.monitor.support import Receiver, listening, with_alerts

COMMAND = "python -m benchmarks.alert_latency"
HOSTS = 6
LIMIT_S = 2.0
"""What an exporter, Prometheus and Alertmanager took on such a machine: to be beaten."""
LOST_S = 60.0


def seconds_until_told(site: SmolplanSite, receiver: Receiver, number: int) -> float:
    """Raises RuntimeError if nobody is told."""
    host = site.hosts()[number]
    pci = f"0000:{number + 1:02x}:00"
    began = time.monotonic()
    at_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with kernel_log(host).open("a") as log:
        log.write(f"4,1,{at_us},-;NVRM: Xid (PCI:{pci}): 31, pid=1, name=python, MMU Fault\n")
    if not await_true(lambda: any(pci in told for told in receiver.summaries), LOST_S):
        raise RuntimeError(f"nobody was told of the Xid on {host.name} within {LOST_S:.0f} s")
    return time.monotonic() - began


def measured() -> list[float]:
    with tempfile.TemporaryDirectory(prefix="smolplan-alert-") as name:
        base = Path(name)
        os.environ["SMOLPLAN_STATE"] = str(base / "state")
        store = Store()
        with listening(Receiver()) as receiver, hosts_and_spare(base / "lab", HOSTS) as cluster:
            spec = spec_of(cluster, HOSTS, 1_000_000, seed=1)
            spec = with_alerts(spec, {"kind": "webhook", "url": receiver.url})
            site = launch(spec, store, cluster)
            try:
                if not goes_on(site, 1, PATIENCE_S):
                    raise RuntimeError("the run does not train at all")
                found = []
                for number in range(HOSTS):
                    time.sleep(1.0 + 0.37 * number % 1.0)  # not in step with those who look
                    found.append(seconds_until_told(site, receiver, number))
                return found
            finally:
                control.kill(store, site.run)
                end_monitors(store)
                store.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="document whose section is written anew")
    told = parser.parse_args()
    load = os.getloadavg()[0]
    found = measured()
    rows = [
        ["told after, s, median", f"{median(found):.2f}", f"{LIMIT_S:.1f}"],
        ["at most", f"{max(found):.2f}", f"{LIMIT_S:.1f}"],
    ]
    text = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {HOSTS} hosts, load of the "
        f"machine before, {load:.1f}.\n\n{markdown_table(['what', 'measured', 'limit'], rows)}"
    )
    print(text)
    if told.write:
        write_section(told.write, COMMAND, text)
    return int(max(found) > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
