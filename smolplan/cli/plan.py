"""smolplan plan: the best layout of a run on its GPUs, or on several numbers of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from planner.restrict import Restriction
    from planner.search import By, Candidate, Found
    from smolplan.spec import RunSpec

MOST_COUNTS = 200
"""Numbers of GPUs that one call searches."""
MOST_GPUS = 1_000_000
MOST_DOLLARS = 1e6
"""Of a GPU-hour."""


def plan(
    spec: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset.")],
    by: Annotated[str, typer.Option(help="Rank by time, cost or energy.")] = "time",
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many layouts to show.")] = 5,
    gpus: Annotated[
        str | None, typer.Option(help="64,128,256, or 64-1024: all of these, in whole nodes.")
    ] = None,
    restrict: Annotated[
        str | None, typer.Option(help="Only such layouts: tp<=8,zero=0,schedule=1f1b.")
    ] = None,
    trainer: Annotated[
        bool, typer.Option("--trainer", help="Only what the bundled trainer runs.")
    ] = False,
    tp_across_nodes: Annotated[
        bool, typer.Option("--tp-across-nodes", help="Tensor parallel beyond the fast links.")
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
    out: Annotated[
        Path | None, typer.Option(help="Write the spec with the best layout here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files written.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write the days and dollars of --gpus as an SVG.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Where time and memory of the best one go.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """Examine every layout of a run (data, tensor, pipeline, context and expert parallel, virtual
    stages, schedule, micro-batch, recomputation, ZeRO stage), and show the best.

    Example: `smolplan plan smollm3-3b --restrict zero=0,schedule=1f1b --explain`
    """
    from time import perf_counter

    from launcher.store import state_folder
    from planner import calibration
    from planner.restrict import parse_restrictions
    from planner.search import candidate_of, search
    from planner.site import job_of, site_of, spec_layout
    from smolplan.errors import UserError
    from smolplan.spec import load_spec

    order = _by(by)
    for path in (out, plot):
        _check_free(path, force)
    loaded = load_spec(spec)
    stored = state_folder() / calibration.FILE
    site = site_of(loaded, stack=stack, price=_price(price), stored=stored)
    if order == "cost" and site.price_per_gpu_hour is None:
        raise UserError("no price is known for this GPU", where="--by", remedy="Give --price.")
    terms = () if restrict is None else parse_restrictions(restrict)
    counts = [loaded.cluster.gpus] if gpus is None else _counts(gpus, loaded.cluster.gpus_per_node)
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
        )
        for count in counts
    ]
    import numpy  # noqa: F401  (its import is no part of the search's time)

    began = perf_counter()
    found = [search(job, site, steps=loaded.steps, top=top) for job in jobs]
    took_s = perf_counter() - began
    own_job = job_of(loaded, site, trainer=trainer)
    own = candidate_of(own_job, site, loaded.steps, spec_layout(loaded))
    free = None if not terms else _without(terms, found, order)
    if as_json:
        import json

        print(
            json.dumps(
                _content(found, own, free, order, took_s), allow_nan=False, ensure_ascii=False
            )
        )
    else:
        from smolplan.cli import plan_view

        plan_view.show(found, own, free, by=order, took_s=took_s, explain=explain)
    best = best_of(found, order)
    if best is None:
        raise UserError(
            "no layout is legal",
            where=spec,
            remedy="The closest misses stand above."
            if not as_json
            else "The closest misses stand under rejections.",
        )
    if plot is not None:
        _write(plot, _front_svg(found, loaded.name))
    if out is not None:
        _write(out, _spec_with(loaded, best))


def _without(
    terms: "tuple[Restriction, ...]", found: "list[Found]", by: "By"
) -> "Candidate | None":
    """What would be best on the same GPUs if the user had asked for none of these terms."""
    from dataclasses import replace

    from planner.search import search

    best = best_of(found, by)
    one = next((one for one in found if one.best and one.best[0] is best), found[0])
    kept = tuple(term for term in one.job.restrictions if term not in terms)
    free = search(replace(one.job, restrictions=kept), one.site, steps=one.steps, top=1)
    return free.best[0] if free.best else None


def best_of(found: "list[Found]", by: "By") -> "Candidate | None":
    """The winner over all numbers of GPUs."""
    from planner.search import price_of

    winners = [one.best[0] for one in found if one.best]
    return min(winners, key=lambda c: price_of(c, by), default=None)


def _by(text: str) -> "By":
    from smolplan.errors import UserError

    match text.strip().lower():
        case "time" | "cost" | "energy" as known:
            return known
    raise UserError(f"{text!r} is unknown", where="--by", remedy="Give --by time, cost or energy.")


def _price(text: str | None) -> float | None:
    from smolplan.errors import UserError
    from smolplan.units import parse_plain

    if text is None:
        return None
    try:
        price = parse_plain(text.strip().removeprefix("$"), "a price in US dollars", "2.50")
    except ValueError as error:
        raise UserError(str(error), where="--price") from None
    if not 0 < price <= MOST_DOLLARS:
        raise UserError(
            f"{text} is no price of a GPU-hour", where="--price", remedy="Write it like 2.50."
        )
    return price


def _counts(text: str, per_node: int) -> list[int]:
    """Numbers of GPUs, in rising order; of a range those whose nodes lay out (planner/nodes.py)."""
    from planner.nodes import next_smooth
    from smolplan.errors import UserError

    remedy = "Write it like 64,128,256 or 64-1024."
    low, dash, high = text.partition("-")
    numbers = [_gpu_count(part, remedy) for part in ([low, high] if dash else text.split(","))]
    if dash:
        first, last = (-(-numbers[0] // per_node), numbers[1] // per_node)
        numbers = []
        nodes = next_smooth(first)
        while nodes <= last and len(numbers) <= MOST_COUNTS:
            numbers.append(nodes * per_node)
            nodes = next_smooth(nodes + 1)
        if not numbers:
            raise UserError(
                f"{text} holds no whole nodes of {per_node}", where="--gpus", remedy=remedy
            )
    if len(numbers) > MOST_COUNTS:
        raise UserError(
            f"that is more than {MOST_COUNTS} numbers of GPUs", where="--gpus", remedy="Give fewer."
        )
    return sorted(set(numbers))


def _gpu_count(text: str, remedy: str) -> int:
    from smolplan.errors import UserError
    from smolplan.units import parse_count

    try:
        number = parse_count(text)
    except ValueError:
        raise UserError(
            f"{text.strip()!r} is not a number of GPUs", where="--gpus", remedy=remedy
        ) from None
    if not 1 <= number <= MOST_GPUS or number != int(number):
        raise UserError(
            f"{text.strip()} is no whole number of GPUs from 1 to {MOST_GPUS:,}",
            where="--gpus",
            remedy=remedy,
        )
    return int(number)


def _check_free(path: Path | None, force: bool) -> None:
    from smolplan.errors import UserError

    if path is not None and path.exists() and not force:
        raise UserError("this file is there already", where=str(path), remedy="Give --force.")


def _write(path: Path, text: str) -> None:
    from smolplan.errors import UserError

    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"cannot write it: {error.strerror}", where=str(path)) from None


def _spec_with(spec: "RunSpec", best: "Candidate") -> str:
    """The spec as YAML with a layout, and the nodes that it takes."""
    from smolplan.spec import dump_spec, parse_spec

    layout, content = best.layout, spec.model_dump(mode="json", exclude_none=True)
    content["parallel"] = {name: getattr(layout, name) for name in type(spec.parallel).model_fields}
    per_node = min(spec.cluster.gpus_per_node, best.gpus)
    content["cluster"] |= {"nodes": best.gpus // per_node, "gpus_per_node": per_node}
    text = dump_spec(type(spec).model_validate(content))
    parse_spec(text, where="the planned spec")
    return text


def _front_svg(found: "list[Found]", name: str) -> str:
    from planner.plot import Point, scatter_svg
    from planner.search import pareto_front

    winners = [one.best[0] for one in found if one.best]
    dollars = all(c.dollars is not None for c in winners)
    points = [
        Point(
            c.days,
            c.dollars if c.dollars is not None else c.gpus * c.days * 24,
            f"{c.gpus:,}",
            filled=front,
        )
        for c, front in zip(winners, pareto_front(winners), strict=True)
    ]
    gpu = found[0].site.accelerator.name
    return scatter_svg(
        points,
        title=f"{name} on {gpu}: the fastest layout by number of GPUs",
        x_label="days of stepping",
        y_label="US dollars" if dollars else "GPU-hours",
    )


def _content(
    found: "list[Found]", own: "Candidate", free: "Candidate | None", by: "By", took_s: float
) -> dict[str, Any]:
    from dataclasses import asdict

    from planner.layout_lines import differences, fullest_rank_lines, run_lines, step_lines
    from planner.search import pareto_front

    best = best_of(found, by)
    winners = [one.best[0] for one in found if one.best]
    examined, legal = sum(one.examined for one in found), sum(one.legal for one in found)
    content: dict[str, Any] = {
        "by": by,
        "examined": examined,
        "legal": legal,
        "search_s": took_s,
        "examined_per_s": examined / took_s,
        "priced_per_s": legal / took_s,
        "site": asdict(found[0].site),
        "steps": found[0].steps,
        "searches": [
            {
                "job": asdict(one.job),
                "examined": one.examined,
                "legal": one.legal,
                "rejections": [asdict(rejection) for rejection in one.rejections],
                "best": [asdict(candidate) for candidate in one.best],
            }
            for one in found
        ],
        "front": [
            {"gpus": c.gpus, "days": c.days, "dollars": c.dollars, "kwh": c.kwh, "pareto": front}
            for c, front in zip(winners, pareto_front(winners), strict=True)
        ],
        "spec_layout": asdict(own),
        "without_restriction": None if free is None else asdict(free),
        "best": None,
    }
    if best is not None:
        won = next(one for one in found if one.best and one.best[0] is best)
        content["best"] = asdict(best) | {
            "step_lines": [asdict(line) for line in step_lines(won, best)],
            "memory_lines": [asdict(line) for line in fullest_rank_lines(won, best)],
            "run_lines": [asdict(line) for line in run_lines(won, best)],
            "against_runner_up": [
                {"cause": cause, "best_s": mine, "runner_up_s": theirs}
                for cause, mine, theirs in differences(best, won.best[1])
            ]
            if len(won.best) > 1
            else [],
        }
    return content
