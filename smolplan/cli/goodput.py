"""smolplan goodput: what failures leave of a run, and how many GPUs and spares make up for them."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smolplan.cli.options import deadline_s, positive, share, span_s, whole
from smolplan.errors import UserError
from smolplan.units import parse_bytes

if TYPE_CHECKING:
    from planner.goodput import Answer

MOST_SIMULATED = 1_000_000

USUAL_GPUS = 16_384
"""Of the table of failures, where none are given: the Llama 3 report's."""


def goodput(
    gpus: Annotated[str | None, typer.Option(help="Number of GPUs; leave out to solve.")] = None,
    work: Annotated[
        str | None, typer.Option(help="Training without any loss: 54d. Or --gpu-hours.")
    ] = None,
    gpu_hours: Annotated[str | None, typer.Option(help="The same in GPU-hours: 276480.")] = None,
    deadline: Annotated[str | None, typer.Option(help="A span (4w) or a date.")] = None,
    confidence: Annotated[str, typer.Option(help="Share of runs that shall do it.")] = "95%",
    fleet: Annotated[
        str,
        typer.Option(
            help="Whose failure rates: llama3, rsc-1, rsc-2, opt-175b, ft-hsdp, bloom, "
            "skt-b200, delta-h100, bytedance."
        ),
    ] = "llama3",
    mttf: Annotated[
        str | None, typer.Option(help="Your job's mean time to failure, in place of a fleet's.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="GPUs and checkpoint bytes of a bundled run: smollm3-3b.")
    ] = None,
    checkpoint_bytes: Annotated[str | None, typer.Option(help="Its size: 37GB.")] = None,
    storage_bandwidth: Annotated[
        str | None, typer.Option(help="At which it is written and read: 4.5GB/s.")
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="Between two checkpoints; the best one unless given.")
    ] = None,
    stall: Annotated[str | None, typer.Option(help="Training stands still per checkpoint.")] = None,
    write: Annotated[
        str | None, typer.Option(help="Then until it is safe; 0 if the stall was all.")
    ] = None,
    local_every: Annotated[
        str | None,
        typer.Option(help="Between two copies in memory or on local disks: 1min, or best."),
    ] = None,
    local_stall: Annotated[
        str | None, typer.Option(help="Training stands still per copy; as --stall unless given.")
    ] = None,
    local_lost: Annotated[
        str | None,
        typer.Option(
            help="Share of failures that lose the copies: 2%; unless given those that take a node."
        ),
    ] = None,
    local_load: Annotated[
        str | None, typer.Option(help="To load a copy; as long as --load unless given.")
    ] = None,
    detect: Annotated[str | None, typer.Option(help="From a failure to its diagnosis.")] = None,
    provision: Annotated[str | None, typer.Option(help="Then to a whole set of nodes.")] = None,
    load: Annotated[str | None, typer.Option(help="Then to load the checkpoint.")] = None,
    warm_up: Annotated[str | None, typer.Option(help="Then to the first step.")] = None,
    planned_every: Annotated[
        str | None, typer.Option(help="A planned stop after so long: 2d; none unless given.")
    ] = None,
    spares: Annotated[
        int | None, typer.Option(min=0, max=2000, help="Spare nodes; enough unless given.")
    ] = None,
    repair: Annotated[str | None, typer.Option(help="Mean time to repair a node.")] = None,
    scaling: Annotated[str, typer.Option(help="Scaling efficiency of the GPU-hours.")] = "100%",
    node_size: Annotated[int, typer.Option(min=1, max=1024, help="GPUs of one node.")] = 8,
    simulate: Annotated[
        int | None, typer.Option(min=2, max=MOST_SIMULATED, help="Play so many runs as well.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    failures: Annotated[
        bool,
        typer.Option("--failures", help="Only failure rates: by component, fleet and GPUs."),
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Each line of arithmetic.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """What failures leave of a run: goodput, checkpoint interval, spares, chance of the deadline.

    Example: `smolplan goodput --gpus 16384 --work 54d`

    How often do what parts of it fail: `smolplan goodput --failures --gpus 16384`

    How many GPUs so that 95 % of runs finish in four weeks:
    `smolplan goodput --gpu-hours 276480 --deadline 4w --confidence 95%`

    Copies in the memory of other nodes between checkpoints that take 20 min to write:
    `smolplan goodput --gpus 16384 --work 54d --write 20min --local-every best --local-lost 2%`
    """
    from datetime import UTC, datetime

    from planner.goodput import Settings, solve
    from planner.reliability import find_fleet
    from smolplan.cli.goodput_options import from_preset, gpu_seconds, local_copies, spans

    if failures:
        _failures(fleet, gpus, as_json, alone=work is gpu_hours is deadline is mttf is None)
        return
    wanted = share("--confidence", confidence)
    if wanted >= 1:
        raise UserError(
            "no number of GPUs or spares makes it certain",
            where="--confidence",
            remedy="Give less than 100%: 99.9%.",
        )
    count = None if gpus is None else whole("--gpus", gpus)
    size, preset_gpus = from_preset(preset)
    if checkpoint_bytes is not None:
        size = positive("--checkpoint-bytes", checkpoint_bytes, parse_bytes)
    given = {
        "stall": stall,
        "write": write,
        "detect": detect,
        "provision": provision,
        "load": load,
        "warm_up": warm_up,
        "repair": repair,
        "local_stall": local_stall,
        "local_load": local_load,
    }
    due_s = deadline_s(deadline, datetime.now(UTC))
    if count is None and (due_s is None or work is not None):
        count = preset_gpus
    if count is None and due_s is None:
        raise UserError(
            "it needs --gpus, or --gpu-hours and --deadline to solve for them",
            remedy="Try `smolplan goodput --gpus 16384 --work 54d`.",
        )
    every = math.inf if planned_every is None else span_s("--planned-every", planned_every)
    efficiency = share("--scaling", scaling)
    known_fleet = find_fleet(fleet)
    copies = local_copies(local_every, local_lost, known_fleet)
    settings = Settings(
        gpu_s=gpu_seconds(work, gpu_hours, count, efficiency),
        scaling=efficiency,
        fleet=known_fleet,
        mttf_s=None if mttf is None else span_s("--mttf", mttf),
        interval_s=None if interval is None else span_s("--interval", interval),
        spans=spans(given, size, storage_bandwidth, local=copies is not None),
        planned_every_s=every,
        spares=spares,
        local=copies,
    )
    if count is None and mttf is not None:
        raise UserError(
            "the time to failure depends on the number of GPUs that is asked for",
            where="--mttf",
            remedy="Give --gpus, or a --fleet in its place.",
        )
    answer = solve(
        settings,
        count,
        deadline_s=due_s,
        confidence=wanted,
        node_size=node_size,
        runs=simulate,
        seed=seed,
    )
    if as_json:
        _print_json(answer)
    else:
        from smolplan.cli.goodput_view import show

        show(answer, explain=explain)


def _failures(fleet: str, gpus: str | None, as_json: bool, *, alone: bool) -> None:
    import json

    from planner.reliability import find_fleet
    from smolplan.cli.failures_view import content, show

    if not alone:
        raise UserError(
            "it shows rates only, of no run",
            where="--failures",
            remedy="Leave out --work, --gpu-hours, --deadline and --mttf, or leave it out.",
        )
    row = find_fleet(fleet)
    count = USUAL_GPUS if gpus is None else whole("--gpus", gpus)
    if as_json:
        print(json.dumps(content(row, count), indent=1, allow_nan=False))
    else:
        show(row, count)


def _finite(value: Any) -> Any:
    """JSON knows no infinity: null in its place."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_json(answer: "Answer") -> None:
    import json
    from dataclasses import asdict

    from planner.goodput_arithmetic import lines_of, notes_on

    content = asdict(answer)
    content["intervals"] = [
        {"by": by, "interval_s": interval, "goodput": goodput}
        for by, interval, goodput in answer.intervals
    ]
    if answer.simulation is not None:
        del content["simulation"]["walls_s"]
        content["simulation"]["runs"] = len(answer.simulation.walls_s)
        if answer.deadline_s is not None:
            met = answer.simulation.deadline_probability(answer.deadline_s)
            content["simulation"]["met"] = asdict(met)
    content["lines"] = [asdict(line) for line in lines_of(answer)]
    content["notes"] = notes_on(answer)
    print(json.dumps(_finite(content), indent=1, allow_nan=False))
