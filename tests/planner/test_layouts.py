from collections.abc import Container
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.architecture import Architecture, MoE, architecture_of
from planner.job_memory import job_memory_bytes, job_memory_lines
from planner.layouts import Legal, divisors, legal_layouts
from planner.legality import FULLEST, Job, layout_at, name_of
from planner.memory import (
    BUNDLED_TRAINER,
    FP32_STATE,
    MIXED_FP32_GRADIENTS_STATE,
    MIXED_STATE,
    Layout,
    memory_bytes,
    memory_lines,
    state_lines,
    trainer_memory_bytes,
)
from planner.memory.trainer import is_counted_layout
from planner.restrict import NAMED, SHORT_NAMES, parse_restrictions
from preflight.checks import config
from smolplan.errors import UserError
from smolplan.spec import RunSpec, load_preset
from smolplan.spec.parallel import ParallelSpec

SMOLLM3 = load_preset("smollm3-3b")
JOB = Job(
    architecture=architecture_of(SMOLLM3.model),
    seq_len=4096,
    global_batch_size=576,
    gpus=384,
    domain=8,
    hbm_bytes=80e9,
    state=MIXED_FP32_GRADIENTS_STATE,
)

jobs = st.builds(
    Job,
    architecture=st.builds(
        Architecture,
        layers=st.sampled_from([1, 6, 32, 36]),
        hidden=st.just(2048),
        heads=st.sampled_from([16, 24]),
        kv_heads=st.sampled_from([4, 8]),
        head_dim=st.just(128),
        ffn_hidden=st.sampled_from([8192, 11008]),
        vocab_size=st.sampled_from([49152, 50257]),
        tied_embeddings=st.booleans(),
    ),
    seq_len=st.sampled_from([1024, 4096]),
    global_batch_size=st.sampled_from([1, 12, 96, 256]),
    gpus=st.sampled_from([1, 2, 6, 8, 24, 64]),
    domain=st.sampled_from([2, 8, 72]),
    hbm_bytes=st.sampled_from([16e9, 80e9, 1e15]),
    state=st.sampled_from([FP32_STATE, MIXED_STATE, MIXED_FP32_GRADIENTS_STATE]),
)


def layouts_of(legal: Legal) -> list[Layout]:
    return [layout_at(legal.columns, index) for index in range(legal.layouts)]


def as_spec(job: Job, layout: Layout, of: RunSpec | None = None) -> RunSpec:
    """The layout in a run spec of the same model; raises where RunSpec refuses it. `of`: a spec
    that has the model; without it, of a dense one."""
    content = (of or SMOLLM3).model_dump(mode="json", exclude_none=True)
    if of is None:
        shape = vars(job.architecture)
        content["model"] |= {name: shape[name] for name in content["model"] if name in shape}
        content["model"]["head_dim"] = job.architecture.head_dim
    content["optim"]["precision"] = "fp8" if job.fp8 else "bf16"
    content["data"]["seq_len"] = job.seq_len
    content["optim"]["global_batch_size"] = job.global_batch_size
    known = ParallelSpec.model_fields.keys()
    content["parallel"] = {f: value for f, value in vars(layout).items() if f in known}
    content["parallel"]["uneven_stages"] = job.uneven_stages
    content["cluster"] |= {"nodes": job.gpus, "gpus_per_node": 1}
    return RunSpec.model_validate(content)


@settings(max_examples=40, deadline=None)
@given(jobs, st.data())
def test_every_legal_layout_takes_all_gpus_and_passes_the_specs_own_rules(
    job: Job, data: st.DataObject
) -> None:
    legal = legal_layouts(job)
    c = legal.columns
    ranks = c["data_parallel"] * c["tensor_parallel"] * c["pipeline_parallel"]
    assert (ranks * c["context_parallel"] == job.gpus).all()
    batch = c["data_parallel"] * c["micro_batch_size"] * c["gradient_accumulation"]
    assert (batch == job.global_batch_size).all()
    assert (legal.memory_bytes <= FULLEST * job.hbm_bytes).all()
    if legal.layouts:
        index = data.draw(st.integers(0, legal.layouts - 1))
        spec = as_spec(job, layout_at(c, index))
        assert spec.parallel.ranks == job.gpus


@settings(max_examples=40, deadline=None)
@given(jobs)
def test_every_layout_is_legal_or_counted_under_one_rule(job: Job) -> None:
    legal = legal_layouts(job)
    rejected = sum(rejection.layouts for rejection in legal.rejections)
    assert legal.layouts + rejected == legal.examined
    assert all(rejection.closest for rejection in legal.rejections)
    assert len({rejection.rule for rejection in legal.rejections}) == len(legal.rejections)


@settings(max_examples=20, deadline=None)
@given(jobs, st.floats(1.0, 10.0))
def test_more_memory_never_rejects_more(job: Job, more: float) -> None:
    small = legal_layouts(job)
    large = legal_layouts(replace(job, hbm_bytes=job.hbm_bytes * more))
    assert set(layouts_of(small)) <= set(layouts_of(large))


@settings(max_examples=20, deadline=None)
@given(jobs)
def test_memory_of_many_layouts_equals_the_sum_of_each_ones_lines_exactly(job: Job) -> None:
    legal = legal_layouts(replace(job, hbm_bytes=1e18))
    step = max(1, legal.layouts // 50)
    for index in range(0, legal.layouts, step):
        layout = layout_at(legal.columns, index)
        lines = memory_lines(job.architecture, layout, job.seq_len, state=job.state)
        assert sum(line.value for line in lines) == legal.memory_bytes[index]


def test_nothing_that_the_spec_allows_is_missing_from_the_search() -> None:
    """All of a small job's layouts, tried one by one against RunSpec and the search's own rules."""
    job = replace(JOB, gpus=4, global_batch_size=8, hbm_bytes=1e15)
    expected = set()
    for tp in (1, 2, 3, 4):
        for pp in (1, 2, 3, 4):
            for cp in (1, 2, 3, 4):
                for dp in (1, 2, 3, 4):
                    for mbs in range(1, 9):
                        layout = Layout(dp, tp, pp, 1, cp, 1, 0, mbs, 8 // (dp * mbs) or 1)
                        try:
                            as_spec(job, layout)
                        except ValueError:
                            continue
                        expected.add(layout)
    terms = parse_restrictions("zero=0,schedule=1f1b,recompute=none")
    assert set(layouts_of(legal_layouts(replace(job, restrictions=terms)))) == expected
    assert len(expected) > 20


def test_too_little_memory_names_the_layout_that_came_closest() -> None:
    legal = legal_layouts(replace(JOB, gpus=1, hbm_bytes=24e9))
    assert legal.layouts == 0
    fallen = next(r for r in legal.rejections if "memory" in r.rule)
    assert "one GPU, MBS 1, ZeRO-0, full recompute needs 6" in fallen.closest
    assert "of 24 GB" in fallen.closest


def test_tensor_parallel_leaves_the_fast_links_only_where_that_is_allowed() -> None:
    job = replace(JOB, domain=2)
    assert legal_layouts(job).columns["tensor_parallel"].max() == 2
    allowed = legal_layouts(replace(job, tensor_across_domains=True))
    assert allowed.columns["tensor_parallel"].max() == 4


def test_interleaving_has_micro_batches_that_the_pipeline_divides() -> None:
    c = legal_layouts(JOB).columns
    interleaved = c["virtual_pipeline"] > 1
    assert interleaved.any()
    assert (c["pipeline_parallel"][interleaved] > 1).all()
    left = c["gradient_accumulation"][interleaved] % c["pipeline_parallel"][interleaved]
    assert not left.any()


def test_schedules_are_those_that_stages_can_follow() -> None:
    c = legal_layouts(JOB).columns
    pp, vp, schedule = c["pipeline_parallel"], c["virtual_pipeline"], c["schedule"]
    assert set(schedule[(pp > 1) & (vp == 1)]) == {"1f1b", "zero-bubble"}
    assert set(schedule[vp > 1]) == {"interleaved"}
    assert set(schedule[pp == 1]) == {"1f1b"}


def test_shard_groups_are_parts_of_the_replicas_for_zero_2_and_3() -> None:
    c = legal_layouts(JOB).columns
    group, replicas = c["shard_group"], c["data_parallel"] * c["context_parallel"]
    some = group > 0
    assert some.any() and (c["zero_stage"][some] >= 2).all()
    assert (group[some] < replicas[some]).all() and not (replicas[some] % group[some]).any()


@pytest.mark.parametrize(
    ("text", "ranks"), [("group<=8", range(1, 9)), ("group=8", {8}), ("group>64", range(65, 385))]
)
def test_a_restriction_of_the_group_counts_the_ranks_that_zero_shards_over(
    text: str, ranks: Container[int]
) -> None:
    terms = parse_restrictions(text)
    found = layouts_of(legal_layouts(replace(JOB, restrictions=terms)))
    assert found and all((1 if one.zero_stage == 0 else one.shards) in ranks for one in found)
    everywhere = legal_layouts(replace(JOB, restrictions=parse_restrictions("group=all")))
    assert not everywhere.columns["shard_group"].any()


def test_experts_are_spread_among_the_data_parallel_ranks_and_take_less_memory_each() -> None:
    moe = MoE(routed_experts=8, experts_per_token=2, expert_ffn_hidden=11008)
    job = replace(JOB, architecture=replace(JOB.architecture, moe=moe), gpus=16, hbm_bytes=1e15)
    legal = legal_layouts(job)
    c = legal.columns
    assert set(np.unique(c["expert_parallel"])) == {1, 2, 4, 8}
    assert not (c["data_parallel"] * c["context_parallel"] % c["expert_parallel"]).any()

    def need(expert_parallel: int, zero_stage: int) -> float:
        layout = Layout(data_parallel=16, expert_parallel=expert_parallel, zero_stage=zero_stage)
        return float(memory_bytes(job.architecture, layout, 4096, state=job.state))

    assert need(8, 0) < 0.3 * need(1, 0)

    def sharded(expert_parallel: int) -> float:
        layout = Layout(data_parallel=16, expert_parallel=expert_parallel, zero_stage=3)
        return sum(line.value for line in state_lines(job.architecture, layout, job.state))

    # Shared among all ranks, experts take the same wherever they are.
    assert sharded(8) == pytest.approx(sharded(1), rel=1e-6)


@pytest.mark.parametrize(
    ("preset", "fp8", "gpus"),
    [
        ("smollm3-3b", False, 8),
        ("smollm3-3b", True, 4),
        ("mixtral-8x7b", False, 8),
        ("granite4-h-tiny", False, 4),
    ],
)
def test_the_trainers_layouts_are_those_that_a_spec_may_have(
    preset: str, fp8: bool, gpus: int
) -> None:
    of = load_preset(preset)
    job = replace(
        JOB,
        architecture=architecture_of(of.model),
        seq_len=4096 - 1024 * fp8,
        gpus=gpus,
        domain=4,
        global_batch_size=16,
        hbm_bytes=1e15,
        fp8=fp8,
    )
    # Of recurrent layers the trainer shares out what others do not.
    every = replace(job, architecture=replace(job.architecture, mamba=None))
    everything = layouts_of(legal_layouts(every))
    runs = {one for one in everything if not as_spec(job, one, of).unsupported_by_trainer()}
    assert set(layouts_of(legal_layouts(replace(job, trainer=True)))) == runs
    assert 0 < len(runs) < len(everything)


def test_memory_computed_block_by_block_is_that_of_each_layout_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = replace(JOB, gpus=8, global_batch_size=16)
    whole = legal_layouts(job)
    monkeypatch.setattr("planner.layouts.BLOCK_ROWS", 7)
    parts = legal_layouts(job)
    assert layouts_of(parts) == layouts_of(whole) and parts.rejections == whole.rejections
    need = [float(job_memory_bytes(job, one)) for one in layouts_of(parts)]
    assert len(need) % 7 and list(parts.memory_bytes) == need == list(whole.memory_bytes)


def test_layouts_may_fill_as_much_as_preflight_lets_pass() -> None:
    assert FULLEST == config.FULLEST


def test_a_layouts_name_leaves_out_degrees_of_one() -> None:
    layout = Layout(data_parallel=192, tensor_parallel=2, micro_batch_size=3)
    assert name_of(layout) == "DP 192 × TP 2, MBS 3, ZeRO-0"
    hybrid = replace(layout, zero_stage=3, shard_group=4)
    assert name_of(hybrid) == "DP 192 × TP 2, MBS 3, ZeRO-3 in groups of 4"
    late = replace(layout, pipeline_parallel=2, schedule="zero-bubble")
    assert name_of(late) == "DP 192 × TP 2 × PP 2, MBS 3, ZeRO-0, zero-bubble"
    assert name_of(Layout(recompute="full")) == "one GPU, MBS 1, ZeRO-0, full recompute"


@given(st.integers(1, 10_000))
def test_divisors_are_all_of_them_in_rising_order(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


def test_restrictions_read_short_and_long_names() -> None:
    terms = parse_restrictions("tp<=8, pipeline_parallel = 1,zero!=3,recompute=none")
    assert [term.text for term in terms] == [
        "tensor_parallel <= 8",
        "pipeline_parallel = 1",
        "zero_stage != 3",
        "recompute = none",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tensor_paralel=2", "Did you mean tensor_parallel"),
        ("tp", "not a field, an operator and a value"),
        ("", "not a field, an operator and a value"),
        ("tp=2,,pp=1", "not a field, an operator and a value"),
        ("tp=two", "not a whole number"),
        ("tp=²", "not a whole number"),
        ("tp=" + "9" * 13, "not a whole number"),
        ("recompute=maybe", "none, selective, full"),
        ("recompute<full", "none, selective, full"),
        ("group=some", "not a whole number"),
        ("group<all", "not a whole number"),
        ("schedule=zb", "1f1b, interleaved, zero-bubble"),
        ("schedule>1f1b", "Write schedule=1f1b or schedule!=zero-bubble"),
    ],
)
def test_a_restriction_that_cannot_be_read_is_explained(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_restrictions(text)


@pytest.mark.parametrize("short", sorted(SHORT_NAMES.keys() - {"group"}))
def test_each_field_of_a_layout_can_be_restricted(short: str) -> None:
    wanted = {"recompute": "full", "schedule": "zero-bubble"}.get(short, "1")
    terms = parse_restrictions(f"{short}={wanted}")
    legal = legal_layouts(replace(JOB, gpus=16, hbm_bytes=1e15, restrictions=terms))
    assert legal.layouts
    column = legal.columns[SHORT_NAMES[short]]
    assert (column == (wanted if short in NAMED else 1)).all()


def test_stages_that_may_differ_have_a_layer_each_at_least() -> None:
    odd = replace(JOB, architecture=replace(JOB.architecture, layers=61), gpus=64)
    assert set(legal_layouts(odd).columns["pipeline_parallel"]) == {1}
    legal = legal_layouts(replace(odd, uneven_stages=True))
    c = legal.columns
    assert (c["pipeline_parallel"] * c["virtual_pipeline"]).max() in range(32, 62)
    terms = parse_restrictions("pp=8,vp=3")
    some = layouts_of(legal_layouts(replace(odd, uneven_stages=True, restrictions=terms)))
    assert some and as_spec(replace(odd, uneven_stages=True), some[0]).parallel.uneven_stages


def test_the_trainers_layouts_are_measured_by_its_own_peak() -> None:
    job = replace(JOB, gpus=8, global_batch_size=16, trainer=True, state=FP32_STATE)
    legal, counted = legal_layouts(job), 0
    for index, one in enumerate(layouts_of(legal)):
        need = float(memory_bytes(job.architecture, one, job.seq_len, state=FP32_STATE))
        if is_counted_layout(one):
            need = float(trainer_memory_bytes(job.architecture, one, job.seq_len))
            counted += 1
        assert legal.memory_bytes[index] == need
        assert sum(line.value for line in job_memory_lines(job, one)) == need
    assert 3 < counted < legal.layouts


def test_what_the_trainer_needs_is_estimated_as_more_than_is_counted_where_both_are_known() -> None:
    job = replace(JOB, gpus=8, global_batch_size=64, trainer=True, hbm_bytes=1e15)
    job = replace(job, state=FP32_STATE, conventions=BUNDLED_TRAINER)
    legal = legal_layouts(job)
    layout = Layout(**legal.columns)
    estimate = memory_bytes(
        job.architecture, layout, 4096, state=FP32_STATE, conventions=BUNDLED_TRAINER
    )
    counted = is_counted_layout(layout)
    over = (estimate / legal.memory_bytes)[counted]
    assert len(over) > 500
    assert over.min() > 1.0 and np.median(over) < 1.15


def test_a_spec_whose_layers_do_not_divide_into_virtual_stages_is_refused() -> None:
    layout = Layout(data_parallel=192, pipeline_parallel=2, virtual_pipeline=9)
    assert as_spec(JOB, layout).parallel.virtual_pipeline == 9
    with pytest.raises(ValueError, match="virtual_pipeline 4, which are 8 parts"):
        as_spec(JOB, replace(layout, virtual_pipeline=4))
