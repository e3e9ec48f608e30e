"""The forge with nothing to import: what it forks is, to all others, what was asked for."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher.forge.child import through_forge
from launcher.forge.meeting import connect, socket_path
from launcher.forge.start import ROOM
from launcher.processes import TOKEN_VARIABLE, find_by_token
from smolplan.rundir import Heartbeat, RunDir, write_json
from tests.support import wait_until

IDLE_S = 0.5

SERVER = """
import sys
import launcher.forge.server as server

server.PRELOADED, server.LOOK_S, server.IDLE_S = (), 0.1, float(sys.argv.pop())
server.main()
"""

PROBE = """
import os, signal, sys, time

print("hello", *sys.argv[1:], flush=True)
print("oops", file=sys.stderr, flush=True)
match sys.argv[1]:
    case "exit":
        sys.exit(int(sys.argv[2]))
    case "kill":
        os.kill(os.getpid(), int(sys.argv[2]))
    case "term":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(60)
"""


class Site:
    """A run's folder, its forge, and processes that are asked for through it."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str, idle_s: float = 60.0
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
        deep = folder / ("deeper-than-a-socket's-name-may-be-long-" * 3)
        deep.mkdir()
        monkeypatch.setenv("TMPDIR", str(deep))
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        (folder / "probe.py").write_text(PROBE)
        self.run = RunDir(folder / "run")
        self.run.path.mkdir()
        self.run.spec.touch()
        self.forge = subprocess.Popen(
            [
                *[sys.executable, "-P", "-c", SERVER, str(self.run.path), "--room", ROOM],
                *[*options, str(idle_s)],
            ],
            text=True,
        )
        self.started: list[subprocess.Popen[str]] = []
        wait_until(self.listens)

    def listens(self) -> bool:
        if (there := connect(self.run.path)) is None:
            return False
        there.close()
        return True

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *through_forge(self.run.path, "probe", *arguments)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def until_ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None

    def forked(self) -> list[psutil.Process]:
        return psutil.Process(self.forge.pid).children() if self.forge.poll() is None else []

    def close(self) -> None:
        for forked in self.forked():
            forked.kill()
        everyone = [*self.started, self.forge]
        for process in everyone:
            process.kill()
        for process in everyone:  # a forge that was stopped held the others' output
            process.communicate()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path, monkeypatch, "--spare", idle_s=IDLE_S)
    yield made
    made.close()


@pytest.mark.parametrize(("how", "code"), [("exit", 0), ("exit", 65), ("kill", 9), ("kill", 15)])
def test_it_ends_as_what_was_forked_ends_and_says_what_that_says(
    site: Site, how: str, code: int
) -> None:
    process = site.start(how, str(code))
    out, err = process.communicate(timeout=20)
    assert (out, err) == (f"hello {how} {code}\n", "oops\n")
    assert process.returncode == (-code if how == "kill" else code)


def test_what_was_forked_shows_its_own_words_and_environment(site: Site) -> None:
    token = "0123456789abcdef" * 2
    process = site.start("stay", "--node", "3", RANK="5", **{TOKEN_VARIABLE: token})
    site.until_ready(process)
    (forked,) = site.forked()
    assert {forked.pid, process.pid} == {p.pid for p in find_by_token(token)}
    shown = [word for word in forked.cmdline() if word]
    assert shown == [sys.executable, "-P", "-m", "probe", "stay", "--node", "3"]
    assert (forked.environ()["RANK"], forked.environ()[TOKEN_VARIABLE]) == ("5", token)


def test_neither_outlives_the_other(site: Site) -> None:
    process = site.start("stay")
    site.until_ready(process)
    (forked,) = site.forked()
    process.kill()  # whoever started it may end it for good
    wait_until(lambda: not forked.is_running() or forked.status() == psutil.STATUS_ZOMBIE)

    process = site.start("stay")
    site.until_ready(process)
    (forked,) = site.forked()
    forked.kill()
    assert process.wait(20) == -signal.SIGKILL


def test_a_signal_is_handed_on(site: Site) -> None:
    process = site.start("term")
    site.until_ready(process)
    process.terminate()
    assert process.wait(20) == 7


def test_a_signal_that_comes_before_the_forge_answers_waits_for_whom_it_is_meant(
    site: Site,
) -> None:
    site.forge.send_signal(signal.SIGSTOP)
    process = site.start("stay")
    wait_until(lambda: bool(psutil.Process(process.pid).net_connections("unix")))
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    site.forge.send_signal(signal.SIGCONT)
    assert process.wait(20) == -signal.SIGTERM
    assert not site.forked()


def test_other_code_or_another_environment_is_started_anew(site: Site) -> None:
    process = site.start("stay", OMP_NUM_THREADS="2")
    site.until_ready(process)
    assert not site.forked()
    assert psutil.Process(process.pid).cmdline()[1:4] == ["-P", "-m", "probe"]

    process = site.start("stay")
    site.until_ready(process)
    assert len(site.forked()) == 1
    # A newer version was installed in the same place.
    import launcher.forge.server as server

    touched = Path(server.__file__)
    before = touched.stat()
    try:
        os.utime(touched, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
        process = site.start("stay")
        site.until_ready(process)
        assert len(site.forked()) == 1
    finally:
        os.utime(touched, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_without_a_forge_it_is_started_anew(site: Site) -> None:
    site.forge.kill()
    site.forge.wait()
    process = site.start("exit", "3")
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("hello exit 3\n", 3)


def test_a_forge_that_does_not_answer_is_done_without_and_leaves_nothing_later(site: Site) -> None:
    os.kill(site.forge.pid, signal.SIGSTOP)
    impatient = "import launcher.forge.child as child; child.ANSWER_S = 0.5; child.main()"
    words = through_forge(site.run.path, "probe", "stay")[3:]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", impatient, *words], stdout=subprocess.PIPE, text=True
    )
    site.started.append(process)
    site.until_ready(process)
    assert psutil.Process(process.pid).cmdline()[1:4] == ["-P", "-m", "probe"]
    os.kill(site.forge.pid, signal.SIGCONT)
    other = site.start("exit", "0")  # asked after it, and so answered after it
    assert other.wait(20) == 0
    wait_until(lambda: not site.forked())


def test_a_folder_that_others_may_write_to_is_not_trusted(site: Site) -> None:
    folder = socket_path(site.run.path).parent
    folder.chmod(0o755)
    with pytest.raises(PermissionError, match="not this user's alone"):
        socket_path(site.run.path)
    assert connect(site.run.path) is None
    folder.chmod(0o700)
    assert site.listens()


@pytest.mark.parametrize("how", ["finished", "failed", "forgotten", "gone"])
def test_a_spares_is_there_until_the_run_needs_it_no_more(spare: Site, how: str) -> None:
    site = spare
    site.run.begin_attempt(1)
    beat = Heartbeat(1, 0, "here", 1, 1, "training", 0.0, 0.0, 1.0)
    site.run.write_heartbeat(beat)
    with pytest.raises(subprocess.TimeoutExpired):
        site.forge.wait(3 * IDLE_S)  # it waits as long as the attempt lasts
    match how:
        case "gone":
            site.run.spec.unlink()
        case "forgotten":
            os.utime(site.run.heartbeat(0), (1, 1))
        case _:
            code = 0 if how == "finished" else 1
            write_json(site.run.attempt_exit(1), {"exit_code": code, "failures": {}})
    assert site.forge.wait(20) == 0
    assert connect(site.run.path) is None


def test_one_that_nobody_asks_of_goes_whatever_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, monkeypatch, idle_s=IDLE_S)
    site.run.begin_attempt(1)  # whose processes somebody has ended without a word
    assert site.forge.wait(20) == 0
    site.close()
