"""What a command deletes, overwrites or kills."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from preflight.scripts_places import WHAT, is_checkpoint
from preflight.scripts_retention import retention_problems
from preflight.scripts_state import KEEP, Problem, Script, problem
from preflight.scripts_stores import git_problems, kill_problems, store_problems, sync_problems
from preflight.shell import Command
from preflight.shell_words import Word

Rule = Callable[[Command, Sequence[str], Script], Iterator[Problem]]

_LIVE = re.compile(r"(metrics|events)\.jsonl|(spec\.yaml|plan\.json|manifest\.json)$")
"""Files of a run folder that are read while it runs."""


def judge(command: Command, pipeline: tuple[Command, ...], script: Script) -> Iterator[Problem]:
    """What is wrong with one command, which the others of `pipeline` feed."""
    words = [script.resolve(word) for word in command.words]
    name = words[0].rpartition("/")[2] if words else ""
    yield from _truncations(command, script)
    for rule in _RULES.get(name, ()):
        yield from rule(command, words, script)
    if name in ("rm", "rmdir", "unlink", "shred"):
        yield from retention_problems(command, pipeline, script)
    if re.search(r"shutil\.rmtree|os\.(remove|unlink|rmdir)\(", " ".join(words)):
        yield problem(
            command,
            script,
            "a program within the script deletes, and what it does is not read",
            "Read it again.",
            grave=False,
        )


def _arguments(command: Command) -> Iterator[Word]:
    """What is no option."""
    plain = False
    for word in command.words[1:]:
        if word.raw == "--":
            plain = True
        elif plain or not word.raw.startswith("-"):
            yield word


def _options(words: Sequence[str]) -> str:
    """The letters of all short options."""
    return "".join(w[1:] for w in words[1:] if re.fullmatch(r"-\w+", w))


def _rm(command: Command, words: Sequence[str], script: Script) -> Iterator[Problem]:
    recursive = "--recursive" in words or bool({"r", "R"} & set(_options(words)))
    for word in _arguments(command):
        target, bare = script.resolve(word), script.resolve(word, empty=True)
        if recursive or re.search(r"[*?\[]", target):
            yield from _empty(command, target, bare, script)
        yield from _split(command, word, script)
        kind = script.places.kind(target)
        if not recursive and _is_one_file(target):
            kind = None
        if script.unsafe_cd is not None and recursive and not target.startswith(("/", "$", "~")):
            place = script.unsafe_cd
            yield problem(
                command,
                script,
                f"if {place.text!r} of line {place.line} fails, this deletes where the script "
                "stands",
                f"Write {place.text} || exit 1, or delete by an absolute path.",
                grave=True,
            )
        elif kind == "everything":
            yield problem(
                command,
                script,
                f"it deletes {target}: {WHAT[kind]}",
                "Remove the line.",
                grave=True,
            )
        elif kind and target not in ("", "$(…)"):
            yield problem(
                command,
                script,
                f"it deletes {target}: {WHAT[kind]}"
                + (", also on the day that the run ends" if kind != "data" else ""),
                KEEP if kind != "data" else "Remove the line, or name what is to go.",
                grave=True,
            )
        if kind and script.uploaded is not None and _same(target, script.uploaded, script):
            yield problem(
                command,
                script,
                f"it deletes whether or not the upload of line {script.uploaded.line} came through",
                "Delete only after what was uploaded has been read back and compared.",
                grave=True,
            )


def _is_one_file(target: str) -> bool:
    """A file by a name of its own that holds nothing of a checkpoint, such as run/notes.txt."""
    folder, _, name = target.rpartition("/")
    return (
        bool(folder)
        and not re.search(r"[*?\[$]", name)
        and not _LIVE.search(name)
        and not is_checkpoint(name)
    )


def _same(target: str, upload: Command, script: Script) -> bool:
    """Whether what is deleted is what was uploaded, or lies in it."""
    sent = [script.resolve(word).rstrip("/") for word in _arguments(upload)]
    return any(path and target.startswith(path) for path in sent if "/" in path or "$" in path)


def _empty(command: Command, target: str, bare: str, script: Script) -> Iterator[Problem]:
    """ "$DIR/*" is /* where DIR is empty."""
    if bare == target or not re.fullmatch(r"/+[^/]*(/\*)?/*", bare):
        return
    bare = re.sub(r"/+", "/", bare)
    names = re.findall(r"\$(\w+)", target)
    held = " or ".join(dict.fromkeys(names)) or "a variable"
    whole = re.fullmatch(r"/+\*?(/\*)?", bare)
    yield problem(
        command,
        script,
        f"where {held} is empty it deletes {bare}",
        f"Write ${{{names[0] if names else 'NAME'}:?}}, which ends the script where it is empty.",
        grave=bool(whole),
    )


def _split(command: Command, word: Word, script: Script) -> Iterator[Problem]:
    """An unquoted variable is split at its blanks, and its * are filled in."""
    for piece in word.pieces:
        if piece.kind == "variable" and not piece.quoted and piece.text not in ("#", "?", "$"):
            known = script.values.get(piece.text)
            if known is not None and not re.search(r"[\s*?$]", known):
                continue
            yield problem(
                command,
                script,
                f"${piece.text} stands without quotes: a path with a blank becomes two, and both "
                "are deleted",
                f'Write "{word.raw}".',
                grave=False,
            )


def _find(command: Command, words: Sequence[str], script: Script) -> Iterator[Problem]:
    deletes = "-delete" in words
    for number, option in enumerate(words):
        if option in ("-exec", "-execdir", "-ok"):
            rest = [w.rpartition("/")[2] for w in words[number + 1 : number + 3]]
            deletes = deletes or "rm" in rest
    if not deletes:
        return
    starts = []
    for word in command.words[1:]:
        if word.raw.startswith(("-", "(", "!", "\\(")):
            break
        starts.append(word)
    for word in starts or [Word(".", ())]:
        target, bare = script.resolve(word) or ".", script.resolve(word, empty=True)
        yield from _empty(command, target, bare, script) if word.pieces else ()
        yield from _split(command, word, script)
        names = [n for option, n in pairwise(words) if "name" in option]
        kinds = {script.places.kind(n) for n in names} - {None} if names else {None}
        kind = script.places.kind(target)
        if names and not kinds and not any(n in ("*", "*.*") for n in names):
            continue  # only files that may go, such as __pycache__ or *.tmp, or are nobody's
        kind = kind or next(iter(kinds - {None}), None)
        if kind:
            age = any(w in ("-mtime", "-mmin", "-ctime", "-atime") for w in words)
            yield problem(
                command,
                script,
                f"it deletes in {target}: {WHAT[kind]}"
                + (", by age: after a pause all are old, the newest too" if age else ""),
                KEEP if kind != "data" else "Remove the line, or name what is to go.",
                grave=True,
            )


def _truncations(command: Command, script: Script) -> Iterator[Problem]:
    targets = [w for operator, w in command.redirections if operator in (">", ">|", "&>")]
    words = [script.resolve(w) for w in command.words]
    name = words[0].rpartition("/")[2] if words else ""
    if name == "tee" and "a" not in _options(words) and "--append" not in words:
        targets += list(_arguments(command))
    elif name == "truncate":
        targets += [w for w in _arguments(command) if not re.fullmatch(r"\d+\w*", w.raw)]
    elif name == "cp" and len(words) > 2 and words[1] == "/dev/null":
        targets.append(command.words[-1])
    elif name == "dd":
        targets += [w for w in command.words if w.plain.startswith("of=")]
    for word in targets:
        target = script.resolve(word).removeprefix("of=")
        if target.startswith("/dev/") and name == "dd" and target != "/dev/null":
            yield problem(
                command,
                script,
                f"it overwrites the device {target}",
                "Remove the line.",
                grave=True,
            )
        elif _LIVE.search(target) or re.search(r"\.(safetensors|distcp|pt|pth)$", target):
            yield problem(
                command,
                script,
                f"it empties {target}, which a restart and the monitor read",
                "Write elsewhere, or append by >>.",
                grave=True,
            )


def _mv(command: Command, words: Sequence[str], script: Script) -> Iterator[Problem]:
    arguments = list(_arguments(command))
    if len(arguments) < 2:
        return
    goal = script.resolve(arguments[-1])
    for word in arguments[:-1] if script.places.kind(goal) is None else ():
        target = script.resolve(word)
        if (kind := script.places.kind(target)) in ("runs", "checkpoints", "everything"):
            yield problem(
                command,
                script,
                f"it moves {target} away: {WHAT[kind]} are not where a restart looks",
                "Copy instead, or move when the run has ended for good.",
                grave=False,
            )
    safe = {"n", "b"} & set(_options(words)) or "--no-clobber" in words or "--backup" in words
    if script.places.kind(goal) == "checkpoints" and not safe:
        yield problem(
            command,
            script,
            f"what {goal} held before is lost",
            "Write mv -n, or to a new name.",
            grave=False,
        )


def _format(command: Command, words: Sequence[str], script: Script) -> Iterator[Problem]:
    yield problem(
        command, script, "it makes a device's contents unreadable", "Remove the line.", grave=True
    )


_RULES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(("rm", "rmdir", "unlink", "shred"), (_rm,)),
    "find": (_find,),
    "mv": (_mv,),
    "git": (git_problems,),
    "rsync": (sync_problems,),
    **dict.fromkeys(
        ("aws", "s5cmd", "s3cmd", "gsutil", "gcloud", "rclone", "azcopy", "mc", "hdfs", "hadoop"),
        (store_problems,),
    ),
    **dict.fromkeys(("kubectl", "scancel", "pkill", "killall", "docker"), (kill_problems,)),
    **dict.fromkeys(("mkfs", "mkfs.ext4", "mkfs.xfs", "wipefs", "blkdiscard"), (_format,)),
}
