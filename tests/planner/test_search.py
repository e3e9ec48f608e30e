import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.layout_lines import differences, fullest_rank_lines, parts_of, run_lines, step_lines
from planner.layouts import legal_layouts
from planner.legality import layout_at
from planner.memory import FP32_STATE, MUON_STATE, Layout, layout_of
from planner.plan import make_plan
from planner.restrict import parse_restrictions
from planner.search import (
    Candidate,
    Found,
    candidate_of,
    expected,
    machine_of,
    pareto_front,
    price_of,
    priced,
    search,
    stack_of,
    timed_layout,
)
from planner.site import Fabric, find_software, job_of, site_of
from planner.step_inputs import FP8
from planner.step_shape import shape_of
from planner.step_time import StepTime, step_time
from planner.step_time.layer import layer_matmul_s
from smolplan.errors import UserError
from smolplan.spec import RunSpec, load_preset

SPEC = load_preset("smollm3-3b")
SITE = site_of(SPEC)


def find(restrict: str | None = None, *, gpus: int = 384, top: int = 5, **changed: Any) -> Found:
    terms = () if restrict is None else parse_restrictions(restrict)
    job = replace(job_of(SPEC, SITE, gpus=gpus, restrictions=terms), **changed)
    return search(job, SITE, steps=SPEC.steps, top=top)


def test_the_best_are_the_fastest_of_all_legal_layouts() -> None:
    job = job_of(SPEC, SITE, gpus=64)
    legal = legal_layouts(job)
    every = [priced(job, SITE, layout_at(legal.columns, i)).total_s for i in range(legal.layouts)]
    found = search(job, SITE, steps=10)
    assert found.best[0].step_s == pytest.approx(min(every), rel=1e-12)
    speeds = [one.step_s for one in found.best]
    assert speeds == sorted(speeds) and len(speeds) == 5


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["tp", "pp", "vp", "cp", "mbs", "acc", "zero"]),
    st.sampled_from(["<=", ">=", "="]),
    st.integers(1, 4),
    st.sampled_from([16, 64, 96]),
)
def test_a_restriction_never_finds_a_better_layout_than_the_free_search(
    field: str, sign: str, value: int, gpus: int
) -> None:
    restricted = find(f"{field}{sign}{value}", gpus=gpus)
    if restricted.best:
        assert restricted.best[0].step_s >= find(gpus=gpus).best[0].step_s
    assert restricted.legal <= find(gpus=gpus).legal


def test_more_memory_never_makes_the_best_slower() -> None:
    sizes = [find(gpus=64, hbm_bytes=gb * 1e9) for gb in (24, 40, 80, 192)]
    times = [found.best[0].step_s for found in sizes]
    assert times == sorted(times, reverse=True) and times[0] > times[-1]


def test_layouts_that_another_one_makes_pointless_are_left_out() -> None:
    best = find(gpus=64, top=1000).best
    alike: dict[Layout, list[Candidate]] = {}
    for one in best:
        degrees = replace(one.layout, zero_stage=0, shard_group=0, recompute="none")
        alike.setdefault(degrees, []).append(one)
    assert any(len(variants) > 1 for variants in alike.values())
    for variants in alike.values():
        needs = [one.memory_bytes for one in variants]
        assert needs == sorted(needs, reverse=True)
        assert len({one.step_s for one in variants}) == len(variants)


def test_the_figures_of_a_candidate_follow_from_its_step() -> None:
    best = find().best[0]
    assert best.tokens_per_s_per_gpu == pytest.approx(576 * 4096 / best.step_s / 384)
    total_s = best.step_s + float(best.stalls.total_s)
    assert best.days == pytest.approx(4_720_000 * total_s / 86_400)
    assert SITE.price_per_gpu_hour is not None and best.dollars is not None
    assert best.dollars == pytest.approx(384 * best.days * 24 * SITE.price_per_gpu_hour)
    watts = SITE.waiting_w + (SITE.busy_w - SITE.waiting_w) * best.utilisation
    assert best.kwh == pytest.approx(384 * best.days * 24 * watts / 1000)
    assert 0 < best.mfu < 1


def test_the_lines_of_a_step_and_of_the_memory_add_up() -> None:
    found = find("pp>1,vp>1,cp=1,recompute=full")
    best = found.best[0]
    lines = step_lines(found, best)
    assert sum(line.value for line in lines) == pytest.approx(best.step_s * 1e3)
    assert all(line.formula and line.source for line in lines)
    assert sum(line.value for line in fullest_rank_lines(found, best)) == best.memory_bytes
    assert [line.name for line in run_lines(found, best)][-1] == "energy"


def test_every_cause_of_a_step_has_a_name() -> None:
    best = find().best[0]
    assert len(parts_of(best.step)) == len(fields(StepTime))


def test_the_gaps_between_two_layouts_add_up_to_the_gap_between_their_steps() -> None:
    first, second = find().best[:2]
    rows = differences(first, second)
    gap = sum(theirs - mine for _, mine, theirs in rows)
    assert gap == pytest.approx(second.step_s - first.step_s, abs=9 * 5e-5)
    sizes = [abs(theirs - mine) for _, mine, theirs in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_smollm3s_layout_is_among_the_first_three_of_what_could_be_run_then() -> None:
    first_three = find("zero=0,schedule=1f1b").best[:3]
    chosen = [
        (one.layout.data_parallel, one.layout.tensor_parallel, one.layout.micro_batch_size)
        for one in first_three
    ]
    assert (192, 2, 3) in chosen


def test_a_zero_bubble_pipeline_is_the_fastest_of_those_without_virtual_stages() -> None:
    free = find("pp=4,vp=1").best[0]
    assert free.layout.schedule == "zero-bubble"
    plain = find("pp=4,schedule=1f1b").best[0]
    assert plain.step.pipeline_s > free.step.pipeline_s > 0


def test_by_energy_the_thriftiest_comes_first_and_is_never_faster_than_the_fastest() -> None:
    fastest = find(gpus=64).best[0]
    job = job_of(SPEC, SITE, gpus=64)
    thrifty = search(job, SITE, steps=SPEC.steps, by="energy", top=10).best
    energies = [one.kwh for one in thrifty]
    assert energies == sorted(energies) and energies[0] <= fastest.kwh
    assert all(one.days >= fastest.days for one in thrifty)


def test_a_pipelines_bubble_is_waited_in() -> None:
    flat, staged = find("pp=1").best[0], find("pp=4,schedule=1f1b").best[0]
    assert staged.utilisation < flat.utilisation <= 1
    waited_s = staged.step.pipeline_s + staged.step.host_s + float(staged.stalls.total_s)
    total_s = staged.step_s + float(staged.stalls.total_s)
    assert staged.utilisation == pytest.approx(1 - waited_s / total_s)


@pytest.mark.parametrize(
    ("fabric", "links", "network"),
    [
        (Fabric(), 450e9, 50e9),
        (Fabric(link_bytes_per_s=64e9), 64e9, 50e9),
        # Four adapters for eight GPUs.
        (Fabric(node_network_bytes_per_s=4 * 50e9), 450e9, 25e9),
    ],
)
def test_a_fabric_that_is_told_takes_the_catalogues_place(
    fabric: Fabric, links: float, network: float
) -> None:
    site = site_of(SPEC, fabric=fabric)
    machine = machine_of(job_of(SPEC, site), site)
    assert (machine.link_bytes_per_s, machine.network_bytes_per_s) == (links, network)


@pytest.mark.parametrize("name", ["smollm3-3b", "qwen3-30b-a3b", "granite4-h-tiny"])
def test_no_part_of_any_legal_layouts_step_is_negative_and_a_gpu_never_works_more_than_always(
    name: str,
) -> None:
    spec = load_preset(name)
    job = replace(job_of(spec, SITE, gpus=64), hbm_bytes=1e15)
    every = expected(job, SITE, Layout(**legal_layouts(job).columns))
    for part in (*fields(every.step), *fields(every.stalls)):
        owner = every.step if hasattr(every.step, part.name) else every.stalls
        # What hides behind a slot is the difference of two long times.
        assert np.min(getattr(owner, part.name)) >= -1e-9 * np.max(every.total_s)
    assert np.all((every.utilisation > 0) & (every.utilisation <= 1 + 1e-9))


@pytest.mark.parametrize("name", ["smollm3-3b", "qwen3-30b-a3b", "nemotron-h-8b"])
@pytest.mark.parametrize("factor", [1.3, 4.0])
def test_a_faster_gpu_is_never_slower_in_any_legal_layout(name: str, factor: float) -> None:
    spec = load_preset(name)
    job = replace(job_of(spec, SITE, gpus=64), hbm_bytes=1e15)
    layout = timed_layout(job, Layout(**legal_layouts(job).columns))
    shape = shape_of(job.architecture, job.seq_len, job.step_tokens)
    machine, stack = machine_of(job, SITE), stack_of(SITE)
    peak = factor * machine.bf16_flops_per_s
    faster = replace(machine, matmul_flops_per_s=peak, bf16_flops_per_s=peak)
    before = step_time(shape, layout, machine, stack).total_s
    after = step_time(shape, layout, faster, stack).total_s
    assert np.size(before) > 1000
    assert np.all(after <= before * (1 + 1e-9))


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([1, 2, 8, 32]),
    st.floats(1.0, 4.0),
    st.floats(1.0, 4.0),
    st.sampled_from(["pp=1", "pp>1", "zero=3", "cp>1", "tp=1"]),
)
def test_oversubscription_is_never_faster_and_a_larger_pod_never_slower(
    nodes: int, factor: float, more: float, restrict: str
) -> None:
    terms = parse_restrictions(restrict)

    def best_s(fabric: Fabric) -> float:
        site = site_of(SPEC, fabric=fabric)
        job = job_of(SPEC, site, gpus=128, restrictions=terms)
        return search(job, site, steps=1, top=1).best[0].step_s

    given_s = best_s(Fabric(oversubscription=factor, pod_nodes=nodes))
    slack = 1 + 1e-12
    assert best_s(Fabric(oversubscription=factor * more, pod_nodes=nodes)) * slack >= given_s
    assert best_s(Fabric(oversubscription=factor, pod_nodes=2 * nodes)) <= given_s * slack
    assert best_s(Fabric()) <= given_s * slack
    # 16 nodes in one pod never leave it.
    assert best_s(Fabric(oversubscription=factor, pod_nodes=16)) == best_s(Fabric())


def test_a_stacks_memory_is_counted_by_its_own_conventions() -> None:
    nanotron = site_of(SPEC, stack="nanotron")
    job = job_of(SPEC, nanotron)
    assert job.conventions.name == "nanotron" and job.state == job.conventions.state
    assert job_of(SPEC, SITE).conventions.name == "generic"


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "nemotron-h-8b", "deepseek-v2"])
def test_mixtures_and_hybrids_are_laid_out(name: str) -> None:
    spec = load_preset(name)
    site = site_of(spec)
    found = search(job_of(spec, site, uneven_stages=True), site, steps=spec.steps, top=3)
    assert found.best and all(0 < one.mfu < 0.7 for one in found.best)
    if spec.model.experts is not None:
        assert any(one.layout.expert_parallel > 1 for one in found.best)


def test_ranking_by_cost_needs_a_price() -> None:
    best = replace(find().best[0], dollars=None)
    with pytest.raises(ValueError, match="no price"):
        price_of(best, "cost")
    assert price_of(best, "time") == best.days
    assert price_of(best, "energy") == best.kwh


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8
    )
)
def test_the_front_holds_who_is_beaten_by_none_in_all_three(
    points: list[tuple[int, int, int]],
) -> None:
    model = BEST
    many = [replace(model, gpus=g, days=float(d), dollars=float(c)) for g, d, c in points]
    front = pareto_front(many)
    assert any(front)
    for mine, on in zip(points, front, strict=True):
        better = [
            other
            for other in points
            if other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
        ]
        assert on == (not better)


BEST = find().best[0]


def test_tensor_parallel_domains_are_a_node_or_a_rack() -> None:
    half = SPEC.cluster.model_copy(update={"nodes": 96, "gpus_per_node": 4})
    assert job_of(SPEC.model_copy(update={"cluster": half}), SITE).domain == 4
    rack = SPEC.model_copy(update={"cluster": half.model_copy(update={"gpu": "gb200"})})
    assert job_of(rack, site_of(rack)).domain == 72


def test_the_trainer_keeps_its_state_in_fp32() -> None:
    job = job_of(SPEC, SITE, gpus=64, trainer=True)
    assert job.state == FP32_STATE and job.trainer
    optim = SPEC.optim.model_copy(update={"optimizer": "muon"})
    by_muon = SPEC.model_copy(update={"optim": optim})
    assert job_of(by_muon, SITE, gpus=64, trainer=True).state == MUON_STATE
    best = search(job, SITE, steps=1).best
    assert best and all(one.layout.zero_stage >= 2 for one in best)
    # It reduces gradients once a step, however many micro-batches there are.
    several = Layout(data_parallel=64, zero_stage=2, gradient_accumulation=9)
    own, other = (priced(replace(job, trainer=t), SITE, several) for t in (True, False))
    assert own.data_parallel_s < other.data_parallel_s


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cluster": {"nodes": 384, "gpus_per_node": 1, "gpu": "cpu"}}, "CPU"),
        ({"cluster": {"nodes": 384, "gpus_per_node": 1, "gpu": "h10"}}, "Did you mean h100"),
    ],
)
def test_machines_that_cannot_be_priced_are_refused(changed: dict[str, Any], said: str) -> None:
    content = SPEC.model_dump(mode="json", exclude_none=True) | changed
    with pytest.raises(UserError, match=said):
        site_of(RunSpec.model_validate(content))


def test_a_gpu_whose_links_nobody_has_written_down_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("planner.site.find_accelerator", lambda name: None)
    with pytest.raises(UserError, match="links of h100"):
        site_of(SPEC)


def test_parts_of_nodes_and_fp32_are_refused() -> None:
    with pytest.raises(UserError, match="Give 384 or 392"):
        job_of(SPEC, SITE, gpus=390)
    fp32 = SPEC.model_copy(update={"optim": SPEC.optim.model_copy(update={"precision": "fp32"})})
    with pytest.raises(UserError, match="bf16 and fp8 only"):
        job_of(fp32, SITE)


def in_fp8(preset: str, gpu: str = "h100") -> RunSpec:
    content = load_preset(preset).model_dump(mode="json", exclude_none=True)
    content["optim"]["precision"], content["cluster"]["gpu"] = "fp8", gpu
    return RunSpec.model_validate(content)


def test_in_fp8_the_linear_layers_take_less_and_the_mfu_is_of_its_peak() -> None:
    spec = in_fp8("llama3-8b")
    site = site_of(spec)
    layout, steps = layout_of(spec), spec.whole_batches
    fp8 = candidate_of(job_of(spec, site), site, steps, layout)
    usual = site_of(load_preset("llama3-8b"))
    bf16 = candidate_of(job_of(load_preset("llama3-8b"), usual), usual, steps, layout)
    # Twice the peak for some of the work: at most twice as fast, and so at most the same MFU.
    assert bf16.step_s / 2 < fp8.step_s < bf16.step_s / 1.1
    assert fp8.mfu == pytest.approx(bf16.mfu * bf16.step_s / fp8.step_s * 989.4 / 1978.9)
    assert fp8.memory_bytes == bf16.memory_bytes
    found = Found(job_of(spec, site), site, steps, 1, 1, (), (fp8,))
    told = {line.name: line for line in (*step_lines(found, fp8), *run_lines(found, fp8))}
    assert "of 1,979 TFLOP/s of fp8 (a scale a tensor, casts counted)" in told["compute"].source
    assert "stacks.yaml" in told["compute"].source
    assert told["MFU"].formula.endswith("over 1,979 TFLOP/s of fp8")
    assert make_plan(spec).peak_flops_per_gpu == site.peak_flops == 1978.9e12


def test_routed_experts_gain_nothing_by_fp8() -> None:
    """Of a model that is all experts next to nothing gets faster."""
    spec = load_preset("qwen3-30b-a3b")
    site = site_of(spec)
    shape = shape_of(job_of(spec, site).architecture, spec.data.seq_len, 2**20)
    experts = replace(shape, attention_share=0.0)
    layout, stack = timed_layout(job_of(spec, site), layout_of(spec)), stack_of(site)
    fp8 = replace(machine_of(job_of(spec, site), site), matmul_flops_per_s=2e15, number_format=FP8)
    bf16 = machine_of(job_of(spec, site), site)
    assert layer_matmul_s(experts, layout, fp8, stack) == layer_matmul_s(
        experts, layout, bf16, stack
    )
    everywhere = replace(fp8, experts_in_bf16=0.0)
    assert layer_matmul_s(experts, layout, everywhere, stack) < layer_matmul_s(
        experts, layout, bf16, stack
    )


def test_fp8_on_a_gpu_without_it_is_refused_with_those_that_have_it() -> None:
    for priced_by in (site_of, make_plan):
        with pytest.raises(UserError, match="a100 does not multiply in fp8") as refused:
            priced_by(in_fp8("llama3-8b", gpu="a100"))
        assert str(refused.value).startswith("optim.precision: ")
        assert "h100" in str(refused.value) and "Set it to bf16" in str(refused.value)


def test_an_unknown_stack_is_refused_with_the_near_names() -> None:
    with pytest.raises(UserError, match="Did you mean nanotron"):
        find_software("nanotorn")


def test_the_planner_waits_with_numpy_until_a_search_begins() -> None:
    code = (
        "import sys, planner.search, planner.layout_lines, planner.site, smolplan.cli.plan_view; "
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
