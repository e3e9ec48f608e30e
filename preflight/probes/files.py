"""`python -m preflight.probes.files sources|sample|checksums JSON`: what lies where the spec and
dataset.json point."""

import hashlib
import json
import os
import random
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from smolplan.library_text import library_files

RECORD = "source.json"
"""As trainer.data writes it, which not every host can import."""

SAMPLE = 500
"""Files of a source that are opened; the rest are counted only."""
NAMED = 20
"""Damaged files that are named; more help nobody."""

STUB_LEAST_BYTES = 2**20
"""Smaller files may be kept inside the inode, where they take no block."""
STUB_SHARE = 0.1
"""Of its size, what the blocks of a file take at the least if it is there; a file system that
compresses makes a third of tokens (from memory)."""

WINDOWS, WINDOW_BYTES = 16, 65_536
"""Of each file, what every host reads to compare with the others."""


def absent(status: os.stat_result) -> str:
    """Why a file's bytes are not on the disk though its size says so; empty if they are."""
    taken = status.st_blocks * 512
    if status.st_size < STUB_LEAST_BYTES or taken >= STUB_SHARE * status.st_size:
        return ""
    return (
        f"only {taken:,} of its {status.st_size:,} bytes are on the disk: it was evicted, or never "
        "copied whole"
    )


def hole_bytes(descriptor: int, size: int) -> int:
    """Bytes of a file that nobody ever wrote, and that read as zeros."""
    if not hasattr(os, "SEEK_HOLE"):
        return 0
    holes, at = 0, 0
    while at < size:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return holes + size - at
        holes += data - at
        at = os.lseek(descriptor, data, os.SEEK_HOLE)
    return holes


def sources(wanted: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each source {path, glob} or {tokens}: files, bytes, and what cannot be read; of the latter
    also how many tokens there are."""
    found: list[dict[str, Any]] = []
    for source in wanted:
        if "tokens" in source:
            found.append(_given_tokens(Path(source["tokens"]).absolute()))
            continue
        if "://" in source["path"]:
            found.append(_remote_source(source))
            continue
        root, glob = Path(source["path"]).expanduser(), source["glob"]
        if source["path"] == "python-stdlib":
            root = Path(sysconfig.get_path("stdlib"))
        if not root.exists():
            found.append({"path": str(root), "files": 0, "bytes": 0, "error": "does not exist"})
            continue
        files, size, errors = 0, 0, []
        for number, path in enumerate(_paths(source["path"], root, glob)):
            if path.is_dir():
                continue
            try:
                status = path.stat()
                size += status.st_size
                if problem := absent(status):
                    errors.append(f"{path}: {problem}")
                elif number < SAMPLE:
                    with path.open("rb") as file:
                        file.read(1)
            except OSError as error:
                errors.append(f"{path}: {error.strerror}")
            files += 1
        reason = errors[0] if errors else "" if size else f"no text matches {glob!r}"
        if len(errors) > 1:
            reason += f" (and {len(errors) - 1} more)"
        found.append({"path": str(root), "files": files, "bytes": size, "error": reason})
    return {"sources": found}


def _given_tokens(folder: Path) -> dict[str, Any]:
    """Of a folder of tokens, by its record."""
    told: dict[str, Any] = {"path": str(folder), "files": 0, "bytes": 0, "tokens": 0}
    try:
        record = json.loads((folder / RECORD).read_bytes())
        expected = {name: entry["bytes"] for name, entry in record["files"].items()}
        tokens = int(record["source"]["tokens"])
    except OSError as error:
        return {**told, "error": f"{RECORD}: {_why(error)}"}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {**told, "error": f"{RECORD} is not the record of tokens"}
    errors = []
    for name, size in expected.items():
        try:
            status = (folder / name).stat()
        except OSError as error:
            errors.append(f"{name}: {_why(error)}")
            continue
        if status.st_size != size:
            errors.append(f"{name} has {status.st_size:,} bytes, not {size:,}")
        elif problem := absent(status):
            errors.append(f"{name}: {problem}")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return {
        **told,
        **{"files": len(expected), "bytes": sum(expected.values()), "tokens": tokens},
        "error": errors[0] + more if errors else "",
    }


def _remote_source(source: dict[str, Any]) -> dict[str, Any]:
    """Of one that fsspec reaches, from what the store lists."""
    from smolplan.errors import UserError
    from smolplan.spec import SourceSpec
    from trainer.data.sources import InputFile, remote_files

    files, error = list[InputFile](), ""
    try:
        listed = remote_files(SourceSpec.model_validate(source), "")
        files = [one for one in listed if isinstance(one, InputFile)]
        error = "" if files else f"no text matches {source['glob']!r}"
    except UserError as refused:
        error = str(refused)
    size = sum(file.bytes for file in files)
    return {"path": source["path"], "files": len(files), "bytes": size, "error": error}


def _paths(named: str, root: Path, glob: str) -> Iterable[Path]:
    if named == "python-stdlib":
        return library_files()
    return [root] if root.is_file() else root.glob(glob)


def sample(given: dict[str, Any]) -> dict[str, Any]:
    """Of a dataset's files: which are missing, of another size, or not really there; checksums of
    some, drawn by `seed`, `limit_bytes` in all; and one checksum of windows of all, which is the
    same on every host that has the same files."""
    dataset, draw = given["dataset"], random.Random(given["seed"])
    wrong: list[str] = []
    digest, whole, size = hashlib.sha256(), [], 0
    for name, expected in sorted(dataset["files"].items()):
        path = Path(dataset["folder"]) / name
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                size += status.st_size
                if problem := _not_there(file.fileno(), status, expected["bytes"]):
                    wrong.append(f"{path}: {problem}")
                    continue
                for _ in range(WINDOWS):
                    file.seek(draw.randrange(max(1, status.st_size - WINDOW_BYTES)))
                    digest.update(file.read(WINDOW_BYTES))
        except OSError as error:
            wrong.append(f"{path}: {_why(error)}")
            continue
        whole.append(name)
    draw.shuffle(whole)
    looked_at, left = 0, given["limit_bytes"]
    for name in whole:
        expected = dataset["files"][name]
        if expected["bytes"] > left:
            continue
        left -= expected["bytes"]
        looked_at += 1
        path = Path(dataset["folder"]) / name
        if _sha256(path) != expected["sha256"]:
            wrong.append(f"{path}: its checksum differs")
    return {
        "wrong": wrong[:NAMED],
        "wrong_files": len(wrong),
        "bytes": size,
        "checksums": looked_at,
        "digest": digest.hexdigest()[:16],
    }


def _not_there(descriptor: int, status: os.stat_result, size: int) -> str:
    if status.st_size != size:
        return f"it has {status.st_size:,} bytes, not {size:,}"
    if problem := absent(status):
        return problem
    holes = hole_bytes(descriptor, status.st_size)
    return f"{holes:,} of its {size:,} bytes were never written" if holes else ""


def _why(error: OSError) -> str:
    return "it is missing" if isinstance(error, FileNotFoundError) else f"{error.strerror}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(given: dict[str, Any]) -> dict[str, Any]:
    """Files of a tokenised dataset that are not as its record says, the largest last; ends when
    `limit_s` is over, and says how many it looked at."""
    dataset, end = given["dataset"], time.monotonic() + given["limit_s"]
    wrong, size, looked_at = [], 0, 0
    files = sorted(dataset["files"].items(), key=lambda item: item[1]["bytes"])
    for name, expected in files:
        if time.monotonic() > end:
            break
        path = Path(dataset["folder"]) / name
        looked_at += 1
        try:
            digest = _sha256(path)
            size += path.stat().st_size
        except OSError as error:
            wrong.append(f"{path}: {_why(error)}")
            continue
        if digest != expected["sha256"]:
            wrong.append(f"{path}: its checksum differs")
    return {"wrong": wrong[:NAMED], "wrong_files": len(wrong), "bytes": size, "files": looked_at}


def main() -> None:
    what, argument = sys.argv[1:]
    known: dict[str, Callable[[Any], dict[str, Any]]] = {
        "sources": sources,
        "sample": sample,
        "checksums": checksums,
    }
    sys.stdout.write(json.dumps(known[what](json.loads(argument))) + "\n")


if __name__ == "__main__":
    main()
