import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from launcher.store import Store
from tests.support import smolplan

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
        (["--params", "-3B", "--tokens", "1T", "--deadline", "4w"], "more than zero"),
        (["--params", "nan", "--tokens", "1T", "--deadline", "4w"], "--params"),
        (["--params", "3B", "--tokens", "1T", "--deadline", "2020-01-01"], "in the past"),
        (["--params", "3B", "--tokens", "1T", "--deadline", "2026-02-31"], "not a date"),
        ([*QUESTION[1:], "--gpu", "h10"], "Did you mean h100"),
        ([*QUESTION[1:], "--mfu", "130%"], "--mfu"),
        ([*QUESTION[1:], "--mfu", "nan"], "--mfu"),
        (["--params", "3B", "--tokens", "11T"], "must be unknown"),
        ([*QUESTION[1:], "--params", "70B", "--preset", "smollm3-3b"], "both tell the size"),
        ([*QUESTION[1:], "--lost-hours", "-1"], "negative"),
    ],
)
def test_nonsense_ends_with_a_sentence_and_code_2(arguments: list[str], said: str) -> None:
    done = smolplan("estimate", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


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
    for command in ("estimate", "preflight", "launch", "status", "logs", "stop", "runs", "monitor"):
        done = smolplan(command, "--help")
        assert done.returncode == 0
        assert "Example" in done.stdout, command


def test_a_spec_with_a_typing_mistake_ends_with_code_2(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(smolplan("spec", "show", "tiny-cpu").stdout.replace("layers:", "layerz:"))
    done = smolplan("spec", "validate", str(path))
    assert done.returncode == 2
    assert "Did you mean layers" in done.stderr


def test_the_published_schema_is_the_specs() -> None:
    published = Path(__file__).parents[2] / "docs" / "run-spec.schema.json"
    assert json.loads(published.read_text()) == json.loads(smolplan("spec", "schema").stdout)


def test_a_run_that_does_not_exist_ends_with_code_2(store: Store) -> None:
    done = smolplan("status", "nothing")
    assert done.returncode == 2
    assert "None was launched yet" in done.stderr
