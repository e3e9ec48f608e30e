"""smolplan hosts: which hosts are left out of new attempts, why, and which fail often."""

from typing import TYPE_CHECKING, Annotated

import typer

from smolplan.units import count_of

if TYPE_CHECKING:
    from rich.table import Table

    from launcher.host_faults import HostFault


def hosts(
    clear: Annotated[
        str | None, typer.Option(metavar="HOST", help="Let this host back in, by your own word.")
    ] = None,
    reason: Annotated[str, typer.Option(help="With --clear: what was done to it.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Faults that are settled too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """List hosts that failed: they are left out until they pass the same check again.

    A host that failed three times within four weeks, or that now holds a GPU which did, is
    chosen last.

    Example: `smolplan hosts --all`

    Once a host is mended: `smolplan hosts --clear HOST --reason 'new cable'`
    """
    import json
    import time
    from dataclasses import asdict

    from launcher.host_faults import offenders
    from launcher.store import Store
    from smolplan.cli.style import show
    from smolplan.errors import UserError

    store = Store()
    if clear is not None:
        if not reason.strip():
            raise UserError(
                "it is put on record why a host comes back", where="--reason", remedy="Give one."
            )
        count = store.clear_host(clear, reason.strip())
        if not count:
            raise UserError(
                f"no fault of {clear} stands", where="--clear", remedy="See: smolplan hosts --all"
            )
        print(json.dumps({"host": clear, "cleared": count}) if as_json else f"{clear} is back in")
        return
    faults, now = store.host_faults(), time.time()
    often = offenders(faults, store.gpus_of_hosts(), now)
    told = [fault for fault in faults if everything or fault.cleared_at is None]
    if as_json:
        print(json.dumps({"faults": [asdict(f) for f in told], "often": often}, indent=1))
        return
    if told:
        show(lambda out: out.print(_table(told, now)), narrow=False)
    else:
        print("No host is left out.")
    for host, count in sorted(often.items()):
        print(f"{host} failed {count_of(count, 'time')} within four weeks: it is chosen last")


def _table(faults: "list[HostFault]", now: float) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from smolplan.units import format_duration

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("host", "fault", "since", "what was seen"):
        table.add_column(name, no_wrap=name != "what was seen", ratio=1 if "seen" in name else None)
    for fault in faults:
        table.add_row(
            fault.host,
            fault.kind,
            format_duration(now - fault.seen_at),
            Text(fault.detail + (f" ({fault.cleared_by})" if fault.cleared_at else "")),
        )
    return table
