"""Earlier reports: what was found last, and whether figures are as good as they used to be."""

import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log as ln
from pathlib import Path
from statistics import median

from launcher.store import state_folder
from preflight.peers import MODIFIED_Z, direction, figure, worse_by
from preflight.registry import Check, all_checks
from preflight.report import Report, Result
from smolplan.rundir import write_text

log = logging.getLogger(__name__)

KEPT = 50
"""Reports of one spec name; the oldest go first. A report of 256 hosts has some 5 MB."""

COMPARED = 5
"""Earlier figures whose median today's is compared with."""

WORSE_THAN_BEFORE = 0.15
"""Share of its earlier figures' median by which a host may be worse; 5 % from run to run are
normal within a host (Stas Bekman, Machine Learning Engineering), and shared storage is noisier."""

WORSE_THAN_ONCE = 0.30
"""The same where there are fewer than three earlier figures, so that their spread is not known."""


@dataclass(frozen=True)
class Standing:
    """What is known of a spec: the newest result of each check of each host."""

    report: Report
    """The newest one; it may be of some checks or hosts only."""
    failed: tuple[Result, ...]
    """Required checks that failed when they were last made, by host."""

    @property
    def age_s(self) -> float:
        return time.time() - self.report.started_at

    @property
    def failed_hosts(self) -> frozenset[str]:
        return frozenset(result.host for result in self.failed)


def folder() -> Path:
    """Where reports are kept. Raises UserError."""
    return state_folder() / "preflight"


def keep(report: Report) -> Path | None:
    """Write the report to the record, and drop the oldest; None if it cannot be written, which is
    no reason to hold a report back."""
    place = folder() / report.spec_name
    name = f"{round(report.started_at * 1000):014d}-{os.getpid()}-{report.spec_hash[:16]}.json"
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_text(place / name, report.model_dump_json())
        for old in sorted(place.glob("*.json"))[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the report is not kept: %s: %s", place, error.strerror)
        return None
    return place / name


def reports(spec_name: str) -> list[Report]:
    """All that are kept of a spec's name, newest first; what cannot be read is left out."""
    return [
        r for path in _newest_first((folder() / spec_name).glob("*.json")) if (r := _read(path))
    ]


def latest_report(spec_hash: str) -> Standing | None:
    """What stands against a spec: a failure counts until the same check was made again, of that
    host or of all. None if it was never checked."""
    found = []
    for path in _newest_first(folder().glob(f"*/*-{spec_hash[:16]}.json")):
        report = _read(path)
        if report is not None and report.spec_hash == spec_hash:
            found.append(report)
    if not found:
        return None
    of_fleet = {check.name for check in all_checks() if check.scope == "fleet"}
    failed: list[Result] = []
    made: set[tuple[str, str]] = set()
    for report in found:
        failed += [r for r in report.failed() if (r.name, r.host) not in made]
        made |= {(r.name, r.host) for r in report.results}
        # Of those, only the hosts that were found wanting have a result of their own.
        again = of_fleet & {r.name for r in report.results}
        made |= {(name, host) for name in again for host in ("", *report.hosts)}
    return Standing(found[0], tuple(failed))


def compare(report: Report, checks: Iterable[Check], before: Sequence[Report]) -> Report:
    """The report, with a warning where a figure is worse than it used to be on the same host.
    `before`: earlier ones, newest first."""
    known = {check.name: check for check in checks}
    earlier: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for old in before:
        for result in old.results:
            # A result of no host is of the machine that smolplan ran on.
            same = bool(result.host) or old.made_on == report.made_on
            if same and result.state == "pass" and result.name in known:
                for name, value in result.measured.items():
                    earlier[result.name, result.host, name].append((value, old.started_at))
    results = []
    for result in report.results:
        words = []
        if result.state in ("pass", "warn") and result.name in known:
            for name, value in result.measured.items():
                past = earlier.get((result.name, result.host, name), [])[:COMPARED]
                if told := _fallen(known[result.name], name, value, past):
                    words.append(told)
        if words:
            result = result.model_copy(
                update={
                    "state": "warn",
                    "source": "history",
                    "why": "; ".join(filter(None, [*words, result.why])),
                    "remedy": result.remedy or known[result.name].remedy,
                }
            )
        results.append(result)
    return report.model_copy(update={"results": tuple(results)})


def _fallen(check: Check, name: str, value: float, past: Sequence[tuple[float, float]]) -> str:
    way = direction(name, check.peers)
    values = [old for old, _ in past]
    if not past or way is None or min(values) <= 0:
        return ""
    usual = median(values)
    by, apart = worse_by(value, usual, way), check.peers_apart or 0.0
    if len(past) < 3:
        fallen = by > max(WORSE_THAN_ONCE, apart)
    else:
        spread = median(abs(ln(old / usual)) for old in values) / 0.6745
        away = abs(ln(value / usual)) if value > 0 else float("inf")
        fallen = by > max(WORSE_THAN_BEFORE, apart) and away > MODIFIED_Z * spread
    if not fallen:
        return ""
    when = time.strftime("%Y-%m-%d", time.gmtime(past[0][1]))
    return f"{name} {figure(name, value)}, but {figure(name, usual)} until {when}: {by:.0%} worse"


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.name, reverse=True)


def _read(path: Path) -> Report | None:
    try:
        content = json.loads(path.read_text("utf-8"))
        content.pop("fit", None)
        return Report.model_validate(content)
    except (OSError, ValueError, AttributeError):
        # Of another version, or removed by another preflight meanwhile.
        log.debug("%s is no report", path)
        return None
