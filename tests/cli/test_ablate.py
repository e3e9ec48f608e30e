"""smolplan ablate: real runs compared, killed in between, and not done again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.store import Store
from planner.ablation.result import Ablation, Trained
from planner.ablation.variants import BASE, Variant
from smolplan.cli.ablate_view import markdown, show
from smolplan.rundir import RunDir
from smolplan.spec import dump_spec, load_preset
from tests.support import make_spec, smolplan, wait_until


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny-cpu", "--switch", "ropee"], "Known: gqa, rnope, document_masking"),
        (["tiny-cpu", "--set", "optim.eps=1e-6,optim.betta1=0.9"], "no field 'optim.betta1'"),
        (["llama3.2-1b", "--switch", "rnope"], "changes nothing for llama3.2-1b: all layers"),
        (["tiny-cpu", "--set", "model.kv_heads=3"], "heads 4 is not a multiple of kv_heads 3"),
        (["smollm3-3b", "--dry-run"], "cluster.nodes is 48"),
        (["tiny-cpu", "--plot", "losses.gif"], ".html, .svg, .png"),
    ],
)
def test_what_cannot_be_compared_ends_with_a_sentence_and_code_2(
    store: Store, arguments: list[str], said: str
) -> None:
    done = smolplan("ablate", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr and not store.runs()


def test_the_tables_fit_and_mark_what_is_noise(capsys: pytest.CaptureFixture[str]) -> None:
    spec = load_preset("tiny-cpu")
    scores = {BASE: (2.0, 2.1), "document_masking[|]": (2.1, 2.0), "gqa": (1.5, 1.6001)}
    runs = {
        name: [Trained("r", "/r", seed, bits, 12_345.6, (1,)) for seed, bits in enumerate(pair)]
        for name, pair in scores.items()
    }
    answer = Ablation.of(spec, (0, 1), [(Variant(name), of) for name, of in runs.items()])
    show(answer, Path("/somewhere"))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    (noisy,) = [line for line in printed.splitlines() if line.startswith("document_masking")]
    assert "noise" in noisy and "+0.0000" in noisy
    (better,) = [line for line in printed.splitlines() if line.startswith("gqa")]
    assert "better" in better and "-0.5006 -0.4993" in better
    table = [line for line in markdown(answer).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {9}
    alone = Ablation.of(spec, (0,), [(Variant(n), of[:1]) for n, of in runs.items()])
    assert "give --seeds 2" in markdown(alone) and "holds 0" not in markdown(alone)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_ablation_that_was_killed_goes_on_and_does_no_run_twice(
    store: Store, tmp_path: Path, data_cache: Path
) -> None:
    path, out = tmp_path / "run.yaml", tmp_path / "out"
    path.write_text(dump_spec(make_spec(data_cache, steps=6, ranks=1)))
    words = ["ablate", str(path), "--switch", "gqa", "--seeds", "2", "--out", str(out)]
    words += ["--unchecked", "checks are another test's", "--json"]
    first = subprocess.Popen([sys.executable, "-m", "smolplan", *words], stdout=subprocess.DEVNULL)
    wait_until(lambda: len(store.runs()) == 2, 300)
    first.kill()
    first.wait()
    assert not (out / "ablation.json").exists()

    plot = tmp_path / "losses.svg"
    done = smolplan(*words, "--plot", str(plot), timeout_s=500)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer == json.loads((out / "ablation.json").read_text())
    runs = store.runs()
    assert [run.state for run in runs] == ["finished"] * 4
    base, gqa = answer["variants"]
    assert gqa["fields"] == {"model.kv_heads": 4} and gqa["parameters"] > base["parameters"]
    assert gqa["same_batches"] and gqa["difference"]["pairs"] == 2
    for variant in (base, gqa):
        for run in variant["runs"]:
            (kept,) = RunDir(run["path"]).evals.glob("step-6.json")
            assert json.loads(kept.read_text())["bits_per_byte"] == run["bits_per_byte"]
    seeds = [run["bits_per_byte"] for run in base["runs"]]
    assert seeds[0] != seeds[1]
    apart = [b["bits_per_byte"] - a for a, b in zip(seeds, gqa["runs"], strict=True)]
    assert gqa["difference"]["mean"] == pytest.approx(sum(apart) / 2)
    assert plot.read_text().startswith("<svg")

    again = smolplan(*words)
    assert json.loads(again.stdout) == answer
    assert len(store.runs()) == 4
