import pytest

from planner.params import parameter_count
from smolplan.errors import UserError
from smolplan.importers import megatron
from smolplan.importers.options import Options, parse_overrides
from smolplan.importers.result import Imported
from tests.importers.support import DATA, left

SAMPLE = (DATA / "megatron_8b.sh").read_text()


def read(
    *changes: tuple[str, str], gpus: int | None = None, overrides: tuple[str, ...] = ()
) -> Imported:
    content = SAMPLE
    for before, after in changes:
        assert before in content
        content = content.replace(before, after)
    return megatron.read(content, "run.sh", Options(gpus, parse_overrides(overrides)))


def test_a_script_becomes_a_spec() -> None:
    imported = read()
    spec = imported.spec
    assert parameter_count(spec.model) == 8_030_261_248
    assert spec.parallel.model_dump() == {
        "data_parallel": 16,
        "tensor_parallel": 2,
        "pipeline_parallel": 1,
        "context_parallel": 1,
        "expert_parallel": 1,
        "virtual_pipeline": 1,
        "zero_stage": 1,
        "micro_batch_size": 1,
        "recompute": "none",
    }
    assert (spec.cluster.nodes, spec.cluster.gpus_per_node) == (4, 8)
    assert (spec.optim.global_batch_size, spec.steps) == (256, 100_000)
    assert (spec.optim.warmup_steps, spec.optim.decay_steps) == (500, 99_500)
    assert (spec.model.rope_theta, spec.model.init_std) == (5e5, 0.0134)
    assert (spec.checkpoint.every_steps, spec.optim.precision) == (1000, "bf16")
    told = left(imported)
    assert told["--lr-decay-style"] == ("cosine", "a run spec decays in a straight line")
    assert told["--save"][0] == "checkpoints/llama3_8b"
    assert told["--tokenizer-type"][0] == "NullTokenizer or HuggingFaceTokenizer"
    assert "--num-layers" not in told


def test_an_option_in_a_comment_is_no_option() -> None:
    assert read().spec.model.layers == 32
    assert read().spec.parallel.pipeline_parallel == 1


def test_a_bare_list_of_arguments_is_enough() -> None:
    arguments = (
        "--num-layers 2 --hidden-size=64 --num-attention-heads 4 --seq-length 32 --swiglu "
        "--micro-batch-size 2 --train-iters 9 --lr 1e-3 --vocab-size 100 --normalization RMSNorm "
        "--disable-bias-linear --use-rotary-position-embeddings --world-size 4"
    )
    imported = megatron.read(arguments, "args.txt", Options())
    spec = imported.spec
    assert (spec.model.ffn_hidden, spec.model.kv_heads, spec.model.vocab_size) == (128, 4, 128)
    assert (spec.optim.global_batch_size, spec.parallel.data_parallel) == (8, 4)
    assert (spec.optim.beta2, spec.optim.weight_decay, spec.optim.precision) == (
        0.999,
        0.01,
        "fp32",
    )
    assert left(imported)["--attention-dropout"][0] == 0.1  # the default counts as given


def test_samples_are_divided_by_the_batch() -> None:
    spec = read(
        ("--train-iters 100000", "--train-samples 25600100"),
        ("--lr-warmup-iters 500", "--lr-warmup-samples 51200"),
    ).spec
    assert (spec.steps, spec.optim.warmup_steps) == (100_000, 200)


def test_a_decay_that_ends_before_the_run_is_said() -> None:
    imported = read(("--lr-warmup-iters 500", "--lr-warmup-iters 500 --lr-decay-iters 90000"))
    assert imported.spec.optim.decay_steps == 89_500
    assert left(imported)["--lr-decay-iters"][0] == "90000"


def test_wsd_and_a_fraction_of_warm_up_are_read() -> None:
    optim = read(
        ("--lr-decay-style cosine", "--lr-decay-style WSD --lr-wsd-decay-iters 10000"),
        ("--lr-warmup-iters 500", "--lr-warmup-fraction .01"),
    ).spec.optim
    assert (optim.warmup_steps, optim.decay_steps) == (1000, 10_000)


@pytest.mark.parametrize(
    ("added", "stage"),
    [
        ("", 1),
        ("--use-torch-fsdp2", 3),
        ("--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads", 2),
        ("--use-custom-fsdp --data-parallel-sharding-strategy optim_grads_params", 3),
    ],
)
def test_what_is_sharded_is_the_zero_stage(added: str, stage: int) -> None:
    before = "--use-distributed-optimizer"
    assert read((before, f"{before} {added}")).spec.parallel.zero_stage == stage
    assert read((before, "")).spec.parallel.zero_stage == 0


def test_recompute_and_fp16_are_read() -> None:
    imported = read(("--bf16", "--fp16 --recompute-activations --reset-attention-mask"))
    assert imported.spec.parallel.recompute == "selective"
    assert imported.spec.model.intra_document_mask is True
    assert "bf16" in left(imported)["--fp16"][1]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("--swiglu", "", "GELU"),
        ("--disable-bias-linear", "", "biases"),
        ("--normalization RMSNorm", "", "LayerNorm"),
        ("--position-embedding-type rope", "", "learned_absolute"),
        ("--swiglu", "--swiglu --num-experts 8", "--num-experts is 8: a mixture of experts"),
        ("--swiglu", "--swiglu --multi-latent-attention", "latent attention"),
        ("--swiglu", "--swiglu --qk-layernorm", "norms"),
        ("--swiglu", "--swiglu --add-qkv-bias", "biases"),
        ("--swiglu", "--swiglu --window-size 128,0", "window"),
        ("--swiglu", "--swiglu --no-rope-freq 5", "does not divide 32 layers"),
        ("--hidden-size 4096", "", "--hidden-size is missing"),
        ("--hidden-size 4096", "--hidden-size wide", "whole number above zero"),
        ("--bf16", "--bf16 --rampup-batch-size 16 8 300000", "batch grows"),
        ("--bf16", "--bf16 --recompute-granularity some", "full or selective"),
        ("TP=2", "TP=3", "do not divide by tensor 3"),
        ("TP=2", "", "no single value in this file"),
        ("TP=2", "if [ $A ]; then TP=2; else TP=4; fi", "no single value in this file"),
        ("${GLOBAL_BATCH_SIZE}", "250", "does not divide by parallel.data_parallel 16"),
        ("--lr 1.5e-4", "--lr -1", "above zero"),
        ("--train-iters 100000", "--train-samples 7", "less than one batch"),
        ("--train-iters 100000", "", "--train-iters is missing"),
        ("--lr-decay-style cosine", "--lr-decay-style WSD", "lr-wsd-decay-iters is missing"),
        ('"--vocab-size 128256"', '""', "--vocab-size is missing"),
    ],
)
def test_what_cannot_become_a_spec_is_refused(before: str, after: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read((before, after))


def test_gpus_come_from_the_option_where_the_script_has_none() -> None:
    nowhere = (("GPUS_PER_NODE=8", ""), ("NUM_NODES=", "OTHER="))
    with pytest.raises(UserError, match="Give --gpus N"):
        read(*nowhere, overrides=("optim.global_batch_size=64",))
    spec = read(*nowhere, gpus=64, overrides=("optim.global_batch_size=64",)).spec
    assert (spec.cluster.gpus, spec.optim.global_batch_size) == (64, 64)


def test_set_stands_in_for_what_the_script_leaves_open() -> None:
    spec = read(('"--vocab-size 128256"', '""'), overrides=("model.vocab_size=128256",)).spec
    assert spec.model.vocab_size == 128_256
    spec = read(("--train-iters 100000", ""), overrides=("optim.tokens=1T",)).spec
    assert (spec.optim.tokens, spec.steps) == (10**12, 476_838)
    assert spec.optim.decay_steps == 476_838 - 500


def test_a_refusal_names_file_line_option_and_value() -> None:
    line = next(i for i, text in enumerate(SAMPLE.splitlines(), 1) if "--ffn-hidden" in text)
    with pytest.raises(UserError) as caught:
        read(("--ffn-hidden-size 14336", "--ffn-hidden-size none"))
    assert str(caught.value).startswith(f"run.sh:{line}: --ffn-hidden-size is none: a whole")
