"""A model on one device that computes in bf16 and holds its weights in fp32, by plain torch."""

import torch

from smolplan.spec import RunSpec
from trainer.model.transformer import CausalLM


class Bf16Copies:
    """`model` computes, by copies of the weights that `held` has; buffers are those of `held`."""

    def __init__(self, held: CausalLM, spec: RunSpec) -> None:
        self.model = CausalLM(spec.model, spec.data.seq_len).bfloat16()
        for own, exact in zip(self.model.modules(), held.modules(), strict=True):
            own._buffers.update(exact._buffers)
        self._pairs = list(zip(self.model.parameters(), held.parameters(), strict=True))

    @torch.no_grad()
    def take_weights(self) -> None:
        for own, exact in self._pairs:
            own.copy_(exact)

    def hand_over_gradients(self) -> None:
        """Add them to those of the weights that are held, in fp32."""
        for own, exact in self._pairs:
            gradient, own.grad = own.grad, None
            if gradient is not None:
                before = 0.0 if exact.grad is None else exact.grad
                exact.grad = gradient.float() + before
