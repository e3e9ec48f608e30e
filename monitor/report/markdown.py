"""A document as Markdown (GitHub's kind). Its pictures are left out: their tables tell the same."""

import re

from monitor.report.document import Block, Document, Heading, Paragraph, Picture, Table


def markdown(document: Document) -> str:
    """Text that ends with a line break."""
    blocks = [f"# {plain(document.title)}", f"**{plain(document.verdict)}**"]
    blocks += [text for block in document.blocks if (text := _block(block))]
    return "\n\n".join(blocks) + "\n"


def plain(text: str) -> str:
    """One line that shows every character as it is."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", line)


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {plain(text)}"
        case Paragraph(text):
            return plain(text)
        case Picture():
            return ""
        case Table(head, rows, numbers):
            rule = ("---:" if column in numbers else "---" for column in range(len(head)))
            lines = [head, tuple(rule), *rows]
            return "\n".join(
                "| " + " | ".join(cells if i == 1 else map(plain, cells)) + " |"
                for i, cells in enumerate(lines)
            )
