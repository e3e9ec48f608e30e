import csv
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import memory, memory_cases
from benchmarks.memory_cases import Case
from planner.memory.conventions import conventions, find_conventions
from planner.predict.catalog import stacks
from planner.predict.rows import read_rows

COLUMNS = [
    *("model", "params_b", "active_b", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab"),
    *("seq_len", "global_batch_tokens", "gpu", "gpus", "tp", "pp", "micro_batch", "dp_or_zero"),
    *("recompute", "tokens_per_s_per_gpu", "source", "mem_gib_per_gpu"),
]
CELLS = """llama-1b 1.2 1.2 16 2048 16 16 8192 32768
4096 1048576 h100 8 1 1 2 zero1
none 9000 x 40"""
SMALL = dict(zip(COLUMNS, CELLS.split(), strict=True))


def written(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return path


def case_of(tmp_path: Path, **cells: str) -> Case:
    (row,) = read_rows(written(tmp_path / "runs.csv", SMALL | cells))
    assert memory_cases.lacking(row) is None
    return memory_cases.case_of(row)


def test_published_peaks_are_printed_beside_predictions_and_the_rest_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(
        tmp_path / "runs.csv",
        SMALL,
        SMALL | {"hidden": ""},
        SMALL | {"gpu": "h100+a100"},
        SMALL | {"active_b": "0.3"},
    )
    assert memory.main([str(file)]) == 0
    out = capsys.readouterr().out
    assert "1 rows, error median" in out
    assert "for 40.0 GiB" in out
    assert "As if of a stack never seen" in out
    for reason in ("no hidden", "GPUs of several kinds", "a mixture of experts of unknown shape"):
        assert f"1 not counted: {reason}" in out


def test_one_rows_bytes_are_shown_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "runs.csv", SMALL | {"source": "nanotron"})
    assert memory.main([str(file), "--line", "2"]) == 0
    out = capsys.readouterr().out
    assert "Ultra-Scale Playbook" in out
    lines = [line for line in out.splitlines() if " GiB " in line]
    shown = [float(line.split(" GiB ")[0].split()[-1]) for line in lines]
    assert shown.pop() == 40.0
    case = case_of(tmp_path, source="nanotron")
    ratio = memory.Batch([case]).ratios(case.conventions)[0]
    assert sum(shown) == pytest.approx(40.0 * ratio, abs=0.05)


def test_a_file_without_a_usable_row_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "runs.csv", SMALL | {"ffn": ""})
    assert memory.main([str(file)]) == 2
    assert "no row can be predicted" in capsys.readouterr().err
    assert memory.main([str(tmp_path / "none.csv")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    whole = written(tmp_path / "runs.csv", SMALL)
    assert memory.main([str(whole), "--line", "7"]) == 2
    assert "line 7 is not predicted" in capsys.readouterr().err


def test_layers_that_are_not_printed_follow_from_the_parameters(tmp_path: Path) -> None:
    case = case_of(tmp_path, model="bloom-x", layers="", params_b="0.94", vocab="65536")
    # 16 × (4 + 8·…) h² = 16 × 50.3M, and a table of 134M
    assert case.architecture.layers == 16
    assert not case.architecture.gated_ffn


def test_a_head_is_tied_where_that_comes_closer_to_the_parameters(tmp_path: Path) -> None:
    tied, untied = (
        case_of(tmp_path, params_b=params, active_b="").architecture.tied_embeddings
        for params in ("1.140", "1.208")
    )
    assert tied and not untied


def test_a_model_cut_short_has_one_layer_without_experts(tmp_path: Path) -> None:
    shape = {"params_b": "", "active_b": "", "layers": "4", "hidden": "7168", "heads": "128"}
    cut = case_of(tmp_path, model="deepseekv3_l4_tp1_ep8", **shape).architecture
    assert (cut.layers, cut.dense_ffn_layers, cut.moe_layers) == (4, 1, 3)
    whole = case_of(tmp_path, model="deepseek-v3", **shape | {"layers": "61"}).architecture
    assert whole.dense_ffn_layers == 3


def test_a_local_batch_is_split_among_the_slots_of_an_fsdp_pipeline(tmp_path: Path) -> None:
    case = case_of(tmp_path, dp_or_zero="fsdp2", pp="4", micro_batch="128", gpus="8")
    assert case.layout.zero_stage == 3
    assert case.layout.micro_batch_size == 32
    assert case.layout.gradient_accumulation == 4


def test_a_fit_finds_the_constants_that_made_the_peaks(tmp_path: Path) -> None:
    truth = replace(find_conventions("nanotron"), hidden_tensors=10.0, context_bytes=3e9)
    cases = [
        case_of(tmp_path, source="nanotron", tp=str(tp), gpus=str(8 * tp), micro_batch=str(size))
        for tp in (1, 2, 4)
        for size in (1, 2, 4, 8)
    ]
    made = memory.Batch(cases).ratios(truth) * 40.0
    cases = [
        replace(case, published_gib=peak) for case, peak in zip(cases, made.tolist(), strict=True)
    ]
    names = ("hidden_tensors", "context_bytes")
    found = memory.fit(cases, replace(truth, hidden_tensors=4.0, context_bytes=0.0), names)
    assert found.hidden_tensors == pytest.approx(10.0, rel=0.02)
    assert found.context_bytes == pytest.approx(3e9, rel=0.02)


def test_every_stack_says_where_its_conventions_come_from() -> None:
    rows = conventions()
    assert all(row.source for row in rows)
    assert find_conventions("a stack that nobody knows").name == "generic" == rows[-1].name
    assert {row.name for row in rows} >= set(memory.FITTED)


def test_the_stacks_that_a_plan_knows_by_name_are_found_by_it() -> None:
    found = {stack.name: find_conventions(stack.name).name for stack in stacks()}
    assert found["nanotron"] == "nanotron"
    assert found["megatron-bridge"] == found["nemo"] == found["simumax"] == "megatron-core"
    assert found["megatron-deepspeed"] == "megatron-deepspeed-fp16"
    assert found["torchtitan-async-tp"] == "torchtitan"
    assert found["maxtext"] == found["generic"] == "generic"


def test_an_allocated_figure_is_predicted_without_fragmentation(tmp_path: Path) -> None:
    case = case_of(tmp_path, source="SimuMax")
    allocated = memory.Batch([case]).ratios(case.conventions)[0]
    reserved = memory.Batch([case]).ratios(replace(case.conventions, figure="reserved"))[0]
    assert reserved == pytest.approx(1.04 * allocated)


def test_a_first_stages_figure_holds_no_logits_of_a_pipelines_last(tmp_path: Path) -> None:
    case = case_of(tmp_path, source="nanotron", pp="2", micro_batch="8", gpus="16")
    case = replace(case, layout=replace(case.layout, gradient_accumulation=1.0))
    first = memory.Batch([case]).ratios(case.conventions)[0]
    fullest = memory.Batch([case]).ratios(replace(case.conventions, figure_stage="fullest"))[0]
    assert first < fullest
