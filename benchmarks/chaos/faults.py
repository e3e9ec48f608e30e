"""Faults of hosts, ranks, links, storage and monitor, and what only looks like one.

Each function does one, and says whom a decision is to name and how it is mended; None where there
was nothing to hit just then.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Literal

import psutil

from benchmarks.chaos.damage import WAYS, damage
from benchmarks.chaos.site import Site, SmolplanSite, await_true, give_kernel_log, kernel_log
from launcher import control
from tests.lab.namespaces import LabHost


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Hit:
    """What was done."""

    blamed: tuple[str, ...] = ()
    """Hosts that may be left out for it."""
    named: str = ""
    """What the reason of the decision has to hold."""
    mend: Callable[[], object] = _nothing
    when: Literal["decided", "going on"] = "decided"
    """When it is mended: some keep the run from going on until then."""
    at: float = field(default_factory=time.time)
    """When it was done, in seconds since the epoch."""


Act = Callable[[SmolplanSite, random.Random], Hit | None]

# To ranks and their hosts: torchrun can meet these too.


def kill_rank(site: Site, rng: random.Random) -> Hit | None:
    rank, host, process = _any_rank(site, rng)
    process.kill()
    return Hit((host.name,), f"rank {rank} was ended by signal 9 on {host.name}")


def stop_rank(site: Site, rng: random.Random) -> Hit | None:
    rank, host, process = _any_rank(site, rng)
    process.suspend()
    return Hit((), f"rank {rank} on {host.name} is stopped by a signal")


def lose_host(site: Site, rng: random.Random) -> Hit | None:
    """It says nothing any more, as one whose power has gone."""
    host = rng.choice(site.hosts())
    host.link_down()
    host.die()
    return Hit((host.name,), host.name, lambda: _come_back(host), "going on")


def take_link_down(site: Site, rng: random.Random) -> Hit | None:
    host = rng.choice(site.hosts())
    host.link_down()
    return Hit((host.name,), host.name, host.link_up, "going on")


# To those of a run under smolplan.


def kill_all_ranks(site: SmolplanSite, rng: random.Random) -> Hit | None:
    names = tuple(host.name for host in site.hosts())
    for process in site.ranks().values():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return Hit(names, "was ended by signal 9")


def kill_supervisor(site: SmolplanSite, rng: random.Random) -> Hit | None:
    supervisors = site.supervisors()
    if not supervisors:
        return None
    host = rng.choice(list(supervisors))
    supervisors[host].kill()
    return Hit((host,), host)


def kill_all_of_host(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """Its processes; its kernel still answers, and refuses."""
    host = rng.choice(site.hosts())
    host.die()
    return Hit((host.name,), host.name, lambda: _come_back(host), "going on")


def cut_between(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """Two hosts do not hear each other; everybody else hears both."""
    one, other = rng.sample(site.hosts(), 2)
    one.cut_off(other.address)
    other.cut_off(one.address)

    def mend() -> None:
        one.heal()
        other.heal()

    return Hit(mend=mend)


def break_gpu(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """Xid 79 in the kernel's log."""
    host = rng.choice(site.hosts())
    at_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    what = "NVRM: Xid (PCI:0000:a3:00): 79, pid=1, GPU has fallen off the bus."
    with kernel_log(host).open("a") as log:
        log.write(f"4,1,{at_us},-;{what}\n")

    def mend() -> None:
        site.store.clear_host(host.name, "the benchmark has mended it")

    return Hit((host.name,), f"of {host.name}", mend, "going on")


def damage_checkpoint(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """Cut short, flip a byte of, or remove a file of the newest; then a rank is killed."""
    folders = list(site.directory.checkpoints.glob("step-*"))
    if len(folders) < 2:
        return None
    newest = max(folders, key=lambda path: int(path.name.removeprefix("step-")))
    how = rng.choice(WAYS)
    try:
        damage(rng.choice(sorted(newest.iterdir())), how)
    except FileNotFoundError:
        return None
    return kill_rank(site, rng)


def make_checkpoints_read_only(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """For one host, as a network file system may become."""
    host, folder = rng.choice(site.hosts()), str(site.directory.checkpoints)
    if host.run("mount", "--bind", folder, folder, check=False).returncode:
        return None
    host.run("mount", "-o", "remount,ro,bind", folder)
    return Hit((), "Read-only", lambda: host.run("umount", "--lazy", folder))


def fill_storage(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """The runs' file system has no byte left."""
    filler = site.directory.path.parent / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"\0" * (1 << 20))
            file.flush()
    return Hit((), "No space left", filler.unlink)


def kill_monitor_and_rank(site: SmolplanSite, rng: random.Random) -> Hit | None:
    hit = kill_rank(site, rng)
    kill_monitor(site, rng)
    return hit


# What no restart is the answer to.


def link_flaps(site: SmolplanSite, rng: random.Random) -> Hit | None:
    host = rng.choice(site.hosts())
    host.link_down()
    time.sleep(rng.uniform(0.5, 1.5))
    host.link_up()
    return Hit()


def lose_packets(site: SmolplanSite, rng: random.Random) -> Hit | None:
    host = rng.choice(site.hosts())
    host.lossy_link(5)
    time.sleep(4.0)
    host.heal()
    return Hit()


def stop_ssh_server(site: SmolplanSite, rng: random.Random) -> Hit | None:
    host = rng.choice(site.hosts())
    host.stop_sshd()
    time.sleep(rng.uniform(3.0, 7.0))
    host.start_sshd()
    return Hit()


def kill_monitor(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """And have it started again, as whoever looks after services would."""
    for pid in site.monitors():
        os.kill(pid, signal.SIGKILL)
        if not await_true(lambda pid=pid: not psutil.pid_exists(pid) or _is_zombie(pid), 5.0):  # type: ignore[misc]
            return None
    control.ensure_daemon(site.store)
    return Hit()


def pause_monitor(site: SmolplanSite, rng: random.Random) -> Hit | None:
    for pid in site.monitors():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(rng.uniform(5.0, 9.0))
        os.kill(pid, signal.SIGCONT)
    return Hit()


def kill_sampler(site: SmolplanSite, rng: random.Random) -> Hit | None:
    samplers = site.samplers()
    if samplers:
        rng.choice(samplers).kill()
    return Hit() if samplers else None


def slow_rank(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """It stands still most of the time, for some seconds."""
    _, _, process = _any_rank(site, rng)
    for _ in range(12):
        process.suspend()
        time.sleep(0.4)
        process.resume()
        time.sleep(0.1)
    return Hit()


def hold_up_checkpoint(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """A rank takes 6 s over its part of a checkpoint, longer than a step may take."""
    _, _, process = _any_rank(site, rng)
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        if not any(beat.phase == "checkpointing" for beat in site.beats().values()):
            time.sleep(0.002)
            continue
        process.suspend()
        time.sleep(0.5)
        held = all(beat.phase == "checkpointing" for beat in site.beats().values())
        if held:
            time.sleep(6.0)
        process.resume()
        if held:
            return Hit()
    return None


def evaluate_beside(site: SmolplanSite, rng: random.Random) -> Hit | None:
    """An evaluation of the newest checkpoint, which takes the training's cores."""
    done = subprocess.run(
        [sys.executable, "-m", "trainer.evaluate", str(site.directory)],
        capture_output=True,
        check=False,
    )
    return Hit() if done.returncode == 0 else None


def lock_record(site: SmolplanSite, rng: random.Random) -> Hit | None:
    with closing(sqlite3.connect(site.store.folder / "runs.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA busy_timeout=10000")
        db.execute("BEGIN EXCLUSIVE")
        time.sleep(rng.uniform(3.0, 6.0))
        db.execute("ROLLBACK")
    return Hit()


def _any_rank(site: Site, rng: random.Random) -> tuple[int, LabHost, psutil.Process]:
    ranks = site.ranks()
    rank = rng.choice(list(ranks))
    return rank, site.host_of(rank), ranks[rank]


def _come_back(host: LabHost) -> None:
    host.begin()
    give_kernel_log(host)
    host.link_up()


def _is_zombie(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


@dataclass(frozen=True)
class Kind:
    act: Act
    restart: bool
    """Whether one is wanted."""
    silent: bool = False
    """Nobody says that it happened: time has to pass before it is one."""


LONG_CHECKPOINT = "long checkpoint"

KINDS: dict[str, Kind] = {
    "rank killed": Kind(kill_rank, True),
    "all ranks killed": Kind(kill_all_ranks, True),
    "rank stopped": Kind(stop_rank, True, silent=True),
    "supervisor killed": Kind(kill_supervisor, True),
    "all of a host killed": Kind(kill_all_of_host, True),
    "host gone silent": Kind(lose_host, True, silent=True),
    "link down": Kind(take_link_down, True, silent=True),
    "two hosts cut off": Kind(cut_between, True, silent=True),
    "Xid 79": Kind(break_gpu, True),
    "checkpoint damaged, rank killed": Kind(damage_checkpoint, True),
    "checkpoints read-only": Kind(make_checkpoints_read_only, True, silent=True),
    "storage full": Kind(fill_storage, True, silent=True),
    "monitor and rank killed": Kind(kill_monitor_and_rank, True),
    "link down for a second": Kind(link_flaps, False),
    "5 % of packets lost": Kind(lose_packets, False),
    "SSH server down": Kind(stop_ssh_server, False),
    "monitor killed": Kind(kill_monitor, False),
    "monitor paused": Kind(pause_monitor, False),
    "sampler killed": Kind(kill_sampler, False),
    "slow rank": Kind(slow_rank, False),
    LONG_CHECKPOINT: Kind(hold_up_checkpoint, False),
    "evaluation beside": Kind(evaluate_beside, False),
    "record locked": Kind(lock_record, False),
}
