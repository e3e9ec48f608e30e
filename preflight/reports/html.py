"""A report as one HTML page that needs nothing else: no script, no network, light and dark."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from html import escape
from statistics import median

from preflight.peers import figure
from preflight.report import STATES, Report, State
from preflight.reports.rows import BY_GRAVITY, Row, groups, rows, verdict
from smolplan.units import count_of

_SIGNS: dict[str, str] = {"pass": "✓", "warn": "!", "fail": "✗", "skipped": "–", "unknown": "?"}

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #676d76; --line: #dfe2e6;
  --paper: #fff; --card: #f6f7f9;
  --pass: #1a7f37; --warn: #8a5a00; --fail: #c5221f; --unknown: #8250df; --skipped: #6e7781; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e9; --dim: #9aa1ab; --line: #33383f;
  --paper: #16181c; --card: #1f2227;
  --pass: #4ac26b; --warn: #e3a83a; --fail: #ff7b72; --unknown: #c297ff; --skipped: #8b949e; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.45rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.25rem 0 .6rem }
p { margin: .35rem 0 } .dim { color: var(--dim) }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line) }
tr:last-child > * { border-bottom: 0 } thead th { background: var(--card); font-weight: 600;
  position: sticky; top: 0 } tbody th { font-weight: 500; white-space: nowrap }
td.number { text-align: right; white-space: nowrap } td.mark, th.mark { text-align: center }
.state { font-weight: 600; white-space: nowrap } .pass { color: var(--pass) }
.warn { color: var(--warn) } .fail { color: var(--fail) } .unknown { color: var(--unknown) }
.skipped { color: var(--skipped) }
article { border: 1px solid var(--line); border-left: 4px solid currentColor; border-radius: 6px;
  padding: .6rem .9rem; margin: .6rem 0 } article > * { color: var(--ink) }
article .state { color: inherit } article .why { overflow-wrap: anywhere }
"""

_Values = list[tuple[str, float]]


def html(report: Report) -> str:
    """The verdict; what to do; areas by host; each check; figures with their medians."""
    found = rows(report)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.started_at))
    counts = ", ".join(
        f'<span class="{state}">{report.count(state)} {state}</span>'
        for state in STATES
        if report.count(state)
    )
    state = "fail" if not report.fit else "pass"
    title = f"Preflight of {report.spec_name}"
    where = count_of(len(report.hosts), "host") if report.hosts else report.made_on
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}: <span class="{state}">{escape(verdict(report))}</span></h1>
<p>{counts}</p>
<p class="dim">{escape(where)}, {escape(when)}, {report.seconds:.0f} s, tier
{escape(report.tier)}, runs in {escape(report.runs_dir)}, spec {escape(report.spec_hash[:12])}</p>
{_to_do(report)}
<h2>By host</h2>
{_by_host(report)}
<h2>By check</h2>
{_by_check(found)}
{_figures(report)}
</body></html>
"""


def _to_do(report: Report) -> str:
    told = []
    for group in groups(report.results, most=20):
        whom = f" on {', '.join(group.hosts)}" if group.hosts else ""
        remedy = f"<p>→ {escape(group.remedy)}</p>" if group.remedy else ""
        told.append(
            f'<article class="{group.state}"><p><span class="state">{group.state}</span> '
            f"<b>{escape(group.name)}</b>{escape(whom)}</p>"
            f'<p class="why">{escape(group.why)}</p>{remedy}</article>'
        )
    return f"<h2>What to do</h2>{''.join(told)}" if told else ""


def _by_host(report: Report) -> str:
    """A row a host, a column an area: the gravest state, and how many have it."""
    areas = list(dict.fromkeys(result.area for result in report.results))
    cells: dict[tuple[str, str], Counter[State]] = defaultdict(Counter)
    for result in report.results:
        cells[result.host, result.area][result.state] += 1
    hosts = list(dict.fromkeys([*report.hosts, *(r.host for r in report.results if r.host)]))
    if any(not result.host for result in report.results):
        hosts.append("")
    alone = "fleet as a whole" if report.hosts else report.made_on or "this machine"
    body = "".join(
        f"<tr><th>{escape(host or alone)}</th>"
        + "".join(_cell(cells[host, area]) for area in areas)
        + "</tr>"
        for host in hosts
    )
    head = "".join(f'<th class="mark">{escape(area)}</th>' for area in areas)
    return _table(f"<th>host</th>{head}", body)


def _cell(states: Counter[State]) -> str:
    if not states:
        return '<td class="mark"></td>'
    worst = next(state for state in BY_GRAVITY if states[state])
    if worst == "skipped" and states["pass"]:
        worst = "pass"
    words = ", ".join(f"{count} {state}" for state, count in states.items())
    count = f" {states[worst]}" if worst != "pass" else ""
    return (
        f'<td class="mark {worst}" title="{words}"><span aria-label="{words}">'
        f"{_SIGNS[worst]}{count}</span></td>"
    )


def _by_check(found: Iterable[Row]) -> str:
    body = "".join(
        f'<tr><td class="state {row.state}">{_SIGNS[row.state]} {row.state}</td>'
        f"<th>{escape(row.name)}</th><td>{escape(row.summary)}</td>"
        f'<td class="dim">{escape(_sources(row))}</td></tr>'
        for row in found
    )
    return _table("<th>state</th><th>check</th><th>found</th><th>threshold from</th>", body)


def _sources(row: Row) -> str:
    return ", ".join(sorted({result.source for result in row.results} - {"none"}))


def _figures(report: Report) -> str:
    """Each figure: what is needed, the median, and who has the least and the most of it."""
    values: dict[tuple[str, str], _Values] = defaultdict(list)
    needed: dict[tuple[str, str], float] = {}
    for result in report.results:
        for name, value in result.measured.items():
            values[result.name, name].append((result.host, value))
        for name, value in result.needed.items():
            needed[result.name, name] = value
    if not values:
        return ""
    body = "".join(
        f"<tr><th>{escape(check)}</th><td>{escape(name)}</td>"
        + _number(name, needed.get((check, name)))
        + _number(name, median(value for _, value in told))
        + (_of(name, min(told, key=_value)) + _of(name, max(told, key=_value)))
        + "</tr>"
        for (check, name), told in values.items()
    )
    head = "<th>check</th><th>figure</th><th>needed</th><th>median</th><th>least</th><th>most</th>"
    return f"<h2>Figures</h2>{_table(head, body)}"


def _value(told: tuple[str, float]) -> float:
    return told[1]


def _of(name: str, told: tuple[str, float]) -> str:
    host, value = told
    whose = f' <span class="dim">{escape(host)}</span>' if host else ""
    return f'<td class="number">{escape(figure(name, value))}{whose}</td>'


def _number(name: str, value: float | None) -> str:
    return f'<td class="number">{"" if value is None else escape(figure(name, value))}</td>'


def _table(head: str, body: str) -> str:
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )
