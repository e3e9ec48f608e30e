"""Run specs that every format can say."""

from typing import Any

from hypothesis import strategies as st

from smolplan.spec import RunSpec

RATES = st.floats(1e-6, 0.5, allow_nan=False)


@st.composite
def run_specs(draw: st.DrawFn, *, model: dict[str, Any] | None = None) -> RunSpec:
    """Whole specs; with a model given, layouts that fit it."""
    tensor = draw(st.sampled_from([1, 2, 4, 8]))
    pipeline = 1 if model else draw(st.sampled_from([1, 2, 3]))
    context = draw(st.sampled_from([1, 2, 4]))
    data = draw(st.integers(1, 12))
    micro, accumulation = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    kept = draw(st.integers(0, 500))
    warmup, decay = draw(st.integers(0, 500)), draw(st.integers(0, 500))
    if model is None:
        kv_heads = tensor * draw(st.integers(1, 3))
        heads = kv_heads * draw(st.integers(1, 4))
        layers = pipeline * draw(st.integers(1, 4))
        hidden = heads * draw(st.integers(1, 16)) * 2
        model = {
            "layers": layers,
            "hidden": hidden,
            "heads": heads,
            "kv_heads": kv_heads,
            "ffn_hidden": tensor * draw(st.integers(1, 999)),
            "vocab_size": 128 * tensor * draw(st.integers(1, 999)),
            "tied_embeddings": draw(st.booleans()),
            "rope_theta": draw(st.sampled_from([1e4, 5e4, 5e5, 2e6])),
            "no_rope_every": draw(st.sampled_from([0, layers, 1])),
            "intra_document_mask": draw(st.booleans()),
            "norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
            "init_std": draw(RATES),
            "z_loss": draw(st.sampled_from([0.0, 1e-5])),
        }
    ranks = data * tensor * pipeline * context
    per_node = max(n for n in range(1, 9) if ranks % n == 0)
    return RunSpec.model_validate(
        {
            "name": draw(st.from_regex(r"[a-z][a-z0-9.-]{0,20}[a-z0-9]", fullmatch=True)),
            "seed": draw(st.integers(0, 2**31)),
            "model": model,
            "data": {"seq_len": 2 * context * draw(st.integers(1, 999))},
            "optim": {
                "steps": max(1, warmup + decay + kept),
                "global_batch_size": data * micro * accumulation,
                "learning_rate": draw(RATES),
                "warmup_steps": warmup,
                "decay_steps": decay,
                "beta1": draw(RATES),
                "beta2": draw(RATES),
                "eps": draw(RATES),
                "weight_decay": draw(RATES),
                "clip_norm": draw(RATES),
                "precision": draw(st.sampled_from(["bf16", "fp32"])),
            },
            "parallel": {
                "data_parallel": data,
                "tensor_parallel": tensor,
                "pipeline_parallel": pipeline,
                "context_parallel": context,
                "zero_stage": draw(st.sampled_from([0, 1, 2, 3])),
                "micro_batch_size": micro,
                "recompute": draw(st.sampled_from(["none", "full"])),
            },
            "cluster": {"nodes": ranks // per_node, "gpus_per_node": per_node},
            "checkpoint": {"every_steps": draw(st.integers(1, 9999))},
        }
    )
