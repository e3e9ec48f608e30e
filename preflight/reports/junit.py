"""A report as JUnit XML, which CI systems show: a suite a host, a case a check.

Elements and attributes are those that Jenkins' xUnit plugin allows (junit-10.xsd).
"""

import re
import time
from collections import defaultdict
from xml.etree import ElementTree as xml

from preflight.report import Report, Result

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document can hold, not even escaped."""


def junit(report: Report) -> str:
    """A warning is a case that passed, with its words as output: as in the exit code, only a
    required check fails."""
    by_host: dict[str, list[Result]] = defaultdict(list)
    for result in report.results:
        by_host[result.host].append(result)
    # A host of which nobody knows anything has a suite all the same.
    for host in report.hosts:
        by_host.setdefault(host, [])
    root = xml.Element("testsuites", name=_text(f"smolplan preflight {report.spec_name}"))
    root.set("time", f"{report.seconds:.3f}")
    for key in ("tests", "failures", "errors"):
        root.set(key, str(_count(report.results, key)))
    for number, (host, results) in enumerate(by_host.items()):
        suite = xml.SubElement(root, "testsuite", name=_text(host or "fleet"), id=str(number))
        for key in ("tests", "failures", "errors", "skipped"):
            suite.set(key, str(_count(results, key)))
        suite.set("time", f"{sum(r.seconds for r in results):.3f}")
        suite.set("timestamp", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(report.started_at)))
        if host:
            suite.set("hostname", _text(host))
        for result in results:
            _add_case(suite, result)
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, "unicode") + "\n"


def _count(results: tuple[Result, ...] | list[Result], what: str) -> int:
    states = {"failures": "fail", "errors": "unknown", "skipped": "skipped"}
    return len([r for r in results if what == "tests" or r.state == states[what]])


def _add_case(suite: xml.Element, result: Result) -> None:
    case = xml.SubElement(
        suite,
        "testcase",
        classname=_text(f"preflight.{result.area}"),
        name=_text(result.name),
        time=f"{result.seconds:.3f}",
    )
    why = _text("\n".join(filter(None, [result.why, result.remedy and f"→ {result.remedy}"])))
    tag = {"fail": "failure", "unknown": "error", "skipped": "skipped"}.get(result.state)
    if tag:
        told = xml.SubElement(case, tag, message=_text(result.summary))
        if tag != "skipped":
            told.set("type", result.severity)
        told.text = why
        return
    out = [f"{result.state}: {result.summary}", why]
    out += [f"{name} = {value:g}" for name, value in result.measured.items()]
    xml.SubElement(case, "system-out").text = _text("\n".join(filter(None, out)))


def _text(words: str) -> str:
    return _FORBIDDEN.sub("\ufffd", words)
