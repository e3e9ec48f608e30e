"""What peers are asked, as JSON to a program that runs in their own environment, and what they
answer."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers.environment import Peer, PeerUnavailable

ANSWER_S = 900.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """A dense model in one layout. Batches in sequences."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    gated: bool
    vocab: int
    parameters: int
    seq_len: int
    gpu: str
    """As networks.yaml calls it."""
    gpus: int
    gpus_per_node: int
    tp: int
    pp: int
    vp: int
    dp: int
    micro_batch: int
    accumulation: int
    zero: int
    recompute: str
    """none, selective or full."""


@dataclass(frozen=True)
class Answer:
    version: str
    times_s: list[list[float | None]]
    """A step of each run, by efficiency asked for; None where it was refused."""
    refused: list[str | None]
    """Why, by run."""
    fits: list[bool | None]
    """Whether the peer thinks that the run fits into memory."""
    took_s: list[float]
    """For all runs, by efficiency: the calls alone."""


def ask(
    peer: Peer, python: Path, runs: Sequence[Run], efficiencies: Sequence[float | None]
) -> Answer:
    """The step time of each run at each share of the peak (None: the peer's own default), on the
    core of this process. Raises PeerUnavailable."""
    question = {"runs": [asdict(run) for run in runs], "efficiencies": list(efficiencies)}
    try:
        done = subprocess.run(
            [str(python), "-P", "-m", peer.program, *peer.arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            input=json.dumps(question),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_S,
        )
    except subprocess.TimeoutExpired:
        raise PeerUnavailable(f"{peer.name}: no answer in {ANSWER_S:g} s") from None
    except OSError as error:
        raise PeerUnavailable(f"{python}: {error.strerror}") from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise PeerUnavailable(f"{peer.name}: {last or f'exit code {done.returncode}'}")
    return Answer(**json.loads(done.stdout))
