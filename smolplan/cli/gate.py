"""Before a launch: the quick checks, and whether what preflight knows lets the run start."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.store import Store
    from smolplan.rundir import RunDir
    from smolplan.spec import RunSpec


def warn_of_store(store: "Store") -> None:
    """On standard error, where the record of runs is not safe."""
    if misplaced := store.misplaced():
        print(f"smolplan: warning: {misplaced}", file=sys.stderr)


def check_before(
    spec: "RunSpec", runs_dir: Path, unchecked: str | None
) -> "Callable[[RunDir], None]":
    """Make the quick checks now, put what they say on record, and judge; what is returned tells
    the run's events of it. `unchecked`: why it is to start whatever is known.

    Raises SmolplanError if the run must not start.
    """
    from launcher.store import Store
    from preflight import history
    from preflight.gate import OF_NODES, judge
    from preflight.look import Look
    from smolplan.cli.preflight import look_once
    from smolplan.errors import SmolplanError, UserError

    if unchecked is not None:
        reason = unchecked.strip()
        if not reason:
            raise UserError(
                "whoever overrides preflight says why",
                where="--unchecked",
                remedy="For instance: --unchecked 'node7 is known to be slow'",
            )
        return lambda run: _leave_unchecked(run, reason)
    # Nodes that only a scheduler reaches check themselves before their ranks start; of this machine
    # counts what it shares with them.
    Store().close()  # what is found is kept: better refused now than then
    scheduled = spec.launch.backend in ("slurm", "kubernetes")
    of_nodes = OF_NODES if scheduled else ()
    with Look(spec, runs_dir, tier="quick", here=scheduled, skip=of_nodes) as look:
        report = look_once(look)
        look.keep(report)
    verdict = judge(
        report,
        history.latest_report(spec.content_hash()),
        nodes=spec.cluster.nodes,
        earlier=history.reports(spec.name),
        needs_active=spec.launch.backend == "ssh",
        of_nodes=of_nodes,
    )
    if verdict.refused:
        kind = UserError if verdict.is_mistake else SmolplanError
        remedy = verdict.remedy or "See all of it: smolplan preflight SPEC --last"
        raise kind(
            f"not fit to start: {verdict.refused}. {remedy.removesuffix('.')}. "
            "To start it all the same: --unchecked REASON."
        )
    return lambda run: _tell_checked(run, len(report.results), verdict.left_out)


def _leave_unchecked(run: "RunDir", reason: str) -> None:
    from smolplan.rundir import write_json

    write_json(run.unchecked, {"reason": reason})
    run.record("unchecked", "user", reason=reason)


def _tell_checked(run: "RunDir", checked: int, left_out: Sequence[str]) -> None:
    run.unchecked.unlink(missing_ok=True)  # of an earlier start
    run.record("preflight", "launcher", checked=checked, left_out=list(left_out))
