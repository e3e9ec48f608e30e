"""The same plots as one self-contained page: plot, what each point is, and a table of them all."""

import json
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from planner.plot import NARROW, WIDE, Axes, Point, scatter_svg

STYLE = """
  :root { color-scheme: light dark; --text: #222; --ground: #fff; --quiet: #666; --line: #ddd;
    --mark: #fff3c4; --link: #0969da; }
  @media (prefers-color-scheme: dark) { :root { --text: #ddd; --ground: #15181c; --quiet: #9aa0a6;
    --line: #333; --mark: #3a3115; --link: #58a6ff; } }
  body { font: 16px/1.45 system-ui, sans-serif; color: var(--text); background: var(--ground);
    max-width: 760px; margin: 0 auto; padding: 16px; }
  h1 { font-size: 1.25rem; margin: 0 0 .5rem; } p, li { color: var(--quiet); font-size: .9rem; }
  svg { display: block; width: 100%; height: auto; } svg a circle { cursor: pointer; }
  svg a:focus circle, svg a:hover circle { r: 8; } .narrow { display: none; }
  @media (max-width: 600px) { .wide { display: none; } .narrow { display: block; } }
  #chosen { min-height: 3.2em; border-left: 3px solid var(--link); padding: .3em .8em;
    margin: .5rem 0; white-space: pre-line; }
  .scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
  th, td { padding: .35em .6em; text-align: right; border-bottom: 1px solid var(--line);
    white-space: nowrap; font-variant-numeric: tabular-nums; }
  th { color: var(--quiet); font-weight: 500; font-size: .85rem; }
  td:last-child, th:last-child { text-align: left; }
  tr:target, tr.chosen { background: var(--mark); }
"""

SCRIPT = """
  const chosen = document.getElementById("chosen"), rows = document.querySelectorAll("tbody tr");
  function show(index) {
    chosen.textContent = DETAILS[index];
    rows.forEach((row, at) => row.classList.toggle("chosen", at === index));
  }
  document.querySelectorAll("svg a").forEach(dot => {
    const index = Number(dot.getAttribute("href").slice(POINT.length));
    for (const event of ["pointerenter", "focus"]) dot.addEventListener(event, () => show(index));
    dot.addEventListener("click", event => { event.preventDefault(); show(index); });
  });
  rows.forEach((row, index) => row.addEventListener("click", () => show(index)));
"""
POINT = "#point-"


def _row(anchor: str, cells: Sequence[str]) -> str:
    return f'<tr id="{anchor}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def scatter_html(
    points: Sequence[Point],
    axes: Axes,
    *,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
) -> str:
    """`rows`: of the table, one a point, in the same order. A click on a point, or a pointer or the
    keyboard's focus on it, shows its `detail`; without scripts it leads to its row. Raises
    ValueError without points, or for one that is not finite."""
    linked = [replace(p, link=f"{POINT}{index}") for index, p in enumerate(points)]
    plots = "\n".join(
        f'<div class="{name}">{scatter_svg(linked, axes, size, titled=False)}</div>'
        for name, size in (("wide", WIDE), ("narrow", NARROW))
    )
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join(_row(f"{POINT[1:]}{index}", row) for index, row in enumerate(rows))
    details = json.dumps([p.detail for p in points], ensure_ascii=False).replace("<", "\\u003c")
    script = SCRIPT.replace("DETAILS", "details").replace("POINT", json.dumps(POINT))
    told = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(axes.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(axes.title)}</h1>
{plots}
<p id="chosen" aria-live="polite">Rest on a point, or tap it, to see its layout.</p>
<div class="scroll"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
<ul>{told}</ul>
<script>
  const details = {details};
{script}</script>
</body>
</html>
"""
