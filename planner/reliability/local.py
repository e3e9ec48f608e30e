"""Checkpoints on two levels: copies in the nodes' memory or on their disks every few minutes, and
remote checkpoints written from them. A failure loses the copies with probability q, and then rolls
back to the newest safe remote checkpoint; otherwise to the newest copy.

Between two safe remote checkpoints lie pieces of s seconds, each ending with a copy. With j of K
pieces done, T(j) to the end of them, L the time from the failure to training again, and C, Λ for
copies kept and lost after it:

    T(j) = P(no failure) (s + T(j+1)) + E[cut] + E[L] + P(C) T(j) + P(Λ) T(0)

which is linear; T(0) = b/d (a^−K − 1), a = 1 − d. With q = 1 and one piece it is the model of
planner/reliability/wall_time.py. The second moments follow in the same way.
"""

import math
from dataclasses import dataclass

from planner.reliability.distributions import Moments
from planner.reliability.renewal import cut_short, episode
from planner.reliability.run import Run


@dataclass(frozen=True)
class Ending:
    """Of what follows a failure, until training again, as far as it ends in one way: probability,
    and ∫ x f and ∫ x² f of its length x."""

    share: float
    mean: float
    square: float

    def __add__(self, other: "Ending") -> "Ending":
        return Ending(self.share + other.share, self.mean + other.mean, self.square + other.square)

    def __rmul__(self, factor: float) -> "Ending":
        return Ending(factor * self.share, factor * self.mean, factor * self.square)


@dataclass(frozen=True)
class TwoLevels:
    """Between two safe remote checkpoints, and per failure."""

    fresh: Moments
    """Time from a safe remote checkpoint, with nothing done since, to the next."""
    going: Moments
    """The same from the moment at which it became safe, with pieces done while it was written."""
    fresh_attempts: float
    """Pieces begun in it."""
    going_attempts: float
    failed: float
    """Share of the pieces that a failure cuts short."""
    running_s: float
    """Running time of a piece begun, on average."""
    kept: float
    """Share of the failures while running after which training goes on from a copy."""
    local_restarts: float
    """Restarts from copies begun, per failure while running; those that fail among them."""
    remote_restarts: float


def two_levels(run: Run) -> TwoLevels:
    """Raises nothing: the caller has checked that it ends."""
    local, m, s = run.local, run.mttf_s, run.piece_s
    assert local is not None
    failed, cut = cut_short(s, m)
    kept, lost, gone = _endings(run)
    ends, pieces, first = kept + lost, run.pieces + run.write_pieces, run.write_pieces
    stay = 1 - failed * kept.share
    d = failed * lost.share / stay
    b = ((1 - failed) * s + cut.mean + failed * ends.mean) / stay
    t_0 = b * _sum_of_powers(d, pieces)
    growth = math.exp(-pieces * math.log1p(-d))  # a^−K

    # Backwards from the last piece; squares are (α + β U(0)), with 1 − β = a^(K − j).
    time, alpha = 0.0, 0.0
    at = {pieces: (time, alpha)}
    for j in range(pieces - 1, -1, -1):
        after = time
        time = (1 - d) * time + b + d * t_0
        square = (1 - failed) * (s**2 + 2 * s * after) + cut.square
        square += 2 * cut.mean * ends.mean + failed * ends.square
        square += 2 * (cut.mean * kept.share + failed * kept.mean) * time
        square += 2 * (cut.mean * lost.share + failed * lost.mean) * t_0
        alpha = (1 - d) * alpha + square / stay
        if j in (0, first):
            at[j] = (time, alpha)
    u_0 = at[0][1] * growth
    remaining = -math.expm1((pieces - first) * math.log1p(-d))  # β at `first`
    restarting, _ = cut_short(run.local_busy_s, m)
    remote_failing, _ = cut_short(run.restart.busy_s, m)
    return TwoLevels(
        fresh=Moments(t_0, u_0),
        going=Moments(at[first][0], at[first][1] + remaining * u_0),
        fresh_attempts=_sum_of_powers(d, pieces) / stay,
        going_attempts=_sum_of_powers(d, pieces, first) / stay,
        failed=failed,
        running_s=s if math.isinf(m) else m * failed,
        kept=kept.share,
        local_restarts=(1 - local.lost) / (1 - restarting * (1 - local.lost)),
        remote_restarts=gone / (1 - remote_failing),
    )


def _sum_of_powers(d: float, pieces: int, first: int = 0) -> float:
    """Σ a^−i over first < i ≤ pieces: (a^−K − a^−first) / d, a = 1 − d."""
    if d * pieces < 1e-12:
        return float(pieces - first)
    step = -math.log1p(-d)
    return math.exp(first * step) * math.expm1((pieces - first) * step) / d


def _endings(run: Run) -> tuple[Ending, Ending, float]:
    """After a failure while running: with the copies kept, with them lost; and the probability that
    a restart from the remote checkpoint is begun."""
    local, m, d, r = run.local, run.mttf_s, run.restart.detect_s, run.local_busy_s
    assert local is not None
    q = local.lost
    whole = episode(run.restart, m)
    remote = Ending(1.0, whole.mean, whole.square)
    failed, cut = cut_short(r, m)
    passed, again = 1 - failed, 1 - failed * (1 - q)

    share = passed / again
    mean = (d * share + passed * r + (1 - q) * cut.mean * share) / again
    square = d**2 * share + 2 * d * (mean - d * share) + passed * r**2
    square += (1 - q) * (cut.square * share + 2 * cut.mean * mean)
    kept = Ending(share, mean, square / again)

    share = 1 - share
    further = cut.mean + failed * whole.mean
    mean = (d * share + (1 - q) * cut.mean * share + q * further) / again
    square = d**2 * share + 2 * d * (mean - d * share)
    square += (1 - q) * (cut.square * share + 2 * cut.mean * mean)
    square += q * (cut.square + 2 * cut.mean * whole.mean + failed * whole.square)
    lost = q * remote + (1 - q) * Ending(share, mean, square / again)
    return (1 - q) * kept, lost, lost.share
