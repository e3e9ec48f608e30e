"""smolplan plan: the best layout of a run on its GPUs, or on several numbers of them."""

from pathlib import Path
from typing import Annotated

import typer


def plan(
    spec: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    by: Annotated[str, typer.Option(help="Rank by time, cost or energy.")] = "time",
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many layouts to show.")] = 5,
    gpus: Annotated[
        str | None, typer.Option(help="64,128,256, or 64-1024: all of these, in whole nodes.")
    ] = None,
    restrict: Annotated[
        str | None, typer.Option(help="Only such layouts, by terms: tp<=8,zero=0.")
    ] = None,
    trainer: Annotated[
        bool, typer.Option("--trainer", help="Only what the bundled trainer runs.")
    ] = False,
    tp_across_nodes: Annotated[
        bool, typer.Option("--tp-across-nodes", help="Tensor parallel beyond the fast links.")
    ] = False,
    uneven_stages: Annotated[
        bool, typer.Option("--uneven-stages", help="Pipeline stages may differ by a layer.")
    ] = False,
    stack: Annotated[
        str,
        typer.Option(
            help="Software stack whose fitted constants are taken; or measured: those of "
            "smolplan calibrate."
        ),
    ] = "generic",
    price: Annotated[
        str | None, typer.Option(help="US dollars per GPU-hour, in place of the catalogue's low.")
    ] = None,
    links: Annotated[
        str | None,
        typer.Option(help="One GPU's fast links, one direction, if not the catalogue's: 64GB/s."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="A node's network adapters, if not the catalogue's: 8x400Gb/s."),
    ] = None,
    oversubscription: Annotated[
        float,
        typer.Option(help="Of the network beyond a pod: 2 if its way out has half the bandwidth."),
    ] = 1.0,
    pod: Annotated[
        int, typer.Option(help="Nodes that switches join before the oversubscription begins.")
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(help="What a node reads data and writes checkpoints at: 4.5GB/s."),
    ] = None,
    async_checkpoint: Annotated[
        bool,
        typer.Option("--async-checkpoint", help="Checkpoints are written while training goes on."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the spec with the best layout here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files written.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the days and dollars of --gpus: an .svg, .png or .html."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Where time and memory of the best one go.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """Examine every layout of a run (data, tensor, pipeline, context and expert parallel, virtual
    stages, schedule, micro-batch, recomputation, ZeRO stage and shard group), and show the best.

    Example: `smolplan plan smollm3-3b --restrict zero=0,schedule=1f1b --explain`
    """
    from time import perf_counter

    from launcher.store import state_folder
    from planner import calibration
    from planner.memory import layout_of
    from planner.restrict import parse_restrictions
    from planner.search import best_of, candidate_of, search, without
    from planner.site import job_of, site_of
    from smolplan.cli import plan_options as asked
    from smolplan.cli.options import check_file, write_file
    from smolplan.errors import UserError
    from smolplan.spec import load_spec

    order = asked.by(by)
    if plot is not None:
        from smolplan.cli.plan_front import check_plot

        check_plot(plot)
    for option, path in (("--out", out), ("--plot", plot)):
        check_file(option, path, force=force)
    loaded = load_spec(spec)
    site = site_of(
        loaded,
        stack=stack,
        price=asked.price(price),
        stored=state_folder() / calibration.FILE,
        fabric=asked.fabric(links, network, oversubscription, pod),
        storage=asked.storage(
            storage, async_checkpoint or (trainer and loaded.checkpoint.asynchronous)
        ),
    )
    if order == "cost" and site.price_per_gpu_hour is None:
        raise UserError("no price is known for this GPU", where="--by", remedy="Give --price.")
    if trainer and (lacking := loaded.model.unsupported_by_trainer()):
        raise UserError(
            lacking[0], where="--trainer", remedy="Leave it out, to plan for another trainer."
        )
    terms = () if restrict is None else parse_restrictions(restrict)
    per_node = loaded.cluster.gpus_per_node
    counts = [loaded.cluster.gpus] if gpus is None else asked.counts(gpus, per_node)
    if plot is not None and len(counts) < 2:
        raise UserError(
            "a plot needs several numbers of GPUs", where="--plot", remedy="Give --gpus 64,128,256."
        )
    jobs = [
        job_of(
            loaded,
            site,
            gpus=count,
            restrictions=terms,
            trainer=trainer,
            tensor_across_domains=tp_across_nodes,
            uneven_stages=uneven_stages,
        )
        for count in counts
    ]
    import numpy  # noqa: F401  (its import is no part of the search's time)

    began = perf_counter()
    found = [search(job, site, steps=loaded.whole_batches, top=top, by=order) for job in jobs]
    took_s = perf_counter() - began
    own_job = job_of(loaded, site, trainer=trainer and not loaded.unsupported_by_trainer())
    own = candidate_of(own_job, site, loaded.whole_batches, layout_of(loaded))
    best = best_of(found, order)
    won = next((one for one in found if one.best and one.best[0] is best), found[0])
    free = without(terms, won, order) if terms else None
    if as_json:
        import json

        from smolplan.cli.plan_json import content

        told = content(found, own, free, order, took_s)
        print(json.dumps(told, allow_nan=False, ensure_ascii=False))
    else:
        from smolplan.cli import plan_view

        plan_view.show(found, own, free, by=order, took_s=took_s, explain=explain)
    if best is None:
        raise UserError(
            "no layout is legal",
            where=spec,
            remedy="The closest misses stand above."
            if not as_json
            else "The closest misses stand under rejections.",
        )
    if plot is not None:
        from smolplan.cli.plan_front import front_file
        from smolplan.cli.plan_view import notes

        picture = front_file(found, loaded.name, plot, notes(won, order))
        write_file("--plot", plot, picture, force=force)
    if out is not None:
        write_file("--out", out, asked.spec_with(loaded, best).encode(), force=force)
