"""One rank of transformers' own Trainer over batches that lie in a file, as benchmarks.trainer_cpu
starts it. Writes the loss and the time after each step."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from benchmarks.peers import training


class Sequences(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, path: Path) -> None:
        self._tokens = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        tokens = torch.from_numpy(self._tokens[number])
        # Shifted beforehand: every position of the sequence has a token to predict.
        return {"input_ids": tokens[:-1], "labels": tokens[1:], "shift_labels": tokens[1:]}


class Steps(TrainerCallback):
    def __init__(self, lines: training.Lines) -> None:
        self._lines = lines

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        logs = kwargs["logs"]
        if "loss" in logs:
            self._lines.add(state.global_step, float(logs["loss"]))


def main() -> None:
    folder, told = training.told(__doc__)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, attn_implementation="sdpa"
    )
    model.config.use_cache = False
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "out"),
            use_cpu=True,
            ddp_backend="gloo",
            max_steps=told["steps"],
            per_device_train_batch_size=told["batch_per_rank"],
            train_sampling_strategy="sequential",
            learning_rate=told["learning_rate"],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            adam_beta1=told["beta1"],
            adam_beta2=told["beta2"],
            adam_epsilon=told["eps"],
            max_grad_norm=told["clip_norm"],
            optim="adamw_torch_fused",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            average_tokens_across_devices=False,
        ),
        train_dataset=Sequences(folder / "sequences.npy"),
        callbacks=[Steps(training.Lines(folder, "transformers"))],
    )
    trainer.train()


if __name__ == "__main__":
    main()
