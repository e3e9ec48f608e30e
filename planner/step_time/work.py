"""What a model multiplies: the matrix products of its layers, attention scores and scans."""

from dataclasses import dataclass, replace
from typing import Literal

from planner.kernels import Values, either
from planner.step_inputs import Shape

Split = Literal["n", "k", "rows"]
"""What tensor parallel divides: the product's width, its depth, or with sequence parallelism its
rows, each rank having all the weights."""


@dataclass(frozen=True)
class Product:
    """Of tokens with a k×n matrix in so many layers; or with `active` of `experts` such."""

    layers: Values
    n: Values
    k: Values
    split: Split
    experts: Values = 1.0
    active: Values = 1.0

    @property
    def weights(self) -> Values:
        """Of all layers and experts."""
        return self.layers * self.experts * self.n * self.k

    @property
    def flops_per_token(self) -> Values:
        """Forward, all layers."""
        return 2.0 * self.layers * self.active * self.n * self.k


def absent(amount: Values) -> bool:
    """Whether all models lack it, in which case it need not be computed."""
    return isinstance(amount, float) and amount == 0.0


def products(shape: Shape) -> list[Product]:
    """Of all layers, without the output head and what stands behind the last layer."""
    found = [*_attention(shape), *_recurrence(shape), *_feed_forward(shape)]
    return [_where_there(p) for p in found if not any(map(absent, (p.layers, p.n, p.k)))]


def _where_there(product: Product) -> Product:
    """Where a width is zero there are no layers of it, and any width will do."""
    there = (product.n > 0) & (product.k > 0)
    return replace(
        product,
        layers=either(there, product.layers, 0.0),
        n=either(there, product.n, 1.0),
        k=either(there, product.k, 1.0),
    )


def _attention(shape: Shape) -> list[Product]:
    hidden, query = shape.hidden, shape.query_width
    compressed = shape.attention_layers * either(shape.latent_width > 0, 1.0, 0.0)
    plain = shape.attention_layers - compressed
    direct = compressed * either(shape.query_latent_width > 0, 0.0, 1.0)
    values = shape.kv_width * shape.attended_width / query
    into = query + shape.gate_width + shape.kv_width + values
    return [
        Product(plain, into, hidden, "n"),
        Product(direct, query, hidden, "n"),
        Product(compressed, shape.query_latent_width, hidden, "rows"),
        Product(compressed, query, shape.query_latent_width, "n"),
        Product(compressed, shape.latent_width + shape.rotary_width, hidden, "rows"),
        Product(compressed, shape.expanded_width, shape.latent_width, "n"),
        Product(shape.attention_layers, hidden, shape.attended_width, "k"),
    ]


def _recurrence(shape: Shape) -> list[Product]:
    return [
        Product(shape.recurrent_layers, shape.recurrent_in_width, shape.hidden, "n"),
        Product(shape.recurrent_layers, shape.hidden, shape.recurrent_width, "k"),
    ]


def _feed_forward(shape: Shape) -> list[Product]:
    hidden, up = shape.hidden, shape.ffn_matrices - 1.0
    routed = shape.feed_forward_layers
    found = [
        Product(routed, up * shape.ffn, hidden, "n", shape.experts, shape.active_experts),
        Product(routed, hidden, shape.ffn, "k", shape.experts, shape.active_experts),
        Product(routed, shape.router_width, hidden, "rows"),
    ]
    for layers, width in ((routed, shape.shared_ffn), (shape.dense_layers, shape.dense_ffn)):
        if not absent(width):
            found += [Product(layers, up * width, hidden, "n"), Product(layers, hidden, width, "k")]
    return found


def prediction_module(shape: Shape) -> Shape:
    """The layers of the multi-token prediction modules (planner.architecture.mtp_module)."""
    return replace(
        shape,
        layers=shape.mtp_layers,
        windowed_layers=0.0,
        recurrent_layers=0.0,
        bare_layers=0.0,
        dense_layers=0.0,
        mtp_layers=0.0,
    )


def joining(shape: Shape) -> Product:
    """What a prediction module makes of a hidden state and the next token's embedding."""
    return Product(shape.mtp_layers, shape.hidden, 2.0 * shape.hidden, "n")


def forward_flops_per_token(shape: Shape) -> Values:
    """Of all that is priced: planner.flops' count, but for a token of each causal half (a score's
    (s + 1)/2 keys are s/2 here), and for the masked half of a scan's chunks, which is computed."""
    total = sum(p.flops_per_token for p in products(shape))
    widths = shape.query_width + shape.attended_width
    total = total + shape.attention_layers * widths * shape.score_keys
    total = total + shape.recurrent_layers * shape.scan_flops
    if not absent(shape.mtp_layers):
        total = total + forward_flops_per_token(replace(prediction_module(shape), vocab=0.0))
        total = total + joining(shape).flops_per_token
    return total + 2.0 * (1.0 + shape.mtp_layers) * shape.vocab * shape.hidden
