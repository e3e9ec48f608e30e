import math
from dataclasses import replace
from pathlib import Path

import pytest

from planner.catalog import models
from planner.flops import flops_per_token
from planner.predict.catalog import (
    CONSTANT_NAMES,
    GENERIC,
    OTHER,
    Constants,
    accelerators,
    constants_for,
    find_accelerator,
    find_stack,
    fitted_constants,
    stacks,
)
from planner.predict.measured import contradictions, measured_of
from planner.predict.report import compare, grouped, quantile, skipped_counts, totals
from planner.predict.rows import read_rows
from planner.predict.workload import Workload, lacking, workload_of
from planner.step_inputs import BLOCK_FP8, FP4, FP8
from smolplan.errors import UserError

LLAMA = {
    "model": "llama3-8b",
    "params_b": "8.03",
    "active_b": "8.03",
    "layers": "32",
    "hidden": "4096",
    "heads": "32",
    "kv_heads": "8",
    "ffn": "14336",
    "vocab": "128256",
    "seq_len": "8192",
    "global_batch_tokens": "4194304",
    "gpu": "H100-80GB-SXM",
    "gpus": "64",
    "nodes": "8",
    "tp": "2",
    "pp": "1",
    "dp_or_zero": "dp32-zero1",
    "recompute": "none",
    "precision": "bf16",
    "tokens_per_s_per_gpu": "9000",
    "source": "a test",
    "verified": "file",
    "micro_batch": "1",
    "notes": "",
}


def write(path: Path, *rows: dict[str, str]) -> Path:
    columns = list(rows[0])
    lines = [",".join(columns), *(",".join(row.get(c, "") for c in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def workload(tmp_path: Path, **changes: str) -> Workload:
    row = read_rows(write(tmp_path / "one.csv", {**LLAMA, "tflops_per_gpu": "", **changes}))[0]
    assert lacking(row) is None
    return workload_of(row)


def rate(w: Workload) -> float:
    measured = measured_of(w)
    assert measured is not None
    return measured.tokens_per_s_per_gpu


def test_flops_of_a_dense_model_equal_the_planners_own(tmp_path: Path) -> None:
    from smolplan.spec import load_preset

    model = load_preset("smollm3-3b").model
    shape = {"layers": "36", "hidden": "2048", "heads": "16", "kv_heads": "4", "ffn": "11008"}
    w = workload(
        tmp_path,
        **shape,
        model="smollm3-3b",
        vocab="128256",
        seq_len="4096",
        params_b="3.075",
        active_b="3.075",
    )
    assert w.flops_per_token == pytest.approx(flops_per_token(model, 4096))
    full = flops_per_token(model, 4096, causal=False)
    assert w.full_attention_flops_per_token == pytest.approx(full)


def test_step_time_is_preferred_to_tokens_per_second_and_to_mfu(tmp_path: Path) -> None:
    given = {"step_time_s": "8", "tokens_per_s_per_gpu": "9000", "mfu_pct": "50"}
    row = read_rows(write(tmp_path / "a.csv", {**LLAMA, **given}))[0]
    measured = measured_of(workload_of(row))
    assert measured is not None
    assert (measured.origin, measured.tokens_per_s_per_gpu) == ("step_time_s", 4194304 / 64 / 8)


def test_published_tflops_count_full_attention(tmp_path: Path) -> None:
    w = workload(tmp_path, tokens_per_s_per_gpu="", tflops_per_gpu="400")
    assert rate(w) == pytest.approx(400e12 / w.full_attention_flops_per_token)


def test_hardware_tflops_count_the_recomputed_forward(tmp_path: Path) -> None:
    row = {"tokens_per_s_per_gpu": "", "tflops_per_gpu": "400", "recompute": "full"}
    model = rate(workload(tmp_path, **row))
    hardware = rate(workload(tmp_path, **row, notes="tflops is HARDWARE"))
    assert hardware == pytest.approx(model * 3 / 4)


@pytest.mark.parametrize(
    ("notes", "counts_causal"),
    [("counts causal attention", True), ("counts full (non-causal) attention", False), ("", False)],
)
def test_notes_say_whether_attention_counts_as_causal(
    tmp_path: Path, notes: str, counts_causal: bool
) -> None:
    w = workload(tmp_path, tokens_per_s_per_gpu="", tflops_per_gpu="400", notes=notes)
    per_token = w.flops_per_token if counts_causal else w.full_attention_flops_per_token
    assert rate(w) == pytest.approx(400e12 / per_token)


def test_experts_are_told_from_the_parameters(tmp_path: Path) -> None:
    # The shape of Qwen3-235B-A22B: 128 experts of width 1536 a layer, 8 of them active.
    shape = workload(
        tmp_path,
        model="qwen3-like",
        params_b="235",
        active_b="22",
        layers="94",
        heads="64",
        kv_heads="4",
        ffn="1536",
        vocab="151936",
    ).shape
    assert shape["experts"] == 128
    assert shape["experts_per_token"] == 8


def test_experts_are_told_from_the_notes(tmp_path: Path) -> None:
    shape = workload(
        tmp_path, model="grok1", params_b="", active_b="", notes="MoE 8 experts top2"
    ).shape
    assert (shape["experts"], shape["experts_per_token"]) == (8, 2)


PUBLISHED = {"params_b": "", "active_b": "", "kv_heads": "", "ffn": "", "vocab": ""}


@pytest.mark.parametrize("name", ["deepseek-v3", "DeepSeek_V3-automodel", "deepseekv3_l61_tp1_ep8"])
def test_a_published_model_is_known_by_its_name(tmp_path: Path, name: str) -> None:
    w = workload(tmp_path, **PUBLISHED, model=name, layers="", hidden="", heads="")
    assert (w.shape["experts"], w.shape["shared_ffn"]) == (256, 2048)
    arch = replace(models()["deepseek-v3"].architecture()[0], mtp_layers=0)
    assert w.flops_per_token == pytest.approx(flops_per_token(arch, 8192))


def test_a_published_model_of_fewer_layers_keeps_its_shape(tmp_path: Path) -> None:
    w = workload(tmp_path, **PUBLISHED, model="deepseekv3_l4_tp1", layers="4", hidden="", heads="")
    assert w.shape["layers"] == 4
    assert w.shape["moe_share"] == pytest.approx(1 / 4)


def test_prediction_modules_count_where_the_notes_say_so(tmp_path: Path) -> None:
    row = {**PUBLISHED, "model": "deepseek-v3", "layers": "61", "hidden": "7168", "heads": "128"}
    assert workload(tmp_path, **row, notes="w/ MTP").shape["losses"] == 2
    assert workload(tmp_path, **row, notes="w/o MTP").shape["losses"] == 1


def test_a_name_that_only_begins_like_a_published_one_is_not_taken_for_it(tmp_path: Path) -> None:
    row = {**LLAMA, "model": "gpt-20b", "hidden": "", "heads": "", "layers": ""}
    assert (lacking(read_rows(write(tmp_path / "x.csv", row))[0]) or "").startswith("no layers")


def test_columns_that_contradict_the_name_are_believed(tmp_path: Path) -> None:
    w = workload(tmp_path, model="llama2-70b-like", hidden="4096")
    assert w.shape["layers"] == 32


def test_a_hybrid_counts_its_feed_forward_parts_as_layers_or_not(tmp_path: Path) -> None:
    row = {**PUBLISHED, "model": "nemotron-3-nano-30b", "hidden": "2688", "heads": "32"}
    assert workload(tmp_path, **row, layers="52").shape["mixer_share"] > 0.7


@pytest.mark.parametrize(("params", "matrices"), [("8.03", 3.0), ("6.1", 2.0)])
def test_parameters_decide_whether_there_is_a_gate(
    tmp_path: Path, params: str, matrices: float
) -> None:
    shape = workload(tmp_path, model="unheard-of", params_b=params, active_b=params).shape
    assert shape["ffn_matrices"] == matrices


@pytest.mark.parametrize(
    ("precision", "number_format", "peak"),
    [("mxfp8", BLOCK_FP8, 5e15), ("fp8-cs", FP8, 5e15), ("nvfp4", FP4, 1e16)],
)
def test_low_precision_has_its_own_peak(
    tmp_path: Path, precision: str, number_format: float, peak: float
) -> None:
    machine = workload(tmp_path, gpu="GB200", precision=precision).machine
    assert (machine["number_format"], machine["matmul_flops_per_s"]) == (number_format, peak)


def test_a_gpu_without_fp8_multiplies_in_16_bits(tmp_path: Path) -> None:
    machine = workload(tmp_path, gpu="A100-80GB-SXM", precision="fp8").machine
    assert machine["matmul_flops_per_s"] == 312e12


def test_notes_give_the_network(tmp_path: Path) -> None:
    machine = workload(tmp_path, notes="8 GPU/node; 800 Gbps/node").machine
    assert machine["network_bytes_per_s"] == 800e9 / 8 / 8


def test_a_batch_split_by_a_pipeline_of_shards_is_no_single_micro_batch(tmp_path: Path) -> None:
    # torchtitan: 32 sequences a replica, split into as many micro-batches as stages.
    layout = workload(
        tmp_path, dp_or_zero="fsdp8", pp="8", tp="1", micro_batch="64", gpus="64"
    ).layout
    assert layout["micro_batch"] == 8


def test_a_run_that_shards_its_weights_and_names_no_other_layout_has_none(tmp_path: Path) -> None:
    layout = workload(tmp_path, dp_or_zero="fsdp", tp="", pp="").layout
    assert (layout["tp"], layout["pp"], layout["sharded_weights"]) == (1, 1, 1)
    row = read_rows(write(tmp_path / "no.csv", {**LLAMA, "tp": "", "pp": ""}))[0]
    assert lacking(row) == "no tp, pp"


def test_missing_optional_columns_get_defaults(tmp_path: Path) -> None:
    optional = ("nodes", "kv_heads", "ffn", "micro_batch", "recompute", "dp_or_zero", "notes")
    row = {k: v for k, v in LLAMA.items() if k not in optional}
    comparison = compare(read_rows(write(tmp_path / "few.csv", row)))[0]
    assert comparison.skipped is None
    assert comparison.predicted_tflops is not None and comparison.predicted_tflops > 100


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layers": ""}, "no layers"),
        ({"gpu": "Quantum-9"}, "not in the catalogue"),
        ({"gpu": "RTX-3090+Titan-RTX"}, "not in the catalogue"),
        ({"tp": "3"}, "does not divide"),
        ({"model": "mixtral-9x9b"}, "without active_b"),
        ({"params_b": "46.7", "active_b": "12.9", "ffn": ""}, "width of one"),
        ({"model": "jamba-like"}, "hybrid"),
        ({"verified": "memory"}, "from memory"),
        ({"tokens_per_s_per_gpu": ""}, "no measurement"),
        ({"global_batch_tokens": "4096"}, "shorter than a sequence"),
        ({"hidden": "1e200", "params_b": "", "active_b": ""}, "beyond all reason"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    row = {**LLAMA, **change}
    if change.get("model") == "mixtral-9x9b":
        row["active_b"] = ""
    comparison = compare(read_rows(write(tmp_path / "x.csv", LLAMA, row)))[1]
    assert reason in (comparison.skipped or "")
    assert comparison.predicted_tflops is None


def test_an_unknown_stack_is_predicted_by_what_all_stacks_share(tmp_path: Path) -> None:
    comparison = compare(read_rows(write(tmp_path / "u.csv", LLAMA)))[0]
    assert comparison.stack == GENERIC
    assert comparison.error is not None and abs(comparison.error) < 0.5


def contradiction(tmp_path: Path, *rows: dict[str, str]) -> dict[int, str]:
    loads = [
        workload_of(row)
        for row in read_rows(write(tmp_path / "c.csv", *({**LLAMA, **r} for r in rows)))
    ]
    measured = [m for w in loads if (m := measured_of(w)) is not None]
    return contradictions(loads, measured)


def test_runs_that_agree_contradict_nothing(tmp_path: Path) -> None:
    few = {"gpus": "64", "tokens_per_s_per_gpu": "9000"}
    many = {"gpus": "128", "tokens_per_s_per_gpu": "8500"}
    assert contradiction(tmp_path, few, many) == {}


def test_step_time_and_tokens_per_second_of_a_row_must_agree(tmp_path: Path) -> None:
    row = {"step_time_s": "14.0", "tokens_per_s_per_gpu": "9000", "tflops_per_gpu": ""}
    assert "disagree" in contradiction(tmp_path, {"step_time_s": ""} | row)[0]


def test_tflops_far_from_the_tokens_per_second_contradict_them(tmp_path: Path) -> None:
    assert "TFLOP/s" in contradiction(tmp_path, {"tflops_per_gpu": "100"})[0]


def test_nothing_is_faster_than_the_peak(tmp_path: Path) -> None:
    assert "peak" in contradiction(tmp_path, {"tokens_per_s_per_gpu": "90000"})[0]


def test_more_replicas_cannot_make_a_step_longer(tmp_path: Path) -> None:
    few = {"gpus": "64", "tokens_per_s_per_gpu": "9000"}
    many = {"gpus": "128", "tokens_per_s_per_gpu": "3000"}
    found = contradiction(tmp_path, few, many)
    assert list(found) == [1] and "replicas" in found[1]


def test_half_the_layers_take_less_than_nine_tenths_of_the_time(tmp_path: Path) -> None:
    # The same slot of 1/136 of a step of 64 against 32 sequences in flight.
    two = {"pp": "2", "gpus": "16", "tokens_per_s_per_gpu": "9000"}
    four = {"pp": "4", "gpus": "32", "tokens_per_s_per_gpu": "4000"}
    found = contradiction(tmp_path, two, four)
    assert list(found) == [1] and "half the layers" in found[1]


def test_a_larger_micro_batch_cannot_be_far_slower(tmp_path: Path) -> None:
    one = {"micro_batch": "1", "tokens_per_s_per_gpu": "9000"}
    two = {"micro_batch": "2", "tokens_per_s_per_gpu": "3000"}
    assert "siblings" in contradiction(tmp_path, one, two)[1]


def test_contradictory_rows_are_counted_but_not_predicted_in_the_figures(tmp_path: Path) -> None:
    slow = {**LLAMA, "gpus": "128", "tokens_per_s_per_gpu": "3000"}
    comparisons = compare(read_rows(write(tmp_path / "f.csv", LLAMA, slow)))
    assert list(skipped_counts(comparisons).values()) == [1]
    first, with_them = totals(comparisons)
    assert (first.rows, with_them.rows) == (1, 2)
    assert [q.rows for q in grouped(comparisons, lambda c: c.stack or "")] == [1]


def test_quantiles_interpolate() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 1.0], 0.9) == pytest.approx(0.9)
    assert quantile([5.0], 0.9) == 5.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": "many"}, ["line 2", "layers", "'many' is not a number"]),
        ({"gpus": "-8"}, ["line 2", "gpus", "not more than zero"]),
        ({"gpus": "0"}, ["line 2", "gpus", "not more than zero"]),
        ({"tp": "1.5"}, ["line 2", "tp", "whole number"]),
        ({"tokens_per_s_per_gpu": "nan"}, ["line 2", "not a number"]),
        ({"hidden": "1e999"}, ["line 2", "hidden"]),
    ],
)
def test_bad_cells_are_named_by_line_and_column(
    tmp_path: Path, change: dict[str, str], says: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(write(tmp_path / "bad.csv", {**LLAMA, **change}))
    assert all(part in str(caught.value) for part in says)


def test_files_saved_by_spreadsheets_are_read(tmp_path: Path) -> None:
    row = {**LLAMA, "notes": '"two\r\nlines, quoted"'}
    path = write(tmp_path / "excel.csv", row, LLAMA)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    first, second = read_rows(path)
    assert "lines, quoted" in first.text("notes") and second.numbers == first.numbers


def test_missing_columns_are_named(tmp_path: Path) -> None:
    row = {k: v for k, v in LLAMA.items() if k not in ("layers", "gpu")}
    with pytest.raises(UserError, match="layers, gpu"):
        read_rows(write(tmp_path / "bad.csv", row))


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "\x00\x01", ",".join(LLAMA) + "\n", ",".join(LLAMA) + "\nonly,two\n"]
)
def test_files_that_are_no_such_table_end_in_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError):
        read_rows(path)


def test_a_missing_file_ends_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.csv")


def test_every_name_in_the_catalogue_is_found_by_its_own_pattern() -> None:
    for accelerator in accelerators():
        assert find_accelerator(accelerator.name) == accelerator


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("H100-80GB-SXM", "h100"),
        ("A100-40GB-SXM", "a100-40gb"),
        ("GB300", "gb300"),
        ("GH200-96GB", "gh200"),
        ("H100-96GB-HBM2e-500W", "h100-hbm2e-500w"),
        ("H20-96GB", "h20"),
        ("H200-141GB", "h200"),
        ("RTX 4090", "rtx4090"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("H100-PCIE-80GB", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("H100 80GB SXM5 NVLink", "h100"),
        ("NVIDIA H800", "h800"),
    ],
)
def test_published_names_find_their_gpu(name: str, row: str) -> None:
    found = find_accelerator(name)
    assert found is not None and found.name == row


@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA H100 MIG 1g.10gb"])
def test_a_slice_of_a_gpu_is_taken_for_no_whole_one(name: str) -> None:
    assert find_accelerator(name) is None
    assert find_accelerator(name.partition(" MIG")[0]) is not None


def test_accelerators_agree_with_the_gpu_catalogue() -> None:
    from planner.catalog import gpus

    for accelerator in accelerators():
        gpu = gpus().get(accelerator.name)
        if gpu is not None:
            assert accelerator.peak_bf16_flops == pytest.approx(gpu.peak_bf16_flops, rel=0.01)
            assert accelerator.hbm_bytes_per_s == gpu.hbm_bytes_per_s


def test_the_last_stack_takes_whatever_no_other_does() -> None:
    assert find_stack("nothing that anybody ever heard of").name == GENERIC
    assert stacks()[-1].name == GENERIC


def test_every_stack_has_constants_within_reason() -> None:
    names = {stack.name for stack in stacks()}
    assert set(fitted_constants()) <= names
    for by_gpu in fitted_constants().values():
        for constants in by_gpu.values():
            values = [getattr(constants, name) for name in CONSTANT_NAMES]
            assert all(math.isfinite(v) and v > 0 for v in values)
            assert constants.matmul_share <= 1 and constants.network_share <= 1


def test_constants_fall_back_from_gpu_to_stack_to_all() -> None:
    base = fitted_constants()[GENERIC][OTHER]

    def marked(host_s: float) -> Constants:
        return replace(base, host_s=host_s)

    fitted = {
        GENERIC: {OTHER: marked(1.0), "h100": marked(2.0)},
        "mine": {OTHER: marked(3.0), "h100": marked(4.0)},
    }
    found = [
        constants_for(fitted, stack, gpu).host_s
        for stack, gpu in (("mine", "h100"), ("mine", "x"), ("new", "h100"), ("new", "x"))
    ]
    assert found == [4.0, 3.0, 2.0, 1.0]
