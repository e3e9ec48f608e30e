"""Which documents the sources of a spec name, in an order that is always the same."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smolplan.errors import UserError
from smolplan.library_text import library_files
from smolplan.spec import PYTHON_STDLIB, RunSpec, SourceSpec


@dataclass(frozen=True)
class Document:
    """One file: its text is read when it is needed, and must not have changed by then."""

    path: Path
    bytes: int
    sha256: str

    def text(self) -> str:
        """Raises UserError if the file is no longer what it was."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise UserError(f"{self.path} changed while it was tokenised", remedy="Start again.")
        return content.decode()


def find_documents(spec: RunSpec) -> list[Document]:
    """All documents of a spec. Files that are not UTF-8 are left out, for a folder of text may
    well hold one (the standard library's does). Raises UserError."""
    if not spec.data.sources:
        raise UserError(
            "no text is named",
            where="data.sources",
            remedy=f"Add a source, for instance: path: {PYTHON_STDLIB}",
        )
    found = []
    for number, source in enumerate(spec.data.sources):
        where = f"data.sources.{number}.path"
        documents = list(_documents(_files(source, where), where))
        if not documents:
            raise UserError(
                f"{source.path} has no UTF-8 text" + _matching(source),
                where=where,
                remedy="Name other text"
                + (", or other files by glob." if _matching(source) else "."),
            )
        found += documents
    return found


def first_document(spec: RunSpec) -> Document:
    """The first of find_documents, without reading the others. Raises UserError."""
    source, where = spec.data.sources[0], "data.sources.0.path"
    for document in _documents(_files(source, where), where):
        return document
    raise UserError(f"{source.path} has no UTF-8 text{_matching(source)}", where=where)


def _documents(files: list[Path], where: str) -> Iterator[Document]:
    for path in files:
        try:
            content = path.read_bytes()
            content.decode()
        except UnicodeDecodeError:
            continue
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}", where=where) from None
        if content:
            yield Document(path, len(content), hashlib.sha256(content).hexdigest())


def _matching(source: SourceSpec) -> str:
    is_folder = Path(source.path).expanduser().is_dir()
    return f" in files that match {source.glob!r}" if is_folder else ""


def _files(source: SourceSpec, where: str) -> list[Path]:
    if source.path == PYTHON_STDLIB:
        return library_files()
    root = Path(source.path).expanduser()
    if root.is_file():
        return [root]
    if not root.is_dir():
        here = "" if root.is_absolute() else f" in the current folder {Path.cwd()}"
        raise UserError(
            f"{root} does not exist{here}", where=where, remedy="Name a file or a folder."
        )
    try:
        return sorted(p for p in root.glob(source.glob) if p.is_file())
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"{source.glob!r} is not a pattern of files: {error}",
            where=where.replace(".path", ".glob"),
            remedy="Use one like **/*.txt.",
        ) from None
