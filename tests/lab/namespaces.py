"""A cluster on one machine: each host has its own network, name, processes, /etc/hosts and SSH
server, and faults can be made on each.

Hosts hang on a bridge in a namespace of its own. This machine gets one interface to it, with an
address of the range for tests of network devices (RFC 2544), so that all that runs here can reach
them; it goes when the bridge does.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.lab import sshd
from tests.lab.sshd import SshLab, SshServer, await_port, make_key

_TOOLS = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}

_labs = itertools.count(1)
"""Of this process."""

# As the first process of a host it has to bury whoever has no parent left.
_INIT = """
set -e
mount --make-rprivate /
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
hostname "$2"
shift 2
while [ "$#" -gt 0 ]; do mount -t tmpfs -o "size=$2" tmpfs "$1"; shift 2; done
echo ready
while :; do sleep 3600 & wait "$!" || :; done
"""


def missing() -> str:
    """Why no lab can be made here; empty if one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    lacking = {package for tool, package in _TOOLS.items() if not shutil.which(tool)}
    if sshd.MISSING:
        lacking.add("openssh-server")
    if lacking:
        return f"install {' and '.join(sorted(lacking))}"
    if run("unshare", "--net", "true", check=False).returncode:
        return "this machine gives no network namespaces"
    return ""


def run(*argv: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, check=check, capture_output=True, text=True, input=stdin)


@dataclass
class LabHost:
    """One host, with the faults that it may have."""

    name: str
    address: str
    namespace: str
    hub: str
    port_of_bridge: str
    """Its link's other end."""
    folder: Path
    tmpfs: dict[Path, str]
    server: SshServer = field(init=False)
    _unshare: "subprocess.Popen[str] | None" = None

    def __post_init__(self) -> None:
        self.server = SshServer(self.name, self.address, 22, self.folder / "ssh")

    def begin(self) -> None:
        """Bring it up: its first process, then its SSH server."""
        argv = [item for path, size in self.tmpfs.items() for item in (str(path), size)]
        for path in self.tmpfs:
            path.mkdir(parents=True, exist_ok=True)
        self._unshare = subprocess.Popen(
            [
                *["nsenter", f"--net=/run/netns/{self.namespace}"],
                *["unshare", "--uts", "--mount", "--pid", "--fork", "--mount-proc"],
                *["--kill-child", "sh", "-c", _INIT, "init"],
                *[str(self.folder.parent), self.name, *argv],
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._unshare.stdout
        assert self._unshare.stdout.readline() == "ready\n", f"{self.name} did not come up"
        self.server.enter = self.enter
        self.server.start()

    @property
    def enter(self) -> list[str]:
        """What a command is prefixed with to run on this host."""
        assert self._unshare
        (first,) = psutil.Process(self._unshare.pid).children()
        kinds = ["--net", "--uts", "--mount", "--pid"]
        return ["nsenter", f"--target={first.pid}", *kinds, "--"]

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command on this host."""
        return run(*self.enter, *argv, check=check)

    def link_down(self) -> None:
        """It falls silent: nothing is refused, nothing arrives."""
        run("ip", "-n", self.hub, "link", "set", self.port_of_bridge, "down")

    def link_up(self) -> None:
        run("ip", "-n", self.hub, "link", "set", self.port_of_bridge, "up")

    def slow_link(self, rate: str) -> None:
        """Both directions at no more than `rate`, in tc's words (10mbit)."""
        for namespace, device in ((self.hub, self.port_of_bridge), (self.namespace, "eth0")):
            shape = ["tbf", "rate", rate, "burst", "32kbit", "latency", "400ms"]
            run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *shape)

    def lossy_link(self, percent: int) -> None:
        """So many of a hundred packets that it is sent are dropped; not all (link_down)."""
        self._filter(f"numgen random mod 100 < {percent} drop")

    def block_port(self, port: int, *, silently: bool = False) -> None:
        """TCP connections to this port of it are refused, or vanish."""
        verdict = "drop" if silently else "reject with tcp reset"
        self._filter(f"tcp dport {port} {verdict}")

    def cut_off(self, address: str) -> None:
        """Nothing arrives from there; all others are heard."""
        self._filter(f"ip saddr {address} drop")

    def _filter(self, rule: str) -> None:
        hook = "type filter hook input priority 0;"
        table = f"table inet lab {{\nchain input {{\n{hook}\n{rule}\n}}\n}}\n"
        run(*self.enter, "nft", "-f", "-", stdin=table)

    def heal(self) -> None:
        """Undo the faults of the link."""
        self.link_up()
        for namespace, device in ((self.hub, self.port_of_bridge), (self.namespace, "eth0")):
            run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root", check=False)
        self.run("nft", "flush", "ruleset", check=False)

    def set_clock_off(self, seconds: float) -> None:
        """New Python processes that come over SSH see a clock that is wrong by so much. There is
        no namespace for the wall clock."""
        fake = self.folder / "clock"
        fake.mkdir(exist_ok=True)
        (fake / "sitecustomize.py").write_text(
            "import time\n"
            "def _off(real, by):\n    return lambda: real() + by\n"
            f"time.time = _off(time.time, {seconds})\n"
            f"time.time_ns = _off(time.time_ns, {int(seconds * 1e9)})\n"
        )
        self.server.environment = f"PYTHONPATH={fake}"
        self.stop_sshd()
        self.start_sshd()

    def stop_sshd(self) -> None:
        """The listener and its sessions; what was detached from them goes on."""
        self.server.stop()

    def start_sshd(self) -> None:
        self.server.start()
        await_port(self.address, self.server.port)

    def swap_host_key(self) -> None:
        """As if it had been installed anew, or were another machine."""
        for end in ("", ".pub"):
            Path(f"{self.server.host_key}{end}").unlink()
        make_key(self.server.host_key, self.name)
        self.stop_sshd()
        self.start_sshd()

    def die(self) -> None:
        """Every process of it ends at once, and it answers nothing any more."""
        if self._unshare:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self._unshare.pid).children():
                    child.kill()  # the first process of a pid namespace takes all others with it
            self._unshare.kill()
            self._unshare.wait()
            assert self._unshare.stdout
            self._unshare.stdout.close()
            self._unshare = None
        self.server.stop()


@dataclass
class Lab(SshLab):
    """Hosts, and how to reach them by SSH."""

    hosts: list[LabHost]
    address: str
    """This machine's, as the hosts reach it."""

    def __getitem__(self, name: str) -> LabHost:
        return next(host for host in self.hosts if host.name == name)


@contextmanager
def lab(folder: Path, count: int, *, tmpfs: dict[str, str] | None = None) -> Iterator[Lab]:
    """`count` hosts node1, node2, … below `folder`. `tmpfs`: path → size, of file systems that
    each host has of its own; everything else they share, as if it were network storage."""
    folder.mkdir(parents=True, exist_ok=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    number = next(_labs)
    prefix, uplink, subnet = (
        f"lab{os.getpid()}-{number}",
        f"l{os.getpid()}n{number}",
        _free_subnet(),
    )
    hub = f"{prefix}-hub"
    made: list[str] = []
    hosts: list[LabHost] = []
    try:
        _namespace(hub, made)
        _batch(
            f"link add {uplink} type veth peer name up0 netns {hub}",
            f"addr add {subnet}.254/24 dev {uplink}",
            f"link set {uplink} up",
        )
        _batch("link add br0 type bridge", "link set br0 up", namespace=hub)
        _batch("link set up0 master br0 up", namespace=hub)
        private = {Path(path): size for path, size in (tmpfs or {}).items()}
        for number in range(1, count + 1):
            name, namespace = f"node{number}", f"{prefix}-{number}"
            _namespace(namespace, made)
            _batch(
                f"link add v{number} type veth peer name eth0 netns {namespace}",
                f"link set v{number} master br0 up",
                namespace=hub,
            )
            _batch(
                f"addr add {subnet}.{number}/24 dev eth0", "link set eth0 up", namespace=namespace
            )
            host = LabHost(
                name, f"{subnet}.{number}", namespace, hub, f"v{number}", folder / name, private
            )
            hosts.append(host)
        _write_names(folder, hosts)
        make_key(folder / "key", "client")
        for host in hosts:
            host.server.make((folder / "key.pub").read_text())
            host.begin()
        built = Lab(folder, [host.server for host in hosts], hosts, f"{subnet}.254")
        built.write()
        for host in hosts:
            await_port(host.address, 22)
        yield built
    finally:
        for host in hosts:
            host.die()
        for namespace in reversed(made):
            for pid in run("ip", "netns", "pids", namespace, check=False).stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            run("ip", "netns", "del", namespace, check=False)


def _namespace(name: str, made: list[str]) -> None:
    run("ip", "netns", "add", name)
    made.append(name)
    run("ip", "-n", name, "link", "set", "lo", "up")


def _batch(*commands: str, namespace: str = "") -> None:
    within = ["-n", namespace] if namespace else []
    run("ip", *within, "-batch", "-", stdin="\n".join(commands))


def _free_subnet() -> str:
    """Several labs may run at once."""
    taken = run("ip", "route", "show").stdout
    for number in range(512):
        half, rest = divmod((os.getpid() + number) % 512, 256)
        subnet = f"198.{18 + half}.{rest}"
        if f"{subnet}." not in taken:
            return subnet
    raise RuntimeError("no free network is left in 198.18.0.0/15")


def _write_names(folder: Path, hosts: Sequence[LabHost]) -> None:
    """A name server that does not answer would cost seconds: hosts know each other's names, and
    ask nobody."""
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in hosts)]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    (folder / "resolv.conf").touch()
    (folder / "nsswitch.conf").write_text("hosts: files\n")
