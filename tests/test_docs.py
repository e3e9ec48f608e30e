"""What the README and docs/ say of the repository and of the commands is so."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

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
        command = get_command(app)
        while isinstance(command, TyperGroup):
            name, *words = words
            assert name in command.commands, name
            command = command.commands[name]
        known = {"--help", *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}
        shown = {w.strip("[]") for w in words if w.strip("[]").startswith("--")}
        assert shown <= known, (command.name, shown - known)


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
