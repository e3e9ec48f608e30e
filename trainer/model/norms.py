"""The norms of the residual stream, as the spec says what they learn."""

from torch import nn

from smolplan.spec import ModelSpec


def residual_norm(spec: ModelSpec) -> nn.Module:
    """RMSNorm (arXiv 1910.07467), or LayerNorm with or without a weight and a bias, over the last
    dimension, of width spec.hidden."""
    if spec.norm == "weight":
        return nn.RMSNorm(spec.hidden, eps=spec.norm_eps)
    learns = spec.norm == "weight_and_bias"
    return nn.LayerNorm(spec.hidden, eps=spec.norm_eps, elementwise_affine=learns)
