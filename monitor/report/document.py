"""A document before it has a format: headings, paragraphs, tables and pictures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str
    dim: bool = False


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    """Columns that are right-aligned."""


@dataclass(frozen=True)
class Picture:
    """Only for formats that can show one."""

    svg: str
    caption: str


Block = Heading | Paragraph | Table | Picture


@dataclass(frozen=True)
class Document:
    """All texts are plain: whoever renders it escapes them."""

    title: str
    verdict: str
    good: bool
    blocks: tuple[Block, ...]
