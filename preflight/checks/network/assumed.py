"""What the planner takes the network between hosts to be, and what the run needs of it."""

from planner.comms import link_bytes_per_s, moved_share
from planner.predict.catalog import GENERIC, constants_for, find_accelerator, fitted_constants
from smolplan.spec import RunSpec


def assumed_busbw(spec: RunSpec, nodes: int) -> float | None:
    """Bus bandwidth in bytes/s of a collective of all ranks of so many nodes, as the planner's
    step times have it; None on a CPU, of which its catalogue knows nothing."""
    accelerator = find_accelerator(spec.cluster.gpu)
    if spec.cluster.gpu == "cpu" or accelerator is None:
        return None
    stack = constants_for(fitted_constants(), GENERIC, accelerator.name)
    per_node = spec.cluster.gpus_per_node
    inside = accelerator.link_bytes_per_s * stack.link_share
    across = accelerator.network_bytes_per_s * stack.network_share
    ranks = float(nodes * per_node)
    domain = float(max(per_node, accelerator.gpus_per_domain))
    found = link_bytes_per_s(ranks, domain, inside=inside, across=across, lanes=float(per_node))
    # A ring is no faster outside than inside.
    return min(float(found), inside)


def gradient_bus_bytes(spec: RunSpec, params: int) -> float:
    """Bytes over each link of the ring that reduces a step's gradients: 2·(n−1)/n of them in fp32,
    which a rank holds its tensor- and pipeline-parallel share of (planner/comms.py)."""
    parallel = spec.parallel
    replicas = parallel.data_parallel * parallel.context_parallel
    share = params / (parallel.tensor_parallel * parallel.pipeline_parallel)
    return float(2.0 * moved_share(float(replicas)) * 4.0 * share)
