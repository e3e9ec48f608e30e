"""Memory of a job's layouts: the bundled trainer's peak, or by the conventions of another stack."""

from typing import TYPE_CHECKING

from planner.explain import Line
from planner.kernels import Values
from planner.memory import Layout, memory_bytes, memory_lines, trainer_memory_bytes
from planner.memory.trainer import fullest_moment_lines, is_plain
from planner.memory.trainer_shape import shape_of

if TYPE_CHECKING:
    from planner.legality import Job


def job_memory_bytes(job: "Job", layout: Layout) -> Values:
    """Of the fullest rank: of one layout, or of arrays of them."""
    if job.trainer and is_plain(job.architecture):
        return trainer_memory_bytes(
            job.architecture,
            layout,
            job.seq_len,
            element_bytes=job.element_bytes,
            z_loss=job.z_loss,
            muon=job.muon,
        )
    return memory_bytes(
        job.architecture,
        layout,
        job.seq_len,
        state=job.state,
        element_bytes=job.element_bytes,
        conventions=job.conventions,
    )


def job_memory_lines(job: "Job", layout: Layout) -> list[Line]:
    """The lines that make it up."""
    if not (job.trainer and is_plain(job.architecture)):
        return memory_lines(
            job.architecture,
            layout,
            job.seq_len,
            state=job.state,
            element_bytes=job.element_bytes,
            conventions=job.conventions,
        )
    return fullest_moment_lines(
        shape_of(
            job.architecture,
            layout,
            job.seq_len,
            element_bytes=job.element_bytes,
            z_loss=job.z_loss,
            muon=job.muon,
            device="cuda",
        )
    )
