"""Checkpoints on two levels: copies in the nodes' memory or on their disks every few minutes, and
remote checkpoints written from them. A failure loses the copies with probability q, and then rolls
back to the newest safe remote checkpoint; otherwise to the newest copy.

A segment is k pieces of s seconds, each ending with a copy; a remote checkpoint is safe ω after the
copy that it is written from, w whole pieces and a rest later. With j pieces done since the newest
safe checkpoint, T(j) until the next one is safe, L the time from a failure to training again, and C
and Λ for copies kept and lost after it,

    T(j) = P(no failure) (s + T(j+1)) + E[cut] + E[L] + P(C) T(j) + P(Λ) T(0)

is linear, and so are the second moments. With q = 1 and one piece it is the model of
planner/reliability/wall_time.py.
"""

import math
from dataclasses import dataclass

from planner.reliability.distributions import Moments
from planner.reliability.renewal import MOST_MTTFS, begun_s, cut_short, episode, never_ends
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
class Passage:
    """Time until the next remote checkpoint is safe, and how much of it is running."""

    time: Moments
    running_s: float


@dataclass(frozen=True)
class TwoLevels:
    """Between two safe remote checkpoints, and per failure."""

    fresh: Passage
    """From a safe one, with nothing done since."""
    going: Passage
    """From the moment at which one became safe, with what was done while it was written."""
    kept: float
    """Share of the failures while running after which training goes on from a copy."""
    local_restarts: float
    """Restarts from copies begun, per failure while running; those that fail among them."""
    remote_restarts: float


class _Attempts:
    """What one attempt at so many seconds adds to the recurrences."""

    def __init__(self, run: Run, kept: Ending, lost: Ending) -> None:
        self._mttf_s, self._kept, self._lost = run.mttf_s, kept, lost
        self._ends = kept + lost

    def of(self, length_s: float, after: Passage, here: Passage | None, start: Passage) -> Passage:
        """From one that has `after` ahead if it succeeds, `here` if copies are kept (None: the same
        once more) and `start` if they are lost."""
        failed, cut = cut_short(length_s, self._mttf_s)
        passed, kept, lost, ends = 1 - failed, self._kept, self._lost, self._ends
        stay = 1.0 if here is not None else 1 - failed * kept.share

        mean = passed * (length_s + after.time.mean) + cut.mean + failed * ends.mean
        mean += failed * lost.share * start.time.mean
        running = begun_s(length_s, self._mttf_s) + passed * after.running_s
        running += failed * lost.share * start.running_s
        if here is not None:
            mean += failed * kept.share * here.time.mean
            running += failed * kept.share * here.running_s
        again = mean / stay if here is None else here.time.mean

        square = passed * (length_s**2 + 2 * length_s * after.time.mean + after.time.square)
        square += cut.square + 2 * cut.mean * ends.mean + failed * ends.square
        square += 2 * (cut.mean * kept.share + failed * kept.mean) * again
        square += 2 * (cut.mean * lost.share + failed * lost.mean) * start.time.mean
        square += failed * lost.share * start.time.square
        if here is not None:
            square += failed * kept.share * here.time.square
        return Passage(Moments(mean / stay, square / stay), running / stay)

    def on(self, length_s: float) -> float:
        """Probability of getting through it before a failure loses the copies."""
        failed, _ = cut_short(length_s, self._mttf_s)
        return (1 - failed) / (1 - failed * self._kept.share)


_NOTHING = Passage(Moments(0.0, 0.0), 0.0)


def two_levels(run: Run) -> TwoLevels:
    """Raises UserError where failures come so fast that the run would not end."""
    local, m, s, write = run.local, run.mttf_s, run.piece_s, run.checkpoint.write_s
    assert local is not None
    if (s + max(run.restart.busy_s, run.local_busy_s)) / m > MOST_MTTFS:
        raise never_ends(run)
    kept, lost, gone = _endings(run)
    attempts = _Attempts(run, kept, lost)
    whole = int(write // s)
    rest = write - whole * s
    last = run.pieces + whole
    # Each is linear in what lies ahead at the start, and reaches it with 1 − reaching.
    reaching = attempts.on(rest) * attempts.on(s) ** last
    if reaching < math.exp(-MOST_MTTFS):
        raise never_ends(run)

    def back_to_the_start(start: Passage) -> tuple[Passage, Passage, Passage]:
        """From the first piece, and from those around which a checkpoint becomes safe."""
        ahead = attempts.of(rest, _NOTHING, None, start)
        found = {last: ahead}
        for j in range(last - 1, -1, -1):
            ahead = attempts.of(s, ahead, None, start)
            if j in (whole, whole + 1):
                found[j] = ahead
        return ahead, found[whole], found[whole + 1]

    alone, _, _ = back_to_the_start(_NOTHING)
    mean, running = alone.time.mean / reaching, alone.running_s / reaching
    cross, _, _ = back_to_the_start(Passage(Moments(mean, 0.0), running))
    fresh = Passage(Moments(mean, cross.time.square / reaching), running)
    _, here, after = back_to_the_start(fresh)
    going = attempts.of(s - rest, after, here, fresh)

    failing, _ = cut_short(run.local_busy_s, m)
    remote_failing, _ = cut_short(run.restart.busy_s, m)
    return TwoLevels(
        fresh=fresh,
        going=going,
        kept=kept.share,
        local_restarts=(1 - local.lost) / (1 - failing * (1 - local.lost)),
        remote_restarts=gone / (1 - remote_failing),
    )


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
