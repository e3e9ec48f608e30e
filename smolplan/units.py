"""Quantities as people write them ("11T", "4w", "990TFLOPS", "3.35TB/s") to numbers, and back.

Every parser takes a number or a text, returns a finite float in the base unit that its name
ends in, and raises ValueError with a sentence that says what would be right.
"""

import math
import re
from collections.abc import Mapping

# A comma groups thousands and nothing else: "1,5B" is 1.5 to half of the world and 15 to nobody.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d[\d_]*)"
_NUMBER = re.compile(rf"^\s*([+-]?(?:{_DIGITS}\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")

HOUR_S = 3600.0
DAY_S = 86_400.0
YEAR_S = 365.25 * DAY_S

COUNT_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12, "q": 1e15}
DURATION_SUFFIXES_S = {
    "": 1.0,
    "ms": 1e-3,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), HOUR_S),
    **dict.fromkeys(("d", "day", "days"), DAY_S),
    **dict.fromkeys(("w", "week", "weeks"), 7 * DAY_S),
    **dict.fromkeys(("y", "year", "years"), YEAR_S),
}
_METRIC = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21}
_BINARY = {"ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30, "ti": 2.0**40, "pi": 2.0**50}
BYTE_SUFFIXES = {
    "": 1.0,
    "b": 1.0,
    **{f"{k}b": v for k, v in _METRIC.items() if k},
    **{f"{k}b": v for k, v in _BINARY.items()},
}


def _parse(value: float | str, suffixes: Mapping[str, float], what: str, examples: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{_short(value)} is not {what}; write it like {examples}")
    if isinstance(value, str):
        match = _NUMBER.match(value)
        scale = suffixes.get(match.group(2).lower()) if match else None
        if match is None or scale is None:
            raise ValueError(f"{_short(value)} is not {what}; write it like {examples}")
        number = float(match.group(1).replace(",", "").replace("_", "")) * scale
    else:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{_short(value)} is not a finite number; write {what} like {examples}")
    return number


def _short(value: float | str) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python will print
        return "such a number"
    return text if len(text) <= 40 else text[:37] + "..."


def parse_count(value: float | str) -> float:
    """Parameters, tokens, GPUs: "3B" → 3e9, "11T" → 1.1e13, "384" → 384."""
    return _parse(value, COUNT_SUFFIXES, "a count", "3B, 11T, 500M or 384")


def parse_plain(value: float | str, what: str, examples: str) -> float:
    """A number without any unit: a price, a share."""
    return _parse(value, {"": 1.0}, what, examples)


def parse_duration_s(value: float | str) -> float:
    """A span of time in seconds: "4w" → 2,419,200; a bare number is seconds."""
    return _parse(value, DURATION_SUFFIXES_S, "a duration", "4w, 30d, 12h, 90min or 45s")


def parse_bytes(value: float | str) -> float:
    """A size in bytes: "80GB" → 8e10 (decimal), "80GiB" → 85,899,345,920 (binary)."""
    return _parse(value, BYTE_SUFFIXES, "a size", "80GB, 24TB or 512MiB")


def parse_flops(value: float | str) -> float:
    """FLOPs, or FLOP/s where the name says so: "990TFLOPS" or "990TFLOP/s" → 9.9e14."""
    if isinstance(value, str):
        value = re.sub(r"(?i)flop(?:/s|s)?\s*$", "", value)
    return _parse(value, _METRIC, "a number of FLOPs", "990TFLOPS or 1.98e23")


def parse_bytes_per_s(value: float | str) -> float:
    """A bandwidth in bytes per second: "3.35TB/s" → 3.35e12; "400Gb/s" (bits) → 5e10."""
    what, examples = "a bandwidth", "3.35TB/s, 450GB/s or 400Gb/s (bits)"
    if isinstance(value, str):
        bits = re.fullmatch(r"\s*([\d.eE+_,]+)\s*([kKMGT]?)(?:b/s|bps|bit/s)\s*", value)
        if bits:
            return _parse(bits.group(1), {"": 1.0}, what, examples) * _METRIC[bits[2].lower()] / 8
        value = re.sub(r"/s\s*$", "", value)
    return _parse(value, BYTE_SUFFIXES, what, examples)


def _with_suffix(value: float, steps: list[tuple[float, str]], digits: int) -> str:
    for scale, suffix in steps:
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g}{suffix}"
    return f"{value:.{digits}g}{steps[-1][1] if steps[-1][0] == 1 else ''}"


def format_count(value: float) -> str:
    """3075098624 → "3.08B"; up to 9,999 in full."""
    if abs(value) < 1e4:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return _with_suffix(value, [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")], 3)


def count_of(number: float | str, noun: str) -> str:
    """1 and "rank" as "1 rank", 1024 as "1,024 ranks"; a text is taken as a number written out."""
    written = number if isinstance(number, str) else f"{number:,}"
    several = noun + ("es" if noun.endswith(("tch", "s")) else "s")
    return f"{written} {noun if written == '1' else several}"


def three_digits(value: float) -> str:
    """3030 → "3,030", 30.25 → "30.2": no powers of ten before nobody counts any more."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e10 else f"{value:.3g}"


def format_duration(seconds: float) -> str:
    """2_388_000 → "27.6 d"; the largest unit that leaves a number above one."""
    for scale, suffix in [(DAY_S, "d"), (HOUR_S, "h"), (60.0, "min"), (1.0, "s")]:
        if abs(seconds) >= scale:
            return f"{three_digits(seconds / scale)} {suffix}"
    return f"{seconds * 1e3:.3g} ms"


def format_bytes(value: float) -> str:
    """85_899_345_920 → "85.9 GB" (decimal, as storage and datasheets count)."""
    return _with_suffix(
        value, [(1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1, " B")], 3
    )
