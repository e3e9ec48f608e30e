"""A fleet of agents that are real processes of this machine."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import launcher
from launcher.hosts.bundle import Bundle, installed_bundle
from launcher.hosts.cache import Cache
from launcher.hosts.fleet import Fleet, local_fleet
from launcher.hosts.host import Host, Trouble
from launcher.hosts.loader import hold
from launcher.hosts.stream import LocalStream, open_local
from launcher.processes import TOKEN_VARIABLE, is_alive
from tests.support import wait_until

NASTY = [
    "two words",
    "it's",
    '"quoted"',
    "$(touch INJECTED)",
    "`touch INJECTED`",
    "; touch INJECTED #",
    "a\nb",
    "ü—漢字",
    "\udcff\udcfe",  # bytes that are no UTF-8, as the file system has them
    "-rf",
    "*",
    "\\",
    "",
]


@pytest.fixture(scope="module")
def fleet(cache: Path) -> Iterator[Fleet]:
    with local_fleet(["a", "b"], python=sys.executable, cache=str(cache)) as opened:
        yield opened


def small_bundle(extra: dict[str, Path] | None = None) -> Bundle:
    """As much as an agent needs."""
    root = Path(launcher.__path__[0])
    files = {str(path.relative_to(root.parent)): path for path in root.rglob("*.py")}
    return Bundle({**files, **(extra or {})})


def small_fleet(hosts: int, cache: Path) -> Fleet:
    return Fleet(
        [Host(chr(ord("a") + number)) for number in range(hosts)],
        open_local,
        python=sys.executable,
        cache=str(cache),
        bundle=small_bundle(),
    )


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def answer_of(
    fleet: Fleet, operation: str, timeout_s: float = 20.0, **arguments: Any
) -> dict[str, Any]:
    answer = fleet.call(operation, arguments, hosts=["a"], timeout_s=timeout_s)["a"]
    assert isinstance(answer, dict), answer
    return answer


def trouble_of(fleet: Fleet, operation: str, timeout_s: float = 20.0, **arguments: Any) -> Trouble:
    answer = fleet.call(operation, arguments, hosts=["a"], timeout_s=timeout_s)["a"]
    assert isinstance(answer, Trouble), answer
    return answer


def test_every_host_answers_with_the_code_that_was_sent_and_its_clock(
    fleet: Fleet, cache: Path
) -> None:
    seen: list[str] = []
    answers = fleet.call("ping", timeout_s=20.0, on_answer=lambda host, _: seen.append(host))
    assert sorted(seen) == list(answers) == ["a", "b"]
    for answer in answers.values():
        assert isinstance(answer, dict)
        assert Path(answer["tree"]).parent == cache / "trees"
        assert abs(answer["clock_offset_s"]) <= answer["round_trip_s"]
    own = installed_bundle()
    for path, name in own.files.items():
        assert (cache / "trees" / own.tree / path).exists() and (cache / "objects" / name).exists()


def test_programs_started_on_a_host_import_the_code_that_was_sent(
    fleet: Fleet, cache: Path
) -> None:
    program = "import launcher, planner; print(launcher.__path__[0])"
    answer = answer_of(fleet, "run", argv=["-c", program], python=True)
    assert answer["exit_code"] == 0, answer
    assert Path(answer["stdout"].strip()).is_relative_to(cache / "trees")


def test_arguments_environment_and_input_arrive_unharmed_and_run_nothing(
    fleet: Fleet, tmp_path: Path
) -> None:
    program = "import os, sys; print(ascii([sys.argv[1:], os.environ['V'], sys.stdin.read()]))"
    for value in NASTY:
        answer = answer_of(
            fleet,
            "run",
            argv=["-X", "utf8", "-c", program, value],
            env={"V": value, "PYTHONIOENCODING": "utf-8:surrogateescape"},
            stdin=value,
            cwd=str(tmp_path),
            python=True,
        )
        assert answer["stdout"].strip() == ascii([[value], value, value])
        if value not in ("", "\\"):
            folder = tmp_path / value
            answer_of(fleet, "put", path=str(folder / "file"), text=value)
            assert os.fsencode((folder / "file").read_bytes()) == os.fsencode(value)
    assert not list(tmp_path.glob("INJECTED"))


def test_arguments_may_differ_from_host_to_host_and_lines_come_as_they_are_printed(
    fleet: Fleet,
) -> None:
    noted: list[tuple[str, str]] = []
    answers = fleet.call(
        "run",
        lambda host: {"argv": ["sh", "-c", "echo $HOST; echo no more >&2"], "env": {"HOST": host}},
        timeout_s=20.0,
        on_note=lambda host, note: noted.append((host, note["line"])),
    )
    assert sorted(noted) == [("a", "a"), ("b", "b")]
    assert [a["stderr"] for a in answers.values() if isinstance(a, dict)] == ["no more\n"] * 2


def test_what_takes_too_long_is_ended_with_all_that_it_started(fleet: Fleet) -> None:
    script = "sleep 300 & echo $!; wait"
    told: list[str] = []
    answers = fleet.call(
        "run",
        {"argv": ["sh", "-c", script]},
        hosts=["a"],
        timeout_s=0.5,
        on_note=lambda host, note: told.append(note["line"]),
    )
    assert answers["a"] == Trouble(
        "timeout", f"sh did not end within 0.5 s; its last line: {told[0]}"
    )
    wait_until(lambda: is_gone(int(told[0])))


def test_a_call_that_is_broken_off_ends_what_it_runs(fleet: Fleet) -> None:
    told: list[int] = []

    def break_off(host: str, note: dict[str, Any]) -> None:
        told.append(int(note["line"]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fleet.call(
            "run",
            {"argv": ["sh", "-c", "echo $$; sleep 300"]},
            hosts=["a"],
            timeout_s=60.0,
            on_note=break_off,
        )
    wait_until(lambda: is_gone(told[0]))


def test_mistakes_come_back_as_words(fleet: Fleet, tmp_path: Path) -> None:
    assert trouble_of(fleet, "run", argv=["no such program"]) == Trouble(
        "remote", "no such program: No such file or directory"
    )
    assert "is no operation" in trouble_of(fleet, "fly").message
    assert trouble_of(fleet, "get", path=str(tmp_path / "none")).message.endswith(
        "none: No such file or directory"
    )
    assert "KeyError" in trouble_of(fleet, "run").message


def test_what_is_spawned_outlives_the_fleet_is_seen_and_ended_by_its_token(
    fleet: Fleet, cache: Path, tmp_path: Path
) -> None:
    token = f"test-{tmp_path}"
    with local_fleet(["a"], python=sys.executable, cache=str(cache)) as other:
        spawned = answer_of(
            other,
            "spawn",
            argv=["sh", "-c", "echo begun; exec sleep 300"],
            env={TOKEN_VARIABLE: token},
            output=str(tmp_path / "logs" / "out"),
        )
    name = spawned["process"]
    assert is_alive(name)
    assert answer_of(fleet, "alive", names=[name, "1:0@elsewhere+x+0"])["alive"] == {
        name: True,
        "1:0@elsewhere+x+0": None,
    }
    wait_until(lambda: (tmp_path / "logs" / "out").read_text() == "begun\n")
    assert answer_of(fleet, "kill", token=token) == {"ended": True}
    assert answer_of(fleet, "alive", names=[name])["alive"] == {name: False}


def test_ports_are_found_open_or_closed(fleet: Fleet) -> None:
    outcome: dict[str, Any] = {}

    def try_it(host: str, note: dict[str, Any]) -> None:
        outcome.update(note)
        outcome["open"] = fleet.call(
            "connect", {"address": "127.0.0.1", **note}, hosts=["b"], timeout_s=5.0
        )["b"]

    heard = fleet.call(
        "listen",
        {"address": "127.0.0.1", "seconds": 0.5},
        hosts=["a"],
        timeout_s=5.0,
        on_note=try_it,
    )["a"]
    assert outcome["open"]["connected"] and heard == {
        "port": outcome["port"],
        "came": ["127.0.0.1"],
    }
    closed = answer_of(fleet, "connect", address="127.0.0.1", port=outcome["port"])
    assert closed == {"connected": False, "why": "Connection refused"}


def test_a_host_that_hangs_costs_its_own_deadline_and_the_next_call_connects_anew(
    cache: Path,
) -> None:
    with local_fleet(["a", "b"], python=sys.executable, cache=str(cache)) as fleet:
        pid = answer_of(fleet, "ping")["pid"]
        assert isinstance(fleet.call("ping", timeout_s=20.0)["b"], dict)
        os.kill(pid, signal.SIGSTOP)
        answers = fleet.call("ping", timeout_s=0.2)
        hung = answers["a"]
        assert isinstance(hung, Trouble) and hung.kind == "unreachable"
        assert "no sign of life" in hung.message and isinstance(answers["b"], dict)
        again = fleet.call("ping", timeout_s=20.0)["a"]
        assert isinstance(again, dict) and again["pid"] != pid
        wait_until(lambda: is_gone(pid))


def test_an_agent_that_is_killed_is_told_of_at_once_and_replaced(cache: Path) -> None:
    with local_fleet(["a"], python=sys.executable, cache=str(cache)) as fleet:

        def kill_it(host: str, note: dict[str, Any]) -> None:
            os.kill(int(note["line"]), signal.SIGKILL)

        broken = fleet.call(
            "run",
            {"argv": ["sh", "-c", "echo $PPID; sleep 5"]},
            timeout_s=60.0,
            on_note=kill_it,
        )["a"]
        assert isinstance(broken, Trouble)
        assert (broken.kind, broken.message) == ("unreachable", "the connection broke")
        assert answer_of(fleet, "ping")["hostname"]


def test_nothing_is_left_once_the_fleet_is_closed(cache: Path) -> None:
    with local_fleet(["a"], python=sys.executable, cache=str(cache)) as fleet:
        told: list[int] = []
        thread = threading.Thread(
            target=fleet.call,
            args=("run", {"argv": ["sh", "-c", "echo $$ $PPID; sleep 300"]}),
            kwargs={
                "timeout_s": 60.0,
                "on_note": lambda _, note: told.extend(map(int, note["line"].split())),
            },
        )
        thread.start()
        wait_until(lambda: len(told) == 2)
    wait_until(lambda: all(map(is_gone, told)))
    thread.join()


def test_a_python_that_is_missing_or_too_old_is_named(cache: Path, tmp_path: Path) -> None:
    with local_fleet(["a"], python="/no/python", cache=str(cache)) as fleet:
        trouble = trouble_of(fleet, "ping")
        assert trouble.kind == "no_python" and "/no/python cannot be run" in trouble.message
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho it is Python 3.6.8, and 3.11 is needed >&2\nexit 78\n")
    old.chmod(0o755)
    with local_fleet(["a"], python=str(old), cache=str(cache)) as fleet:
        trouble = trouble_of(fleet, "ping")
        assert trouble.kind == "no_python" and "it is Python 3.6.8" in trouble.message


def test_what_a_login_prints_is_no_harm_and_what_is_no_agent_is_shown(
    cache: Path, tmp_path: Path
) -> None:
    chatty = tmp_path / "chatty"
    chatty.write_text(f'#!/bin/sh\necho Welcome to the cluster\nexec {sys.executable} "$@"\n')
    chatty.chmod(0o755)
    with local_fleet(["a"], python=str(chatty), cache=str(cache)) as fleet:
        assert answer_of(fleet, "ping")["hostname"]
    menu = tmp_path / "menu"
    menu.write_text("#!/bin/sh\necho This account is not available.\nexit 1\n")
    menu.chmod(0o755)
    with local_fleet(["a"], python=str(menu), cache=str(cache)) as fleet:
        assert "This account is not available." in trouble_of(fleet, "ping").message


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with local_fleet(["a"], python=sys.executable, cache=str(tmp_path / "file")) as fleet:
        trouble = trouble_of(fleet, "ping")
        assert trouble.message == f"{tmp_path}/file: File exists"
        assert trouble.remedy == "Set launch.cache to a folder that can be written there."


def test_only_what_changed_travels(tmp_path: Path) -> None:
    extra = tmp_path / "my file"
    extra.write_bytes(os.urandom(1000))
    sent: list[int] = []
    for step in range(3):
        sent.append(0)

        class Counting(LocalStream):
            def send(self, data: bytes) -> None:
                sent[-1] += len(data)
                super().send(data)

        if step == 2:
            extra.write_bytes(os.urandom(2000))
        with Fleet(
            [Host("a")],
            lambda host, python: Counting(python),
            python=sys.executable,
            cache=str(tmp_path / "cache"),
            bundle=small_bundle({"asked for/my file": extra}),
        ) as fleet:
            tree = Path(answer_of(fleet, "ping")["tree"])
            assert (tree / "asked for/my file").read_bytes() == extra.read_bytes()
    first, unchanged, changed = sent
    assert unchanged < 12_000 and unchanged + 2000 < changed < first / 4


def test_a_tree_that_was_damaged_is_made_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    trees = []
    for _ in range(2):
        with small_fleet(1, cache) as fleet:
            trees.append(Path(answer_of(fleet, "ping")["tree"]))
            assert (trees[-1] / "launcher/processes.py").exists()
        (trees[-1] / "launcher/processes.py").unlink()
    assert trees[0] == trees[1]


def test_many_hosts_at_once_share_an_empty_cache_and_one_fills_it(tmp_path: Path) -> None:
    with small_fleet(6, tmp_path) as fleet:
        answers = fleet.call("ping", timeout_s=30.0)
    assert all(isinstance(answer, dict) for answer in answers.values()), answers
    assert [tree.name for tree in (tmp_path / "trees").iterdir()] == [small_bundle().tree]
    # Whoever had to make a file anew would have left no trace of the first one.
    made = {kept.stat().st_mtime_ns for kept in (tmp_path / "objects").iterdir()}
    tree = tmp_path / "trees" / small_bundle().tree / ".files"
    assert max(made) <= tree.stat().st_mtime_ns


def test_old_trees_are_swept_unless_something_runs_from_them(tmp_path: Path) -> None:
    cache, source = Cache(tmp_path), tmp_path / "source"
    for text in ("kept", "left"):
        source.write_text(text)
        bundle = Bundle({"file": source})
        cache.add(next(iter(bundle.files.values())), text.encode())
        cache.make_tree(bundle.tree, bundle.files)
        tree = cache.trees / bundle.tree
        if text == "kept":
            handle = hold(str(tree))
            kept = tree.name
    for path in (*cache.trees.iterdir(), *cache.objects.iterdir()):
        os.utime(path, (time.time() - 1e7,) * 2)
    cache.sweep()
    os.close(handle)
    assert [tree.name for tree in cache.trees.iterdir()] == [kept]
    assert [(cache.trees / kept / "file").read_text()] == ["kept"]
    assert len(list(cache.objects.iterdir())) == 1
    shutil.rmtree(tmp_path / "trees")
