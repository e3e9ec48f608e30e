"""Which files the sources of a spec name, in an order that is always the same."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from smolplan.errors import SmolplanError, UserError
from smolplan.library_text import library_files
from smolplan.spec import PYTHON_STDLIB, RunSpec, SourceSpec
from trainer.data.digests import Digests, cache_folder
from trainer.data.formats import Kind, kind_of
from trainer.data.megatron import index_of, is_megatron
from trainer.data.share import Share
from trainer.store_errors import told

THREADS = 16
"""That read files at the same time: storage answers several faster than one."""
SLICES = 64
"""Of the files, a thread."""

NAMED = 3
"""Of the files that are left out."""


@dataclass(frozen=True)
class InputFile:
    path: str
    """On this machine, or a URL."""
    kind: Kind
    bytes: int
    digest: str
    """SHA-256 (hex) of its content, or of what tells its content from others'."""
    stamp: str
    """What changes when somebody writes to it."""

    def still(self) -> None:
        """Raises UserError if it is no longer the file that was listed."""
        with read_errors(self.path):
            now = _stamp(self.path)
        if now != self.stamp:
            raise UserError(f"{self.path} changed while it was tokenised", remedy="Start again.")


@dataclass(frozen=True)
class LeftOut:
    """A file that the source's pattern names, and that is not read."""

    path: str
    why: str


@dataclass(frozen=True)
class Listing:
    files: list[InputFile]
    left_out: list[LeftOut]


def list_files(spec: RunSpec, number: int, share: Share | None = None) -> Listing:
    """Of data.sources' number. Text that is not UTF-8 is left out, for a folder of text may well
    hold some, and so are empty files. `share`: of the host, where several list the same at the same
    time: each begins elsewhere. Raises UserError."""
    source, where = spec.data.sources[number], f"data.sources.{number}.path"
    first = (share.number - 1) / share.count if share else 0.0
    found = (
        list(remote_files(source, where)) if source.is_remote else _read(spec, number, where, first)
    )
    listing = Listing(
        [one for one in found if isinstance(one, InputFile)],
        [one for one in found if isinstance(one, LeftOut)],
    )
    if not listing.files:
        matching = _matching(source)
        raise UserError(
            f"{source.text_path} has no UTF-8 text{matching}{named(listing.left_out)}",
            where=where,
            remedy="Name other text" + (", or other files by glob." if matching else "."),
        )
    return listing


def named(left_out: Sequence[LeftOut]) -> str:
    """The first of them; empty if there are none."""
    if not left_out:
        return ""
    first = ", ".join(f"{one.path} {one.why}" for one in left_out[:NAMED])
    others = len(left_out) - NAMED
    return f": {first}" + (f", and {others:,} more" if others > 0 else "")


def check_named(spec: RunSpec) -> None:
    """Raises UserError where a spec names no text at all."""
    if not spec.data.sources:
        raise UserError(
            "no text is named",
            where="data.sources",
            remedy=f"Add a source, for instance: path: {PYTHON_STDLIB}",
        )


def _matching(source: SourceSpec) -> str:
    is_folder = source.is_remote or Path(source.text_path).expanduser().is_dir()
    return f" in files that match {source.glob!r}" if is_folder else ""


def _local_files(source: SourceSpec, where: str) -> list[Path]:
    """Raises UserError."""
    if source.path == PYTHON_STDLIB:
        return library_files()
    root = Path(source.text_path).expanduser()
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


def _read(spec: RunSpec, number: int, where: str, first: float) -> list[InputFile | LeftOut]:
    """`first`: which share of the files is read last. Raises UserError."""
    source = spec.data.sources[number]
    paths = _local_files(source, where)
    told = f"{Path(source.text_path).expanduser().absolute()} {source.glob}"
    name = f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.json"
    digests = Digests(cache_folder(spec) / "digests" / name)
    size = 1 + len(paths) // (THREADS * SLICES)
    slices = [paths[start : start + size] for start in range(0, len(paths), size)]
    before = int(first * len(slices))
    found = list[list[InputFile | LeftOut]]()
    pool = ThreadPoolExecutor(THREADS, "read")
    try:
        for part in pool.map(
            lambda part: [_local(p, where, digests) for p in part],
            [*slices[before:], *slices[:before]],
        ):
            found.append(part)
            digests.save_now_and_then()
    finally:
        pool.shutdown(cancel_futures=True)
    digests.save()
    behind = len(slices) - before
    return [one for part in [*found[behind:], *found[:behind]] for one in part]


def _local(path: Path, where: str, digests: Digests) -> InputFile | LeftOut:
    kind: Kind = "megatron" if is_megatron(path) else kind_of(str(path), where)
    with read_errors(str(path), where):
        status = path.stat()
        if not status.st_size:
            return LeftOut(str(path), "is empty")
        digest = digests.of(path, kind, status)
        if digest is None:
            return LeftOut(str(path), "is not UTF-8")
        if kind == "megatron":
            index = index_of(path)
            own = digests.of(index, kind, index.stat())
            digest = hashlib.sha256(f"{digest} {own}".encode()).hexdigest()
    return InputFile(str(path), kind, status.st_size, digest, _stamp_of(status))


def _stamp(path: str) -> str:
    if "://" in path:
        system, name = _file_system(path)
        system.invalidate_cache()
        return _version(system.info(name))
    return _stamp_of(Path(path).stat())


def _stamp_of(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"


def _version(info: dict[str, Any]) -> str:
    """What a store tells of a file that changes with its content."""
    told_by = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "mtime", "created")
    return f"{info['size']} " + next((str(info[key]) for key in told_by if info.get(key)), "")


def remote_files(source: SourceSpec, where: str) -> Iterator[InputFile | LeftOut]:
    """Raises UserError."""
    with read_errors(source.text_path, where):
        system, root = _file_system(source.text_path)
        names = [root]
        if not system.isfile(root):
            names = sorted(system.glob(f"{root.rstrip('/')}/{source.glob}"))
        for name in names:
            # Not as the listing has it: some stores write it otherwise there.
            info = system.info(name)
            if info["type"] != "file":
                continue
            url, version = str(system.unstrip_protocol(name)), _version(info)
            kind = kind_of(url, where)
            if not info["size"]:
                yield LeftOut(url, "is empty")
                continue
            digest = hashlib.sha256(f"{url} {version}".encode()).hexdigest()
            yield InputFile(url, kind, info["size"], digest, version)


def open_file(path: str) -> IO[bytes]:
    """Raises what `read_errors` makes a UserError."""
    if "://" not in path:
        return Path(path).open("rb")
    system, name = _file_system(path)
    file: IO[bytes] = system.open(name, "rb")
    return file


def _file_system(url: str) -> tuple[Any, str]:
    """Raises UserError where there is none for it."""
    try:
        import fsspec

        system, name = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(
            f"{url.partition('://')[0]}:// needs a package that is not installed here ({error})",
            where=url,
            remedy="Install it: pip install 'smolplan[object-store]', or fsspec and its package "
            "for another store.",
        ) from None
    except ValueError as error:
        raise UserError(f"it is no URL that fsspec can read: {error}", where=url) from None
    return system, str(name)


@contextmanager
def read_errors(path: str, where: str = "") -> Iterator[None]:
    """What a disk or a store answers as a UserError; in words of ours, for those of a store's
    libraries may hold a key."""
    try:
        yield
    except SmolplanError:
        raise
    except Exception as error:
        local = "://" not in path
        reason = error.strerror if local and isinstance(error, OSError) else None
        if not local and (answer := told(error)):
            reason = answer[0]
        if reason is None:
            raise
        raise UserError(f"cannot read {path}: {reason}", where=where) from None
