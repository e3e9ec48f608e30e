"""Times of collectives, by ring: floats or arrays alike (see planner.kernels).

NCCL's own accounting (NVIDIA/nccl-tests, doc/PERFORMANCE.md): an all-reduce of S bytes among n
ranks moves 2·(n−1)/n·S over each rank's link, an all-gather, reduce-scatter or all-to-all half as
much.
"""

from planner.kernels import Values, either


def moved_share(ranks: Values) -> Values:
    """(n − 1)/n: of an all-gather's, reduce-scatter's or all-to-all's bytes, over each link."""
    return (ranks - 1.0) / ranks


def gather_s(whole_bytes: Values, ranks: Values, *, bytes_per_s: Values) -> Values:
    """All-gather to, or reduce-scatter from, `whole_bytes` on each rank. Zero for one rank."""
    return moved_share(ranks) * whole_bytes / bytes_per_s


def link_bytes_per_s(
    ranks: Values, domain: Values, *, inside: Values, across: Values, lanes: Values
) -> Values:
    """Bandwidth of a ring of `ranks` neighbours in domains of `domain` GPUs: the links inside,
    or, where the ring leaves them, `lanes` GPUs' shares of the network: those of its members in a
    domain, which all carry the ring's traffic (NCCL builds a channel over each)."""
    return either(ranks <= domain, inside, across * lanes)


def all_to_all_s(
    bytes_per_rank: Values,
    ranks: Values,
    domain: Values,
    *,
    inside: Values,
    across: Values,
    pod: Values = 1.0,
    oversubscription: Values = 1.0,
) -> Values:
    """All-to-all of `bytes_per_rank` from each rank: the part for ranks in the same domain over
    the links inside, the rest over the rank's share of the network, at the same time; of that what
    leaves the pod over its share of the way out."""
    near = either(ranks <= domain, ranks, domain)
    far_share = (ranks - near) / ranks
    near_share = (near - 1.0) / ranks
    far_s = far_share * bytes_per_rank / across
    near_s = near_share * bytes_per_rank / inside
    slowest_s = either(far_s > near_s, far_s, near_s)
    pod = either(pod > domain, pod, domain)
    out_share = either(ranks > pod, (ranks - pod) / ranks, 0.0)
    out_s = out_share * bytes_per_rank * oversubscription / across
    return either(out_s > slowest_s, out_s, slowest_s)


def way_out_slowdown(
    stride: Values, span: Values, *, domain: Values, pod: Values, oversubscription: Values
) -> Values:
    """What rings of one rank in `stride` GPUs, `span` GPUs long, lose to the way out of a pod.

    Each domain passes a ring's traffic on by all its GPUs, or where a ring has one of them or less
    by `stride` GPUs' worth for all rings: that is what leaves a pod of P GPUs, at most all P's. The
    way out has P/oversubscription GPUs' worth. Neighbours in the ring are taken to be neighbours in
    the network (NCCL sorts them so)."""
    pod = either(pod > domain, pod, domain)
    leaving = either(stride > domain, stride, domain)
    leaving = either(leaving < pod, leaving, pod)
    slowdown = oversubscription * leaving / pod
    return either((span > pod) & (slowdown > 1.0), slowdown, 1.0)
