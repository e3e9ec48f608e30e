"""The text: there, readable, and long enough."""

from launcher.create import prepare_data
from preflight.registry import Answer, Context, check
from smolplan.errors import UserError
from smolplan.rundir import RunDir, read_json, write_text
from smolplan.spec import dump_spec
from smolplan.units import format_count


@check(
    "data.enough",
    remedy="Add text, shorten the run, or raise data.max_epochs.",
    deadline_s=600,
)
def enough(context: Context) -> Answer:
    """Tokenises as the run will (kept for it) and counts."""
    run = RunDir(context.scratch / "data")
    write_text(run.spec, dump_spec(context.spec))
    try:
        prepare_data(run)
    except UserError as error:
        return "fail", str(error)
    dataset = read_json(run.dataset)
    if dataset is None:
        return "unknown", "the tokeniser left no dataset.json"
    tokens, wanted = int(dataset["tokens"]), context.spec.tokens
    epochs = wanted / tokens
    limit = context.spec.data.max_epochs
    said = (
        f"{format_count(tokens)} tokens in {dataset['documents']:,} documents, "
        f"{format_count(wanted)} asked: {epochs:.2f} epochs of {limit:g} allowed"
    )
    return ("fail" if epochs > limit else "pass"), said
