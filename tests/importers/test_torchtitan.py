from typing import Any

import pytest

from planner.params import parameter_count
from smolplan.errors import UserError
from smolplan.importers import torchtitan
from smolplan.importers.options import Options, parse_overrides
from smolplan.importers.result import Imported
from tests.importers.support import DATA, left

SAMPLE = (DATA / "torchtitan_70b.toml").read_text()
OLD = (DATA / "torchtitan_2024.toml").read_text()


def read(
    content: str = SAMPLE, *overrides: str, gpus: int | None = None, **change: str
) -> Imported:
    """The sample with values of fields replaced, by the field's own name."""
    for name, value in change.items():
        before = next(line for line in content.splitlines() if line.startswith(f"{name} = "))
        content = content.replace(before, f"{name} = {value}")
    return torchtitan.read(content, "run.toml", Options(gpus, parse_overrides(overrides)))


def test_a_configuration_becomes_a_spec_with_the_rest_of_the_gpus_sharded() -> None:
    imported = read()
    spec = imported.spec
    assert parameter_count(spec.model) == 70_553_706_496
    assert spec.parallel.model_dump() == {
        "data_parallel": 32,  # two replicas of what 128 GPUs / (2 × TP 4) leave
        "tensor_parallel": 4,
        "pipeline_parallel": 1,
        "context_parallel": 1,
        "expert_parallel": 1,
        "virtual_pipeline": 1,
        "zero_stage": 3,
        "micro_batch_size": 2,
        "recompute": "full",
    }
    assert (spec.cluster.nodes, spec.cluster.gpu) == (16, "h100")
    assert (spec.gradient_accumulation, spec.optim.decay_steps) == (2, 10_000)
    assert (spec.optim.beta1, spec.optim.beta2, spec.optim.clip_norm) == (0.9, 0.98, 0.5)
    assert (spec.checkpoint.every_steps, spec.checkpoint.keep_last, spec.seed) == (250, 5, 7)
    told = left(imported)
    assert told["parallelism.data_parallel_replicate_degree"][0] == 2
    assert told["lr_scheduler.decay_type"][0] == "cosine"
    assert told["lr_scheduler.min_lr_factor"] == (0.1, "a run spec decays to 0")
    assert told["training.dataset"][0] == "c4"


def test_the_names_of_2024_are_read_too() -> None:
    spec = read(OLD).spec
    assert parameter_count(spec.model) == 6_738_415_616  # Llama 2 7B
    assert (spec.parallel.data_parallel, spec.parallel.tensor_parallel) == (16, 2)
    assert (spec.parallel.micro_batch_size, spec.optim.global_batch_size) == (4, 64)
    assert (spec.optim.warmup_steps, spec.optim.decay_steps, spec.seed) == (100, 2900, 3)


@pytest.mark.parametrize(
    ("flavor", "parameters"),
    # meta-llama's model cards name 8.03B, 70.6B and 406B; these are their configs' exact counts.
    [("8B", 8_030_261_248), ("70B", 70_553_706_496), ("405B", 405_853_388_800)],
)
def test_flavors_have_the_published_parameters(flavor: str, parameters: int) -> None:
    spec = read(flavor=f'"{flavor}"').spec
    assert parameter_count(spec.model) == parameters


def test_gpus_win_over_the_comment_of_the_file() -> None:
    assert read(gpus=64).spec.parallel.data_parallel == 16
    without = SAMPLE.split("\n", 1)[1]
    with pytest.raises(UserError, match="Give --gpus N"):
        read(without)
    assert read(without, gpus=16).spec.cluster.gpus == 16
    assert read(without, "parallel.data_parallel=4").spec.cluster.gpus == 16


def test_without_sharding_the_stage_is_zero() -> None:
    spec = read(data_parallel_shard_degree="1").spec
    assert (spec.parallel.zero_stage, spec.parallel.data_parallel) == (0, 2)


def test_a_pipelines_microbatch_becomes_that_of_the_spec() -> None:
    pipelined = SAMPLE.replace("[parallelism]", "[parallelism]\npipeline_parallel_degree = 2")
    parallel = read(pipelined).spec.parallel
    assert (parallel.micro_batch_size, parallel.pipeline_parallel) == (1, 2)
    assert parallel.zero_stage == 2  # weights stay gathered between the microbatches


def test_float32_is_kept_and_a_memory_budget_said() -> None:
    content = SAMPLE.replace("[training]", '[training]\nmixed_precision_param = "float32"')
    imported = read(content, mode='"memory_budget"')
    assert imported.spec.optim.precision == "fp32"
    assert imported.spec.parallel.recompute == "selective"
    assert left(imported)["activation_checkpoint.mode"][0] == "memory_budget"


def test_a_warm_up_longer_than_the_run_is_cut_as_torchtitan_cuts_it() -> None:
    optim = read(OLD, warmup_steps="9999").spec.optim
    assert (optim.warmup_steps, optim.decay_steps) == (3000, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": '"llama4"'}, "mixtures of experts"),
        ({"name": '"deepseek_v3"'}, "latent attention"),
        ({"name": '"qwen3"'}, "norms of queries and keys"),
        ({"name": '"bert"'}, "Known: llama3, llama2"),
        ({"flavor": '"9B"'}, "Known: debugmodel"),
        ({"global_batch_size": "100"}, "does not divide by training.local_batch_size 2"),
        ({"global_batch_size": "0"}, "a batch is above zero"),
        ({"tensor_parallel_degree": "3"}, "do not divide by the other degrees"),
        ({"tensor_parallel_degree": "0"}, "above zero"),
        ({"data_parallel_shard_degree": "-2"}, "-1 for what is left"),
        ({"decay_ratio": "1.5"}, "between 0 and 1"),
        ({"mode": '"some"'}, "none, selective, full"),
        ({"seq_len": "200_000"}, "131,072"),
        ({"steps": "nan"}, "whole number"),
        ({"lr": '"fast"'}, "a number"),
    ],
)
def test_what_cannot_become_a_spec_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(SAMPLE, **change)


def test_other_norms_are_refused() -> None:
    with pytest.raises(UserError, match="not RMSNorm"):
        read(OLD, norm_type='"layernorm"')


@pytest.mark.parametrize("text", ["a = ", "[a]\n[a]", "x = " + "[" * 9999])
def test_broken_toml_ends_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="not valid TOML"):
        torchtitan.read(text, "run.toml", Options())
