from dataclasses import fields, replace

import pytest

from planner.architecture import architecture_of
from planner.memory import Layout, layout_of
from planner.memory.state import stage_layers
from smolplan.errors import UserError
from smolplan.spec import RunSpec, dump_spec, load_preset, parse_spec
from smolplan.spec.parallel import ParallelSpec

SMOLLM3 = dump_spec(load_preset("smollm3-3b"))


def parsed(**parallel: object) -> RunSpec:
    content = load_preset("smollm3-3b").model_dump(mode="json")
    content["parallel"] |= parallel
    return RunSpec.model_validate(content)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3-8b", "3c354191bfe8b384c002dbac0b9268a45669468f272a04706009b120defa3567"),
        ("llama3.2-1b", "38bcbf772368cdac20a1229ac3ce6a171183044529ac9328d479eccdecb7984f"),
        ("smollm3-3b", "a96d36fd42bbe46e53c701c1fa309441fb677153dc1ceb97c5292047ea4e8a50"),
        ("tiny-cpu", "e82e327a499e936530433cbf7ae62c09a527f55c4da643b6d374894811788086"),
    ],
)
def test_a_spec_of_the_first_version_keeps_its_hash(name: str, expected: str) -> None:
    assert load_preset(name).content_hash() == expected


def test_a_field_added_later_is_written_only_where_it_is_not_its_default() -> None:
    assert "schedule" not in SMOLLM3
    assert "shard_group" not in SMOLLM3
    changed = parsed(shard_group=8, schedule="zero-bubble")
    text = dump_spec(changed)
    assert "shard_group: 8" in text
    assert "schedule: zero-bubble" in text
    assert parse_spec(text, where="again") == changed
    assert changed.content_hash() != load_preset("smollm3-3b").content_hash()


@pytest.mark.parametrize(
    ("parallel", "schedule"),
    [
        ({}, "1f1b"),
        ({"virtual_pipeline": 6}, "interleaved"),
        ({"virtual_pipeline": 2, "schedule": "interleaved"}, "interleaved"),
        ({"virtual_pipeline": 2, "schedule": "zero-bubble"}, "zero-bubble"),
    ],
)
def test_the_schedule_goes_by_its_own_name(parallel: dict[str, object], schedule: str) -> None:
    assert parsed(**parallel).parallel.pipeline_schedule == schedule


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("schedule: interleaved", "needs virtual_pipeline above 1"),
        ("schedule: gpipe", "parallel.schedule"),
        ("shard_group: 7", "does not divide the 192 ranks"),
        ("shard_group: -1", "parallel.shard_group"),
    ],
)
def test_what_no_pipeline_or_shard_group_can_be_is_refused(added: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_spec(SMOLLM3.replace("parallel:\n", f"parallel:\n  {added}\n", 1), where="run.yaml")


def test_the_trainer_says_what_it_cannot_run_of_schedule_and_shard_group() -> None:
    told = " ".join(parsed(schedule="zero-bubble", zero_stage=1).unsupported_by_trainer())
    assert "without a pipeline leave it out" in told
    assert "parallel.zero_stage is 1" in told
    assert parsed(shard_group=8, zero_stage=3).unsupported_by_trainer() == []
    compiled = parsed(recompute="selective", tensor_parallel=2, data_parallel=192).model_dump()
    compiled["launch"]["compile"] = True
    (problem,) = RunSpec.model_validate(compiled).unsupported_by_trainer()
    assert "selective with launch.compile and tensor_parallel 2" in problem


@pytest.mark.parametrize(
    ("parallel", "said"),
    [
        ({"data_parallel": 96, "pipeline_parallel": 2}, ""),
        ({"data_parallel": 48, "context_parallel": 4}, ""),
        ({"data_parallel": 96, "pipeline_parallel": 2, "micro_batch_size": 6}, "fewer than the 2"),
        (
            {"data_parallel": 48, "pipeline_parallel": 4, "micro_batch_size": 2}
            | {"virtual_pipeline": 9},
            "do not divide by parallel.pipeline_parallel 4",
        ),
        (
            {"data_parallel": 96, "pipeline_parallel": 2, "schedule": "zero-bubble"},
            "make it 2",
        ),
    ],
)
def test_the_trainer_says_which_pipelines_it_cannot_run(
    parallel: dict[str, object], said: str
) -> None:
    spec = parsed(**{"zero_stage": 3, **parallel})
    told = " ".join(spec.unsupported_by_trainer())
    assert said in told and bool(said) == bool(told), told


@pytest.mark.parametrize(
    ("parallel", "experts", "said"),
    [
        ({"data_parallel": 8, "expert_parallel": 8}, {}, ""),
        ({"data_parallel": 4, "context_parallel": 2, "expert_parallel": 4}, {}, ""),
        ({"data_parallel": 8, "expert_parallel": 4, "tensor_parallel": 2}, {}, ""),
        ({"data_parallel": 12, "expert_parallel": 4, "shard_group": 6}, {}, "one is to divide"),
        ({"data_parallel": 28, "expert_parallel": 4}, {}, "divide neither the 32 experts"),
        ({"data_parallel": 28, "expert_parallel": 4, "shard_group": 4}, {}, ""),
        ({"data_parallel": 8, "tensor_parallel": 2}, {"ffn_hidden": 7}, "experts 7 wide"),
    ],
)
def test_the_trainer_says_how_experts_cannot_be_spread(
    parallel: dict[str, object], experts: dict[str, object], said: str
) -> None:
    content = load_preset("qwen3-30b-a3b").model_dump(mode="json")
    content["parallel"] |= {"data_parallel": 1, "expert_parallel": 1, "zero_stage": 3, **parallel}
    content["model"]["experts"] |= experts
    ranks = ParallelSpec.model_validate(content["parallel"]).ranks
    content["cluster"] |= {"nodes": 1, "gpus_per_node": ranks}
    content["optim"]["global_batch_size"] = 840
    told = " ".join(RunSpec.model_validate(content).unsupported_by_trainer())
    assert said in told and bool(said) == bool(told), told


def test_stages_hold_every_layer_once_and_the_first_as_many_as_the_planner_says() -> None:
    for layers, pipeline, virtual in [(36, 4, 1), (30, 4, 1), (30, 4, 2), (7, 3, 2), (5, 4, 1)]:
        parallel = ParallelSpec(
            pipeline_parallel=pipeline, virtual_pipeline=virtual, uneven_stages=True
        )
        stages = [parallel.layers_of_stage(n, layers) for n in range(pipeline * virtual)]
        assert [layer for stage in stages for layer in stage] == list(range(layers))
        if virtual == 1:
            arch = architecture_of(load_preset("smollm3-3b").model)
            layout = Layout(pipeline_parallel=pipeline)
            of_first = stage_layers(replace(arch, layers=layers), layout, last_stage=False)
            assert len(stages[0]) == of_first


def test_the_planners_layout_says_all_that_the_specs_does() -> None:
    spec = parsed(virtual_pipeline=2, schedule="zero-bubble", shard_group=8)
    assert (layout_of(spec).schedule, layout_of(spec).shard_group) == ("zero-bubble", 8)
    assert layout_of(parsed(virtual_pipeline=2)).schedule == "interleaved"
    layout = layout_of(spec)
    said = spec.parallel.model_dump(include={field.name for field in fields(layout)})
    assert {name: getattr(layout, name) for name in said} == said


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("parallel", {"micro_batch_size": 1, "tensor_parallel": 32}, "has 8 tokens"),
        ("parallel", {"schedule": "zero-bubble"}, "which goes back through a product twice"),
        ("parallel", {"micro_batch_size": 1, "context_parallel": 32}, "has 8 tokens"),
        ("data", {"seq_len": 101}, "has 404 tokens (parallel.micro_batch_size 4 × data.seq_len"),
    ],
)
def test_the_trainer_says_what_does_not_go_with_fp8(
    part: str, changed: dict[str, object], said: str
) -> None:
    spec = load_preset("tiny-cpu")
    spec = spec.model_copy(update={"optim": spec.optim.model_copy(update={"precision": "fp8"})})
    assert spec.unsupported_by_trainer() == []
    spec = spec.model_copy(update={part: getattr(spec, part).model_copy(update=changed)})
    assert [said in problem for problem in spec.unsupported_by_trainer()].count(True) == 1
