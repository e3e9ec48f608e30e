"""The loop of every peer's program: a question on standard input, an answer on standard output, as
JSON (benchmarks.peers.questions). Runs in the peer's environment: the standard library alone."""

import contextlib
import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

Price = Callable[[dict[str, Any], float | None], tuple[float, bool]]
"""Run and share of the peak to a step's seconds, and whether the run fits into memory. Raises
AssertionError or ValueError where the peer refuses it."""


def answer(version: str, price: Price, question: dict[str, Any]) -> dict[str, Any]:
    times: list[list[float | None]] = []
    took: list[float] = []
    refused: list[str | None] = []
    fits: list[bool | None] = []
    for efficiency in question["efficiencies"]:
        found: list[float | None] = []
        refused, fits = [], []
        began = perf_counter()
        for run in question["runs"]:
            seconds, fit, why = None, None, None
            try:
                seconds, fit = price(run, efficiency)
            except (AssertionError, ValueError) as error:
                why = str(error) or type(error).__name__
            found.append(seconds)
            refused.append(why)
            fits.append(fit)
        took.append(perf_counter() - began)
        times.append(found)
    return {
        "version": version,
        "times_s": times,
        "refused": refused,
        "fits": fits,
        "took_s": took,
    }


def serve(version: str, price: Price) -> None:
    question = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # peers print
        said = answer(version, price, question)
    json.dump(said, sys.stdout)
