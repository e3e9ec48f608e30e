import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.peers.environment import PEERS, Peer, PeerUnavailable, python_of
from benchmarks.peers.questions import ROOT

PEER = Peer("smolplan-made-up-peer", "0.1", "none", "none")


def wheel(folder: Path) -> None:
    """The least that pip installs."""
    info = "smolplan_made_up_peer-0.1.dist-info"
    files = {
        "smolplan_made_up_peer.py": "ANSWER = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: smolplan-made-up-peer\nVersion: 0.1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / "smolplan_made_up_peer-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)


@pytest.fixture
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds what lies in a folder, and nothing else."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def test_an_environment_is_made_once_and_has_the_peer(no_index: Path, tmp_path: Path) -> None:
    wheel(no_index)
    said: list[str] = []
    python = python_of(PEER, tmp_path / "cache", said.append)
    program = "import smolplan_made_up_peer as peer; print(peer.ANSWER)"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"
    assert python_of(PEER, tmp_path / "cache", said.append) == python
    assert len(said) == 1 and "smolplan-made-up-peer==0.1" in said[0]


def test_without_an_index_the_reason_is_told_and_nothing_is_left(
    no_index: Path, tmp_path: Path
) -> None:
    with pytest.raises(PeerUnavailable, match=r"smolplan-made-up-peer==0\.1"):
        python_of(PEER, tmp_path / "cache", lambda text: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PeerUnavailable, match="Not a directory"):
        python_of(PEER, tmp_path / "file" / "cache", lambda text: None)


def test_every_peer_is_pinned_and_its_program_starts_and_misses_only_the_peer() -> None:
    for peer in PEERS:
        assert peer.version.count(".") == 2
        # -S: without what happens to be installed here.
        command = [sys.executable, "-S", "-m", peer.program]
        done = subprocess.run(command, input="{}", capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 1
        assert f"No module named '{peer.name.replace('-', '_')}'" in done.stderr
