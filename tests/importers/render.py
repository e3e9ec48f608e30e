"""Run specs in the terms of other trainers: the way back, for the tests."""

import json
from typing import Any

import yaml

from smolplan.spec import RunSpec


def nanotron(spec: RunSpec) -> str:
    model, optim, parallel = spec.model, spec.optim, spec.parallel
    return yaml.safe_dump(
        {
            "general": {"project": "p", "run": spec.name, "seed": spec.seed},
            "checkpoints": {"checkpoint_interval": spec.checkpoint.every_steps},
            "model": {
                "dtype": {"bf16": "bfloat16", "fp32": "float32"}[optim.precision],
                "init_method": {"std": model.init_std},
                "model_config": {
                    "num_hidden_layers": model.layers,
                    "hidden_size": model.hidden,
                    "num_attention_heads": model.heads,
                    "num_key_value_heads": model.kv_heads,
                    "intermediate_size": model.ffn_hidden,
                    "vocab_size": model.vocab_size,
                    "tie_word_embeddings": model.tied_embeddings,
                    "rope_theta": model.rope_theta,
                    "no_rope_layer": model.no_rope_every or None,
                    "_use_doc_masking": model.intra_document_mask,
                    "rms_norm_eps": model.norm_eps,
                    "z_loss_enabled": model.z_loss > 0,
                    "z_loss_coefficient": model.z_loss or 1e-4,
                },
            },
            "parallelism": {
                "dp": parallel.data_parallel,
                "tp": parallel.tensor_parallel,
                "pp": parallel.pipeline_parallel,
                "context_parallel_size": parallel.context_parallel,
                "recompute_layer": parallel.recompute == "full",
            },
            "tokens": {
                "sequence_length": spec.data.seq_len,
                "micro_batch_size": parallel.micro_batch_size,
                "batch_accumulation_per_replica": spec.gradient_accumulation,
                "train_steps": spec.steps,
            },
            "optimizer": {
                "zero_stage": parallel.zero_stage,
                "weight_decay": optim.weight_decay,
                "clip_grad": optim.clip_norm,
                "optimizer_factory": {
                    "name": "adamW",
                    "adam_beta1": optim.beta1,
                    "adam_beta2": optim.beta2,
                    "adam_eps": optim.eps,
                },
                "learning_rate_scheduler": {
                    "learning_rate": optim.learning_rate,
                    "lr_warmup_steps": optim.warmup_steps,
                    "lr_decay_steps": optim.decay_steps,
                    "lr_decay_starting_step": spec.steps - optim.decay_steps + 1,
                    "lr_decay_style": "linear",
                    "min_decay_lr": 0,
                },
            },
        }
    )


def megatron(spec: RunSpec) -> str:
    model, optim, parallel = spec.model, spec.optim, spec.parallel
    words: list[Any] = [
        *("--seed", spec.seed),
        *("--num-layers", model.layers, "--hidden-size", model.hidden),
        *("--num-attention-heads", model.heads, "--group-query-attention"),
        *("--num-query-groups", model.kv_heads, "--ffn-hidden-size", model.ffn_hidden),
        *("--vocab-size", model.vocab_size, "--rotary-base", model.rope_theta),
        *("--norm-epsilon", model.norm_eps, "--init-method-std", model.init_std),
        *("--swiglu", "--normalization", "RMSNorm", "--disable-bias-linear"),
        *("--position-embedding-type", "rope"),
        *("--attention-dropout", "0.0", "--hidden-dropout", "0.0"),
        *("--seq-length", spec.data.seq_len, "--micro-batch-size", parallel.micro_batch_size),
        *("--global-batch-size", optim.global_batch_size, "--train-iters", spec.steps),
        *("--tensor-model-parallel-size", parallel.tensor_parallel),
        *("--pipeline-model-parallel-size", parallel.pipeline_parallel),
        *("--context-parallel-size", parallel.context_parallel),
        *("--lr", optim.learning_rate, "--lr-warmup-iters", optim.warmup_steps),
        *("--adam-beta1", optim.beta1, "--adam-beta2", optim.beta2, "--adam-eps", optim.eps),
        *("--weight-decay", optim.weight_decay, "--clip-grad", optim.clip_norm),
        *("--save-interval", spec.checkpoint.every_steps),
    ]
    if optim.decay_steps:
        words += ["--lr-decay-style", "WSD", "--lr-wsd-decay-style", "linear"]
        words += ["--lr-wsd-decay-iters", optim.decay_steps]
    else:
        words += ["--lr-decay-style", "constant"]
    if model.head_dim:
        words += ["--kv-channels", model.head_dim]
    if not model.tied_embeddings:
        words.append("--untie-embeddings-and-output-weights")
    if model.no_rope_every:
        words += ["--no-rope-freq", model.no_rope_every]
    if model.intra_document_mask:
        words.append("--reset-attention-mask")
    if optim.precision == "bf16":
        words.append("--bf16")
    if parallel.recompute != "none":
        words += ["--recompute-granularity", parallel.recompute]
    if parallel.zero_stage == 1:
        words.append("--use-distributed-optimizer")
    elif parallel.zero_stage:
        strategy = {2: "optim_grads", 3: "optim_grads_params"}[parallel.zero_stage]
        words += ["--use-megatron-fsdp", "--data-parallel-sharding-strategy", strategy]
    arguments = " \\\n    ".join(map(str, words))
    return (
        f"GPUS_PER_NODE={spec.cluster.gpus_per_node}\nNNODES={spec.cluster.nodes}\n"
        f"torchrun pretrain_gpt.py {arguments}\n"
    )


def torchtitan(spec: RunSpec, flavor: str) -> str:
    """The spec's model must be the flavor's; nothing is pipelined."""
    optim, parallel = spec.optim, spec.parallel
    shard = parallel.data_parallel if parallel.zero_stage else 1
    sections: dict[str, dict[str, Any]] = {
        "model": {"name": "llama3", "flavor": flavor},
        "training": {
            "steps": spec.steps,
            "seq_len": spec.data.seq_len,
            "local_batch_size": parallel.micro_batch_size,
            "global_batch_size": optim.global_batch_size,
            "max_norm": optim.clip_norm,
            "mixed_precision_param": {"bf16": "bfloat16", "fp32": "float32"}[optim.precision],
        },
        "parallelism": {
            "data_parallel_shard_degree": shard,
            "data_parallel_replicate_degree": parallel.data_parallel // shard,
            "tensor_parallel_degree": parallel.tensor_parallel,
            "context_parallel_degree": parallel.context_parallel,
            "fsdp_reshard_after_forward": "never" if parallel.zero_stage == 2 else "always",
        },
        "activation_checkpoint": {"mode": parallel.recompute},
        "optimizer": {
            "name": "AdamW",
            "lr": optim.learning_rate,
            "beta1": optim.beta1,
            "beta2": optim.beta2,
            "eps": optim.eps,
            "weight_decay": optim.weight_decay,
        },
        "lr_scheduler": {
            "warmup_steps": optim.warmup_steps,
            "decay_ratio": optim.decay_steps / spec.steps,
        },
        "checkpoint": {
            "interval": spec.checkpoint.every_steps,
            "keep_latest_k": spec.checkpoint.keep_last,
        },
        "debug": {"seed": spec.seed},
    }
    lines = []
    for section, fields in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(lines) + "\n"


def huggingface(spec: RunSpec) -> str:
    """A SmolLM3 config: of the supported types the one that can leave rotary embeddings out."""
    model = spec.model
    return json.dumps(
        {
            "model_type": "smollm3",
            "num_hidden_layers": model.layers,
            "hidden_size": model.hidden,
            "num_attention_heads": model.heads,
            "num_key_value_heads": model.kv_heads,
            "head_dim": model.head_dim,
            "intermediate_size": model.ffn_hidden,
            "vocab_size": model.vocab_size,
            "tie_word_embeddings": model.tied_embeddings,
            "rope_theta": model.rope_theta,
            "rms_norm_eps": model.norm_eps,
            "initializer_range": model.init_std,
            "no_rope_layers": [int(model.uses_rope(i)) for i in range(model.layers)],
            "max_position_embeddings": 65536,
        }
    )
