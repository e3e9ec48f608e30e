"""Whatever is written behind an option, into a spec, a budget, a table or a stored calibration:
every command ends with an answer or with a sentence and exit code 2, and prints no NaN."""

import contextlib
import io
import json
import math
import os
import re
import sys
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner import calibration
from smolplan.cli.main import main
from smolplan.spec import load_preset
from tests.planner.test_calibration import MEASURED
from tests.planner.test_predict import LLAMA, write

NONSENSE = [
    *("", " ", "0", "-0", "-1", "-1e9", "nan", "NaN", "inf", "-inf", "1e300", "1e-300", "1e999"),
    *("9" * 400, "-" + "9" * 400, "x", "--", "½", "∞", "٣", "0x10", "1,5", "1.5.2", "3 4"),
    *("4w4d", "1e18T", "1e308y", "nan%", "-50%", "1e300%", "0%", "null", "[]", "{}", "1e5000"),
    *("2026-02-31", "0000-01-01", "9999-12-31", "99999-1-1", "a" * 10_000, "\n", "é\udc80", "=1"),
]
BUDGET = Path(__file__).resolve().parents[2] / "examples" / "smollm3-budget.yaml"
NOT_FINITE = re.compile(r"(?i)(?<![\w.-])-?(nan|inf|infinity)(?![\w.])")
"""As a number is printed, not as part of a word."""


def run(*arguments: str) -> tuple[int, str, str]:
    """As the command does, in this process: exit code, standard output, standard error. Any other
    exception is a traceback, and the test's failure."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["smolplan", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return code, out.getvalue(), err.getvalue()


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in JSON")


def check(*arguments: str, echoes: bool = False) -> int:
    """`echoes`: texts of a file come back, so that "nan" may be a name."""
    code, out, err = run(*arguments)
    assert code in (0, 2), (code, err)
    if code == 2:
        assert err.strip(), arguments
        assert "Traceback" not in err
    elif "--json" in arguments:
        json.loads(out, parse_constant=refuse)
    elif not echoes:
        found = NOT_FINITE.search(out)
        assert found is None, out[max(0, found.start() - 80) : found.end() + 80]
    return code


ESTIMATE = ("estimate", "--params", "3B", "--tokens", "11T", "--deadline", "4w")
GOODPUT = ("goodput", "--gpus", "1024", "--work", "20d")
OPTIONS: dict[tuple[str, ...], tuple[str, ...]] = {
    ESTIMATE: (
        *("--params", "--tokens", "--deadline", "--gpu", "--gpus", "--mfu", "--mfu-base"),
        *("--achievable", "--flops-formula", "--tokens-per-s-per-gpu", "--node-size"),
        *("--lost-hours", "--price", "--preset", "--model", "--seq-len"),
    ),
    GOODPUT: (
        *("--gpus", "--work", "--gpu-hours", "--deadline", "--confidence", "--fleet", "--mttf"),
        *("--preset", "--checkpoint-bytes", "--storage-bandwidth", "--interval", "--stall"),
        *("--write", "--detect", "--provision", "--load", "--warm-up", "--planned-every"),
        *("--spares", "--repair", "--scaling", "--node-size"),
    ),
    ("goodput", "--gpu-hours", "276480", "--deadline", "4w"): ("--confidence", "--stall"),
    ("budget", "--preset", "smollm3-3b"): ("--preset", "--price"),
    ("plan", "smollm3-3b"): ("--by", "--top", "--gpus", "--restrict", "--stack", "--price"),
}


@pytest.mark.parametrize(
    ("command", "option"),
    [(command, option) for command, options in OPTIONS.items() for option in options],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_nonsense_behind_an_option_ends_in_an_answer_or_in_a_sentence(
    command: tuple[str, ...], option: str
) -> None:
    forms = cycle([(), ("--json",)])
    refused = sum(check(*command, option, text, *next(forms)) == 2 for text in NONSENSE)
    assert refused > len(NONSENSE) / 2


texts = st.one_of(
    st.sampled_from(NONSENSE),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12),
    st.builds(
        lambda number, unit: f"{number:g}{unit}",
        st.floats(allow_nan=True, allow_infinity=True),
        st.sampled_from(["", "B", "T", "w", "y", "ms", "%", "GB", "TB/s", "TFLOPS", "Gb/s"]),
    ),
)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.data())
def test_several_options_at_once_end_in_an_answer_or_in_a_sentence(data: st.DataObject) -> None:
    command = data.draw(st.sampled_from([ESTIMATE[:1], GOODPUT[:1], ESTIMATE, GOODPUT]))
    known = OPTIONS[ESTIMATE if command[0] == "estimate" else GOODPUT]
    chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=5, unique=True))
    check(*command, *(word for option in chosen for word in (option, data.draw(texts))))


values = st.one_of(
    st.sampled_from([None, True, 0, -1, 1, 10**30, 1e300, 1e-300, math.nan, math.inf, "", "x"]),
    st.sampled_from([[], {}, [[]], "nan", "1e300", "3B", "-1", "4w", "0", "9" * 40]),
    st.integers(-(2**40), 2**70),
    st.floats(),
    texts,
)


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in it, branches too."""
    pairs = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    below = [one for key, part in pairs for one in leaves(part, (*path, key))]
    return [path, *below] if path else below


def with_changes(content: Any, data: st.DataObject) -> Any:
    """One to three of its parts replaced by nonsense."""
    content = json.loads(json.dumps(content))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(leaves(content)))
        *way, last = path
        place = content
        for key in way:
            place = place[key]
        place[last] = data.draw(values)
        if not leaves(content):
            break
    return content


FILES = settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FILES
@given(data=st.data())
def test_a_spec_with_nonsense_in_it_is_planned_or_refused(
    data: st.DataObject, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    spec = with_changes(load_preset("smollm3-3b").model_dump(mode="json"), data)
    path.write_text(yaml.safe_dump(spec, allow_unicode=False), "utf-8")
    check("plan", str(path), "--restrict", "tp<=2,pp=1,cp=1", "--json")


@FILES
@given(data=st.data())
def test_a_budget_with_nonsense_in_it_is_answered_or_refused(
    data: st.DataObject, tmp_path: Path
) -> None:
    path = tmp_path / "budget.yaml"
    budget = with_changes(yaml.safe_load(BUDGET.read_text("utf-8")), data)
    path.write_text(yaml.safe_dump(budget, allow_unicode=False), "utf-8")
    form = data.draw(st.sampled_from([(), ("--json",), ("--explain",)]))
    check("budget", str(path), *form, echoes=True)


@FILES
@given(data=st.data())
def test_a_table_with_nonsense_in_it_is_predicted_skipped_or_refused(
    data: st.DataObject, tmp_path: Path
) -> None:
    rows = [dict(LLAMA), dict(LLAMA)]
    for row in rows:
        for column in data.draw(st.lists(st.sampled_from(sorted(LLAMA)), max_size=4)):
            text = str(data.draw(texts)).replace(",", ".").replace('"', "'")
            row[column] = " ".join(text.split()).encode("utf-8", "replace").decode()
    path = write(tmp_path / "runs.csv", *rows)
    check("predict", str(path), *data.draw(st.sampled_from([(), ("--json",)])), echoes=True)


@FILES
@given(data=st.data())
def test_a_stored_calibration_with_nonsense_in_it_is_shown_or_refused(
    data: st.DataObject, tmp_path: Path
) -> None:
    path = tmp_path / calibration.FILE
    calibration.write(MEASURED, path)
    stored = with_changes(json.loads(path.read_text("utf-8")), data)
    path.write_text(json.dumps(stored), "utf-8")
    with patch.dict(os.environ, {"SMOLPLAN_STATE": str(tmp_path)}):
        check("calibrate", "--show", *data.draw(st.sampled_from([(), ("--json",)])), echoes=True)
        check("plan", "smollm3-3b", "--restrict", "tp=2,pp=1", "--stack", "measured", echoes=True)
