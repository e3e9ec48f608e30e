"""Memory of a job's layouts: the bundled trainer's peak where counted, else by conventions."""

from typing import TYPE_CHECKING, Any

from planner.explain import Line
from planner.kernels import Values, either
from planner.memory import Layout, memory_bytes, memory_lines, trainer_memory_bytes
from planner.memory.trainer import fullest_moment_lines, is_counted_layout, is_plain
from planner.memory.trainer_shape import shape_of

if TYPE_CHECKING:
    from planner.legality import Job


def _as_held(job: "Job") -> dict[str, Any]:
    """What the account by conventions is told of a job."""
    return {
        "state": job.state,
        "element_bytes": job.element_bytes,
        "conventions": job.conventions,
    }


def job_memory_bytes(job: "Job", layout: Layout) -> Values:
    """Of the fullest rank: of one layout, or of arrays of them."""
    need = memory_bytes(job.architecture, layout, job.seq_len, **_as_held(job))
    if not (job.trainer and is_plain(job.architecture)):
        return need
    peak = trainer_memory_bytes(
        job.architecture,
        layout,
        job.seq_len,
        element_bytes=job.element_bytes,
        muon=job.muon,
    )
    return either(is_counted_layout(layout), peak, need)


def job_memory_lines(job: "Job", layout: Layout) -> list[Line]:
    """The lines that make it up."""
    if job.trainer and is_plain(job.architecture) and is_counted_layout(layout):
        return fullest_moment_lines(
            shape_of(
                job.architecture,
                layout,
                job.seq_len,
                element_bytes=job.element_bytes,
                muon=job.muon,
                device="cuda",
            )
        )
    return memory_lines(job.architecture, layout, job.seq_len, **_as_held(job))
