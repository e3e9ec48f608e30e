"""How fast the ways between hosts are: round trips and bandwidth."""

from collections.abc import Callable, Mapping
from statistics import median

from preflight.checks.network.blame import Pair
from preflight.checks.network.meeting import blamed, measure, too_few
from preflight.fleet import FleetContext
from preflight.registry import fleet_check
from preflight.report import Finding
from smolplan.units import format_bytes, format_duration

SMALL_FLEET = 8
"""Hosts, up to which one slow host spoils so many of all ways (half of four hosts' ones) that their
median is no measure; the better quarter is."""

SLOW_ROUND_TRIP_S = 1e-3
"""From memory: within a data centre 0.05 to 0.5 ms over TCP."""
ROUND_TRIP_TIMES = 3.0
ROUND_TRIP_MORE_S = 2e-4
"""Of the fleet's median, and beyond it: what a busy core adds to a round trip."""

SENDING_S = 0.3
BANDWIDTH_SHARE = 0.5
"""Of the fleet's median that a pair must reach. Less than among collectives on idle hosts
(preflight/bisect.py): a few streams of TCP between many hosts at once vary by a third."""

TRIES_AGAIN = 3
"""Of pairs that seem slow."""


def usual_of(figures: Mapping[Pair, float], *, better: Callable[..., float]) -> float:
    """What is to be expected of a way between two hosts, by those of the others."""
    if len({host for pair in figures for host in pair}) > SMALL_FLEET:
        return median(figures.values())
    best_first = sorted(figures.values(), reverse=better is max)
    return best_first[(len(best_first) - 1) // 4]


@fleet_check(
    "network.latency",
    severity="advisory",
    deadline_s=180.0,
    passive=True,
    remedy="Look for a host on another switch or zone, a busy core (top), or an adapter that "
    "saves interrupts (ethtool -c).",
)
def latency(context: FleetContext) -> list[Finding]:
    """Round trips between the hosts are short, and alike."""
    if skipped := too_few(context):
        return skipped
    found, silent = measure(context, "latency", 0.6)
    if not found:
        return silent
    times = {pair: float(row["median_s"]) for pair, row in found.items()}
    slow = _late(times)
    for _try in range(TRIES_AGAIN):
        if not slow:
            break
        # A core may have been busy with something else, and fewer measure now: the best counts.
        for pair, row in measure(context, "latency", 0.6, None, slow)[0].items():
            times[pair] = min(times[pair], row["median_s"])
        slow = _late(times)
    usual = usual_of(times, better=min)
    measured = {"median_s": usual, "p99_s": max(row["p99_s"] for row in found.values())}
    findings = []
    for host, pairs, way in blamed(slow, found):
        worst = max(times[pair] for pair in pairs)
        findings.append(
            Finding(
                state="warn",
                host=host,
                summary=f"{format_duration(worst)} {way}, elsewhere {format_duration(usual)}",
                why="every collective waits for the slowest way",
                measured={"median_s": worst},
                needed={"median_s": _latest(usual)},
                source="fleet",
            )
        )
    if not findings:
        slow_all = usual > SLOW_ROUND_TRIP_S
        findings.append(
            Finding(
                state="warn" if slow_all else "pass",
                summary=f"{format_duration(usual)} usual, p99 up to "
                f"{format_duration(measured['p99_s'])}, {len(found)} ways",
                why="small collectives wait for it" if slow_all else "",
                measured=measured,
                needed={"median_s": SLOW_ROUND_TRIP_S},
                source="table",
            )
        )
    return [*findings, *silent]


def _latest(usual_s: float) -> float:
    return max(ROUND_TRIP_TIMES * usual_s, usual_s + ROUND_TRIP_MORE_S)


def _late(times: Mapping[Pair, float]) -> set[Pair]:
    most = _latest(usual_of(times, better=min))
    return {pair for pair, took in times.items() if took > most}


@fleet_check(
    "network.bandwidth",
    deadline_s=240.0,
    remedy="Look at the interface's speed and errors (ethtool INTERFACE, ip -s link), its cable "
    "and switch port, and for shaping (tc qdisc show).",
)
def bandwidth(context: FleetContext) -> list[Finding]:
    """Every host sends and receives as fast as its fellows, by TCP, all at once."""
    if skipped := too_few(context):
        return skipped
    told, nothing = {"seconds": SENDING_S}, {"bytes_per_s": 0.0}
    found, silent = measure(context, "bandwidth", 1.0, told, (), nothing)
    if not found:
        return silent
    rates = {pair: float(row["bytes_per_s"]) for pair, row in found.items()}
    slow = _slow(rates)
    for _try in range(TRIES_AGAIN):
        if not slow:
            break
        for pair, row in measure(context, "bandwidth", 1.0, told, slow, nothing)[0].items():
            rates[pair] = max(rates[pair], row["bytes_per_s"])
        slow = _slow(rates)
    usual = usual_of(rates, better=max)
    findings = []
    for host, pairs, way in blamed(slow, found):
        worst = min(rates[pair] for pair in pairs)
        rate = f"{format_bytes(worst)}/s" if worst else "nothing comes"
        findings.append(
            Finding(
                state="fail",
                host=host,
                summary=f"{rate} {way}, elsewhere {format_bytes(usual)}/s",
                why="all ranks wait for the slowest way in every collective",
                measured={"bytes_per_s": worst},
                needed={"bytes_per_s": BANDWIDTH_SHARE * usual},
                source="fleet",
            )
        )
    if not findings:
        lowest = min(rates.values())
        findings.append(
            Finding(
                state="pass",
                summary=f"{format_bytes(usual)}/s usual, {format_bytes(lowest)}/s at least, "
                f"{len(rates)} ways",
                measured={"usual_bytes_per_s": usual, "bytes_per_s": lowest},
                needed={"bytes_per_s": BANDWIDTH_SHARE * usual},
                source="fleet",
            )
        )
    return [*findings, *silent]


def _slow(rates: Mapping[Pair, float]) -> set[Pair]:
    least = BANDWIDTH_SHARE * usual_of(rates, better=max)
    return {pair for pair, rate in rates.items() if rate < least}
