"""What people write after an option, as a number, or else a UserError that names the option."""

import math
import os
import re
import stat
import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, overload

from smolplan.errors import UserError
from smolplan.units import parse_count, parse_duration_s

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


def number(where: str, text: str, parse: Callable[[str], float]) -> float:
    """What `parse` makes of the text; its ValueError becomes one of the user's."""
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(str(error), where=where) from None


@overload
def positive(where: str, text: str, parse: Callable[[str], float]) -> float: ...
@overload
def positive(where: str, text: None, parse: Callable[[str], float]) -> None: ...
def positive(where: str, text: str | None, parse: Callable[[str], float]) -> float | None:
    """A number above zero; None if the option was left out."""
    if text is None:
        return None
    value = number(where, text, parse)
    if value <= 0:
        raise UserError(
            f"{text} is not more than zero", where=where, remedy="Give a number above zero."
        )
    return value


def whole(where: str, text: str) -> int:
    """A number of GPUs, up to a billion."""
    value = positive(where, text, parse_count)
    if value != int(value) or value > 1e9:
        raise UserError(f"{text} is not a number of GPUs", where=where, remedy="Write it like 384.")
    return int(value)


def parse_share(text: str) -> float:
    """0.95 or 95% as 0.95, within any bounds. Raises ValueError."""
    given = text.strip()
    return float(given.removesuffix("%")) / (100 if given.endswith("%") else 1)


def share(where: str, text: str, *, remedy: str = "Write 95%.") -> float:
    """Above 0 and at most 1, written 0.95 or 95%."""
    try:
        value = parse_share(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:  # refuses NaN too
        raise UserError(
            f"{text!r} is not a share above 0 and at most 100%", where=where, remedy=remedy
        )
    return value


def is_bare_number(text: str) -> bool:
    """Whether the text ends without a unit."""
    return text.strip()[-1:] in set("0123456789.")


def span_s(where: str, text: str, *, zero: bool = False) -> float:
    """Seconds of a span, which must have a unit; 0 only if `zero`."""
    value = number(where, text, parse_duration_s)
    if value < 0 or (value == 0 and not zero):
        raise UserError(
            f"{text} is not more than zero",
            where=where,
            remedy="Write it like 30s, or 0 for none." if zero else "Write it like 30s or 4w.",
        )
    if value > 0 and is_bare_number(text):
        raise UserError(f"{text} has no unit", where=where, remedy=f"Write {text}s or {text}min.")
    return value


def deadline_s(text: str | None, now: "datetime") -> float | None:
    """A span in seconds; a date is as far as it is from `now`. Raises UserError."""
    from datetime import UTC, datetime

    remedy = "Write it like 4w, 30d, 12h or 2027-01-31."
    if text is None:
        return None
    if not re.fullmatch(r"\d{4}-\d{1,2}-\d{1,2}", text.strip()):
        try:
            seconds = parse_duration_s(text)
        except ValueError:
            raise UserError(
                f"{text!r} is neither a span nor a date", where="--deadline", remedy=remedy
            ) from None
        if is_bare_number(text) and seconds > 0:
            raise UserError(f"{text} has no unit", where="--deadline", remedy=remedy)
        if seconds <= 0:
            raise UserError(f"{text} is not more than zero", where="--deadline", remedy=remedy)
        return seconds
    try:
        year, month, day = map(int, text.split("-"))
        end = datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        raise UserError(
            f"{text} is not a date of the calendar", where="--deadline", remedy=remedy
        ) from None
    seconds = (end - now).total_seconds()
    if seconds <= 0:
        raise UserError(
            f"{text} is in the past", where="--deadline", remedy="Give a later date, or a span: 4w."
        )
    return seconds


def check_picture(where: str, path: "Path", suffixes: Collection[str]) -> None:
    """Raises UserError for a suffix that none of the pictures has, and for one that cannot be drawn
    here."""
    from planner.plot_png import can_draw_png

    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise UserError(
            f"a plot is no {suffix or 'file without a suffix'}",
            where=where,
            remedy=f"End the name in {', '.join(suffixes)}.",
        )
    if suffix == ".png" and not can_draw_png():
        raise UserError(
            "a PNG is drawn by matplotlib, which is not installed",
            where=where,
            remedy="Write an .svg or .html, or run pip install 'smolplan[plot]'.",
        )


def check_file(where: str, path: "Path | None", *, force: bool) -> None:
    """Raises UserError for a file that cannot be written, before the work that it is to hold."""
    if path is None:
        return
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        _try_folder(where, path)
        return
    except OSError as error:
        raise _unwritable(where, path, error) from None
    if stat.S_ISDIR(mode):
        raise UserError("it is a folder", where=_named(where, path), remedy="Name a file.")
    if not force:
        raise UserError(
            "the file exists", where=_named(where, path), remedy="Name another, or give --force."
        )
    if stat.S_ISREG(mode):
        _try_folder(where, path)


def write_file(where: str, path: "Path", content: bytes, *, force: bool) -> None:
    """Whole or not at all; over a file only by force. Raises UserError."""
    check_file(where, path, force=force)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device, which no file replaces
            path.write_bytes(content)
            return
        target = path.resolve()  # not the link to it
        beside = _beside(target)
        try:
            beside.write_bytes(content)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(where, path, error) from None


def say_written(path: "Path") -> None:
    """On standard error, to a person who waits for a word."""
    if sys.stderr.isatty():
        print(f"{path} is written", file=sys.stderr)


def _beside(path: "Path") -> "Path":
    """A short name, as that of the file may be as long as names can be."""
    return path.with_name(f".smolplan-{os.getpid()}")


def _try_folder(where: str, path: "Path") -> None:
    """Whether a file can be made there is known only by making one."""
    try:
        beside = _beside(path.resolve())
        beside.touch(exist_ok=False)
        beside.unlink()
    except OSError as error:
        raise _unwritable(where, path, error) from None


def _named(where: str, path: "Path") -> str:
    return f"{where} {str(path)[:200]}"


def _unwritable(where: str, path: "Path", error: OSError) -> UserError:
    return UserError(
        f"cannot write it: {error.strerror}",
        where=_named(where, path),
        remedy="Name a file in a folder that you may write to.",
    )
