"""smolplan calibrate: this machine's own constants, measured, in place of the catalogue's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from planner.calibration import Calibration

SECONDS, QUICK_SECONDS = 35.0, 7.0
"""After which no size is begun; what is left is the last size, torch's start and the ranks'."""
NO_FIT = "no fit"
DEADLINE_S = 180.0
"""A GPU or rank that hangs is given up after so long."""


def calibrate(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer and smaller sizes: seconds, and coarser.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="What is stored; nothing is measured.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let a CPU's replace what is stored of a GPU.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Samples and fits as JSON.")] = False,
) -> None:
    """Measure this machine's matrix products, attention, memory and collectives, and store the
    constants that `smolplan plan --stack measured` takes.

    On its GPUs if torch finds any, else on its CPU. Nothing else should run meanwhile.

    Example: `smolplan calibrate --quick`
    """
    from dataclasses import asdict

    from launcher.store import state_folder
    from planner import calibration
    from smolplan.cli import style
    from smolplan.cli.calibrate_machine import (
        Machine,
        look,
        notes_on_age,
        notes_on_board,
        torch_version,
    )

    path = state_folder() / calibration.FILE
    if show:
        measured, stored = calibration.read(path), True
        machine = look() if measured.driver else Machine()
        notes = notes_on_age(measured, torch_version(), machine.driver)
    else:
        calibration.check_place(path)
        with style.progress_line("Measuring") as say:
            measured, stored, notes = _measure_and_store(path, quick, force, say)
    notes += notes_on_board(measured)
    if as_json:
        import json

        content = {**asdict(measured), "fits": asdict(calibration.fit(measured))}
        content |= {"path": str(path), "stored": stored, "notes": notes}
        print(json.dumps(content, allow_nan=False, ensure_ascii=False))
        return
    style.show(lambda out: _show(measured, str(path), stored, notes, out), narrow=False)


def _measure_and_store(
    path: "Path", quick: bool, force: bool, say: Callable[[str], None]
) -> "tuple[Calibration, bool, list[str]]":
    """What was measured, whether it is stored, and notes. What is stored of a GPU is kept when only
    a CPU was measured, unless `force`. Raises UserError for a slice of a GPU."""
    from dataclasses import replace

    from planner import calibration
    from smolplan.cli.calibrate_machine import look, notes_on_measuring
    from smolplan.errors import UserError

    try:
        before = calibration.read(path)
    except UserError:  # none, or one that is of no use
        before = None
    machine = look()
    measured = _measure(quick, say)
    if measured.device == "cuda":
        measured = replace(measured, driver=machine.driver)
    if measured.slice_of_gpu:
        raise UserError(
            f"{measured.machine} is a part of a GPU, whose rates price no whole one",
            remedy="Run smolplan calibrate on a whole GPU.",
        )
    notes = notes_on_measuring(measured, machine)
    if before is not None and before.machine != measured.machine:
        that = f"the calibration of {before.machine}, {before.date[:10]}"
        if measured.device == "cpu" and before.device == "cuda" and not force:
            return measured, False, [*notes, f"not stored: {that}, is kept; --force replaces it"]
        notes.append(f"replaces {that}")
    calibration.write(measured, path)
    # As read back: what is shown is what a plan will find.
    return calibration.read(path), True, notes


def _measure(quick: bool, say: Callable[[str], None]) -> "Calibration":
    """Run the measuring program. All that it starts ends with it, and with this process. Raises
    UserError without torch, SmolplanError if it fails."""
    import json
    import os
    import secrets
    import signal
    import subprocess
    import sys
    import tempfile
    import threading
    from contextlib import suppress
    from datetime import UTC, datetime
    from importlib.util import find_spec
    from pathlib import Path

    from launcher.processes import TOKEN_VARIABLE, kill_by_token
    from planner.calibration import parse
    from smolplan.errors import SmolplanError, UserError

    if find_spec("torch") is None:
        raise UserError("measuring needs torch, which is not installed", remedy="Install torch.")
    # So that the clean-up of Ctrl-C is done for a plain kill too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    token = f"calibrate-{secrets.token_hex(8)}"
    seconds = QUICK_SECONDS if quick else SECONDS
    answer: dict[str, Any] | None = None
    with tempfile.TemporaryDirectory(prefix="smolplan-calibrate-") as folder:
        # torchrun leaves its folders of logs where TMPDIR says.
        environment = {**os.environ, TOKEN_VARIABLE: token, "TMPDIR": folder}
        arguments = [f"{seconds:g}", folder, *(["quick"] if quick else [])]
        with (Path(folder) / "stderr").open("w+", errors="replace") as complaints:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "preflight.probes.calibrate", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                errors="replace",
                env=environment,
                start_new_session=True,
            )
            out_of_time = threading.Event()

            def give_up() -> None:
                out_of_time.set()
                kill_by_token(token, timeout_s=5.0)

            timer = threading.Timer(DEADLINE_S, give_up)
            timer.daemon = True
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    # Libraries may print there too: gloo does.
                    with suppress(ValueError):
                        told = json.loads(line)
                        if isinstance(told, dict):
                            answer = told.get("measured", answer)
                            say(str(told.get("doing", "putting it together")))
                code = process.wait()
            finally:
                timer.cancel()
                with suppress(OSError):
                    os.killpg(process.pid, 9)
                process.wait()
                kill_by_token(token, timeout_s=5.0)
            complaints.seek(0)
            last = complaints.read().strip().rpartition("\n")[2]
    if out_of_time.is_set():
        raise SmolplanError(f"the measurement did not end within {DEADLINE_S:g} s")
    if code or answer is None:
        full = "out of memory" in last.lower()
        remedy = " Free it: nvidia-smi shows what holds it." if full else ""
        raise SmolplanError(f"the measurement failed: {last or f'exit code {code}'}{remedy}")
    return parse({"date": datetime.now(UTC).isoformat(timespec="seconds"), **answer})


def _show(
    measured: "Calibration", path: str, stored: bool, told: list[str], out: "Console"
) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title, justify in (
        ("", "left"),
        ("measured", "right"),
        ("error", "right"),
        ("samples", "right"),
        ("catalogue", "right"),
    ):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    rows = _rows(measured)
    for row in rows:
        table.add_row(*row)
    count = f"{measured.gpus} × " if measured.device == "cuda" else ""
    driver = f", driver {measured.driver}" if measured.driver else ""
    out.print(f"[bold green]{escape(count + measured.machine)}[/]")
    when = f"{measured.date}, torch {measured.torch}{driver}, {measured.device}"
    out.print(f"[dim]{escape(when)}[/]\n")
    out.print(table)
    notes = ["error: root mean square of fitted over measured times, less one"]
    if any(row[1] == NO_FIT for row in rows):
        notes.append("no fit: no positive rate explains the samples; measure an idle machine")
    if any(row[4] for row in rows):
        notes.append("catalogue: the generic stack's share of the datasheet, by published runs")
    if not measured.collective:
        notes.append("one GPU alone has no collectives to measure")
    elif measured.device == "cpu":
        notes.append("collectives: gloo between two processes of one thread each")
    for note in (*notes, *told):
        out.print(f"[dim]Note: {escape(note)}.[/]")
    if stored:
        out.print(f"[dim]Stored in {escape(path)}[/]", soft_wrap=True)


def _rows(measured: "Calibration") -> list[tuple[str, str, str, str, str]]:
    """Quantity, measured, error, samples, the catalogue's figure."""
    from planner.calibration import fit
    from planner.predict.catalog import GENERIC, constants_for, find_accelerator, fitted_constants
    from planner.step_time import HBM_SHARE
    from smolplan.units import three_digits

    fits = fit(measured)
    gpu = None if measured.device == "cpu" else find_accelerator(measured.machine)
    known = dict.fromkeys(("products", "half", "attention", "memory", "link"), "")
    if gpu is not None:
        stack = constants_for(fitted_constants(), GENERIC, gpu.name)
        known = {
            "products": _flops(stack.matmul_share * gpu.peak_bf16_flops),
            "half": f"{stack.half_size:.3g}",
            "attention": _flops(stack.attention_share * gpu.peak_bf16_flops),
            "memory": _bytes(HBM_SHARE * gpu.hbm_bytes_per_s),
            "link": _bytes(stack.link_share * gpu.link_bytes_per_s),
        }
    rows: list[tuple[str, str, str, str, str]] = []

    def add(name: str, value: str, of: Any, catalogue: str = "") -> None:
        rows.append((name, value, f"{of.residual:.1%}", str(of.samples), catalogue))

    for name, products, one in (
        ("bf16", fits.matmul, True),
        ("fp32", fits.matmul_fp32, False),
    ):
        count = sum(sample.precision == name for sample in measured.matmul)
        if products is None and count:
            rows.append((f"products, {name}", NO_FIT, "", str(count), ""))
        if products is not None:
            rate = known["products"] if one else ""
            add(f"products, {name}", _flops(products.flops_per_s), products, rate)
            half = known["half"] if one else ""
            rows.append(("  half of it at size", f"{products.half_size:.3g}", "", "", half))
    if fits.attention is not None:
        rate = _flops(fits.attention.per_s)
        add("attention, bf16 causal", rate, fits.attention, known["attention"])
    if fits.memory is not None:
        name = "memory" if measured.device == "cpu" else "HBM"
        add(name, _bytes(fits.memory.per_s), fits.memory, known["memory"])
    if fits.link is not None:
        add("link (busbw)", _bytes(fits.link.bytes_per_s), fits.link, known["link"])
        rows.append(("  latency", f"{three_digits(fits.link.latency_s * 1e6)} µs", "", "", ""))
    elif measured.collective:
        rows.append(("link (busbw)", NO_FIT, "", str(len(measured.collective)), ""))
    for kind, link in fits.links.items():
        text = f"  {kind.replace('_', '-')}"
        add(text, _bytes(link.bytes_per_s), link)
        rows.append(("    latency", f"{three_digits(link.latency_s * 1e6)} µs", "", "", ""))
    return rows


def _flops(per_s: float) -> str:
    return f"{per_s / 1e12:.3g} TFLOP/s"


def _bytes(per_s: float) -> str:
    return f"{per_s / 1e9:,.4g} GB/s"
