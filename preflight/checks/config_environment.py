"""Environment variables of the spec, and of the shell that the ranks will inherit."""

import os

from launcher.environment import decides
from preflight.context import Context
from preflight.oddity import judge
from preflight.poison import environment_oddities, spec_oddities
from preflight.registry import check
from preflight.report import Finding


@check(
    "config.environment",
    severity="required",
    remedy="Remove the variables named.",
    tier="quick",
    passive=True,
    once=True,
)
def environment(context: Context) -> Finding:
    """No variable of the spec or of this shell slows the run down, blinds it or breaks it."""
    given = context.spec.launch.environment
    # What the spec sets wins over the shell's.
    inherited = {n: v for n, v in os.environ.items() if decides(n) and n not in given}
    shell = environment_oddities(
        context, inherited, "{} (of this shell)", "unset {} before the launch."
    )
    return judge(
        [*spec_oddities(context), *shell],
        f"{len(given)} set by the spec, {len(inherited)} inherited",
        source="table",
        measured={"set_by_spec": len(given), "inherited": len(inherited)},
    )
