"""`python -m preflight.probes.files sources|checksums JSON`: what lies where the spec points."""

import hashlib
import itertools
import json
import sys
import sysconfig
from pathlib import Path
from typing import Any

SAMPLE = 500
"""Files of a source that are opened; the rest are counted only."""


def sources(wanted: list[dict[str, str]]) -> dict[str, Any]:
    """Of each source {path, glob}: files, bytes, and what cannot be read."""
    found: list[dict[str, Any]] = []
    for source in wanted:
        root, glob, left_out = Path(source["path"]).expanduser(), source["glob"], set[str]()
        if source["path"] == "python-stdlib":
            root, glob = Path(sysconfig.get_path("stdlib")), "**/*.py"
            left_out = {"site-packages", "dist-packages", "test", "tests"}
        if not root.exists():
            found.append({"path": str(root), "files": 0, "bytes": 0, "error": "does not exist"})
            continue
        files, size, errors = 0, 0, []
        for number, path in enumerate([root] if root.is_file() else root.glob(glob)):
            if left_out & set(path.relative_to(root).parts) or path.is_dir():
                continue
            try:
                size += path.stat().st_size
                if number < SAMPLE:
                    with path.open("rb") as file:
                        file.read(1)
            except OSError as error:
                errors.append(f"{path}: {error.strerror}")
            files += 1
        reason = errors[0] if errors else "" if size else f"no text matches {glob!r}"
        found.append({"path": str(root), "files": files, "bytes": size, "error": reason})
    return {"sources": found}


def checksums(dataset: dict[str, Any]) -> dict[str, Any]:
    """Files of a tokenised dataset that are not as its record says, and the bytes read."""
    wrong, size = [], 0
    for name, expected in dataset["files"].items():
        path = Path(dataset["folder"]) / name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size += path.stat().st_size
        except OSError as error:
            wrong.append(f"{path}: {error.strerror}")
            continue
        if digest != expected["sha256"]:
            wrong.append(f"{path}: its checksum differs")
    return {"wrong": list(itertools.islice(wrong, 20)), "bytes": size}


def main() -> None:
    what, argument = sys.argv[1:]
    given = json.loads(argument)
    answer = sources(given) if what == "sources" else checksums(given)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
