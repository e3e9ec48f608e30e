"""What a report means for the hosts' record: a host that failed a check is left out of new
attempts, and comes back only after it passes that check again."""

from collections import defaultdict

from launcher.host_faults import SUSPICIONS
from launcher.store import Store
from preflight.report import IDENTITY, Report, Result

ACTIVE_TIERS = {"standard", "burn"}
"""Those that put the machine to work: they show whether a host that lost a rank is well."""

REACHED = "unreachable"


def put_on_record(store: Store, report: Report) -> None:
    """Blame hosts for required checks that they failed, and clear them of those that they passed.
    A report of one machine, with nobody between, is about no host of an inventory."""
    by_host: dict[str, list[Result]] = defaultdict(list)
    for result in report.results:
        if result.host and result.host in report.hosts:
            by_host[result.host].append(result)
    for host, results in by_host.items():
        if serials := _serials(results):
            store.know_gpus({host: serials})
        failed = [r for r in results if r.state == "fail" and r.severity == "required"]
        for result in failed:
            store.blame_host(
                host,
                result.name,
                result.summary,
                run_id="preflight",
                attempt=round(report.started_at),
            )
        passed = {r.name for r in results if r.state == "pass"} - {r.name for r in failed}
        if "host.reached" not in {r.name for r in failed}:
            passed.add(REACHED)
        if passed:
            store.clear_host(host, "it passed preflight's check", kinds=passed)
        if report.tier in ACTIVE_TIERS and not failed and _is_whole(results):
            store.clear_host(host, f"it passed preflight ({report.tier})", kinds=SUSPICIONS)


def _serials(results: list[Result]) -> list[str]:
    return [
        value
        for result in results
        for name, value in result.facts.items()
        if name.startswith(f"{IDENTITY}gpu")
    ]


def _is_whole(results: list[Result]) -> bool:
    """Whether the host was looked at, and not in one respect only (--only)."""
    return len({result.area for result in results}) > 3
