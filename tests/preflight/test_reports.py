import re
from html.parser import HTMLParser
from xml.etree import ElementTree as xml

from preflight.report import Report, Result, Severity, State
from preflight.reports.html import html
from preflight.reports.junit import junit
from preflight.reports.rows import groups, lines, rows, verdict

ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {
        *("name", "tests", "failures", "errors", "group", "time", "skipped", "timestamp"),
        *("hostname", "id", "package", "file", "log", "url"),
    },
    "testcase": {"name", "time", "classname", "group"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "system-out": set(),
}
"""Attributes by junit-10.xsd of Jenkins' xUnit plugin."""

NASTY = "<script>alert('1 & 2')</script>\x00\x1b[31m\ufffe"


def result(
    name: str,
    state: State = "pass",
    host: str = "",
    *,
    summary: str = "fine",
    why: str = "",
    severity: Severity = "required",
    **measured: float,
) -> Result:
    return Result(
        name=name,
        area=name.partition(".")[0],
        severity=severity,
        state=state,
        summary=summary,
        why=why,
        remedy="Mend it." if why else "",
        host=host,
        measured=measured,
        seconds=0.5,
    )


def report(*results: Result, hosts: str = "abc") -> Report:
    return Report(
        spec_name="x",
        spec_hash="0123456789abcdef",
        runs_dir="/runs",
        results=results,
        seconds=3.0,
        hosts=tuple(hosts),
        started_at=1.7e9,
    )


def test_many_hosts_take_one_row_a_check() -> None:
    found = rows(report(*(result("host.memory", host=f"h{n}") for n in range(256))))
    assert [(r.name, r.state, r.summary) for r in found] == [
        ("host.memory", "pass", "256 hosts: fine")
    ]


def test_hosts_that_differ_are_named_and_what_they_say_alike_is_said_once() -> None:
    told = report(
        result("host.memory", "fail", "a", summary="too little", why="it is full"),
        result("host.memory", "pass", "b"),
        result("host.memory", "fail", "c", summary="too little", why="it is full"),
    )
    (row,) = rows(told)
    assert (row.state, row.summary) == ("fail", "2 of 3: a, c: too little")
    (group,) = groups(told.results)
    assert (group.hosts, group.why, group.remedy) == (("a", "c"), "it is full", "Mend it.")
    assert verdict(told) == "NOT fit to start: 2 of 3 hosts failed"


def test_the_only_host_that_a_check_of_all_hosts_finds_wanting_is_named() -> None:
    (row,) = rows(report(result("storage.shared", "fail", "c", summary="its own folder")))
    assert row.summary == "1 of 3: c: its own folder"


def test_failures_are_told_before_warnings() -> None:
    told = [result("a.a", "warn", why="slow"), result("b.b", "fail", why="broken")]
    assert [g.state for g in groups(told)] == ["fail", "warn"]


def test_what_hundreds_of_hosts_say_each_in_its_own_figures_takes_a_few_lines() -> None:
    told = [result("host.memory", "fail", f"h{n}", why=f"{n} bytes are free") for n in range(256)]
    found = groups(told)
    assert [len(g.hosts) for g in found] == [1, 1, 1, 253]
    assert found[-1].why.startswith("the like")
    twice = [result("network.resolve", "fail", "a", why=f"no name {n}") for n in range(3)]
    assert rows(report(*twice))[0].summary == "1 of 3: a: fine"


def test_checks_of_an_area_that_are_skipped_for_one_reason_take_one_line() -> None:
    skipped = [result(f"gpu.{n}", "skipped", h, summary="no GPU") for n in "xy" for h in "abc"]
    found = lines(report(*skipped, result("gpu.z", "skipped", summary="another reason")))
    assert [(line.name, line.summary) for line in found] == [
        ("gpu (2 checks)", "3 hosts: no GPU"),
        ("gpu.z", "another reason"),
    ]


def test_junit_has_a_suite_a_host_and_counts_that_agree() -> None:
    root = xml.fromstring(
        junit(
            report(
                result("host.memory", host="a"),
                result("gpu.count", "unknown", "a", why="no answer"),
                result("host.memory", "fail", "b", why="full"),
                result("gpu.count", "skipped", "b"),
                result("net.mtu", "warn", why="small"),
            )
        )
    )
    assert {key: root.get(key) for key in ("tests", "failures", "errors")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
    }
    for element in root.iter():
        assert set(element.attrib) <= ALLOWED[element.tag]
    # c told nothing, and is there all the same.
    assert [s.get("name") for s in root] == ["a", "b", "fleet", "c"]
    for suite in root:
        counted = {"tests": "testcase", "failures": "*/failure", "errors": "*/error"}
        for key, path in {**counted, "skipped": "*/skipped"}.items():
            assert suite.get(key) == str(len(suite.findall(path)))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", ""))
        assert {case.get("classname") for case in suite} <= {
            "preflight.host",
            "preflight.gpu",
            "preflight.net",
        }
    assert root.findtext(".//failure") == "full\n→ Mend it."


def test_whatever_a_host_says_is_shown_as_text_and_never_as_markup() -> None:
    told = report(result("host.memory", "fail", f"a{NASTY}", summary=NASTY, why=NASTY))
    (case,) = xml.fromstring(junit(told)).iter("failure")
    assert case.get("message", "").startswith("<script>alert('1 & 2')</script>")
    assert "<script" not in html(told)


class _Page(HTMLParser):
    """Counts what is opened and not closed, and what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.fetched += [name for name, _ in attrs if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_needs_nothing_else_and_has_medians_and_remedies() -> None:
    told = report(
        *(
            result("gpu.gemm", host=h, gemm_flops_per_s=v)
            for h, v in zip("ab", (4, 8), strict=True)
        ),
        result("host.memory", "fail", "c", why="it is full"),
    )
    page = _Page()
    page.feed(text := html(told))
    page.close()
    assert page.open == [] and page.fetched == []
    assert "url(" not in text
    assert '<td class="number">6/s</td>' in text
    assert "→ Mend it." in text
