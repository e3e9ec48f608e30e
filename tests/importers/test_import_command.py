import json
import subprocess
from pathlib import Path

import pytest

from smolplan.spec import load_spec, parse_spec
from tests import support
from tests.importers.support import DATA


def smolplan(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return support.smolplan(*map(str, arguments))


STAGE1 = DATA / "nanotron_stage1.yaml"


def test_the_spec_goes_to_the_output_and_the_report_beside_it() -> None:
    done = smolplan("spec", "import", STAGE1)
    assert done.returncode == 0
    spec = parse_spec(done.stdout, where="")
    assert (spec.parallel.data_parallel, spec.steps) == (192, 4_720_000)
    assert "parallel.data_parallel 192 ← parallelism.dp" in done.stderr
    assert "data_stages.0 stable: from step 1, 3" in done.stderr
    assert "the bundled trainer cannot run this yet" not in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80


def test_json_holds_spec_and_report() -> None:
    done = smolplan("spec", "import", DATA / "megatron_8b.sh", "--json")
    told = json.loads(done.stdout)
    assert told["format"] == "megatron"
    assert told["spec"]["model"]["layers"] == 32
    assert {"taken", "not_taken", "assumed", "unsupported_by_trainer"} <= told.keys()
    assert {"field", "value", "why"} == told["not_taken"][0].keys()
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("nanotron_long_context.yaml", "nanotron"),
        ("torchtitan_70b.toml", "torchtitan"),
        ("megatron_8b.sh", "megatron"),
        ("llama3_config.json", "huggingface"),
    ],
)
def test_the_content_tells_the_format(tmp_path: Path, file: str, name: str) -> None:
    bare = tmp_path / "file"
    bare.write_bytes((DATA / file).read_bytes())
    assert json.loads(smolplan("spec", "import", bare, "--json").stdout)["format"] == name


def test_a_file_is_written_once_and_replaced_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "run.yaml"
    assert smolplan("spec", "import", STAGE1, "--out", out).returncode == 0
    assert load_spec(out).parallel.tensor_parallel == 2
    again = smolplan("spec", "import", STAGE1, "--out", out, "--set", "name=other")
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert load_spec(out).name != "other"
    forced = smolplan("spec", "import", STAGE1, "--out", out, "--set", "name=other", "--force")
    assert (forced.returncode, forced.stdout) == (0, "")
    assert load_spec(out).name == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("general: [", [], "not valid YAML"),
        ("[model\n", [], "not valid YAML"),
        ("hello", [], "Known: huggingface, torchtitan, megatron, nanotron"),
        ("", [], "of no format"),
        ("hello", ["--format", "nanotro"], "Did you mean nanotron"),
        ("hello", ["--format", "nanotron"], "a mapping of fields"),
        (STAGE1.read_text(), ["--set", "model.layer=3"], "Did you mean model.layers"),
        (STAGE1.read_text(), ["--set", "model.layers"], "has no value"),
        (STAGE1.read_text(), ["--set", "model.layers=few"], "is not a count"),
        (STAGE1.read_text(), ["--set", "cluster.gpu=h10"], "Did you mean h100"),
        (STAGE1.read_text(), ["--set", "cluster.gpus_per_node=5"], "do not fill nodes of 5"),
        (STAGE1.read_text(), ["--set", "optim.steps=5"], "exceed the run's 5 steps"),
        (STAGE1.read_text(), ["--gpus", "7"], "384 ranks, --gpus says 7"),
        (STAGE1.read_text().replace("dp: 192", "dp: x"), [], "parallelism.dp is x"),
    ],
)
def test_what_cannot_become_a_spec_exits_2_and_writes_nothing(
    tmp_path: Path, content: str, arguments: list[str], said: str
) -> None:
    file, out = tmp_path / "run.yaml", tmp_path / "out.yaml"
    file.write_text(content)
    done = smolplan("spec", "import", file, "--out", out, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout, out.exists()) == ("", False)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"a: 1\n" * 300_000)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for file, said in [
        (tmp_path / "none", "No such file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "large", "no configuration file"),
        (tmp_path / "latin", "not UTF-8"),
        (tmp_path / ("x" * 5000), "cannot read"),
    ]:
        done = smolplan("spec", "import", file)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    for out in (tmp_path, tmp_path / "no" / "such.yaml"):
        done = smolplan("spec", "import", STAGE1, "--out", out, "--force")
        assert done.returncode == 2
        assert "--out" in done.stderr
