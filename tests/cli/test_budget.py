import json
from pathlib import Path

import pytest

from tests.support import smolplan

EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm3-budget.yaml"


def test_the_published_ledger_is_the_worked_example() -> None:
    done = smolplan("budget", "--preset", "smollm3-3b")
    assert done.returncode == 0, done.stderr
    for words in ("276,480", "161,280", "58.3%", "437,760", "(10,000)", "384 GPUs × 30 d"):
        assert words in done.stdout
    assert "SmolLM3 needed 58.3% (161,280 beside" in " ".join(done.stdout.split())
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("arguments", [["--preset", "smollm3-3b"], [str(EXAMPLE)]])
def test_no_line_is_wider_than_80_columns(arguments: list[str]) -> None:
    done = smolplan("budget", *arguments, "--explain")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout


def test_the_example_has_every_section_and_is_warned_of_its_thin_reserve() -> None:
    done = smolplan("budget", str(EXAMPLE), "--price", "$2.50")
    assert done.returncode == 0, done.stderr
    for section in ("ablations", "annealing", "evaluation", "long context", "mid-training",
                    "fine-tuning", "preference", "reinforcement learning", "Checks",
                    "Energy and carbon", "Storage and bandwidth", "Serving it"):  # fmt: skip
        assert section in done.stdout
    assert "warning ablations and debugging" in done.stdout
    assert "At $2.50 per GPU-hour: given." in done.stdout


def test_machines_get_every_line_with_its_share_and_dollars() -> None:
    answer = json.loads(smolplan("budget", str(EXAMPLE), "--price", "2", "--json").stdout)
    for line in answer["lines"]:
        assert line["dollars"] == [2 * line["gpu_hours"]] * 2
        assert line["share_of_main"] == line["gpu_hours"] / answer["main_gpu_hours"]
        assert line["formula"]
        assert line["source"]
    assert answer["total_share_of_main"] == answer["total_gpu_hours"] / answer["main_gpu_hours"]
    modes = answer["rl"][0]["answer"]
    assert modes["synchronous"]["gpu_hours"] > modes["asynchronous"]["gpu_hours"]
    assert answer["inference"]["kv_bytes_per_token"] == 73_728


def test_energy_is_explained_with_its_sources() -> None:
    shown = " ".join(smolplan("budget", "--preset", "smollm3-3b", "--explain").stdout.split())
    assert "arXiv 2412.08602" in shown
    assert "location-based" in shown
    assert "Line by line" in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nmain: {gpu_hours: -5}\n", "plan.yaml:2: main.gpu_hours"),
        ("name: x\nmain: {gpu_hours: 5}\nablatoins: []\n", "Did you mean ablations"),
        ("name: x\nmain: {gpu_hours: 5}\ngpu: h10\n", "plan.yaml: gpu: the GPU 'h10'"),
    ],
)
def test_a_mistake_in_the_file_ends_with_its_place_and_code_2(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    done = smolplan("budget", str(file))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


ABSURD = """
name: "[red]absurd[/]"
main: {params: 1e18, tokens: 1e18, mfu: 0.000001, gpus: 1, source: "[bold]"}
ablations: [{name: "a name of an ablation that goes well beyond forty columns", tokens: 1,
             params: 1, count: 1e18}]
sft: [{tokens: 1e18, epochs: 100, packing: 1e-6, runs: 1e18, mfu: 1e-6}]
rl: [{model: smollm3-3b, gpus: 1e18, steps: 1e18, prompts: 1e18, samples: 1e18, runs: 1e18,
      lengths: {mean: 1k, sigma: 4, longest: 10k}, decode_efficiency: 1e-6, mfu: 1e-6}]
energy: {pue: 5, grid_g_per_kwh: 10000, utilisation: 1e-6}
storage: {checkpoint_every: 1s, stall: 1s, object_store: 1, neighbour: 1, milestones: 1e18}
inference: {model: smollm3-3b, sequence_tokens: 1e18, gpus: 1e18}
price_per_gpu_hour: 1e15
"""


def test_absurd_numbers_within_the_bounds_have_finite_answers(tmp_path: Path) -> None:
    file = tmp_path / "absurd.yaml"
    file.write_text(ABSURD)
    shown = smolplan("budget", str(file), "--explain")
    assert shown.returncode == 0, shown.stderr
    assert "[red]absurd[/]" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert json.loads(smolplan("budget", str(file), "--json").stdout)["total_gpu_hours"] > 1e50


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "from a file or a preset"),
        ([str(EXAMPLE), "--preset", "smollm3-3b"], "give one"),
        (["--preset", "smollm3"], "Did you mean smollm3-3b"),
        (["/no/such/file.yaml"], "cannot read the budget"),
        (["--preset", "smollm3-3b", "--price", "free"], "--price"),
        (["--preset", "smollm3-3b", "--price", "-1"], "no price"),
    ],
)
def test_a_question_that_is_none_ends_with_code_2(arguments: list[str], said: str) -> None:
    done = smolplan("budget", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
