"""smolplan's own code, as it is installed here, in the form in which a host gets it."""

import hashlib
import importlib.util
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from launcher.hosts.cache import tree_hash

PACKAGES = ("launcher", "monitor", "planner", "preflight", "smolplan", "trainer")


class Bundle:
    """Files by their path in the tree and by the hash of their content."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Raises OSError if one cannot be read."""
        self._contents: dict[str, bytes] = {}
        self.files: dict[str, str] = {}
        """Path in the tree → hash."""
        for path, source in files.items():
            content = source.read_bytes()
            name = hashlib.sha256(content).hexdigest()
            self._contents[name] = content
            self.files[path] = name
        self._pack = lru_cache(maxsize=4)(self._compress)

    @cached_property
    def tree(self) -> str:
        return tree_hash(self.files)

    def pack(self, hashes: Sequence[str]) -> tuple[list[int], bytes]:
        """Sizes of these files, and all of them compressed together. Kept, since most hosts of a
        fleet lack the same."""
        return self._pack(tuple(hashes))

    def _compress(self, hashes: tuple[str, ...]) -> tuple[list[int], bytes]:
        contents = [self._contents[name] for name in hashes]
        return [len(content) for content in contents], zlib.compress(b"".join(contents))


def installed_bundle(extra: Mapping[str, Path] | None = None) -> Bundle:
    """smolplan's packages, and other files by their path in the tree."""
    files: dict[str, Path] = {}
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        for folder in found.submodule_search_locations or () if found else ():
            root = Path(folder)
            for source in sorted(root.rglob("*")):
                if source.is_file() and "__pycache__" not in source.parts:
                    files[f"{package}/{source.relative_to(root).as_posix()}"] = source
    return Bundle({**files, **(extra or {})})
