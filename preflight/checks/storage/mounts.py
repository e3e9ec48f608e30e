"""Every path that the run will touch answers, and lies on a file system that is fit for it."""

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from smolplan.mounts import NETWORK_TYPES
from smolplan.units import format_duration

NO_ANSWER_S = 5.0
"""NVIDIA's resiliency extension takes a path that is silent for as long as lost."""
SLOW_ANSWER_S = 1.0
"""A stat takes well under 10 ms on NFS in the same building (from memory); whoever waits a second
is behind a server that is overloaded or gone for a while."""

LOCKS_STAY_HERE = {
    "nolock": "no lock is seen by another host",
    "local_lock=all": "no lock is seen by another host",
    "local_lock=flock": "no lock is seen by another host",
    "localflock": "no lock is seen by another host",
    "noflock": "flock fails",
}
"""Options of nfs(5) and mount.lustre(8)."""

_OF_THIS_HOST = ("addr=", "clientaddr=", "mountaddr=", "fd=", "size=", "nr_inodes=", "inode64")


def paths(context: Context) -> dict[str, str]:
    """What the run touches, by the word that a person would call it."""
    spec = context.spec
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    found = {
        "runs": context.runs_dir,
        "data cache": spec.data.cache_dir or Path(cache) / "smolplan" / "data",
        "temporary files": Path(tempfile.gettempdir()),
    }
    if spec.tokenizer is not None:
        found["tokeniser"] = spec.tokenizer
    for number, source in enumerate(spec.data.sources):
        if source.place is not None:
            found[f"data.sources.{number}"] = source.place
    return {word: str(Path(path).expanduser().absolute()) for word, path in found.items()}


def is_network(place: dict[str, Any]) -> bool:
    return place["type"] in NETWORK_TYPES


def ask_mounts(context: Context, wanted: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What preflight.probes.mounts says of each. Raises ProbeError."""
    arguments = (f"{NO_ANSWER_S:g}", json.dumps(wanted))
    return context.probe("mounts", *arguments, timeout_s=NO_ANSWER_S + 4.0)


@check(
    "storage.mounts",
    tier="quick",
    passive=True,
    deadline_s=NO_ANSWER_S + 5.0,
    remedy="Mount it again, and see that its server is up, before anything is started.",
)
def mounts(context: Context) -> Finding:
    """Every path of the run answers at once, on mounts that hosts share alike."""
    told = ask_mounts(context, paths(context))
    lost, odd, remedies = [], [], []
    for word, place in told.items():
        problem = _lost(place)
        if problem:
            lost.append(f"{word} {place['path']}: {problem}")
            if place["point"] not in ("", "/"):
                remedies.append(f"umount -f -l '{place['point']}', mount it again")
        else:
            odd += [f"{word} {place['path']}: {text}" for text in _odd(word, place)]
    runs = told["runs"]
    answered = [place["seconds"] for place in told.values() if place["answered"]]
    kind = "network" if is_network(runs) else "local"
    summary = f"{len(told)} paths answer; runs on {runs['type'] or 'unknown'} ({kind})"
    if lost:
        summary = f"{len(lost)} of {len(told)} paths do not answer"
    remedy = "; ".join(dict.fromkeys(remedies))
    return Finding(
        state="fail" if lost else "warn" if odd else "pass",
        summary=summary,
        why="; ".join([*lost, *odd]),
        measured={"slowest_answer_s": max(answered, default=NO_ANSWER_S)},
        needed={"slowest_answer_s": NO_ANSWER_S},
        facts={f"{word} mount": fact(told[word]) for word in ("runs", "data cache")},
        source="table",
        remedy=f"{remedy}; see that its server is up." if remedy else "",
    )


def _lost(place: dict[str, Any]) -> str:
    where = f"{place['type']} from {place['source']}" if place["type"] else "its file system"
    if not place["answered"]:
        return (
            f"no answer within {NO_ANSWER_S:g} s ({where} on {place['point']} hangs): "
            "whatever reads or writes there hangs too, and may not be killed"
        )
    if place["errno"] == errno.ESTALE:
        return f"stale file handle ({where} on {place['point']} was replaced on its server)"
    if place["errno"] in (errno.ENOTCONN, errno.EIO, errno.EHOSTDOWN, errno.ETIMEDOUT):
        return f"{place['error']} ({where} on {place['point']} has lost its server)"
    return ""


def _odd(word: str, place: dict[str, Any]) -> list[str]:
    options = place["options"].split(",")
    found = []
    if word in ("runs", "data cache") and "ro" in options:
        found.append(f"{place['point']} is mounted read-only")
    if place["seconds"] > SLOW_ANSWER_S:
        found.append(f"it took {format_duration(place['seconds'])} to answer")
    if word == "runs" and is_network(place):
        found += [
            f"mounted with {option}: {effect}"
            for option, effect in LOCKS_STAY_HERE.items()
            if option in options
        ]
        if "soft" in options:
            found.append("mounted with soft: a slow server gives read and write errors")
    return found


def fact(place: dict[str, Any]) -> str:
    """What hosts should have alike: of a network file system the source and options too; disks of
    their own may be called differently."""
    if not is_network(place):
        return f"{place['type']}, local"
    options = [o for o in place["options"].split(",") if not o.startswith(_OF_THIS_HOST)]
    return f"{place['type']} {place['source']} {','.join(sorted(options))}"
