"""Storage that is not there, not writable, full, or breaks its promises is found and named."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.plan import make_plan
from preflight.context import Context
from preflight.probes.quota import parse_table
from preflight.registry import all_checks
from preflight.report import Result
from preflight.runner import run, run_check
from smolplan.mounts import mount_of, mounts
from smolplan.spec import RunSpec, load_preset
from tests.preflight.storage_faults import Mount, hung_mount, stale_mount, tmpfs_mounts
from tests.preflight.support import only, put_first
from tests.support import make_spec

QUICK = ["storage.mounts", "storage.writable", "storage.semantics", "storage.space"]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure little, and do not wait long: the faults here show at once."""
    monkeypatch.setattr("preflight.checks.storage.speed.LEAST_BYTES", 32 * 2**20)
    monkeypatch.setattr("preflight.checks.storage.speed.RANDOM_S", 0.1)
    monkeypatch.setattr("preflight.checks.storage.speed.METADATA_ROUNDS", 10)
    monkeypatch.setattr("preflight.checks.storage.mounts.NO_ANSWER_S", 2.0)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with tmpfs_mounts(tmp_path) as make:
        yield make


def results(spec: RunSpec, runs_dir: Path, *only: str) -> dict[str, Result]:
    return {r.name: r for r in run(spec, runs_dir, only=only).results}


def test_sound_storage_passes_and_nothing_is_left_behind(data_cache: Path, tmp_path: Path) -> None:
    runs = tmp_path / "not" / "there" / "yet"
    found = results(make_spec(data_cache), runs, "storage")
    busy = {"storage.fsync", "storage.metadata"}  # the disk of a test machine may be
    unasked = {"storage.object_store", "storage.upload_speed"}
    assert {found[name].state for name in unasked} == {"skipped"}
    states = {name: r.state for name, r in found.items() if name not in busy | unasked}
    assert set(states.values()) == {"pass"}, states
    throughput = found["storage.throughput"]
    assert throughput.measured["write_bytes_per_s"] > throughput.needed["write_bytes_per_s"] > 0
    assert throughput.source == "plan"
    assert set(found["storage.mounts"].facts) == {"runs mount", "data cache mount"}
    assert all(len(r.summary) <= 51 for r in found.values())
    assert list(tmp_path.iterdir()) == []


def test_a_mount_that_hangs_is_named_and_the_other_checks_go_on(
    data_cache: Path, tmp_path: Path
) -> None:
    with hung_mount(tmp_path / "dead nfs") as folder:
        spec = make_spec(data_cache)
        found = results(spec, folder / "runs", *QUICK, "storage.throughput", "storage.scratch")
    lost = found.pop("storage.mounts")
    assert lost.state == "fail"
    assert lost.summary == "1 of 4 paths do not answer"
    assert f"runs {folder}/runs: no answer within 2 s" in lost.why
    assert f"fuse from dead-server on {folder} hangs" in lost.why
    assert lost.remedy.startswith(f"umount -f -l '{folder}', mount it again")
    assert found.pop("storage.scratch").state == "pass"
    assert {r.state for r in found.values()} == {"skipped"}
    assert {r.summary for r in found.values()} == {"does not answer: see storage.mounts"}
    assert sum(r.seconds for r in found.values()) < lost.seconds + 12


def test_a_stale_file_handle_is_named(data_cache: Path, tmp_path: Path) -> None:
    with stale_mount(tmp_path / "old") as folder:
        result = only("storage.mounts", make_spec(data_cache), folder)
    assert result.state == "fail"
    assert f"runs {folder}: stale file handle" in result.why


def test_a_read_only_file_system_is_named(mount: Mount, data_cache: Path) -> None:
    folder = mount("ro,size=1m")
    found = results(make_spec(data_cache), folder / "runs", *QUICK, "storage.throughput")
    assert found["storage.mounts"].state == "warn"
    assert f"{folder} is mounted read-only" in found["storage.mounts"].why
    assert found["storage.writable"].state == "fail"
    assert found["storage.writable"].why == f"{folder} cannot be written: Read-only file system"
    assert found["storage.throughput"].state == "skipped"


def test_a_disk_that_is_full_is_named(mount: Mount, data_cache: Path) -> None:
    folder = mount("size=1m")
    with pytest.raises(OSError, match="No space left"):
        (folder / "all of it").write_bytes(bytes(2**21))
    found = results(make_spec(data_cache), folder / "runs", *QUICK)
    assert found["storage.writable"].summary == "No space left on device"
    assert found["storage.writable"].remedy.startswith(f"Free space in {folder}")
    assert found["storage.space"].state == "fail"
    assert found["storage.space"].measured["free_bytes"] == 0


def test_a_disk_too_small_for_the_checkpoints_is_named(mount: Mount) -> None:
    result = only("storage.space", load_preset("tiny-cpu"), mount("size=16m"))
    assert result.state == "fail"
    assert result.measured["free_bytes"] < 17e6 < result.needed["free_bytes"]
    assert result.source == "plan"


def test_a_disk_that_the_run_would_fill_up_is_warned_of(mount: Mount, data_cache: Path) -> None:
    result = only("storage.space", make_spec(data_cache), mount("size=135m"))
    assert result.state == "warn"
    assert "full: full disks are slow, tiered ones evict" in result.why


def test_a_disk_out_of_inodes_is_named(mount: Mount, data_cache: Path) -> None:
    result = only("storage.inodes", make_spec(data_cache), mount("size=900m,nr_inodes=50"))
    assert result.state == "fail"
    assert result.measured["free_inodes"] < 50 < result.needed["free_inodes"]


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("import fcntl; fcntl.flock = lambda *a: None", "two processes held the same lock"),
        ("import os; os.O_APPEND = 0", "lines that two processes appended"),
        (
            "import os; sync = os.fsync\n"
            "def fsync(fd):\n"
            "    if os.path.isdir(f'/proc/self/fd/{fd}'): raise OSError(22, 'Invalid argument')\n"
            "    sync(fd)\n"
            "os.fsync = fsync",
            "fsync of a folder: Invalid argument",
        ),
        (
            "import pathlib, shutil\n"
            "pathlib.Path.replace = lambda old, new: shutil.copyfileobj("
            "open(old, 'rb'), open(new, 'wb', 0), 1024)",
            "a reader saw half of it",
        ),
    ],
    ids=["flock", "append", "folder-fsync", "rename"],
)
def test_a_promise_that_the_file_system_does_not_keep_is_named(
    planted: str,
    said: str,
    data_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(planted)
    put_first(tmp_path, monkeypatch)
    result = only("storage.semantics", make_spec(data_cache), tmp_path)
    assert result.state == "fail"
    assert said in result.why


def test_a_file_in_place_of_the_folder_is_named(data_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    result = only("storage.writable", make_spec(data_cache), tmp_path / "runs")
    assert result.state == "fail"
    assert str(tmp_path / "runs") in result.why


QUOTAS = {
    "roomy": "     /mnt 4 0 0 - 1 0 0 -\n",
    "full": "/mnt/lustre 1048000 0 1048576 - 12* 0 12 -\n",
}


@pytest.mark.parametrize(("printed", "state"), [("roomy", "pass"), ("full", "fail")])
def test_a_quota_that_lustre_tells_of_is_held_against_the_plan(
    printed: str, state: str, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "lfs"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{QUOTAS[printed]}END\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "sitecustomize.py").write_text(
        "import smolplan.mounts as m\n"
        "m.all_mounts = lambda: [m.Mount('/', 'lustre', 'server', 'rw')]\n"
    )
    put_first(tmp_path, monkeypatch)
    result = only("storage.quota", make_spec(data_cache), tmp_path)
    assert result.state == state
    if state == "fail":
        assert "the user's quota has 590 kB left" in result.why
        assert result.measured == {"quota_left_bytes": 576 * 1024, "quota_left_files": 0}


def test_a_table_of_quotas_is_read_whatever_stands_around_it() -> None:
    text = "Disk quotas for user ada (uid 1000):\n  Filesystem blocks quota limit grace files\n"
    assert parse_table(text, "user") is None
    assert parse_table(text + "srv:/x 10 0 20 0 3 0 5 0\n", "user") == {
        "whose": "user",
        "free_bytes": 10 * 1024,
        "free_files": 2,
    }


MOUNTINFO = r"""
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
35 21 0:40 / /mnt/my\040runs rw,nosuid - nfs4 server:/export rw,vers=4.2,hard,addr=10.0.0.1
36 21 0:41 / /mnt/my rw - tmpfs none rw
""".strip()


def test_the_mount_of_a_path_is_the_deepest_above_it() -> None:
    table = mounts(MOUNTINFO)
    deep, other = mount_of("/mnt/my runs/a", table), mount_of("/mnt/mystery", table)
    assert deep is not None
    assert other is not None
    assert (deep.type, deep.source) == ("nfs4", "server:/export")
    assert deep.options == "rw,nosuid,vers=4.2,hard,addr=10.0.0.1"
    assert other.point == "/"


@pytest.mark.parametrize(
    ("options", "code", "state", "said"),
    [
        ("rw,hard,addr=1", 0, "pass", ""),
        ("rw,nolock", 0, "warn", "no lock is seen by another host"),
        ("rw,soft", 0, "warn", "a slow server gives read and write errors"),
        ("rw", errno.ENOTCONN, "fail", "lost its server"),
    ],
)
def test_network_mounts_are_judged_by_their_options(
    options: str, code: int, state: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {
        **{"path": "/r", "answered": True, "seconds": 0.01, "error": "Not connected"},
        **{"errno": code, "point": "/r", "type": "nfs4", "source": "s:/e", "options": options},
    }
    spec = make_spec(tmp_path)
    context = Context(spec, make_plan(spec), tmp_path)
    monkeypatch.setattr(
        context, "probe", lambda *a, **k: dict.fromkeys(("runs", "data cache"), place)
    )
    check = next(c for c in all_checks() if c.name == "storage.mounts")
    result = run_check(check, context)
    assert result.state == state
    assert said in result.why
    assert "addr=1" not in result.facts["runs mount"]
