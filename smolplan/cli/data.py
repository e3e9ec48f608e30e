"""smolplan data: tokenise the text of a spec, and look at what it holds and how it is mixed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from smolplan.cli.run import Json
from smolplan.units import count_of

if TYPE_CHECKING:
    from smolplan.rundir import RunDir
    from smolplan.spec import RunSpec
    from trainer.data.cache import Advance, Say
    from trainer.data.dataset import Dataset
    from trainer.data.prepare import Left
    from trainer.data.share import Share

app = typer.Typer(
    no_args_is_help=True,
    help="Tokenise the text of a spec, and look at it and its mixture.\n\n"
    "Example: `smolplan data inspect examples/my-text.yaml`",
)

Where = Annotated[
    str,
    typer.Argument(
        metavar="SPEC|RUN", help="A YAML file, the name of a preset, or a run as `status` takes it."
    ),
]


@app.command()
def prepare(
    where: Where,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="K/N", help="Tokenise part K of N, while other hosts tokenise the others."
        ),
    ] = None,
) -> None:
    """Tokenise the text of a spec into the cache, on all cores; `launch` does it too.

    Killed and started again, it goes on where it was. Sources that other specs share are not
    tokenised again.

    It tells the folder of each source's tokens: `sources: [{tokens: FOLDER, name: NAME}]` reads it,
    or a copy of it, where the text is not at hand.

    With --part several hosts share the work, in one cache that all of them see (data.cache_dir).
    Parts may run at once or one after the other, and be given again. The last one to end puts the
    pieces together; so does the command without --part, which tokenises what is left.

    Example: `smolplan data prepare examples/my-text.yaml`

    Example, on 16 nodes of Slurm: `sbatch --array=1-16 --exclusive --wrap='smolplan data prepare
    run.yaml --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT'`
    """
    from trainer.data.share import Share

    share = None if part is None else Share.parse(part)
    made = _dataset(*_named(where), share)
    if isinstance(made, list):
        assert share is not None
        _show_left(made, share, where)
    else:
        _show_made(made)


def _show_made(dataset: "Dataset") -> None:
    for source in dataset.sources:
        if source.left_out:
            print(source.told_of_left_out)
    print(
        f"{dataset.tokens:,} tokens of {count_of(dataset.documents, 'document')} in "
        f"{count_of(len(dataset.sources), 'source')}, and {dataset.held_out_tokens:,} tokens held "
        "out:"
    )
    for source in dataset.sources:
        print(f"  {source.name}: {dataset.folder_of(source)}")


def _show_left(left: "list[Left]", share: "Share", where: str) -> None:
    import shlex

    for source in left:
        print(source.told())
    if elsewhere := sum(source.elsewhere for source in left):
        print(f"Part {share}: another process is at {count_of(elsewhere, 'piece')} of it.")
    else:
        print(f"Part {share} is done.")
    print(
        "The last part to end puts all pieces together; or, whatever is left, one host alone: "
        f"smolplan data prepare {shlex.quote(where)}"
    )


@app.command()
def inspect(
    where: Where,
    steps: Annotated[
        int, typer.Option(min=1, help="Batches of each stage that are drawn and counted.")
    ] = 100,
    show: Annotated[
        int, typer.Option(min=0, metavar="N", help="Beginnings of N documents of each source.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Show documents and tokens, the mixture as planned and as drawn, and repeats by source.

    Text that has not been tokenised yet is tokenised first.

    Example: `smolplan data inspect examples/my-text.yaml --show 2`
    """
    import json

    spec, run = _named(where)
    dataset = _dataset(spec, run)
    assert not isinstance(dataset, list)  # it is of all shares
    from smolplan.cli.data_view import show_data
    from trainer.data.inspect import inspect as figures

    found = figures(spec, dataset, steps, show)
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        show_data(found)


def _named(where: str) -> "tuple[RunSpec, RunDir | None]":
    """Raises UserError."""
    from pathlib import Path

    from launcher.control import run_folder
    from launcher.store import Store
    from smolplan.spec import load_spec, preset_names

    if Path(where).is_file() or where in preset_names() or where.endswith((".yaml", ".yml")):
        return load_spec(where), None
    run = run_folder(Store().find(where))
    return load_spec(run.spec), run


def _dataset(
    spec: "RunSpec", run: "RunDir | None", share: "Share | None" = None
) -> "Dataset | list[Left]":
    """The run's own, or what is made or found now; of a share alone, what is left while others are
    not done. Raises UserError."""
    if own := _own(spec, run):
        return own
    from trainer.data.dataset import Dataset
    from trainer.data.prepare import prepare, prepare_share, write_dataset

    with _progress() as (say, advance):
        made = prepare_share(spec, share, say, advance) if share else prepare(spec, say, advance)
    if run is not None and isinstance(made, Dataset):
        write_dataset(run, spec, made)
    return made


def _own(spec: "RunSpec", run: "RunDir | None") -> "Dataset | None":
    """The run's own where it has one that is whole, and no source came to its spec since: it may be
    of an earlier smolplan's making, and its checkpoints count in it. Raises UserError."""
    from smolplan.errors import NamedExit, UserError

    try:
        import trainer.data.prepare  # noqa: F401
        from trainer.data.dataset import open_dataset
    except ModuleNotFoundError as error:
        raise UserError(
            f"the trainer is not installed here ({error})",
            remedy="Install it: pip install 'smolplan[train]'",
        ) from None
    if run is None or not run.dataset.exists():
        return None
    try:
        own = open_dataset(run)
    except NamedExit as damaged:
        # Where tokens are named, they may have moved, and what is found is held against what the
        # checkpoint has read.
        if run.saved_steps() and not any(source.tokens for source in spec.data.sources):
            raise UserError(str(damaged), where=str(run.dataset)) from None
        return None
    is_all = len(own.sources) >= len(spec.data.sources) or not own.sources[0].document_ends
    return own if is_all and _reads_given(own, spec) else None


def _reads_given(dataset: "Dataset", spec: "RunSpec") -> bool:
    """Whether a dataset reads the folders of tokens that a spec names."""
    return all(
        source.tokens is None
        or (
            (number < len(dataset.sources))
            and dataset.folder_of(dataset.sources[number]) == source.tokens.absolute()
        )
        for number, source in enumerate(spec.data.sources)
    )


@contextmanager
def _progress() -> "Iterator[tuple[Say, Advance]]":
    """A bar for each source on standard error; nothing where nobody looks."""
    import sys

    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    from smolplan.cli.style import console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    out = console(sys.stderr)
    bars = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
    tasks = {}
    with bars:
        doing = bars.add_task("reading the text", total=None)

        def say(line: str) -> None:
            bars.update(doing, description=line)

        def advance(source: str, done: int, total: int) -> None:
            bars.update(doing, visible=False)
            if source not in tasks:
                tasks[source] = bars.add_task(f"tokenising {source}", total=total)
            bars.update(tasks[source], completed=done)

        yield say, advance
