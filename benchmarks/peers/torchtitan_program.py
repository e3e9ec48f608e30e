"""One rank of torchtitan's own trainer (0.2.2, its last whose language models know SDPA) over
batches that lie in a file, as benchmarks.trainer_cpu starts it, on the CPU, which torchtitan does
not ask for by itself. Writes the loss and the time after each step."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention import SDPBackend

from benchmarks.peers import training

# It asks torch for its accelerator as it is imported, and that for what torch.cpu does not have.
_CPU = SimpleNamespace(
    set_device=lambda device: None,
    current_device=lambda: "cpu",
    get_device_name=lambda device: "cpu",
    get_device_properties=lambda device: SimpleNamespace(total_memory=1),
    reset_peak_memory_stats=lambda: None,
    empty_cache=lambda: None,
    memory_stats=lambda device: {},
    synchronize=lambda: None,
)
with (
    patch("torch._utils._get_available_device_type", lambda: "cpu"),
    patch("torch._utils._get_device_module", lambda kind: _CPU),
):
    import torchtitan  # noqa: F401

from torchtitan.components.dataloader import BaseDataLoader  # noqa: E402
from torchtitan.components.loss import build_cross_entropy_loss  # noqa: E402
from torchtitan.components.lr_scheduler import build_lr_schedulers  # noqa: E402
from torchtitan.components.metrics import MetricsProcessor  # noqa: E402
from torchtitan.components.optimizer import build_optimizers  # noqa: E402
from torchtitan.config import JobConfig  # noqa: E402
from torchtitan.distributed import utils as dist_utils  # noqa: E402
from torchtitan.models.attention import ScaledDotProductAttentionWrapper  # noqa: E402
from torchtitan.models.llama3.infra.parallelize import parallelize_llama  # noqa: E402
from torchtitan.models.llama3.model.args import (  # noqa: E402
    RoPEScalingArgs,
    TransformerModelArgs,
)
from torchtitan.models.llama3.model.model import Transformer  # noqa: E402
from torchtitan.models.llama3.model.state_dict_adapter import (  # noqa: E402
    Llama3StateDictAdapter,
)
from torchtitan.protocols.train_spec import TrainSpec, register_train_spec  # noqa: E402
from torchtitan.train import Trainer  # noqa: E402


class Sequences(BaseDataLoader):  # type: ignore[misc]
    """A rank's batches, in the file's order."""

    def __init__(self, path: Path, batch: int, rank: int, ranks: int) -> None:
        self._tokens = np.load(path, mmap_mode="r")
        self._batch, self._rank, self._ranks = batch, rank, ranks

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        for begin in range(self._rank * self._batch, len(self._tokens), self._ranks * self._batch):
            tokens = torch.from_numpy(np.array(self._tokens[begin : begin + self._batch]))
            yield {"input": tokens[:, :-1]}, tokens[:, 1:]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def main() -> None:
    folder, told = training.told(__doc__)
    torch.set_num_threads(1)
    shape = json.loads((folder / "model" / "config.json").read_text())
    arguments = TransformerModelArgs(
        dim=shape["hidden_size"],
        n_layers=shape["num_hidden_layers"],
        n_heads=shape["num_attention_heads"],
        n_kv_heads=shape["num_key_value_heads"],
        vocab_size=shape["vocab_size"],
        multiple_of=shape["intermediate_size"],  # the next multiple of 8/3 of the width
        norm_eps=shape["rms_norm_eps"],
        rope_theta=told["rope_theta"],
        rope_scaling_args=RoPEScalingArgs(scaling_factor=1.0),
    )
    lines = training.Lines(folder, "torchtitan")

    class Steps(MetricsProcessor):  # type: ignore[misc]
        def log(self, step: int, global_avg_loss: float, *rest: Any, **more: Any) -> None:
            lines.add(step, global_avg_loss)

    register_train_spec(
        "benchmark",
        TrainSpec(
            model_cls=Transformer,
            model_args={"shape": arguments},
            parallelize_fn=parallelize_llama,
            pipelining_fn=None,
            build_optimizers_fn=build_optimizers,
            build_lr_schedulers_fn=build_lr_schedulers,
            build_dataloader_fn=lambda *, dp_world_size, dp_rank, **_: Sequences(
                folder / "sequences.npy", told["batch_per_rank"], dp_rank, dp_world_size
            ),
            build_tokenizer_fn=None,
            build_loss_fn=build_cross_entropy_loss,
            build_metrics_processor_fn=Steps,
        ),
    )
    # Its list for CUDA, with what a CPU has.
    ScaledDotProductAttentionWrapper.sdpa_backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    dist_utils.set_pg_timeouts = lambda *_, **__: None  # a barrier of NCCL's kind
    job = JobConfig()
    job.job.dump_folder = str(folder / "titan")
    job.model.name, job.model.flavor = "benchmark", "shape"
    job.optimizer.lr, job.optimizer.weight_decay = told["learning_rate"], 0.0
    job.optimizer.beta1, job.optimizer.beta2 = told["beta1"], told["beta2"]
    job.optimizer.eps = told["eps"]
    job.lr_scheduler.warmup_steps, job.lr_scheduler.decay_ratio = 0, 0.0
    job.training.local_batch_size = told["batch_per_rank"]
    job.training.seq_len, job.training.steps = told["seq_len"], told["steps"]
    job.training.max_norm = told["clip_norm"]
    job.training.mixed_precision_param = "float32"
    job.activation_checkpoint.mode = "none"
    job.metrics.log_freq = 1
    trainer = Trainer(job)
    (model,) = trainer.model_parts
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no factor before a sum
    weights = load_file(next((folder / "model").glob("*.safetensors")))
    adapter = Llama3StateDictAdapter(arguments, None)
    whole = StateDictOptions(full_state_dict=True, strict=False)
    set_model_state_dict(model, adapter.from_hf(weights), options=whole)
    trainer.train()
    os._exit(0)


if __name__ == "__main__":
    main()
