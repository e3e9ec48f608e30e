"""What the step-time model prices of published models, against what planner.flops counts."""

import math
from dataclasses import replace

import pytest

from planner.architecture import Architecture
from planner.catalog import models
from planner.flops import (
    delta_rule_flops_per_token,
    forward_components,
    ssd_flops_per_token,
)
from planner.legality import Job
from planner.memory import MIXED_STATE
from planner.params import matrix_counts
from planner.search import search
from planner.site import site_of
from planner.step_shape import shape_of
from planner.step_time import forward_flops_per_token
from planner.step_time.work import products
from smolplan.spec import load_preset

SEQ_LEN = 4096
names = pytest.mark.parametrize("name", sorted(models()))
NOT_PRODUCTS = ("attention scores", "Mamba-2 scan", "delta rule", "output head")


def architecture(name: str) -> Architecture:
    return models()[name].architecture()[0]


def convolutions(arch: Architecture) -> float:
    parts = [part for part in (arch.mamba, arch.delta_net) if part is not None]
    return sum(2.0 * part.layers * part.conv_channels * part.conv_kernel for part in parts)


@names
def test_the_products_of_all_layers_are_those_that_flops_counts(name: str) -> None:
    arch = replace(architecture(name), mtp_layers=0)
    components = forward_components(arch, SEQ_LEN)
    counted = sum(count for part, count in components.items() if part not in NOT_PRODUCTS)
    priced = sum(p.flops_per_token for p in products(shape_of(arch, SEQ_LEN, SEQ_LEN)))
    assert priced == pytest.approx(counted - convolutions(arch), rel=1e-12)


@names
def test_their_weights_are_all_matrices_of_the_layers(name: str) -> None:
    arch = architecture(name)
    priced = sum(p.weights for p in products(shape_of(arch, SEQ_LEN, SEQ_LEN)))
    assert priced == pytest.approx(sum(matrix_counts(arch, active=False).values()), rel=1e-12)


@names
def test_with_scores_scans_and_prediction_modules_the_sum_is_that_of_flops(name: str) -> None:
    """But for half a key a token: (s + 1)/2 of causal attention are s/2 here; and for the masked
    half of a scan's chunks, which kernels compute."""
    for mtp_layers in (0, 1):
        arch = replace(architecture(name), mtp_layers=mtp_layers)
        counted = sum(forward_components(arch, SEQ_LEN).values())
        if (mamba := arch.mamba) is not None:
            causal, whole = (ssd_flops_per_token(mamba, SEQ_LEN, causal=c) for c in (True, False))
            counted += mamba.layers * (whole - causal)
        if (net := arch.delta_net) is not None:
            causal, whole = (
                delta_rule_flops_per_token(net, SEQ_LEN, causal=c) for c in (True, False)
            )
            counted += net.layers * (whole - causal)
        layers = arch.attention_layers + mtp_layers
        half_keys = layers * arch.heads * (arch.head_dim + arch.value_head_dim)
        priced = forward_flops_per_token(shape_of(arch, SEQ_LEN, SEQ_LEN))
        assert priced <= counted
        assert counted - priced <= half_keys * (1 + 1e-9)
        assert math.isclose(priced, counted, rel_tol=1e-4)


def test_each_part_of_an_architecture_costs_time() -> None:
    """A part that is taken away, or a window that is opened, shows in the step."""
    site = site_of(load_preset("smollm3-3b"))

    def step_s(arch: Architecture) -> float:
        job = Job(arch, SEQ_LEN, 256, 64, 8, 1e15, MIXED_STATE)
        return search(job, site, steps=1, top=1).best[0].step_s

    deepseek, qwen = architecture("deepseek-v2-lite"), architecture("qwen3-next-80b-a3b")
    gemma = architecture("gemma2-2b")
    moe, net = deepseek.moe, qwen.delta_net
    assert moe is not None and net is not None
    less = [
        (deepseek, replace(deepseek, moe=replace(moe, shared_experts=0))),
        (replace(deepseek, mtp_layers=1), deepseek),
        (qwen, replace(qwen, attention_gate=False)),
        (qwen, replace(qwen, delta_net=replace(net, value_heads=net.value_heads // 2))),
        (replace(gemma, window=2048), replace(gemma, window=512)),
    ]
    for whole, lighter in less:
        assert step_s(lighter) < step_s(whole)


def test_keys_beyond_the_sequence_are_no_window() -> None:
    gemma = architecture("gemma2-2b")
    wide = shape_of(replace(gemma, window=10 * SEQ_LEN), SEQ_LEN, SEQ_LEN)
    assert wide.score_keys == SEQ_LEN
