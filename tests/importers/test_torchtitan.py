from pathlib import Path
from typing import Any

import pytest

from planner.catalog import models
from planner.params import active_parameter_count, parameter_count
from smolplan.errors import UserError
from smolplan.importers import torchtitan
from smolplan.importers.detect import import_file
from smolplan.importers.options import Options, parse_overrides
from smolplan.importers.result import Imported
from smolplan.importers.torchtitan_models import MODELS
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
        "shard_group": 16,
        "micro_batch_size": 2,
        "recompute": "full",
    }
    assert (spec.cluster.nodes, spec.cluster.gpu) == (16, "h100")
    assert (spec.gradient_accumulation, spec.optim.decay_steps) == (2, 10_000)
    assert (spec.optim.beta1, spec.optim.beta2, spec.optim.clip_norm) == (0.9, 0.98, 0.5)
    assert (spec.checkpoint.every_steps, spec.checkpoint.keep_last, spec.seed) == (250, 5, 7)
    told = left(imported)
    assert "parallelism.data_parallel_replicate_degree" not in told
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


@pytest.mark.parametrize(
    ("name", "flavor", "published"),
    [
        ("qwen3", "4B", "qwen3-4b"),
        ("qwen3", "8B", "qwen3-8b"),
        ("qwen3", "14B", "qwen3-14b"),
        ("qwen3", "32B", "qwen3-32b"),
        ("qwen3", "30B-A3B", "qwen3-30b-a3b"),
        ("qwen3", "235B-A22B", "qwen3-235b-a22b"),
        ("deepseek_v3", "16B", "deepseek-v2-lite"),
        ("deepseek_v3", "236B", "deepseek-v2"),
        ("deepseek_v3", "671B", "deepseek-v3"),
        ("gpt_oss", "20b", "gpt-oss-20b"),
        ("gpt_oss", "120b", "gpt-oss-120b"),
    ],
)
def test_a_flavor_of_a_published_model_has_its_parameters(
    name: str, flavor: str, published: str
) -> None:
    spec = read(name=f'"{name}"', flavor=f'"{flavor}"').spec
    assert parameter_count(spec.model) == models()[published].parameters
    if spec.model.experts is not None:
        assert spec.model.experts.balance == "bias"
    assert spec.model.mtp_layers == 0


@pytest.mark.parametrize(
    ("name", "flavor", "size", "active"),
    # As their publishers name them (model cards of Qwen3 and Llama 4, whose counts include a
    # vision tower of about 1B).
    [
        ("qwen3", "0.6B", 0.6e9, 0.6e9),
        ("qwen3", "1.7B", 1.7e9, 1.7e9),
        ("llama4", "17bx16e", 109e9, 17e9),
        ("llama4", "17bx128e_irope", 400e9, 17e9),
    ],
)
def test_other_flavors_are_as_large_as_they_are_called(
    name: str, flavor: str, size: float, active: float
) -> None:
    model = read(name=f'"{name}"', flavor=f'"{flavor}"').spec.model
    assert parameter_count(model) == pytest.approx(size, rel=0.02)
    assert active_parameter_count(model) == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_every_flavor_is_a_model(name: str) -> None:
    for flavor in MODELS[name]:
        spec = read(name=f'"{name}"', flavor=f'"{flavor}"').spec
        assert parameter_count(spec.model) > 0


def pipelined(lines: str) -> str:
    """The sample on two stages, with these fields of its pipeline."""
    fields = "".join(f"\npipeline_parallel_{line}" for line in ["degree = 2", *lines.splitlines()])
    return SAMPLE.replace("[parallelism]", f"[parallelism]{fields}")


def test_experts_bring_their_own_degree() -> None:
    added = SAMPLE.replace("[parallelism]", "[parallelism]\nexpert_parallel_degree = 8")
    imported = read(added, name='"qwen3"', flavor='"30B-A3B"')
    assert imported.spec.parallel.expert_parallel == 8
    told = left(read(added))
    assert told["parallelism.expert_parallel_degree"][1] == "the model has no experts"


@pytest.mark.parametrize(
    ("lines", "virtual", "schedule", "uneven"),
    [
        ('schedule = "Interleaved1F1B"', 2, "interleaved", False),
        ('schedule = "Interleaved1F1B"\nlayers_per_stage = 9', 5, "interleaved", False),
        ('schedule = "ZBVZeroBubble"', 2, "zero-bubble", False),
        ('schedule = "interleavedzerobubble"\nlayers_per_stage = 7', 6, "zero-bubble", True),
        ('schedule = "GPipe"', 1, "1f1b", False),
        ("", 1, "1f1b", False),
    ],
)
def test_schedules_and_virtual_stages_are_read(
    lines: str, virtual: int, schedule: str, uneven: bool
) -> None:
    fields = "".join(f"\npipeline_parallel_{line}" for line in lines.splitlines())
    content = SAMPLE.replace(
        "[parallelism]", f"[parallelism]\npipeline_parallel_degree = 2{fields}"
    )
    parallel = read(content).spec.parallel
    assert (parallel.virtual_pipeline, parallel.pipeline_schedule) == (virtual, schedule)
    assert parallel.uneven_stages is uneven


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('schedule = "Magic"', "no known schedule"),
        ('schedule = "Interleaved1F1B"\nlayers_per_stage = 50', "2 virtual stages on 2 ranks"),
    ],
)
def test_no_pipeline_is_refused(lines: str, said: str) -> None:
    fields = "".join(f"\npipeline_parallel_{line}" for line in lines.splitlines())
    content = SAMPLE.replace(
        "[parallelism]", f"[parallelism]\npipeline_parallel_degree = 2{fields}"
    )
    with pytest.raises(UserError, match=said):
        read(content)


@pytest.mark.parametrize("name", ["config_registry.py", "config.toml", "config"])
def test_the_python_that_came_after_toml_is_answered(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("from torchtitan.trainer import Trainer\n\nconfig = Trainer.Config(seed=1)\n")
    with pytest.raises(UserError, match="configured in Python since February 2026") as error:
        import_file(path, Options(), "torchtitan" if name == "config" else None)
    assert "published: NAME" in str(error.value)


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


@pytest.mark.parametrize(
    ("added", "precision", "left_out"),
    [
        ('[model]\nconverters = ["float8"]', "fp8", set()),
        ('[model]\nconverters = ["quantize.linear.float8"]', "fp8", set()),
        ("[model]\nconverters = []", "bf16", set()),
        ('[model]\nconverters = ["mx"]', "bf16", {"model.converters"}),
        (
            '[float8]\nrecipe_name = "rowwise"\n[model]\nconverters = ["float8"]',
            "bf16",
            {"model.converters", "float8.recipe_name"},
        ),
        (
            '[float8]\nrecipe_name = "tensorwise"\nfilter_fqns = ["output"]\n'
            '[model]\nconverters = ["float8"]',
            "fp8",
            {"float8.filter_fqns"},
        ),
    ],
)
def test_float8_is_taken_over_where_its_scales_are_the_trainers(
    added: str, precision: str, left_out: set[str]
) -> None:
    imported = read(SAMPLE.replace("[model]", added, 1))
    assert imported.spec.optim.precision == precision
    told = {name for name in left(imported) if "float8" in name or name == "model.converters"}
    assert told == left_out


def test_a_warm_up_longer_than_the_run_is_cut_as_torchtitan_cuts_it() -> None:
    optim = read(OLD, warmup_steps="9999").spec.optim
    assert (optim.warmup_steps, optim.decay_steps) == (3000, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": '"flux"'}, "it makes images"),
        ({"name": '"qwen3"'}, "Known: debugmodel, 0.6B"),
        ({"name": '"bert"'}, "Known: llama3, llama2"),
        ({"flavor": '"9B"'}, "Known: debugmodel"),
        ({"global_batch_size": "100"}, "does not divide by training.local_batch_size 2"),
        ({"global_batch_size": "0"}, "a batch is above zero"),
        ({"tensor_parallel_degree": "3"}, "the other degrees, together 6, do not divide"),
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
