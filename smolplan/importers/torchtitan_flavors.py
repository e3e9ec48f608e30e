"""The flavors of llama3 and llama2 that torchtitan publishes.

Source: pytorch/torchtitan. llama3: torchtitan/models/llama3/__init__.py at tags v0.1.0 and v0.2.2,
with the class's defaults in model/args.py (norm_eps 1e-5, vocabulary 128,256). llama2:
torchtitan/models/llama/__init__.py as of 2024-11-01, vocabulary of its tokeniser (32,000).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Flavor:
    """Dimensions as torchtitan writes them."""

    dim: int
    layers: int
    heads: int
    kv_heads: int | None = None
    ffn_dim_multiplier: float = 1.0
    multiple_of: int = 256
    rope_theta: float = 10_000.0
    vocab_size: int = 32_000
    document_mask: bool = False

    @property
    def ffn_hidden(self) -> int:
        """Two thirds of 4·dim, scaled, and rounded up to a multiple (FeedForward in model.py)."""
        width = int(self.ffn_dim_multiplier * int(2 * 4 * self.dim / 3))
        return self.multiple_of * ((width + self.multiple_of - 1) // self.multiple_of)


def _llama3(
    dim: int,
    layers: int,
    heads: int,
    multiplier: float = 1.3,
    multiple_of: int = 4096,
    *,
    document_mask: bool = False,
) -> Flavor:
    return Flavor(dim, layers, heads, 8, multiplier, multiple_of, 5e5, 128_256, document_mask)


def _debug(layers: int, *, document_mask: bool = False) -> Flavor:
    return Flavor(256, layers, 16, rope_theta=5e5, vocab_size=2048, document_mask=document_mask)


FLAVORS: dict[str, dict[str, Flavor]] = {
    "llama3": {
        "debugmodel": _debug(6),
        "debugmodel_flex_attn": _debug(6, document_mask=True),
        "debugmodel_varlen_attn": _debug(6, document_mask=True),
        "8B": _llama3(4096, 32, 32, multiple_of=1024),
        "8B_flex": _llama3(4096, 32, 32, multiple_of=1024, document_mask=True),
        "8B_varlen": _llama3(4096, 32, 32, multiple_of=1024, document_mask=True),
        "70B": _llama3(8192, 80, 64),
        "405B": _llama3(16384, 126, 128, multiplier=1.2),
    },
    "llama2": {
        "271M": Flavor(1024, 16, 8),
        "1B": Flavor(2048, 18, 16),
        "7B": Flavor(4096, 32, 32),
        "13B": Flavor(5120, 40, 40),
        "26B": Flavor(5120, 80, 40),
        "70B": Flavor(8192, 80, 64, 8, 1.3, 4096),
    },
}

NOT_HELD = {"flux": "it makes images"}
"""Models of torchtitan v0.2.2 that no run spec can hold, and why."""
