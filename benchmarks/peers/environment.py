"""The peers that are asked the same questions, and environments that hold them: made once from the
package index with venv and pip, and kept in the cache folder."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

INSTALL_S = 600.0


@dataclass(frozen=True)
class Peer:
    """A tool, pinned, and the module that asks it."""

    name: str
    version: str
    program: str
    default_efficiency: str
    """The share of the peak that it takes where it is told none, in words."""
    requirements: tuple[str, ...] = ()
    """What its environment holds where it is not of the package index itself."""
    arguments: tuple[str, ...] = ()
    """Of the program."""

    @property
    def installed(self) -> tuple[str, ...]:
        return self.requirements or (f"{self.name}=={self.version}",)


PEERS = (
    Peer(
        "llm-analysis",
        "0.2.2",
        "benchmarks.peers.llm_analysis_program",
        "1 (its FLOPS_EFFICIENCY)",
    ),
    Peer(
        "mlsysim",
        "0.3.0",
        "benchmarks.peers.mlsysim_program",
        "0.5 (DistributedModel.solve's default)",
    ),
)


def calculon(checkout: Path) -> Peer:
    """Of no package index: asked from a checkout of calculon-ai/calculon."""
    return Peer(
        "calculon",
        "checkout",
        "benchmarks.peers.calculon_program",
        "its own, by the size of a product (systems/*.json)",
        requirements=("pandas==2.3.3", "psutil==7.2.2"),
        arguments=(str(checkout),),
    )


class PeerUnavailable(Exception):
    """Says why a peer cannot be asked."""


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smolplan" / "peers"


def python_of(peer: Peer, folder: Path, say: Callable[[str], None]) -> Path:
    """A Python that has the peer, from an environment in `folder`, which is made if it is not
    there: whole or not at all. Raises PeerUnavailable."""
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    kept = folder / f"{peer.name}-{peer.version}-{version}"
    if not (kept / "bin" / "python").exists():
        what = " and ".join(peer.installed)
        say(f"making an environment with {what} from the package index: {kept}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
        except OSError as error:
            raise PeerUnavailable(f"{folder}: {error.strerror}") from None
        try:
            _run([sys.executable, "-m", "venv", str(made)])
            pip = [str(made / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
            _run([*pip, "install", "--quiet", *peer.installed])
            # Another process may have been faster: its environment is as good.
            if not kept.exists():
                made.rename(kept)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return kept / "bin" / "python"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=INSTALL_S
        )
    except subprocess.TimeoutExpired:
        raise PeerUnavailable(f"{' '.join(command)}: not done in {INSTALL_S:g} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        why = errors[0] if errors else f"exit code {done.returncode}"
        raise PeerUnavailable(f"python {' '.join(command[1:])}: {why}")
