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
    bytes_per_rank: Values, ranks: Values, domain: Values, *, inside: Values, across: Values
) -> Values:
    """All-to-all of `bytes_per_rank` from each rank: the part for ranks in the same domain over
    the links inside, the rest over the rank's share of the network, at the same time."""
    near = either(ranks <= domain, ranks, domain)
    far_share = (ranks - near) / ranks
    near_share = (near - 1.0) / ranks
    far_s = far_share * bytes_per_rank / across
    near_s = near_share * bytes_per_rank / inside
    return either(far_s > near_s, far_s, near_s)
