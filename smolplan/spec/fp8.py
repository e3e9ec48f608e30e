"""What optim.precision fp8 asks of GPUs, and of a layout that the bundled trainer runs."""

from smolplan.spec.parallel import ParallelSpec

CAPABILITY = (8, 9)
"""Compute capability of the first of NVIDIA's GPUs that have fp8 (Ada; Hopper's is 9.0):
torch._scaled_mm asks for it."""

SIDES = 16
"""Divides the sides of matrices that are multiplied in fp8: torch._scaled_mm asks for it, as
cuBLASLt does (16 bytes)."""


def unsupported(parallel: ParallelSpec, seq_len: int) -> list[str]:
    """What the bundled trainer cannot run in fp8, a clause each."""
    runs, problems = "the bundled trainer runs optim.precision fp8", []
    if parallel.schedule == "zero-bubble":
        problems.append(
            f"parallel.schedule is zero-bubble, which goes back through a product twice: {runs} "
            f"with 1f1b or interleaved"
        )
    # The product that makes a weight's gradient sums over them.
    shares = parallel.context_parallel * parallel.tensor_parallel
    tokens = parallel.micro_batch_size * seq_len // shares
    if tokens % SIDES:
        problems.append(
            f"a rank's micro-batch has {tokens} tokens (parallel.micro_batch_size "
            f"{parallel.micro_batch_size} × data.seq_len {seq_len} / context_parallel "
            f"{parallel.context_parallel} / tensor_parallel {parallel.tensor_parallel}): {runs} "
            f"with a multiple of {SIDES}"
        )
    return problems
