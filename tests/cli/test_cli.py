import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launcher import create
from launcher.store import Store
from smolplan.cli.main import app
from smolplan.errors import UserError
from smolplan.spec import dump_spec, load_preset
from tests.preflight.storage_faults import hung_mount
from tests.support import make_spec, smolplan, wait_until

QUESTION = ("estimate", "--params", "3B", "--tokens", "11T", "--deadline", "4w")


def test_estimate_answers_384_and_names_both_bases() -> None:
    done = smolplan(*QUESTION, "--gpu", "h100", "--explain")
    assert done.returncode == 0
    assert "384 × h100 = 48 nodes of 8" in done.stdout
    assert "378.913" in done.stdout
    assert "21.8%  6ND over peak" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout


def test_estimate_answers_machines_in_json() -> None:
    answer = json.loads(smolplan(*QUESTION, "--json").stdout)
    assert answer["gpus"] == 384
    assert answer["unknown"] == "gpus"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--params", "0", "--tokens", "1T", "--deadline", "4w"], "more than zero"),
        (["--params", "-3B", "--tokens", "1T", "--deadline", "4w"], "zero. Give a number above"),
        (["--params", "nan", "--tokens", "1T", "--deadline", "4w"], "--params"),
        (["--params", "3B", "--tokens", "1T", "--deadline", "2020-01-01"], "in the past"),
        (
            ["--params", "3B", "--tokens", "1T", "--deadline", "2026-02-31"],
            "calendar. Write it like",
        ),
        ([*QUESTION[1:], "--gpu", "h10"], "Did you mean h100"),
        ([*QUESTION[1:], "--mfu", "130%"], "--mfu"),
        ([*QUESTION[1:], "--mfu", "nan"], "--mfu"),
        (["--params", "3B", "--tokens", "11T"], "must be unknown"),
        ([*QUESTION[1:], "--params", "70B", "--preset", "smollm3-3b"], "both tell the size"),
        ([*QUESTION[1:], "--lost-hours", "-1"], "negative"),
        ([*QUESTION[1:], "--lost-hours", "x"], "--lost-hours"),
        (["--params", "1,5B", "--tokens", "1T", "--deadline", "4w"], "is not a count"),
        ([*QUESTION[1:], "--achievable", "700"], "720TFLOPS"),
        ([*QUESTION[1:5], "--deadline", "28"], "28 has no unit"),
        ([*QUESTION[1:5], "--deadline", "tomorrow"], "4w, 30d, 12h or 2027-01-31"),
        ([*QUESTION[1:], "--seq-len", "8192"], "Give --preset or --model"),
        ([*QUESTION[1:], "--mfu-base", ""], "--mfu-base"),
        ([*QUESTION[1:], "--price", "cheap"], "2.50"),
        ([*QUESTION[1:], "--price", "1e308"], "too large"),
        (["--params", "3B", "--tokens", "11T", "--gpus", "1e30"], "not a number of GPUs"),
        ([*QUESTION[1:], "--node-size", "1" + "0" * 400], "--node-size"),
        ([*QUESTION[1:], "--gpu", "NVIDIA H100 80GB HBM3"], "Did you mean h100"),
        (["--model", "/no/such/config.json", "--tokens", "1T", "--deadline", "4w"], "No such file"),
        (["--model", "x" * 5000, "--tokens", "1T", "--deadline", "4w"], "cannot read the config"),
    ],
)
def test_nonsense_ends_with_a_sentence_and_code_2(arguments: list[str], said: str) -> None:
    done = smolplan("estimate", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        (["--deadline", "4 weeks"], 384),
        (["--deadline", "28days"], 384),
        (["--deadline", "4w", "--price", "$2.50"], 384),
        (["--deadline", "4w", "--lost-hours", "10h"], 392),
        (["--deadline", "4w", "--lost-hours", "10"], 392),
        (["--deadline", "4w", "--params", "3,000,000,000"], 384),
    ],
)
def test_quantities_are_read_as_people_write_them(given: list[str], gpus: int) -> None:
    done = smolplan(*QUESTION[:5], *given, "--json")
    assert json.loads(done.stdout)["gpus"] == gpus, done.stderr


def test_the_answer_survives_a_narrow_terminal_and_an_ascii_one() -> None:
    wide = smolplan(*QUESTION).stdout
    assert smolplan(*QUESTION, COLUMNS="40").stdout == wide
    ascii_only = smolplan(*QUESTION, PYTHONIOENCODING="ascii")
    assert ascii_only.returncode == 0
    assert "384 ? h100 = 48 nodes of 8" in ascii_only.stdout


@pytest.mark.parametrize("command", [[*QUESTION], ["spec", "schema"], ["--help"]])
def test_output_that_cannot_be_written_is_said_to_be_so(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "smolplan", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "smolplan: cannot write the output: No space left on device\n"


def test_a_reader_that_goes_away_leaves_no_traceback() -> None:
    schema = [sys.executable, "-m", "smolplan", "spec", "schema"]
    with subprocess.Popen(schema, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


def test_estimate_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from smolplan.cli.main import app\n"
        f"app({list(QUESTION)!r}, standalone_mode=False)\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'psutil'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_the_packages() -> None:
    done = smolplan("--version")
    assert (done.returncode, done.stdout) == (0, f"smolplan {version('smolplan')}\n")


def test_every_command_teaches_by_an_example(store: Store) -> None:
    for command in (
        "estimate",
        "preflight",
        "launch",
        "fork",
        "status",
        "logs",
        "stop",
        "runs",
        "monitor",
        "demo",
        "spec",
    ):
        done = smolplan(command, "--help")
        assert done.returncode == 0
        assert "Example" in done.stdout, command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("profile --steps x", "--steps: 'x' is not a whole number. See: smolplan profile --help"),
        ("profile --steps 0", "--steps: '0' is less than 1. See"),
        ("profile --rank 1 --rank two", "--rank: 'two' is not a whole number. See"),
        ("profile --steps 11", "--steps: '11' is more than 10. See"),
        ("profile --steps", "--steps: it requires an argument."),
        ("profile --json=3", "--json: it does not take a value."),
        ("profile a b c", "profile: too many arguments: b c. See"),
        ("preflight --tier quik", "--tier: 'quik' is none of its values. Did you mean quick?"),
        ("launch tiny-cpu --wach", "launch: there is no option --wach. Did you mean --watch?"),
        ("launch tiny-cpu -z", "launch: there is no option -z. See: smolplan launch --help"),
        ("monitor replay", "FILE: it is missing. See: smolplan monitor replay --help"),
        ("monitor rplay", "monitor: there is no command rplay. Did you mean replay?"),
        ("--vesion", "there is no option --vesion. Did you mean --version?"),
    ],
)
def test_what_typer_cannot_read_is_told_as_any_mistake(arguments: str, said: str) -> None:
    done = smolplan(*arguments.split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"smolplan: {said}")
    assert done.stderr.count("\n") == 1


def test_a_group_without_a_command_shows_its_help() -> None:
    done = smolplan("spec")
    assert done.returncode == 2
    assert "Usage: smolplan spec" in done.stdout + done.stderr
    assert "smolplan: " not in done.stderr


def test_a_spec_with_a_typing_mistake_ends_with_code_2(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(smolplan("spec", "show", "tiny-cpu").stdout.replace("layers:", "layerz:"))
    done = smolplan("spec", "validate", str(path))
    assert done.returncode == 2
    assert "Did you mean layers" in done.stderr


def test_a_spec_is_validated_against_the_catalogue_too(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(smolplan("spec", "show", "tiny-cpu").stdout.replace("gpu: cpu", "gpu: h1000"))
    done = smolplan("spec", "validate", str(path))
    assert done.returncode == 2
    assert "cluster.gpu" in done.stderr and "Did you mean h100" in done.stderr


def test_a_dry_run_refuses_what_a_launch_would_and_starts_nothing(
    store: Store, tmp_path: Path
) -> None:
    refused = smolplan("launch", "qwen3-235b-a22b", "--dry-run")
    assert refused.returncode == 2
    assert "zero_stage" in refused.stderr
    shown = smolplan("launch", "tiny-cpu", "--dry-run", "--runs-dir", str(tmp_path / "runs"))
    assert shown.returncode == 0
    assert "launcher.supervisor" in shown.stdout
    told = smolplan("launch", "tiny-cpu", "--dry-run", "--json")
    assert json.loads(told.stdout)["command"][1:4] == ["-P", "-m", "launcher.supervisor"]
    assert store.runs() == []
    assert not (tmp_path / "runs").exists()


def test_a_refused_launch_leaves_no_folder(store: Store, tmp_path: Path) -> None:
    text = smolplan("spec", "show", "tiny-cpu").stdout.replace("python-stdlib", "no-such-text")
    (tmp_path / "run.yaml").write_text(text)
    done = smolplan("launch", str(tmp_path / "run.yaml"), "--runs-dir", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert "data.sources failed" in done.stderr and "no-such-text" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["launch", "preflight", "demo"])
def test_a_folder_of_runs_that_cannot_be_is_refused(
    store: Store, tmp_path: Path, command: str
) -> None:
    spec = [] if command == "demo" else ["tiny-cpu"]
    done = smolplan(command, *spec, "--runs-dir", str(tmp_path / ("x" * 300)))
    assert done.returncode == 2
    assert "is no folder: File name too long. Name a writable folder" in done.stderr
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("command", ["launch", "status"])
def test_watching_and_json_exclude_each_other(store: Store, command: str) -> None:
    done = smolplan(command, "tiny-cpu", "--watch", "--json")
    assert done.returncode == 2
    assert "--json" in done.stderr


def test_a_folder_on_a_mount_that_hangs_is_named_and_no_command_waits_for_it(
    store: Store, tmp_path: Path
) -> None:
    lost, _ = store.add_run("lost-1", tmp_path / "nfs/runs/lost-1", "hash", monitored=False)
    with hung_mount(tmp_path / "nfs") as folder:
        said = f"{folder}/runs does not answer within 5 s: its mount hangs (storage.mounts)"
        launched = smolplan("launch", "tiny-cpu", "--runs-dir", str(folder / "runs"))
        assert launched.returncode == 2 and launched.stderr.startswith("smolplan: --runs-dir: ")
        assert said in launched.stderr
        for command in ("status", "stop", "logs"):
            done = smolplan(command, "lost")
            assert done.returncode == 2 and f"{lost.path} does not answer" in done.stderr, done
        listed = smolplan("runs", "--json")
        assert json.loads(listed.stdout)[0]["problem"] == f"{folder}/runs does not answer"


def test_a_preflight_of_nothing_is_no_pass() -> None:
    done = smolplan("preflight", "tiny-cpu", "--only", "storage", "--skip", "storage")
    assert done.returncode == 2
    assert "no check is left" in done.stderr


def test_runs_whose_folder_or_spec_is_broken_are_listed_beside_the_others(
    store: Store, tmp_path: Path
) -> None:
    good = tmp_path / ("a-name-of-sixty-characters-" + "x" * 33)
    for folder in (good, tmp_path / "bad"):
        folder.mkdir()
    (good / "spec.yaml").write_text(smolplan("spec", "show", "tiny-cpu").stdout)
    (tmp_path / "bad" / "spec.yaml").write_text("name: [")
    for folder in (good, tmp_path / "bad", tmp_path / "gone"):
        _, attempt = store.add_run(folder.name, folder, "hash", monitored=False)
        store.move_attempt(attempt, "ended", fence=None)
        store.end_run(folder.name, "failed", "", fence=None)
    listed = smolplan("runs")
    assert listed.returncode == 0, listed.stderr
    assert all(word in listed.stdout for word in ("0/120", "bad", "gone", "attempts"))
    assert good.name in listed.stdout
    assert "not valid YAML" in smolplan("status", "bad").stdout
    assert "is gone" in smolplan("status", "gone").stdout
    for command in (["logs", "gone"], ["launch", "--resume", "gone"]):
        done = smolplan(*command)
        assert done.returncode == 2
        assert "is gone" in done.stderr


def test_a_damaged_record_of_runs_is_named(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "runs.sqlite").write_bytes(b"no database" * 1000)
    done = smolplan("runs", SMOLPLAN_STATE=str(folder))
    assert done.returncode == 2
    assert "runs.sqlite: the record of runs is damaged: file is not a database. Move" in done.stderr
    done = smolplan("runs", SMOLPLAN_STATE="~nobody-here/state")
    assert done.returncode == 2
    assert "SMOLPLAN_STATE" in done.stderr


def test_the_published_schema_is_the_specs() -> None:
    published = Path(__file__).parents[2] / "docs" / "run-spec.schema.json"
    assert json.loads(published.read_text()) == json.loads(smolplan("spec", "schema").stdout)


def test_a_run_that_does_not_exist_ends_with_code_2(store: Store) -> None:
    done = smolplan("status", "nothing")
    assert done.returncode == 2
    assert "None was launched yet" in done.stderr


def catches_sigint(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & (1 << (signal.SIGINT - 1)))


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_ctrl_c_leaves_no_traceback_however_early(after_s: float, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "smolplan", "runs"],
        env={**os.environ, "SMOLPLAN_STATE": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Python's own start is over once its handler has given way to ours.
    wait_until(lambda: catches_sigint(process.pid))
    wait_until(lambda: not catches_sigint(process.pid))
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode in (-signal.SIGINT, 130, 0)  # 0: it was done


def test_a_launch_tells_of_a_record_in_the_wrong_place(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UserError("nothing is started in this test")

    monkeypatch.setattr(Store, "misplaced", lambda self: "it is on nfs4")
    monkeypatch.setattr(create, "create_run", refuse)
    arguments = ["launch", "tiny-cpu", "--runs-dir", str(tmp_path), "--unchecked", "a test"]
    done = CliRunner().invoke(app, arguments)
    assert done.stderr == "smolplan: warning: it is on nfs4\n"


def test_a_run_that_its_text_is_too_short_for_is_not_launched(
    data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOLPLAN_STATE", str(tmp_path / "state"))
    spec = make_spec(data_cache)
    data = spec.data.model_copy(update={"max_epochs": 0.001})
    path = tmp_path / "spec.yaml"
    path.write_text(dump_spec(spec.model_copy(update={"data": data})))
    runs = tmp_path / "runs"
    done = CliRunner().invoke(
        app, ["launch", str(path), "--runs-dir", str(runs), "--unchecked", "a test"]
    )
    assert isinstance(done.exception, UserError)
    assert "the run would not start" in str(done.exception)
    assert "more than data.max_epochs 0.001; add text" in str(done.exception)
    assert not runs.exists() and not Store().runs()


def gone_run(state: Path, folder: Path) -> str:
    """On record, and its folder is no longer there."""
    store = Store(state)
    run, _ = store.add_run("lost-1", folder / "lost-1", "hash", monitored=False)
    store.close()
    return run.id


def test_a_run_whose_folder_is_gone_is_told_of_in_one_sentence(tmp_path: Path) -> None:
    state = tmp_path / "state"
    name = gone_run(state, tmp_path / "runs")
    commands = [["report", name], ["plot", name], ["top", "--once", name], ["logs", name]]
    for arguments in commands:
        done = smolplan(*arguments, SMOLPLAN_STATE=str(state))
        assert done.returncode == 2, arguments
        assert done.stderr.endswith("lost-1: the folder of this run is gone.\n"), arguments


@pytest.mark.parametrize("program", ["verify", "upload", "restore", "evaluate"])
def test_a_program_of_the_trainer_names_a_run_that_is_not_there(
    program: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", f"trainer.{program}", str(tmp_path / "nosuch")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("nosuch: the folder of this run is gone.\n")


def test_verify_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer.verify", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "it is no run directory." in done.stderr


def test_preflight_refuses_mistakes_of_input_before_it_checks(tmp_path: Path) -> None:
    (tmp_path / "latin.sh").write_bytes(b"# caf\xe9\n")
    (tmp_path / "file").touch()
    for arguments, said in (
        (["--every", "5min"], "--every: one look is no repetition. Give --watch too"),
        (["--watch", "--every", "0s"], "--every: 0s is not more than zero"),
        (["--script", "none.sh"], "none.sh cannot be read: No such file or directory."),
        (["--script", str(tmp_path / "latin.sh")], "latin.sh cannot be read: it is not UTF-8"),
        (["--only", "nonsense-of-mine"], "smolplan preflight --list --tier burn"),
    ):
        done = CliRunner().invoke(app, ["preflight", "tiny-cpu", *arguments])
        assert isinstance(done.exception, UserError), arguments
        assert said in str(done.exception)
    refused = smolplan("preflight", "tiny-cpu", SMOLPLAN_STATE=str(tmp_path / "file" / "state"))
    assert refused.returncode == 2 and not refused.stdout
    assert "cannot keep the record of runs: Not a directory." in refused.stderr


def test_names_that_are_unknown_are_answered_by_a_line_not_a_list() -> None:
    for arguments in (["spec", "validate", "qqqqqqqq"], ["goodput", "--preset", "qqqqqqqq"]):
        done = CliRunner().invoke(app, arguments)
        assert len(str(done.exception)) < 200, arguments


def test_names_of_runs_are_listed_whole(tmp_path: Path) -> None:
    state, name = tmp_path / "state", "a-run-of-a-long-name-" * 4 + "1128-000136-1f44"
    store = Store(state)
    store.add_run(name, tmp_path / "runs" / name, "hash", monitored=False)
    store.close()
    assert name in smolplan("runs", SMOLPLAN_STATE=str(state)).stdout


def test_a_gpu_that_nobody_knows_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = dump_spec(load_preset("tiny-cpu")).replace("gpu: cpu", "gpu: h1x")
    path.write_text(text)
    line = text.splitlines().index("  gpu: h1x") + 1
    done = CliRunner().invoke(app, ["spec", "validate", str(path)])
    assert str(done.exception).startswith(f"{path}:{line}: cluster.gpu: the GPU 'h1x'")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["spec", "validate", ""], "a spec is needed"),
        (["plan", "smollm3-3b", "--network", "8x"], "Write a node's adapters like 8x400Gb/s."),
        (["plan", "smollm3-3b", "--gpus", "1024-64"], "runs backwards. Write it like 64-1024."),
        (["predict", "/"], "/: it cannot be read: Is a directory."),
    ],
)
def test_a_mistake_is_told_by_what_was_written(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)


def test_the_changes_of_a_proxy_keep_its_name_whole_and_no_line_ends_in_spaces() -> None:
    told = smolplan("scale", "smollm3-3b", "--to", "100M", "--tokens", "2B").stderr
    assert "smollm3-3b-100M" in told
    assert all(line == line.rstrip() for line in told.splitlines())
