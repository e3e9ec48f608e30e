"""What people ask of smolplan plan, checked; and the spec that it writes."""

from dataclasses import fields
from typing import TYPE_CHECKING

from smolplan.cli.options import is_bare_number, positive
from smolplan.errors import UserError
from smolplan.units import parse_bytes_per_s

if TYPE_CHECKING:
    from planner.search import By, Candidate
    from planner.site import Fabric
    from planner.stalls import Storage
    from smolplan.spec import RunSpec

MOST_COUNTS = 200
"""Numbers of GPUs that one call searches."""
MOST_GPUS = 1_000_000
MOST_DOLLARS = 1e6
"""Of a GPU-hour."""
MOST_RAILS = 64
MOST_POD_NODES = 100_000
MOST_OVERSUBSCRIPTION = 1000.0


def by(text: str) -> "By":
    match text.strip().lower():
        case "time" | "cost" | "energy" as known:
            return known
    raise UserError(f"{text!r} is unknown", where="--by", remedy="Give --by time, cost or energy.")


def price(text: str | None) -> float | None:
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


def counts(text: str, per_node: int) -> list[int]:
    """Numbers of GPUs, in rising order; of a range those whose nodes lay out (planner/nodes.py)."""
    from planner.nodes import next_smooth

    remedy = "Write it like 64,128,256 or 64-1024."
    low, dash, high = text.partition("-")
    numbers = [gpu_count(part, remedy) for part in ([low, high] if dash else text.split(","))]
    if dash and numbers[0] > numbers[1]:
        raise UserError(
            f"{text} runs backwards", where="--gpus", remedy=f"Write it like {high}-{low}."
        )
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


def gpu_count(text: str, remedy: str) -> int:
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


def fabric(links: str | None, network: str | None, oversubscription: float, pod: int) -> "Fabric":
    """Of --links, --network, --oversubscription and --pod."""
    from planner.site import Fabric

    if not 1 <= oversubscription <= MOST_OVERSUBSCRIPTION:
        raise UserError(
            f"{oversubscription:g} is no oversubscription from 1 to {MOST_OVERSUBSCRIPTION:g}",
            where="--oversubscription",
            remedy="Write 2 for switches whose way out has half the bandwidth of their nodes.",
        )
    if not 1 <= pod <= MOST_POD_NODES:
        raise UserError(f"{pod} is no number of nodes from 1 to {MOST_POD_NODES:,}", where="--pod")
    return Fabric(
        link_bytes_per_s=None if links is None else _bandwidth("--links", links),
        node_network_bytes_per_s=None if network is None else _node_network(network),
        oversubscription=oversubscription,
        pod_nodes=pod,
    )


def _bandwidth(where: str, text: str) -> float:
    value = positive(where, text, parse_bytes_per_s)
    if is_bare_number(text):
        raise UserError(f"{text} has no unit", where=where, remedy=f"Write {text.strip()}GB/s.")
    return value


def _node_network(text: str) -> float:
    """Bytes per second of a node's adapters: 8x400Gb/s is eight of them."""
    rails, _, rate = text.rpartition("x")
    count = rails.strip() or "1"
    if (
        not count.isascii()
        or not count.isdigit()
        or not 1 <= int(count) <= MOST_RAILS
        or not rate.strip()
    ):
        raise UserError(
            f"{text!r} is no number of adapters and a bandwidth",
            where="--network",
            remedy="Write a node's adapters like 8x400Gb/s.",
        )
    return int(count) * _bandwidth("--network", rate)


def storage(text: str | None, asynchronous: bool) -> "Storage":
    """Of --storage and --async-checkpoint."""
    from planner.stalls import Storage

    if text is None:
        return Storage(asynchronous=asynchronous)
    return Storage(
        node_bytes_per_s=_bandwidth("--storage", text),
        source="--storage",
        asynchronous=asynchronous,
    )


def spec_with(spec: "RunSpec", best: "Candidate") -> str:
    """The spec as YAML with a layout, and the nodes that it takes."""
    from smolplan.spec import dump_spec, parse_spec

    layout, content = best.layout, spec.model_dump(mode="json", exclude_none=True)
    known = type(spec.parallel).model_fields.keys()
    parallel = {f.name: getattr(layout, f.name) for f in fields(layout) if f.name in known}
    if spec.model.layers % (layout.pipeline_parallel * layout.virtual_pipeline):
        parallel["uneven_stages"] = True
    content["parallel"] |= parallel
    per_node = min(spec.cluster.gpus_per_node, best.gpus)
    content["cluster"] |= {"nodes": best.gpus // per_node, "gpus_per_node": per_node}
    text = dump_spec(type(spec).model_validate(content))
    parse_spec(text, where="the planned spec")
    return text
