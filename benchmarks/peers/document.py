"""Tables as Markdown, and sections of a document that a command writes."""

from collections.abc import Sequence
from pathlib import Path


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, all others to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def replaced(document: str, command: str, text: str) -> str:
    """The document with `text` between the marks of `command`. Raises ValueError without them."""
    begin, end = f"<!-- written by {command} -->\n", f"<!-- end of {command} -->"
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no place for what {command} writes: {begin.strip()} … {end}")
    return f"{before}{begin}{text}\n{end}{after}"


def write_section(path: Path, command: str, text: str) -> None:
    path.write_text(replaced(path.read_text("utf-8"), command, text), "utf-8")
