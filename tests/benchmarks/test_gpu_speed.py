"""What is measured on a GPU, on a CPU: that the programs beside each other train the same."""

import json
from dataclasses import asdict

import pytest

from benchmarks.gpu_speed import (
    OTHER,
    PROGRAMS,
    SHAPES,
    Program,
    behind,
    by_kind,
    in_a_process,
    kernels_of,
    kind_of,
    measure,
    of_words,
    spec_of,
)
from benchmarks.trainer_gpu import Case, last_words

SMALL = Case("tiny-cpu", 4, 64, 2, accumulation=2, recompute="full", precision="fp32")


@pytest.mark.slow
def test_all_programs_train_the_same_weights_on_the_same_batches() -> None:
    ours = in_a_process(Program(SMALL, device="cpu"))
    assert "error" not in ours, ours
    for kind in ("plain", "transformers"):
        theirs = measure(Program(SMALL, kind=kind, device="cpu"), steps=len(ours["losses"]))
        assert theirs["losses"] == pytest.approx(ours["losses"], abs=2e-5)
    assert ours["losses"][-1] < ours["losses"][0] - 0.1


def test_a_program_survives_its_way_into_a_process() -> None:
    for changes in PROGRAMS.values():
        for case in SHAPES.values():
            program = Program(case, **changes)
            assert of_words(json.dumps(asdict(program))) == program
            spec = spec_of(program)
            assert not spec.unsupported_by_trainer()
            assert spec.gradient_accumulation == case.accumulation


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNT", "products"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm>", "products"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<cutlass>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("triton_tem_fused_flex_attention_backward_3", "attention"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimiser and norm"),
        ("void cunn_SoftMaxForward<8, float, float, float, LogSoftMaxForwardEpilogue>", "loss"),
        ("Memcpy DtoD (Device -> Device)", "copies and casts"),
        ("triton_poi_fused_mul_silu_1", OTHER),
    ],
)
def test_kernels_are_told_apart_by_their_names(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def test_what_kernels_do_not_fill_is_idle() -> None:
    spent = by_kind([("gemm", 60.0), ("gemm", 10.0), ("flash_fwd", 20.0)])
    assert spent == {"products": 70.0, "attention": 20.0}
    row = kernels_of("3B, smolplan", {"kernels_ms": spent, "step_s": 0.1})
    assert row[0] == "3B, smolplan: 100" and row[-1] == "10"
    assert [float(ms) for ms in row[1:]] == [20, 70, 0, 0, 0, 0, 10]


def test_another_faster_program_or_a_low_mfu_fails() -> None:
    case = SHAPES["12 layers of 3B"]
    fast, slow = {"step_s": 0.9}, {"step_s": 1.0}

    def rows(*found: tuple[str, dict[str, float]]) -> list[tuple[str, Program, dict[str, float]]]:
        return [("", Program(case, kind=kind), told) for kind, told in found]

    tokens = spec_of(Program(case)).global_batch_tokens
    assert tokens == 4 * 4096 * 2
    assert not behind(rows(("smolplan", {"step_s": 0.5}), ("plain", {"step_s": 0.6})))
    assert behind(rows(("smolplan", {"step_s": 0.6}), ("plain", {"step_s": 0.5})))
    assert behind(rows(("smolplan", {"step_s": 60.0})))
    assert behind(rows(("smolplan", slow), ("transformers", fast)))


def test_a_program_that_failed_is_told_of_by_its_error() -> None:
    error = "[rank0]: torch.OutOfMemoryError: CUDA out of memory."
    warned = "[rank0]:[W1128 ProcessGroupNCCL.cpp:1624] destroy_process_group() was not called"
    assert last_words(f"Traceback …\n{error}\n{warned}\n\n") == error
    assert last_words("") == "?"
