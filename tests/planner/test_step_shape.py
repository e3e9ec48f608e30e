import pytest

from planner.catalog import models
from planner.flops import forward_components
from planner.step_shape import shape_of


@pytest.mark.parametrize("name", sorted(models()))
def test_the_step_time_model_sees_every_flop_of_a_published_model(name: str) -> None:
    arch, _ = models()[name].architecture()
    seq_len = 4096
    s = shape_of(arch, seq_len, seq_len)
    matrices = s.ffn_matrices * s.hidden
    routed = s.experts_per_token * s.expert_ffn + s.shared_ffn
    layer = 2.0 * (
        s.attention_share * s.hidden * (s.attention_in + s.attention_out)
        + s.mixer_share * s.hidden * (s.mixer_in + s.mixer_out)
        + s.ffn_share * matrices * s.ffn
        + s.moe_share * (matrices * routed + s.hidden * s.experts)
    )
    layer += s.attention_share * 4.0 * s.score_width * (s.keys + 1.0) / 2.0
    layer += s.mixer_share * s.scan_flops
    seen = s.layers * layer + s.losses * 2.0 * s.vocab * s.hidden
    # The shared expert's gate, one weight a hidden dimension, is left out.
    assert seen == pytest.approx(sum(forward_components(arch, seq_len).values()), rel=1e-4)


def test_prediction_modules_are_layers_and_losses_of_their_own() -> None:
    arch, _ = models()["deepseek-v3"].architecture()
    shape = shape_of(arch, 4096, 4096)
    assert (shape.layers, shape.losses) == (62.0, 2.0)
    assert shape.moe_share == pytest.approx(59 / 62)


def test_a_window_leaves_fewer_keys() -> None:
    arch, _ = models()["gpt-oss-20b"].architecture()
    assert shape_of(arch, 4096, 4096).keys < 0.6 * 4096
