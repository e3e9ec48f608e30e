"""smolplan ablate: a run's choices, each taken back in turn, trained and compared over seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smolplan.cli.spec import SpecArgument

if TYPE_CHECKING:
    from planner.ablation.result import Ablation


def ablate(
    spec: SpecArgument,
    switch: Annotated[
        list[str] | None,
        typer.Option(
            help="A choice to take back: gqa, rnope, document_masking, tied_embeddings, "
            "embedding_decay or schedule; may be repeated. All that change something unless given."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field of the spec, or several with commas between them (A=1,B=2), as a "
            "variant of its own; may be repeated.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Runs of each variant: the spec's seed and the next ones.")
    ] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=Path,
            metavar="FOLDER",
            help="Of runs and results (default: ./ablation-NAME-HASH, of the spec). What is "
            "finished there is not done again.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the losses of each variant's first seed: .html, .svg or .png."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --plot.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be trained; start nothing.")
    ] = False,
    unchecked: Annotated[
        str | None,
        typer.Option(
            metavar="REASON", help="Start whatever preflight says; the reason is recorded."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """Train variants of a run on this machine, one after the other, and compare their bits per
    byte of held-out text, with the same seeds and batches for all.

    Interrupted, the run at hand goes on by itself; the same command goes on with all of it.

    Example: `smolplan ablate tiny-cpu --switch schedule --set optim.learning_rate=1e-3 --seeds 3`

    Fields that go together: `--set optim.global_batch_size=32,optim.learning_rate=3e-3`
    """
    import json

    from launcher import create
    from planner.ablation.result import Ablation
    from planner.ablation.variants import variants
    from smolplan.cli.ablate_runs import Runs, is_finished
    from smolplan.cli.ablate_view import as_content, markdown, show, show_planned
    from smolplan.errors import UserError
    from smolplan.importers.options import parse_overrides, settings_of
    from smolplan.rundir import write_json, write_text
    from smolplan.spec import load_spec

    base = load_spec(spec)
    if base.launch.backend != "local":
        raise UserError(
            f"ablate trains on this machine, and launch.backend is {base.launch.backend}",
            where="launch.backend",
            remedy="Set it to local, or launch the variants yourself.",
        )
    _check_plot(plot, force)
    set_together = {written: parse_overrides(settings_of(written)) for written in settings or ()}
    compared = variants(base, switch or (), set_together)
    numbers = range(base.seed, base.seed + seeds)
    # Seed by seed, so that an ablation cut short has whole pairs.
    specs = {(v.name, seed): v.spec(base, seed) for seed in numbers for v in compared}
    for one in specs.values():
        create.check(one)
    home = create.runs_folder(base, out or Path(f"ablation-{base.name}-{base.content_hash()[:8]}"))
    runs = Runs(base, home / "runs", unchecked)
    if home.exists() and not home.is_dir():
        raise UserError(
            f"{str(home)[:200]} is no folder", where="--out", remedy="Name a folder, or a new one."
        )
    if dry_run:
        done = {key for key, one in specs.items() if is_finished(runs.earlier(one))}
        if as_json:
            print(json.dumps(as_content(base, compared, numbers, home, done), indent=1))
        else:
            show_planned(base, compared, numbers, home, done)
        return
    _make(home)
    found = {
        (name, seed): runs.trained(one, seed, f"{name}, seed {seed} ({count}/{len(specs)})")
        for count, ((name, seed), one) in enumerate(specs.items(), 1)
    }
    answer = Ablation.of(
        base, numbers, [(v, [found[v.name, seed] for seed in numbers]) for v in compared]
    )
    write_json(home / "ablation.json", answer.to_json())
    write_text(home / "ablation.md", markdown(answer))
    _draw(plot, force, answer)
    if as_json:
        print(json.dumps(answer.to_json(), indent=1, allow_nan=False))
    else:
        show(answer, home)


def _make(home: Path) -> None:
    from smolplan.errors import UserError

    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{str(home)[:200]} cannot be made: {error.strerror}",
            where="--out",
            remedy="Name a writable folder.",
        ) from None


def _check_plot(plot: Path | None, force: bool) -> None:
    from monitor.report.overlay import WRITERS
    from smolplan.cli.options import check_file, check_picture

    if plot is not None:
        check_picture("--plot", plot, WRITERS)
        check_file("--plot", plot, force=force)


def _draw(plot: Path | None, force: bool, answer: "Ablation") -> None:
    from monitor.report.course import read_course
    from monitor.report.overlay import WRITERS, panels
    from smolplan.cli.options import write_file
    from smolplan.rundir import RunDir

    if plot is None:
        return
    courses = [
        read_course(row.variant.name, RunDir(row.runs[0].path), answer.spec) for row in answer.rows
    ]
    picture = WRITERS[plot.suffix.lower()](panels(courses, ["loss"]))
    write_file("--plot", plot, picture, force=force)
