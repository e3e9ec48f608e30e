"""Sequence length, vocabulary and precision against one another: what can be known unmeasured."""

from collections.abc import Iterator

from preflight.context import Context
from preflight.expected import Planned, least_rope_theta
from preflight.oddity import Oddity, judge
from preflight.registry import check
from preflight.report import Finding

ROPE_MARGIN = 12.0
"""Gemma 2 and Mistral were trained at 8,192 tokens with a base of 10,000, a tenth of the bound, and
do well at it: only what lies further below is told."""

NEARLY_NEW, WORTHLESS = 4.0, 40.0
"""Epochs that are nearly as good as new text, and after which more teach next to nothing
(Muennighoff et al. 2023, arXiv 2305.16264)."""

WARPS = 64
"""Tensor cores want matrices whose sides divide by it (bf16; NVIDIA, Matrix Multiplication
Background User's Guide: 128 bytes)."""


@check(
    "config.model",
    remedy="Change the settings named.",
    tier="quick",
    passive=True,
    once=True,
)
def model(context: Context) -> Finding:
    """Sequence length, rotary embedding, vocabulary and precision go together."""
    spec = context.spec
    return judge(
        [*length_oddities(context), *speed_oddities(context), *text_oddities(context)],
        f"{spec.data.seq_len:,} tokens, rope_theta {spec.model.rope_theta:,.0f}, "
        f"{spec.optim.precision}",
        source="table",
        measured={"rope_theta": spec.model.rope_theta},
        needed={"rope_theta_min": least_rope_theta(spec.data.seq_len) / ROPE_MARGIN},
    )


def length_oddities(run: Planned) -> Iterator[Oddity]:
    shape, seq_len = run.spec.model, run.spec.data.seq_len
    rows = shape.learned_positions
    if rows and seq_len > rows:
        yield Oddity(
            "data.seq_len",
            f"{seq_len:,}",
            f"model.learned_positions has {rows:,} rows: the first step ends with an index error",
            f"Set data.seq_len to {rows:,} at most, or model.learned_positions to {seq_len:,}.",
            grave=True,
        )
    rotates = any(shape.uses_rope(layer) for layer in range(shape.layers)) and not rows
    least = least_rope_theta(seq_len)
    if rotates and shape.rope_theta < least / ROPE_MARGIN and "A" in shape.layer_kinds.upper():
        yield Oddity(
            "model.rope_theta",
            f"{shape.rope_theta:,.0f}",
            f"tokens {seq_len:,} apart (data.seq_len) cannot be told from one another; "
            f"arXiv 2405.14591 asks for {least:,.0f}",
            f"Set model.rope_theta to {least:.1g} or more, or shorten data.seq_len.",
        )
    if shape.window is not None and shape.window >= seq_len:
        yield Oddity(
            "model.window",
            f"{shape.window:,}",
            f"no shorter than data.seq_len {seq_len:,}: it windows nothing in training",
            "Set model.window below data.seq_len.",
        )


def speed_oddities(run: Planned) -> Iterator[Oddity]:
    spec = run.spec
    if spec.cluster.gpu == "cpu":
        return
    if spec.optim.precision == "fp32":
        yield Oddity(
            "optim.precision",
            "fp32",
            f"the tensor cores of {spec.cluster.gpu} are not used as they could: a step takes "
            "several times as long",
            "Set optim.precision to bf16.",
        )
    if spec.optim.precision == "fp8" and not spec.launch.compile:
        yield Oddity(
            "optim.precision",
            "fp8",
            "uncompiled, casts and scales are kernels of their own, which may take longer than fp8 "
            "saves (torchtitan's docs/float8.md: compiling is required for competitive speed)",
            "Set launch.compile: true, or optim.precision to bf16.",
        )
    sides = {
        "model.vocab_size": (spec.model.vocab_size, spec.parallel.tensor_parallel),
        "model.hidden": (spec.model.hidden, 1),
        "model.ffn_hidden": (spec.model.ffn_hidden, spec.parallel.tensor_parallel),
    }
    for field, (size, parts) in sides.items():
        if size % (8 * parts):
            better = -(-size // (WARPS * parts)) * WARPS * parts
            each = f"{size / parts:,.0f} a rank, " if parts > 1 else ""
            yield Oddity(
                field,
                f"{size:,}",
                f"{each}not a multiple of 8: matrix products leave the tensor cores' fast path",
                f"Set {field} to {better:,}.",
            )


def text_oddities(run: Planned) -> Iterator[Oddity]:
    data = run.spec.data
    if data.max_epochs > NEARLY_NEW:
        yield Oddity(
            "data.max_epochs",
            f"{data.max_epochs:g}",
            f"text may be repeated so often before the run refuses; beyond {NEARLY_NEW:g} times it "
            f"teaches less and less, after {WORTHLESS:g} next to nothing (arXiv 2305.16264)",
            f"Set data.max_epochs to {NEARLY_NEW:g}, and add text.",
        )
    if data.held_out_fraction == 0:
        yield Oddity(
            "data.held_out_fraction",
            "0",
            "no text is kept back: checkpoints cannot be judged by text that they have not seen",
            "Set data.held_out_fraction to 0.01.",
        )
