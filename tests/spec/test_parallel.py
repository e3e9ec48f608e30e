from dataclasses import fields

import pytest

from planner.memory import layout_of
from smolplan.errors import UserError
from smolplan.spec import RunSpec, dump_spec, load_preset, parse_spec

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
    told = " ".join(parsed(schedule="zero-bubble", shard_group=8).unsupported_by_trainer())
    assert "parallel.schedule is zero-bubble" in told
    assert "parallel.shard_group is 8" in told
    assert "shard_group" not in " ".join(parsed(shard_group=192).unsupported_by_trainer())


def test_the_planners_layout_says_all_that_the_specs_does() -> None:
    spec = parsed(virtual_pipeline=2, schedule="zero-bubble", shard_group=8)
    assert (layout_of(spec).schedule, layout_of(spec).shard_group) == ("zero-bubble", 8)
    assert layout_of(parsed(virtual_pipeline=2)).schedule == "interleaved"
    layout = layout_of(spec)
    said = spec.parallel.model_dump(include={field.name for field in fields(layout)})
    assert {name: getattr(layout, name) for name in said} == said
