"""Object stores, synchronisation, git and jobs: commands that delete by an option."""

import re
from collections.abc import Iterator, Sequence

from preflight.scripts_places import WHAT
from preflight.scripts_state import Problem, Script, problem
from preflight.shell import Command

_DELETES = re.compile(
    r"s3 rm .*--recursive|s3 rb\b|rm\b.*(-r\b|--recursive|\*)|-m rm -r"
    r"|storage rm .*(-r|--recursive)|purge\b|delete\b|remove\b|(dfs|fs) -rm (-\w+ )*-?r"
    r"|del\b.*(-r|--recursive)|rb\b"
)
_BUCKET = re.compile(r"(s3|gs|az|hdfs)://[^/]*/?\*?$")


def store_problems(command: Command, words: Sequence[str], script: Script) -> Iterator[Problem]:
    told = " ".join(words[1:])
    places = [w for w in words[1:] if "://" in w or ":" in w or "$" in w or "/" in w]
    # rclone and mc name places as remote:path and alias/path.
    if _DELETES.match(told):
        for place in places or ["$"]:
            kind = script.places.kind(place)
            whole = bool(_BUCKET.match(place))
            what = WHAT[kind] if kind else "what is kept there"
            yield problem(
                command,
                script,
                f"it deletes {'the whole bucket ' if whole else ''}{place} with all below: {what}",
                "Remove the line, and give the bucket versioning and a rule of its life cycle.",
                grave=whole or kind is not None,
            )
    elif re.search(r"\bsync\b.*(--delete|--delete-destination|\s-d\b)|rsync\b.*\s-d\b", told) or (
        words[0].endswith("rclone") and re.match(r"sync\b", told)
    ):
        yield _mirror(command, script, places[-1] if places else "the destination")
    elif re.search(r"\bmv\b.*--recursive|^mv\b|^move\b", told) and places:
        kind = script.places.kind(places[0])
        yield problem(
            command,
            script,
            f"it takes {places[0]} away once it is uploaded, and nobody has read it back",
            "Copy, compare, and delete in a later step.",
            grave=kind is not None,
        )
    elif re.search(r"\b(cp|copy|sync|upload)\b", told) and any("://" in w for w in words[-1:]):
        script.uploaded = None if "errexit" in script.options else command


def sync_problems(command: Command, words: Sequence[str], script: Script) -> Iterator[Problem]:
    places = [w for w in words[1:] if not w.startswith("-")]
    if any(w.startswith(("--delete", "--del")) for w in words) and places:
        yield _mirror(command, script, places[-1])
    if "--remove-source-files" in words and places:
        kind = script.places.kind(places[0])
        yield problem(
            command,
            script,
            f"it takes {places[0]} away once it is sent, and nobody has read it back",
            "Copy, compare, and delete in a later step.",
            grave=kind is not None,
        )


def _mirror(command: Command, script: Script, place: str) -> Problem:
    kind = script.places.kind(place)
    what = f": {WHAT[kind]}" if kind else ""
    return problem(
        command,
        script,
        f"what the source lacks is deleted in {place}{what}; where the source is empty, not "
        "mounted or pruned, that is all of it",
        "Leave --delete out: a copy that follows every deletion is no backup.",
        grave=kind is not None or bool(_BUCKET.match(place)),
    )


def git_problems(command: Command, words: Sequence[str], script: Script) -> Iterator[Problem]:
    if "clean" in words:
        letters = "".join(w[1:] for w in words if re.fullmatch(r"-\w+", w))
        if ("f" not in letters and "--force" not in words) or "n" in letters:
            return
        ignored = bool({"x", "X"} & set(letters))
        named = [w for w in words[words.index("clean") + 1 :] if not w.startswith("-")]
        if named and not any(script.places.kind(w) for w in named):
            return
        what = "all files that git ignores, where runs, tokens and environments mostly lie"
        yield problem(
            command,
            script,
            f"it deletes {what if ignored else 'all files that git does not know'}",
            "Remove the line, or name folders: git clean -fd build/.",
            grave=ignored,
        )
    elif words[1:3] == ["reset", "--hard"] or words[1:2] == ["stash"]:
        yield problem(
            command,
            script,
            "changes that are not committed are gone, on this host only: hosts then differ",
            "Deploy a clean checkout in a folder of its own.",
            grave=False,
        )


def kill_problems(command: Command, words: Sequence[str], script: Script) -> Iterator[Problem]:
    told = " ".join(words)
    if re.search(r"kubectl .*\bdelete\b.*\b(pvc|pv|persistentvolume\w*|namespaces?|ns)\b", told):
        yield problem(
            command,
            script,
            "volumes go with it, and the checkpoints on them",
            "Delete the jobs only.",
            grave=True,
        )
    elif re.search(r"docker .*\b(prune|volume rm)\b", told):
        yield problem(
            command,
            script,
            "volumes and images of others may go with it",
            "Name what is to go.",
            grave="volume" in told,
        )
    elif re.search(r"scancel .*(-u|--user|--me\b|-n|--name|-p|--partition)", told):
        yield problem(
            command,
            script,
            "jobs that this script has not started end too, such as the run's",
            "Cancel by number: scancel JOB.",
            grave=False,
        )
    elif words[0].endswith(("pkill", "killall")):
        yield problem(
            command,
            script,
            "processes are ended by name, also those of another run",
            "Keep the number of what was started ($!), and end that.",
            grave=False,
        )
