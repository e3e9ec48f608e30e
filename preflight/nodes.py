"""`python -P -m preflight.nodes RUN ATTEMPT`: what an attempt's nodes found of themselves becomes
one report, for the comparison with later ones and on the hosts' record.

Where it is run the record of hosts is; where the nodes are, there may be none.
"""

import sys
from contextlib import closing
from pathlib import Path

from launcher.placement import read_placement
from launcher.store import Store
from preflight import history
from preflight.fleet_run import REACHED
from preflight.host_record import put_on_record
from preflight.peers import judge
from preflight.registry import of_nodes
from preflight.report import Report, Result
from smolplan.rundir import RunDir, read_json, write_text
from smolplan.spec import RunSpec, load_spec


def main() -> None:
    run, attempt = RunDir(sys.argv[1]), int(sys.argv[2])
    placement = read_placement(run, attempt)
    hosts = placement.hosts if placement else ()
    spec = load_spec(run.spec)
    paths = [run.node_check(attempt, node) for node in range(len(hosts))]
    report = together(spec, run, [read_report(p, h) for p, h in zip(paths, hosts, strict=True)])
    history.keep(report)
    with closing(Store()) as store:
        put_on_record(store, report)
    out = sorted({result.host for result in report.failed()})
    run.record("preflight", "launcher", attempt=attempt, checked=len(report.results), left_out=out)
    write_text(run.checks(attempt), report.model_dump_json())  # last: from now on it is done


def read_report(path: Path, host: str) -> Report | Result:
    """A node's report, or that there is none, which is no fault of the node's."""
    content = read_json(path) or {"unknown": "it did not come to its end"}
    if "unknown" not in content:
        content.pop("fit", None)
        return Report.model_validate(content)
    return Result(
        name=REACHED,
        area="host",
        severity="required",
        seconds=0.0,
        state="unknown",
        summary="the node's preflight gave no report",
        why=str(content["unknown"]),
        host=str(content.get("host") or host),
        remedy="See the log of the attempt.",
    )


def together(spec: RunSpec, run: RunDir, found: list[Report | Result]) -> Report:
    """One report of all nodes, in their order, compared with each other."""
    reports = [one for one in found if isinstance(one, Report)]
    results: list[Result] = []
    for one in found:
        results += one.results if isinstance(one, Report) else [one]
    return Report(
        spec_name=spec.name,
        spec_hash=spec.content_hash(),
        runs_dir=str(run.path.parent),
        results=judge(results, of_nodes()),
        seconds=max((one.seconds for one in reports), default=0.0),
        hosts=tuple(one.hosts[0] if isinstance(one, Report) else one.host for one in found),
        tier="quick",
        started_at=min((one.started_at for one in reports), default=0.0),
        made_on=reports[0].made_on if reports else "",
    )


if __name__ == "__main__":
    main()
