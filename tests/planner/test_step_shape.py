import pytest

from planner.catalog import models
from planner.flops import forward_components
from planner.step_shape import forward_flops_per_token, shape_of


@pytest.mark.parametrize("name", sorted(models()))
def test_the_step_time_model_sees_every_flop_of_a_published_model(name: str) -> None:
    arch, _ = models()[name].architecture()
    seen = forward_flops_per_token(shape_of(arch, 4096, 4096))
    # The shared expert's gate, one weight a hidden dimension, is left out.
    assert seen == pytest.approx(sum(forward_components(arch, 4096).values()), rel=1e-4)


def test_prediction_modules_are_layers_and_losses_of_their_own() -> None:
    arch, _ = models()["deepseek-v3"].architecture()
    shape = shape_of(arch, 4096, 4096)
    assert (shape.layers, shape.losses) == (62.0, 2.0)
    assert shape.moe_share == pytest.approx(59 / 62)


def test_a_window_leaves_fewer_keys() -> None:
    arch, _ = models()["gpt-oss-20b"].architecture()
    assert shape_of(arch, 4096, 4096).keys < 0.6 * 4096
