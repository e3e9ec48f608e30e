"""A folder of an object store, reached by fsspec. Needs no torch.

What is sent is held against what has arrived: by the hash that the store itself tells of it where
it is one that can be computed here, else by reading it back.
"""

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolplan.errors import SmolplanError
from smolplan.rundir import sync_folder
from smolplan.uploads import check_package
from trainer.store_errors import ALTERED, told

MIB = 2**20
PART_BYTES = 32 * MIB
"""Of a multipart upload. Ten are on the way at a time (s3fs), so 320 MiB are held."""

MOST_PARTS = 10_000
"""S3's limit (docs.aws.amazon.com, Amazon S3 multipart upload limits)."""

_OPTIONS: dict[str, dict[str, Any]] = {
    # A host that does not answer is to be told of, not waited for: others try again.
    "s3": {"config_kwargs": {"connect_timeout": 10, "retries": {"max_attempts": 2}}},
}


class StoreError(SmolplanError):
    """The store did not do what it was asked: why, and what to do about it."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        self.reason, self.remedy = reason, remedy
        super().__init__(f"{reason}. {remedy}" if remedy else reason)


class Altered(StoreError):
    """The store gives other bytes than it was given, by the checksum that it keeps itself."""


@dataclass(frozen=True)
class Content:
    """What is in a file here."""

    bytes: int
    sha256: str
    md5: str
    """Of the whole; hex."""
    etag: str
    """What S3 tells of it if it was sent in parts of `part_bytes`: the MD5 of the parts' MD5s."""


def part_bytes(size: int) -> int:
    """Whole MiB, as Google wants multiples of 256 KiB."""
    return max(PART_BYTES, -(-size // MOST_PARTS // MIB) * MIB)


def content_of(path: Path) -> Content:
    """Reads the file once. Raises OSError."""
    size = path.stat().st_size
    length, sha256, md5, parts = part_bytes(size), hashlib.sha256(), _md5(), []
    with path.open("rb") as file:
        while part := file.read(length):
            sha256.update(part)
            md5.update(part)
            parts.append(_md5(part).digest())
    etag = md5.hexdigest()
    if size >= 2 * length:  # from there on s3fs sends parts
        etag = f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    return Content(size, sha256.hexdigest(), md5.hexdigest(), etag)


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


class ObjectStore:
    """The folder at a URL. All methods raise StoreError; names are relative to it."""

    def __init__(self, url: str) -> None:
        """Raises UserError if the package for it is missing."""
        self.url = url
        self.scheme = url.partition("://")[0]
        check_package(url)
        from fsspec.core import url_to_fs

        with self._named("reaching"):
            self._fs, self._root = url_to_fs(
                url, use_listings_cache=False, **_OPTIONS.get(self.scheme, {})
            )

    def put(self, local: Path, name: str, content: Content) -> None:
        """Send a file and see that it has arrived; nothing is sent if it is there already."""
        if self.holds(name, content):
            return
        with self._named("writing"):
            target = self._prepared(name)
            options: dict[str, Any] = {"chunksize": part_bytes(content.bytes)}
            if self.scheme in ("az", "abfs"):
                options = {"overwrite": True}  # else adlfs refuses
            self._fs.put_file(str(local), target, **options)
            self._settle(target)
        if not self.holds(name, content):
            raise StoreError(f"{self.url}/{name} is not what was sent", "It is sent again.")

    def holds(self, name: str, content: Content) -> bool:
        """Whether just this is there."""
        try:
            return self._holds(name, content)
        except Altered:
            return False

    def _holds(self, name: str, content: Content) -> bool:
        with self._named("reading"):
            try:
                info = self._fs.info(self._path(name))
            except FileNotFoundError:
                return False
            if info.get("type") != "file" or info.get("size") != content.bytes:
                return False
            # Neither is an MD5 where the store encrypts with a key of the user's, or composes.
            if str(info.get("ETag", "")).strip('"') == content.etag:
                return True
            if (mark := info.get("md5Hash")) and base64.b64decode(mark).hex() == content.md5:
                return True
            return self._sha256(name) == content.sha256

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self._fs.open(self._path(name), "rb", block_size=PART_BYTES) as file:
            while part := file.read(PART_BYTES):
                digest.update(part)
        return digest.hexdigest()

    def read(self, name: str) -> bytes | None:
        """A small object; None if there is none."""
        with self._named("reading"):
            try:
                data: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return data

    def write(self, name: str, data: bytes) -> None:
        """A small object."""
        with self._named("writing"):
            target = self._prepared(name)
            self._fs.pipe_file(target, data)
            self._settle(target)

    def fetch(self, name: str, local: Path) -> None:
        """Raises OSError where it cannot be written here."""
        with self._named("reading"):
            try:
                self._fs.get_file(self._path(name), str(local))
            except FileNotFoundError:
                raise StoreError(f"{self.url}/{name} is not there") from None

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in a folder."""
        with self._named("listing"):
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
            return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def remove(self, name: str) -> None:
        """An object, or all in a folder; nothing, if it is not there."""
        with self._named("deleting"):
            path = self._path(name)
            if self._fs.exists(path):
                self._fs.rm(path, recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _prepared(self, name: str) -> str:
        """The path of an object to be written."""
        path = self._path(name)
        if self.scheme == "file":
            # Never what is above: it is a disk, and may not be mounted.
            Path(self._root).mkdir(exist_ok=True)
            Path(path).parent.mkdir(exist_ok=True)
        return path

    def _settle(self, path: str) -> None:
        """Only an object store's answer means that its disks have it."""
        if self.scheme == "file":
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(Path(path).parent)

    @contextmanager
    def _named(self, doing: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            known = told(error)
            if known is None:
                raise
            reason, remedy = known
            kind = Altered if reason == ALTERED else StoreError
            raise kind(f"{doing} {self.url}: {reason}", remedy) from None
