"""One decoder block: a mixer of tokens and a feed-forward part, each around a residual."""

from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.attention import Attention
from trainer.model.delta_net import GatedDeltaNet
from trainer.model.experts import MixtureOfExperts
from trainer.model.feed_forward import FeedForward
from trainer.model.latent import LatentAttention
from trainer.model.mamba import Mamba2
from trainer.model.norms import residual_norm
from trainer.model.places import Places


def _mixer(spec: ModelSpec, layer: int) -> tuple[str, nn.Module]:
    """What mixes a layer's tokens, and its name, which is that of transformers' classes."""
    match spec.layer_kinds[layer].upper():
        case "M":
            return "mamba", Mamba2(spec, layer)
        case "L":
            return "linear_attn", GatedDeltaNet(spec, layer)
    return "self_attn", (LatentAttention if spec.latent_attention else Attention)(spec, layer)


def _feed_forward(spec: ModelSpec, layer: int) -> nn.Module:
    if spec.has_experts(layer):
        return MixtureOfExperts(spec)
    return FeedForward(spec.hidden, spec.ffn_hidden, gated=spec.gated_ffn, bias=spec.ffn_bias)


class Block(nn.Module):
    """Norms before each of the two parts, behind them, or both, named as transformers' classes
    name them: post_attention_layernorm is the one before the feed-forward part, or, where there
    are norms behind (OLMo 2, Gemma 2), the one behind the mixer."""

    def __init__(self, spec: ModelSpec, layer: int) -> None:
        super().__init__()
        self.norms_behind, self.has_ffn = spec.post_norms, spec.layer_kinds[layer].isupper()

        def norm(there: bool) -> nn.Module:
            return residual_norm(spec) if there else nn.Identity()

        self.input_layernorm = norm(spec.pre_norms)
        self.mixer, module = _mixer(spec, layer)
        self.add_module(self.mixer, module)
        if self.norms_behind or self.has_ffn:
            self.post_attention_layernorm = norm(True)
        if not self.has_ffn:
            return
        self.mlp = _feed_forward(spec, layer)
        if self.norms_behind:
            self.pre_feedforward_layernorm = norm(spec.pre_norms)
            self.post_feedforward_layernorm = norm(True)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """x: (batch, seq, hidden)."""
        if self.norms_behind:
            x = x + self.post_attention_layernorm(self._mix(self.input_layernorm(x), places))
            if self.has_ffn:
                fed = self.mlp(self.pre_feedforward_layernorm(x))
                x = x + self.post_feedforward_layernorm(fed)
            return x
        x = x + self._mix(self.input_layernorm(x), places)
        if self.has_ffn:
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x

    @property
    def reach(self) -> tuple[int | None, int | None]:
        """Of its attention the window, and the width of the narrowest heads; None where a mixer
        of another kind has none."""
        mixer = getattr(self, self.mixer)
        return getattr(mixer, "window", None), getattr(mixer, "narrowest", None)

    def _mix(self, x: Tensor, places: Places) -> Tensor:
        mixed: Tensor = getattr(self, self.mixer)(x, places)
        return mixed
