"""What the README, docs/ and --help say of the repository and of the commands is so."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from planner.predict.report import compare
from planner.predict.rows import read_rows
from smolplan.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "examples" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each line of a code block that calls smolplan, without its comment."""
    for line in page.read_text(encoding="utf-8").splitlines():
        called = re.match(r"(?: {4})?(?:\$ )?smolplan (.*)$", line)
        if called:
            yield called[1].partition(" #")[0].split()


def check_options(words: list[str]) -> None:
    """That the command is there, and has each option."""
    command = get_command(app)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, name
        command = command.commands[name]
    known = {"--help", *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}
    shown = {w.strip("[]") for w in words if w.strip("[]").startswith("--")}
    assert shown <= known, (command.name, shown - known)


def help_examples(command: Any) -> Iterator[str]:
    """The commands that a help text and those below it show after the word Example."""
    shown = (command.help or "").partition("Example")[2]
    yield from re.findall(r"`smolplan ([^`]+)`", shown)
    for part in command.commands.values() if isinstance(command, TyperGroup) else ():
        yield from help_examples(part)


EXAMPLES = sorted(set(help_examples(get_command(app))))
NEEDS_NOTHING = re.compile(
    "estimate (?!--from)|plan|goodput|budget|scale|predict|hosts --all|runs|spec|"
    "monitor (rules|dashboard|unit|replay)"
)
"""No run, no torch and no other machine."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_that_a_page_shows_exist(page: Path) -> None:
    for words in commands(page):
        check_options(words)


def test_examples_of_help_name_options_and_files_that_are_there() -> None:
    assert len(EXAMPLES) > 30
    for example in EXAMPLES:
        check_options(shlex.split(example))
        for name in re.findall(r"(?:examples|tests)/\S+", example):
            assert (ROOT / name).is_file(), example
        assert "run.yaml" not in example.partition(" > ")[0], "no checkout has it"


@pytest.mark.parametrize("example", [e for e in EXAMPLES if NEEDS_NOTHING.match(e)])
def test_an_example_of_help_runs_in_a_checkout(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOLPLAN_STATE", str(tmp_path / "state"))
    done = CliRunner().invoke(app, shlex.split(example.partition(" > ")[0]))
    # 1 is what a series with a fault in it is answered by.
    assert done.exit_code == (1 if "replay" in example else 0), done.output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_that_a_page_names_are_in_the_repository(page: Path) -> None:
    named = re.findall(
        r"(?<![\w/-])(?:examples|tests)/[\w/.-]*\w\.\w+", page.read_text(encoding="utf-8")
    )
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_example_of_measured_runs_is_predicted_but_for_the_row_without_a_speed() -> None:
    comparisons = compare(read_rows(ROOT / "examples" / "runs.csv"))
    assert {c.row.text("model") for c in comparisons if c.skipped} == {"deepseek-v3"}
    assert len(comparisons) > 1
