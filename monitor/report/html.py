"""A document as one HTML page that needs nothing else: no script, no network, light and dark, on
paper and on a telephone."""

from html import escape

from monitor.report.document import Block, Document, Heading, Paragraph, Picture, Table

INK = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #676d76; --line: #dfe2e6; --paper: #fff;
  --card: #f6f7f9; --good: #1a7f37; --bad: #c5221f; --mark: #c5221f; --curve: #0969da;
  --band: #b6d6f6 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e9; --dim: #9aa1ab; --line: #33383f;
  --paper: #16181c; --card: #1f2227; --good: #4ac26b; --bad: #ff7b72; --mark: #ff7b72;
  --curve: #58a6ff; --band: #1f4468 } }
"""

CHARTS = """
svg text { font: 13px system-ui, sans-serif; fill: var(--ink) }
.grid { stroke: var(--line) } .curve { fill: none; stroke: var(--curve); stroke-width: 1.5 }
.band { fill: var(--band) } .begin { stroke: var(--mark); stroke-dasharray: 4 3 }
"""
"""What the pictures of charts.py need beside INK, in a page or on their own."""

_PAGE = """
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.35rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p { margin: .35rem 0 } .dim { color: var(--dim) } .good { color: var(--good) }
.bad { color: var(--bad) }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); max-width: 26rem }
tr:last-child > td { border-bottom: 0 } thead th { background: var(--card); font-weight: 600 }
.number { text-align: right; white-space: nowrap }
figure { margin: .75rem 0 } figcaption { color: var(--dim); font-size: .9em }
svg { display: block; width: 100%; min-width: 34rem; height: auto }
@media print { :root { color-scheme: light } body { padding: 0; font-size: 11px }
  .scroll { border: 0; overflow: visible } svg { min-width: 0 }
  h2, thead { break-after: avoid } figure, tr { break-inside: avoid } }
"""


def html(document: Document) -> str:
    """The whole page."""
    state = "good" if document.good else "bad"
    body = "\n".join(_block(block) for block in document.blocks)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(document.title)}</title><style>{INK}{CHARTS}{_PAGE}</style></head><body>
<h1>{escape(document.title)}</h1>
<p class="{state}"><b>{escape(document.verdict)}</b></p>
{body}
</body></html>
"""


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text, dim):
            return f"<p{' class=dim' if dim else ''}>{escape(text)}</p>"
        case Picture(svg, caption):
            told = f"<figcaption>{escape(caption)}</figcaption>"
            return f'<figure><div class="scroll">{svg}</div>{told}</figure>'
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        kind = ' class="number"' if column in table.numbers else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    def row(tag: str, cells: tuple[str, ...]) -> str:
        return "<tr>" + "".join(cell(tag, i, text) for i, text in enumerate(cells)) + "</tr>"

    body = "".join(row("td", cells) for cells in table.rows)
    return (
        f'<div class="scroll"><table><thead>{row("th", table.head)}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
