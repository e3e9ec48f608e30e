"""`python -m benchmarks.transformers_parity`: the losses of smolplan's model beside those of
transformers' class for it, trained from the same weights on the same batches with the same AdamW.

Both in fp32 on the CPU. What they differ by is rounding, which training amplifies: it is printed
for each kind of model after every tenth of the steps.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smolplan.spec import ModelSpec, OptimSpec
from trainer.huggingface.families import Family, family_of
from trainer.huggingface.weights import write_weights
from trainer.model.transformer import CausalLM, initialise
from trainer.optim import build_optimizer
from trainer.shards import saved_tensors

SHAPE: dict[str, Any] = {
    **{"layers": 4, "hidden": 64, "heads": 4, "kv_heads": 2, "ffn_hidden": 160},
    **{"vocab_size": 256, "intra_document_mask": False},
}
KINDS: dict[str, dict[str, Any]] = {
    "SmolLM3": {},
    "Llama": {"no_rope_every": 0, "tied_embeddings": False},
    "Qwen3": {"no_rope_every": 0, "qk_norm": "per_head"},
    "Qwen3-MoE": {
        **{"no_rope_every": 0, "qk_norm": "per_head", "ffn_hidden": 0},
        "experts": {"routed": 8, "per_token": 2, "ffn_hidden": 48, "balance": "none"},
    },
    "DeepSeek-V3": {
        **{"no_rope_every": 0, "tied_embeddings": False, "kv_heads": 4},
        "latent_attention": {
            **{"kv_rank": 32, "q_rank": 24, "nope_head_dim": 16},
            **{"rope_head_dim": 8, "value_head_dim": 16},
        },
    },
    "Qwen3-Next": {
        **{"no_rope_every": 0, "qk_norm": "per_head", "attention_gate": True},
        "layer_pattern": "LLLA",
        "delta_net": {
            **{"key_heads": 2, "value_heads": 4, "key_head_dim": 16, "value_head_dim": 16},
            "chunk_size": 64,
        },
    },
    "Bamba": {
        **{"no_rope_every": 0, "layer_pattern": "MMAM"},
        "mamba": {"heads": 8, "head_dim": 16, "state_size": 16, "chunk_size": 32},
    },
    "OLMo 2": {
        **{"no_rope_every": 0, "tied_embeddings": False, "qk_norm": "full_width"},
        **{"pre_norms": False, "post_norms": True},
    },
}
BATCH, LENGTH = 8, 64
TOKENS = 32
LEARNING_RATE, CLIP = 1e-3, 1.0


def write_model(folder: Path, spec: ModelSpec, model: CausalLM) -> Family:
    """Export a model that is in memory whole, in fp32; the family that it is in."""
    family, config = family_of(spec, 2 * LENGTH)
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))
    held = {name.partition(".")[2]: value for name, value in saved_tensors(model).items()}
    shapes = {name: value.shape for name, value in held.items()}
    write_weights(folder, family, shapes, lambda names: {n: held[n] for n in names}, torch.float32)
    return family


def batches(steps: int) -> list[Tensor]:
    """int64 (BATCH, LENGTH + 1): walks over TOKENS numbers whose next step follows from the last
    two, so that there is something to learn, soon and later."""
    generator = torch.Generator().manual_seed(7)
    start = torch.randint(TOKENS, (steps * BATCH, 2), generator=generator)
    noise = torch.randint(4, (steps * BATCH, LENGTH + 1), generator=generator)
    walk = [start[:, 0], start[:, 1]]
    for place in range(2, LENGTH + 1):
        walk.append((walk[-1] + 3 * walk[-2] + noise[:, place]) % TOKENS)
    return list(torch.split(torch.stack(walk, dim=1), BATCH))


def losses_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: list[Tensor]
) -> list[float]:
    """Cross-entropy (nats) before each step. The model gives logits, or what has them."""
    losses = []
    for tokens in data:
        out = model(tokens[:, :-1])
        logits = out if isinstance(out, Tensor) else out.logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def curves(changes: dict[str, Any], steps: int) -> tuple[list[float], list[float]]:
    """Losses of ours and of transformers' class, step by step."""
    from transformers import AutoModelForCausalLM

    spec = ModelSpec.model_validate(SHAPE | changes)
    optim = OptimSpec.model_validate(
        {"steps": steps, "global_batch_size": BATCH, "learning_rate": LEARNING_RATE}
    )
    ours = CausalLM(spec, LENGTH)
    initialise(ours, spec.init_std, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), spec, ours)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    data = batches(steps)
    mine, peers = (
        losses_of(model, build_optimizer(model, optim), data) for model in (ours, theirs)
    )
    return mine, peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--kind", choices=KINDS, action="append")
    arguments = parser.parse_args()
    for kind in arguments.kind or KINDS:
        mine, peers = curves(KINDS[kind], arguments.steps)
        apart = [abs(a - b) for a, b in zip(mine, peers, strict=True)]
        print(
            f"{kind}: {arguments.steps} steps, loss {mine[0]:.4f} to {mine[-1]:.4f} nats, largest "
            f"difference {max(apart):.2e} (step {apart.index(max(apart)) + 1})",
            flush=True,
        )


if __name__ == "__main__":
    main()
