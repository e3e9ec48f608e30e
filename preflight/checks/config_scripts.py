"""Scripts that start or follow the run, read for what they would delete."""

from pathlib import Path

from preflight.context import Context
from preflight.registry import check
from preflight.report import Finding
from preflight.scripts import lint
from preflight.scripts_places import places_of
from smolplan.errors import UserError
from smolplan.units import count_of

MOST_TOLD = 20


@check(
    "config.scripts",
    remedy="Change the lines named: nothing destructive on the way out of a run.",
    tier="quick",
    passive=True,
    once=True,
)
def scripts(context: Context) -> Finding:
    """No script that was given deletes what the run needs."""
    if not context.scripts:
        return Finding(state="skipped", summary="no script was given by --script")
    told, remedies, grave, lines = [], list[str](), 0, 0
    for path in context.scripts:
        content = _content(path)
        lines += content.count("\n")
        places = places_of(context.spec, context.runs_dir, path.parent)
        for problem in sorted(lint(content, str(path), places), key=lambda p: not p.grave):
            grave += problem.grave
            told.append(f"{path}:{problem.line}: {problem.command}: {problem.why}")
            remedies.append(f"{path.name}:{problem.line}: {problem.remedy}")
    more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return Finding(
        state="fail" if grave else "warn" if told else "pass",
        summary=f"{count_of(len(told), 'problem')}, {grave} of them grave"
        if told
        else f"{lines:,} lines delete nothing that is needed",
        why="; ".join(told[:MOST_TOLD]) + more,
        remedy=" ".join(dict.fromkeys(remedies[:MOST_TOLD])),
        measured={"lines": lines, "problems": len(told), "grave_problems": grave},
        source="table",
    )


def _content(path: Path) -> str:
    """Raises UserError for what is no text of a script."""
    try:
        if path.stat().st_size > 2**20:
            raise UserError("larger than 1 MiB, which no script is", where=str(path))
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise UserError("not UTF-8 text", where=str(path)) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
