"""Proxies of runs: their size, what of the model they keep, and that every command reads them."""

import math
from pathlib import Path

import pytest

from planner.memory import layout_of
from planner.params import parameter_count
from planner.plan import make_plan
from planner.scale import BATCH_EXPONENT, LEARNING_RATE_EXPONENT, MOST_CHECKPOINTS, scale
from planner.scale_shape import layer_period, scaled_shape
from planner.scale_text import commented_yaml
from smolplan.errors import UserError
from smolplan.spec import RunSpec, load_preset, parse_spec, preset_names
from tests.support import smolplan

DENSE = [
    name
    for name in preset_names()
    if load_preset(name).model.layer_pattern is None and name != "tiny-cpu"
]

MAKES = ["smollm3-3b", "gemma2-9b", "olmo2-7b", "qwen3-30b-a3b", "deepseek-v3", "nemotron-h-8b"]
MAKES += ["granite4-h-tiny", "tiny-cpu"]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("divisor", [3, 10, 30])
def test_a_model_of_like_layers_is_met_within_five_percent(name: str, divisor: int) -> None:
    spec = load_preset(name)
    target = parameter_count(spec.model) / divisor
    assert parameter_count(scaled_shape(spec.model, target)) == pytest.approx(target, rel=0.05)


@pytest.mark.parametrize("name", MAKES)
def test_a_proxy_is_of_the_same_make(name: str) -> None:
    spec = load_preset(name)
    old = spec.model
    new = scaled_shape(old, max(4e5, parameter_count(old) / 4))
    assert new.vocab_size == old.vocab_size
    assert new.heads * old.kv_heads == old.heads * new.kv_heads
    assert old.attention_head_dim % new.attention_head_dim == 0
    assert new.hidden <= old.hidden and new.layers <= old.layers
    period = layer_period(old)
    assert new.layers == old.layers or new.layers % period == 0
    assert new.layer_pattern == old.layer_pattern
    assert new.init_std == pytest.approx(
        old.init_std * math.sqrt(old.hidden / new.hidden), rel=0.01
    )
    if old.ffn_hidden:
        ratio = new.ffn_hidden / new.hidden * old.hidden / old.ffn_hidden
        assert ratio == pytest.approx(1, rel=0.1)
    if old.experts is not None and new.experts is not None:
        assert new.experts.routed == old.experts.routed
        assert new.experts.per_token == old.experts.per_token


@pytest.mark.parametrize("name", MAKES)
def test_the_yaml_is_the_proxy_and_tells_every_change(name: str) -> None:
    spec = load_preset(name)
    scaled = scale(spec, max(4e5, parameter_count(spec.model) / 10))
    text = commented_yaml(scaled, spec)
    read = parse_spec(text, where="proxy")
    assert read == scaled.spec
    assert text.count(" → ") == len(scaled.changes)
    assert max(map(len, text.splitlines())) <= 100
    assert layout_of(read).data_parallel == read.cluster.gpus
    assert make_plan(read).params == scaled.params


def test_learning_rate_and_batch_follow_the_law() -> None:
    spec = load_preset("smollm3-3b")
    scaled = scale(spec, 300e6)
    share, new, old = scaled.compute_share, scaled.spec.optim, spec.optim
    wanted = old.learning_rate * share**LEARNING_RATE_EXPONENT
    assert new.learning_rate == pytest.approx(wanted, rel=0.005)
    assert new.learning_rate > old.learning_rate
    batch = old.global_batch_size * share**BATCH_EXPONENT
    each = scaled.spec.parallel.data_parallel * scaled.spec.parallel.micro_batch_size
    assert abs(new.global_batch_size - batch) <= each
    per_param = scaled.spec.tokens / scaled.params
    assert per_param == pytest.approx(spec.tokens / parameter_count(spec.model), rel=0.01)


def test_schedule_and_checkpoints_keep_their_share_of_the_run() -> None:
    spec = load_preset("smollm3-3b")
    new = scale(spec, 300e6, tokens=30e9).spec
    assert new.tokens == pytest.approx(30e9, rel=0.001)
    assert new.optim.decay_steps / new.steps == pytest.approx(522_000 / 4_720_000, rel=0.01)
    # A share of 2,000 in 4,720,000 is a few steps, in which Adam's second moment does not settle.
    assert new.optim.warmup_steps == max(40, 2000 * new.steps // 4_720_000)
    assert new.steps / new.checkpoint.every_steps <= MOST_CHECKPOINTS


def test_data_stages_begin_at_the_same_share_of_the_run() -> None:
    spec = load_preset("tiny-cpu")
    sources = [{"path": "python-stdlib"}, {"path": "/text/b", "name": "b"}]
    stages = [
        {"name": "one", "start_step": 1, "weights": {"python-stdlib": 1.0}},
        {"name": "two", "start_step": 61, "weights": {"b": 1.0}},
    ]
    staged = RunSpec(
        **spec.model_dump() | {"data": {"sources": sources, "stages": stages, "seq_len": 256}}
    )
    new = scale(staged, 500e3).spec
    first, second = new.stage_starts
    assert first == 1
    assert (second - 1) / new.steps == pytest.approx(60 / 120, abs=1 / new.steps)


@pytest.mark.parametrize(
    ("target", "tokens", "said"),
    [(4e9, None, "more than the 3,075,098,624"), (1e6, None, "too few"), (1e8, 1e4, "steps")],
)
def test_what_cannot_be_scaled_is_refused(target: float, tokens: float | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        scale(load_preset("smollm3-3b"), target, tokens)


def test_the_command_writes_a_spec_that_the_others_read(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    done = smolplan("scale", "smollm3-3b", "--to", "100M", "--tokens", "2B", "--out", str(file))
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "optim.learning_rate" in done.stdout
    again = smolplan("plan", str(file))
    assert again.returncode == 0, again.stderr
    refused = smolplan("scale", "smollm3-3b", "--to", "9T")
    assert refused.returncode == 2 and "--to" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_proxy_has_no_warm_up_of_the_batch_and_says_so() -> None:
    whole = load_preset("tiny-cpu").model_dump()
    size = whole["optim"]["global_batch_size"]
    small = {"global_batch_size": size, "until_step": 1}
    grows = {"global_batch_size": 2 * size, "batch_warmup": [small]}
    spec = RunSpec.model_validate(whole | {"optim": whole["optim"] | grows})
    scaled = scale(spec, 4e5)
    assert not scaled.spec.optim.batch_warmup
    (change,) = (one for one in scaled.changes if one.path == ("optim", "batch_warmup"))
    assert change.rule.told.startswith("left out")
