"""smolplan launch with several specs: runs that differ a little, as one job array."""

from pathlib import Path


def launch_together(
    names: list[str],
    *,
    runs_dir: Path | None,
    monitored: bool,
    at_most: int | None,
    dry_run: bool,
    unchecked: str | None,
    as_json: bool,
) -> None:
    """Raises SmolplanError."""
    import json

    from launcher import create
    from launcher.slurm import array, script
    from launcher.store import Store
    from smolplan.cli.gate import check_before, warn_of_store
    from smolplan.cli.style import progress_line
    from smolplan.rundir import RunDir
    from smolplan.spec import load_spec

    specs = [load_spec(name) for name in names]
    array.check(specs)
    folders = [create.runs_folder(spec, runs_dir) for spec in specs]
    if dry_run:
        runs = [RunDir(f / f"{s.name}-…") for f, s in zip(folders, specs, strict=True)]
        arguments, text = array.request(
            specs, runs, at_most, folders[0] / "array-…", checked=unchecked is None
        )
        if as_json:
            print(json.dumps({"command": arguments, "script": text}))
        else:
            print(script.render(arguments, text))
        return
    tell = [check_before(s, f, unchecked) for s, f in zip(specs, folders, strict=True)]
    store = Store()
    warn_of_store(store)
    with progress_line("Preparing the data") as say:
        members = array.create_all(store, specs, folders, monitored=monitored, on_progress=say)
    for member, tell_of in zip(members, tell, strict=True):
        tell_of(RunDir(member.run.path))
    job = array.start(store, members, at_most)
    told = [{"run": m.run.id, "path": str(m.run.path), "attempt": 1} for m in members]
    if as_json:
        print(json.dumps({"job": job, "runs": told}))
        return
    print(f"{len(members)} runs are job array {job}" + (f", {at_most} at a time" * bool(at_most)))
    for member in members:
        print(f"  {member.run.id} in {member.run.path}")
    print("See them by: smolplan runs")
