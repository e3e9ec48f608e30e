"""smolplan report: what became of a run, as a page or a text."""

from pathlib import Path
from typing import Annotated

import typer

from smolplan.cli.run import RunArgument, find_run


def report(
    run: RunArgument = "latest",
    output: Annotated[
        Path | None,
        typer.Option(help="Write it here: an .html page that needs nothing else, or an .md."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """Tell what became of a run: where its time went, failures, cost, hosts; also meanwhile.

    Without --output it is printed, as Markdown.

    Example: `smolplan report latest --output report.html`
    """
    import json

    from launcher.control import settle
    from launcher.store import Store
    from monitor.report.content import document_of
    from monitor.report.facts import facts_of
    from monitor.report.html import html
    from monitor.report.markdown import markdown
    from monitor.story import read_story
    from planner.catalog import price_of
    from smolplan.cli.options import check_file, say_written, write_file
    from smolplan.cli.style import progress_line
    from smolplan.errors import UserError
    from smolplan.rundir import RunDir, read_json

    if output is not None and output.suffix not in (".html", ".md"):
        raise UserError(
            f"{output.name[-100:]!r} is neither a page nor Markdown",
            where="--output",
            remedy="Give a name that ends in .html or .md.",
        )
    check_file("--output", output, force=force)
    store = Store()
    found = settle(store, find_run(store, run))
    with progress_line("Reading the record"):
        story = read_story(store, found)
    plan = read_json(RunDir(story.run.path).plan) or {}
    cluster = story.spec.cluster
    price = price_of(cluster.gpu, cluster.price_per_gpu_hour)
    if as_json:
        print(json.dumps(facts_of(story, plan, price), indent=1, allow_nan=False))
    document = document_of(story, plan, price)
    if output is not None:
        render = html if output.suffix == ".html" else markdown
        write_file("--output", output, render(document).encode(), force=force)
        say_written(output)
    elif not as_json:
        print(markdown(document), end="")
