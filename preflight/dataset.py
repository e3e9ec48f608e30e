"""The spec's own text, tokenised by the trainer as the run will read it."""

from typing import TYPE_CHECKING, Any

from preflight.once import INSTALL_TRAINER, ProbeError
from smolplan.rundir import RunDir, read_json, write_text
from smolplan.spec import dump_spec

if TYPE_CHECKING:
    from preflight.context import Context


class DataRefused(Exception):
    """trainer.data.prepare will not have the text, for a reason that the user can mend."""


def prepare(context: "Context") -> dict[str, Any]:
    """Run trainer.data.prepare. Raises DataRefused and ProbeError."""
    run = RunDir(context.folder())
    write_text(run.spec, dump_spec(context.spec), durable=False)
    done = context.run(["-m", "trainer.data.prepare", str(run)], timeout_s=880.0)
    last = done.stderr.strip().rpartition("\n")[2].removeprefix("smolplan: ")
    if done.returncode == 2:
        raise DataRefused(last)
    dataset = read_json(run.dataset)
    if done.returncode or dataset is None:
        missing = "ModuleNotFoundError" in last
        raise ProbeError(last or "it wrote no dataset.json", INSTALL_TRAINER if missing else "")
    return dataset
