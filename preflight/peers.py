"""Hosts compared with each other: who is slower than its fellows, and who is otherwise.

A fleet that trains waits for its slowest part at every step, so what counts is not only whether a
host is good enough, but whether it is as good as the rest.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf, log
from statistics import median

from preflight.registry import Better, Check
from preflight.report import IDENTITY, Result, State
from smolplan.units import format_bytes, format_count, format_duration

WORSE = 0.10
"""Share of the median by which a figure may be worse: what gpu-fryer flags among the GPUs of a
host, and DLRover among pairs of hosts (0.9 of the median); 5 % and more within a host are normal
(Stas Bekman, Machine Learning Engineering)."""

MUCH_WORSE = 0.30
"""From here on the host is not to be used, unless its figure is known to be enough for the plan.
Our choice: each step would take 1.4 times as long on all hosts, so a fleet of three is better off
without it."""

SHARED_APART = 0.50
"""WORSE of what hosts take from each other, such as storage while all of them measure it, not
all in the same second. Our choice: of three processes that measured one busy disk, one came out
41 to 51 % below the median of them."""

MODIFIED_Z = 3.5
"""Iglewicz and Hoaglin's limit for outliers, of 0.6745 · |x - median| / MAD, here of logarithms:
where the fleet differs in itself, as storage that all share does, a little more is no sign of a
fault, and a tenth of what the rest has still is one."""

NAMES = 4
"""How many hosts are named in a line."""

_GPU = re.compile(r"gpu\d+|gpu_\d+")


@dataclass(frozen=True)
class _Value:
    host: str
    name: str
    value: float
    enough: bool
    """Whether it is what the plan needs: then a host that is slower yet is warned of only."""


def judge(results: Sequence[Result], checks: Iterable[Check]) -> tuple[Result, ...]:
    """The results, those of hosts that stand out from their fellows made warnings or failures
    with source `fleet`."""
    known = {check.name: check for check in checks}
    by_check: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        # Where a host is found wanting by itself, that is what is to be told of it.
        if result.state in ("pass", "warn"):
            by_check[result.name].append(result)
    told: dict[tuple[str, str], Result] = {}
    for name, group in by_check.items():
        if name in known:
            words = _figures(group, known[name])
            for host, found in _facts(group).items():
                words.setdefault(host, []).append(found)
            for result in group:
                if result.host in words:
                    told[name, result.host] = _marked(result, words[result.host], known[name])
    return tuple(told.get((result.name, result.host), result) for result in results)


def medians(results: Iterable[Result]) -> dict[tuple[str, str], float]:
    """(check, figure) → the median of the hosts that have it, where there are several."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for result in results:
        for name, value in result.measured.items():
            values[result.name, name].append(value)
    return {key: median(found) for key, found in values.items() if len(found) > 1}


def few(hosts: Sequence[str]) -> str:
    """Names for a line: the first ones, and how many more."""
    named = ", ".join(hosts[:NAMES])
    return named if len(hosts) <= NAMES else f"{named} and {len(hosts) - NAMES} more"


def figure(name: str, value: float) -> str:
    """A figure in the unit that its name ends in."""
    if name.endswith("bytes_per_s"):
        return f"{format_bytes(value)}/s"
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name.endswith("_per_s"):
        return f"{format_count(value)}/s"
    if name.endswith("_s"):
        return format_duration(value)
    return format_count(value)


def _marked(result: Result, found: Sequence[tuple[State, str]], check: Check) -> Result:
    state: State = "fail" if any(state == "fail" for state, _ in found) else "warn"
    if result.severity == "advisory":
        state = "warn"
    words = "; ".join(why for _, why in found)
    return result.model_copy(
        update={
            "state": state,
            "source": "fleet",
            "why": "; ".join(filter(None, [words, result.why])),
            "remedy": result.remedy or check.remedy,
        }
    )


def _figures(group: Sequence[Result], check: Check) -> dict[str, list[tuple[State, str]]]:
    pools: dict[str, list[_Value]] = defaultdict(list)
    better: dict[str, Better] = {}
    for result in group:
        for name, value in result.measured.items():
            if way := direction(name, check.peers):
                pool = _GPU.sub("gpu*", name)
                enough = result.source == "plan"
                pools[pool].append(_Value(result.host, name, value, enough))
                better[pool] = way
    limit = check.peers_apart or WORSE
    words: dict[str, list[tuple[State, str]]] = {}
    for pool, values in pools.items():
        for outlier, state, why in _outliers(values, better[pool], limit):
            words.setdefault(outlier.host, []).append((state, why))
    return words


def direction(name: str, peers: Mapping[str, Better]) -> Better | None:
    """Which way is better, of a figure that is to be compared. `gemm_flops` stands for
    `gpu3_gemm_flops` and `gemm_gpu3_flops` too."""
    bare = re.sub(r"__+", "_", _GPU.sub("", name)).strip("_")
    for key, way in peers.items():
        if bare == key or fnmatchcase(name, key):
            return way
    return None


def _outliers(
    values: Sequence[_Value], way: Better, limit: float
) -> list[tuple[_Value, State, str]]:
    if len(values) < 2:
        return []
    if len(values) == 2:
        return _of_two(values, way, limit)
    middle = median(v.value for v in values)
    spread = median(_away(v.value, middle) for v in values) / 0.6745
    found: list[tuple[_Value, State, str]] = []
    for v in values:
        worse = worse_by(v.value, middle, way)
        if worse > limit and _away(v.value, middle) > MODIFIED_Z * spread:
            much = worse > max(MUCH_WORSE, 2 * limit) and way != "equal" and not v.enough
            why = f"{v.name} {figure(v.name, v.value)}, the fleet's median {figure(v.name, middle)}"
            if worse < inf:
                why += f": {worse:.0%} {'off' if way == 'equal' else 'worse'}"
            found.append((v, "fail" if much else "warn", why))
    return found


def _of_two(values: Sequence[_Value], way: Better, limit: float) -> list[tuple[_Value, State, str]]:
    """Nobody is the median of two: the worse one is named, and the other one with it."""
    first, second = values
    if way == "lower":
        first, second = sorted(values, key=lambda v: v.value)
    elif way == "higher":
        first, second = sorted(values, key=lambda v: -v.value)
    worse = worse_by(second.value, first.value, way)
    if worse <= limit:
        return []
    whose = first.host if first.host != second.host else first.name
    why = (
        f"{second.name} {figure(second.name, second.value)}, but {whose} has "
        f"{figure(first.name, first.value)}; of two nobody is the median"
    )
    return [(second, "warn", why)]


def _away(value: float, middle: float) -> float:
    """How far a value is from the middle, with twice and half of it equally far."""
    if value > 0 and middle > 0:
        return abs(log(value / middle))
    return 0.0 if value == middle else inf


def worse_by(value: float, than: float, way: Better) -> float:
    """By what share of `than` a value is worse."""
    away = {"higher": than - value, "lower": value - than, "equal": abs(value - than)}[way]
    if away <= 0:
        return 0.0
    return away / abs(than) if than else inf


def _facts(group: Sequence[Result]) -> dict[str, tuple[State, str]]:
    """Host → what is otherwise with it than with the most; all hosts, where no value has most."""
    words: dict[str, list[str]] = {}
    names = {name for result in group for name in result.facts if not name.startswith(IDENTITY)}
    for name in sorted(names):
        hosts_by_value: dict[str, list[str]] = defaultdict(list)
        for result in group:
            hosts_by_value[result.facts.get(name, "none")].append(result.host)
        if len(hosts_by_value) == 1:
            continue
        counted = Counter({value: len(hosts) for value, hosts in hosts_by_value.items()})
        (most, count), (_, second) = counted.most_common(2)
        for value, hosts in hosts_by_value.items():
            if count > second and value == most:
                continue
            if count > second:
                other = f"{most} on {few(hosts_by_value[most])}"
            else:
                rest = {v: h for v, h in hosts_by_value.items() if v != value}
                other = ", ".join(f"{v} on {few(h)}" for v, h in sorted(rest.items()))
            for host in hosts:
                words.setdefault(host, []).append(f"{name} is {value} here, {other}")
    return {host: ("fail", "; ".join(found)) for host, found in words.items()}
