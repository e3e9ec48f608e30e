import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.catalog import models
from planner.flops import flops_per_token
from planner.params import parameter_count
from smolplan.errors import UserError
from smolplan.importers import megatron
from smolplan.importers.megatron_parts import layer_list
from smolplan.importers.options import Options, parse_overrides
from smolplan.importers.result import Imported
from smolplan.spec import ModelSpec
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


@pytest.mark.parametrize(
    ("options", "precision", "left_out"),
    [
        ("--fp8-format hybrid --fp8-recipe tensorwise", "fp8", set()),
        ("--fp8-format hybrid", "bf16", {"--fp8-format"}),
        ("--fp8-format e4m3 --fp8-recipe tensorwise", "bf16", {"--fp8-format", "--fp8-recipe"}),
        ("--fp8-format hybrid --fp8-recipe blockwise", "bf16", {"--fp8-format", "--fp8-recipe"}),
    ],
)
def test_fp8_is_taken_over_where_its_scales_are_the_trainers(
    options: str, precision: str, left_out: set[str]
) -> None:
    imported = read(("--lr-warmup-iters 500", f"--lr-warmup-iters 500 {options}"))
    assert imported.spec.optim.precision == precision
    assert {name for name in left(imported) if "fp8" in name or name == "--bf16"} == left_out


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


LATENT = (
    "--multi-latent-attention --qk-layernorm --q-lora-rank 1536 --kv-lora-rank 512 "
    "--qk-head-dim 128 --qk-pos-emb-head-dim 64 --v-head-dim 128"
)
ROTARY = "--swiglu --normalization RMSNorm --disable-bias-linear --position-embedding-type rope"
SHAPES = {
    "mixtral-8x7b": f"{ROTARY} --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 "
    "--num-attention-heads 32 --group-query-attention --num-query-groups 8 --vocab-size 32000 "
    "--num-experts 8 --moe-router-topk 2 --moe-aux-loss-coeff 1e-2 --rotary-base 1000000",
    "qwen3-30b-a3b": f"{ROTARY} --num-layers 48 --hidden-size 2048 --ffn-hidden-size 6144 "
    "--num-attention-heads 32 --kv-channels 128 --group-query-attention --num-query-groups 4 "
    "--qk-layernorm --vocab-size 151936 --num-experts 128 --moe-router-topk 8 "
    "--moe-ffn-hidden-size 768",
    "deepseek-v3": f"{ROTARY} {LATENT} --num-layers 61 --hidden-size 7168 "
    "--ffn-hidden-size 18432 --num-attention-heads 128 --vocab-size 129280 --mtp-num-layers 1 "
    "--num-experts 256 --moe-router-topk 8 --moe-ffn-hidden-size 2048 "
    "--moe-layer-freq ([0]*3+[1]*58) --moe-shared-expert-intermediate-size 2048 "
    "--moe-router-enable-expert-bias",
    "nemotron-h-8b": "--normalization RMSNorm --disable-bias-linear --squared-relu "
    "--position-embedding-type none --num-layers 52 --hidden-size 4096 --ffn-hidden-size 21504 "
    "--hybrid-override-pattern M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M- "
    "--num-attention-heads 32 --group-query-attention --num-query-groups 8 --vocab-size 131072 "
    "--is-hybrid-model --mamba-num-heads 128",
    "qwen2.5-7b": f"{ROTARY} --num-layers 28 --hidden-size 3584 --ffn-hidden-size 18944 "
    "--num-attention-heads 28 --group-query-attention --num-query-groups 4 --add-qkv-bias "
    "--vocab-size 152064",
    "gpt3-175b": "--num-layers 96 --hidden-size 12288 --num-attention-heads 96 --vocab-size 50257 "
    "--max-position-embeddings 2048 --make-vocab-size-divisible-by 1",
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_published_model_in_megatrons_arguments_has_its_parameters(name: str) -> None:
    arguments = SHAPES[name]
    if "--untie" not in arguments and name != "gpt3-175b":
        arguments += " --untie-embeddings-and-output-weights"
    arguments += " --seq-length 2048 --micro-batch-size 1 --train-iters 10 --lr 1e-4 --world-size 8"
    imported = megatron.read(arguments, "args.txt", Options())
    row = models()[name]
    assert parameter_count(imported.spec.model) == row.parameters
    shape, _ = row.architecture()
    assert flops_per_token(imported.spec.model, 2048) == flops_per_token(shape, 2048)
    assert not {name for name in left(imported) if name not in DROPOUT_AND_SUCH}


DROPOUT_AND_SUCH = {
    *("--attention-dropout", "--hidden-dropout", "--moe-aux-loss-coeff", "--squared-relu"),
}


def test_a_gate_and_learned_sinks_are_read() -> None:
    def model(arguments: str) -> ModelSpec:
        return read(("--swiglu", arguments)).spec.model

    assert model("--quick-geglu --softmax-type learnable").attention_sinks
    assert model("--quick-geglu").gated_ffn
    assert not model("--squared-relu").gated_ffn
    with pytest.raises(UserError, match="a softmax of another kind"):
        model("--softmax-type off-by-one")


@given(st.text("[]()0123456789*+, ", max_size=30))
def test_any_list_of_layers_is_read_or_refused(written: str) -> None:
    try:
        found = layer_list(written)
    except ValueError:
        return
    assert isinstance(found, int) or len(found) <= 10_000


def test_how_experts_are_balanced_is_read() -> None:
    def balance(arguments: str) -> str:
        model = read(("--swiglu", f"--swiglu --num-experts 8 {arguments}")).spec.model
        assert model.experts is not None
        return model.experts.balance

    assert balance("") == "none"  # the coefficient is 0 unless given
    assert balance("--moe-aux-loss-coeff 1e-2") == "auxiliary_loss"
    assert balance("--moe-aux-loss-coeff 1e-2 --moe-router-load-balancing-type none") == "none"
    assert balance("--moe-router-enable-expert-bias") == "bias"


def test_the_layout_of_a_mixture_of_experts_is_read() -> None:
    imported = read(
        (
            "--swiglu",
            "--swiglu --num-experts 8 --expert-model-parallel-size 8 "
            "--moe-expert-capacity-factor 1.25 --num-distributed-optimizer-instances 2",
        )
    )
    spec = imported.spec
    assert (spec.parallel.expert_parallel, spec.parallel.shard_group) == (8, 8)
    assert spec.model.experts is not None
    assert spec.model.experts.capacity_factor == 1.25


@pytest.mark.parametrize(
    ("option", "virtual", "uneven"),
    [
        ("--num-layers-per-virtual-pipeline-stage 4", 4, False),
        ("--num-virtual-stages-per-pipeline-rank 2", 2, False),
        ("--decoder-first-pipeline-num-layers 10", 1, True),
        ("--account-for-loss-in-pipeline-split", 1, True),
    ],
)
def test_stages_of_a_pipeline_are_read(option: str, virtual: int, uneven: bool) -> None:
    imported = read(
        ("--swiglu", f"--swiglu --pipeline-model-parallel-size 2 {option}"),
    )
    parallel = imported.spec.parallel
    assert (parallel.pipeline_parallel, parallel.virtual_pipeline) == (2, virtual)
    assert parallel.uneven_stages is uneven
    assert (option.split()[0] in left(imported)) is uneven


@pytest.mark.parametrize(
    ("option", "pattern"),
    [
        ("", "W"),
        ("--window-attn-skip-freq 4", "WWWA"),
        ("--window-attn-skip-freq [1]*31+[0]", "W" * 31 + "A"),
    ],
)
def test_a_window_is_read_with_the_layers_that_have_it(option: str, pattern: str) -> None:
    model = read(("--swiglu", f"--swiglu --window-size 127,0 {option}")).spec.model
    assert (model.window, model.layer_pattern) == (128, pattern)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("--normalization RMSNorm", "--normalization GroupNorm", "norm of another kind"),
        ("--normalization RMSNorm", "--qk-layernorm", "norms of queries and keys with biases"),
        ("--position-embedding-type rope", "--position-embedding-type yarn", "another kind"),
        ("--swiglu", "--swiglu --linear-attention-freq 4", "linear attention"),
        ("--disable-bias-linear", "--num-experts 8", "without --disable-bias-linear"),
        ("--swiglu", "--swiglu --num-experts 8 --moe-router-topk 9", "more than the 8 routed"),
        ("--swiglu", "--swiglu --num-experts 8 --moe-layer-freq 5", "does not divide 32 layers"),
        ("--swiglu", "--swiglu --num-experts 8 --moe-layer-freq [1]*9", "9 entries for 32"),
        ("--swiglu", "--swiglu --num-experts 8 --moe-layer-freq [1,0]*16", "dense layers among"),
        ("--swiglu", "--swiglu --num-experts 8 --moe-layer-freq [1]*9**9", "a list like"),
        ("--swiglu", "--swiglu --num-experts 8 --moe-layer-freq [f()]", "a list like"),
        (
            "--swiglu",
            "--swiglu --num-experts 6 --expert-model-parallel-size 4",
            "routed 6 does",
        ),
        ("--swiglu", "--swiglu --num-experts 6 --expert-model-parallel-size 3", "the 16 ranks"),
        ("--swiglu", "--swiglu --is-hybrid-model", "no pattern names"),
        ("--swiglu", "--swiglu --hybrid-override-pattern M-G", "layers of kinds G"),
        ("--swiglu", "--swiglu --hybrid-override-pattern M-M-", "the pattern has 4 letters"),
        ("--swiglu", "--swiglu --window-size 128,128", "tokens to come"),
        ("--swiglu", "--swiglu --window-size wide,0", "whole number above zero"),
        (
            "--swiglu",
            "--swiglu --num-layers-per-virtual-pipeline-stage 5",
            "not divide the 32",
        ),
        ("--swiglu", "--swiglu --num-distributed-optimizer-instances 3", "divide 16 replicas"),
        ("--swiglu", "--swiglu --no-rope-freq 5", "does not divide 32 layers"),
        ("--hidden-size 4096", "", "--hidden-size is missing"),
        ("--hidden-size 4096", "--hidden-size wide", "whole number above zero"),
        ("--bf16", "--bf16 --rampup-batch-size 16 8 300000", "batch grows"),
        ("--bf16", "--bf16 --recompute-granularity some", "full or selective"),
        ("TP=2", "TP=3", "does not divide 32 GPUs"),
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
