"""The whole decoder. Parameters are named as in transformers' SmolLM3ForCausalLM."""

import zlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.loss import next_token_loss
from trainer.model.attend import make_ready
from trainer.model.block import Block
from trainer.model.norms import residual_norm
from trainer.model.places import Places, documents_of, lengths_of, rotary_table


class Decoder(nn.Module):
    def __init__(self, spec: ModelSpec, seq_len: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(spec.vocab_size, spec.hidden)
        self.layers = nn.ModuleList(Block(spec, layer) for layer in range(spec.layers))
        self.norm = residual_norm(spec)
        self._rotary = seq_len, spec.rotary_width, spec.rope_theta, spec.rope_scaling
        cos, sin = rotary_table(*self._rotary)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.cos: Tensor
        self.sin: Tensor
        self.alike_for_any_batch = False
        """Whether the same operations are due whatever a batch holds, as a compiler wants it."""

    def fill_rotary(self) -> None:
        """Compute the tables anew, where they were allocated only."""
        for table, value in zip((self.cos, self.sin), rotary_table(*self._rotary), strict=True):
            table.copy_(value)

    def places(self, tokens: Tensor, separator: int | None) -> Places:
        """Of tokens, int64 (batch, seq); with a separator each attends within its document only."""
        length = tokens.shape[1]
        document = lengths = None
        if separator is not None:
            document = documents_of(tokens, separator)
            if tokens.device.type == "cpu" and not self.alike_for_any_batch:
                lengths = lengths_of(document)
        return Places(tokens.shape, self.cos[:length], self.sin[:length], document, lengths)

    def forward(self, tokens: Tensor, separator: int | None = None) -> Tensor:
        """tokens: int64 (batch, seq) → (batch, seq, hidden)."""
        places = self.places(tokens, separator)
        for window, width in {block.reach for block in self.layers if isinstance(block, Block)}:
            if width is not None:
                make_ready(places, window, width)
        x = self.embed_tokens(tokens)
        for block in self.layers:
            x = block(x, places)
        out: Tensor = self.norm(x)
        return out


class CausalLM(nn.Module):
    """Token ids to logits over the vocabulary, or to the loss."""

    def __init__(self, spec: ModelSpec, seq_len: int) -> None:
        super().__init__()
        self.intra_document_mask = spec.intra_document_mask
        self.z_loss = spec.z_loss
        self.model = Decoder(spec, seq_len)
        self.lm_head = nn.Linear(spec.hidden, spec.vocab_size, bias=False)
        self.tied = spec.tied_embeddings
        self.tie()

    def tie(self) -> None:
        """Have embedding and head be one weight again, where the spec says so and each of its
        places was given one of its own."""
        if self.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def materialise(self, device: torch.device) -> None:
        """Allocate a model that was made on the meta device; its weights are still to be set."""
        self.to_empty(device=device)
        self.tie()
        self.model.fill_rotary()
        for name, buffer in self.named_buffers():
            if name not in ("model.cos", "model.sin"):
                buffer.zero_()  # what routers count and correct by

    def hidden(self, tokens: Tensor, separator: int | None = None) -> Tensor:
        """What the head makes logits of, (batch, seq, hidden)."""
        out: Tensor = self.model(tokens, separator if self.intra_document_mask else None)
        return out

    def forward(
        self, tokens: Tensor, separator: int | None = None, targets: Tensor | None = None
    ) -> Tensor:
        """tokens: int64 (batch, seq) → logits (batch, seq, vocab), or, with targets of the same
        shape, what next_token_loss gives. `separator` is the id of the token that ends a
        document; None, or a spec without the mask, attends across."""
        hidden = self.hidden(tokens, separator)
        if targets is not None:
            return next_token_loss(hidden, self.lm_head.weight, targets, self.z_loss)
        logits: Tensor = self.lm_head(hidden)
        return logits


@torch.no_grad()
def initialise(
    model: nn.Module,
    std: float,
    seed: int,
    place: Callable[[Tensor, Tensor], Tensor] = lambda whole, parameter: whole,
) -> None:
    """Normal weights of deviation `std`, norms at one, biases at zero, but for what a
    module gives a first value of its own (`first_value`). Each parameter draws from a generator of
    its own, keyed by its name, so that the values depend on no layout and no order. `place` gives
    the part of the whole value that a parameter holds, if it does not hold all of it."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ seed)
        owner, _, own_name = name.rpartition(".")
        own = getattr(model.get_submodule(owner), "first_value", None)
        if own is not None and (whole := own(own_name, generator)) is not None:
            parameter.copy_(place(whole, parameter))
        elif parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            whole = torch.randn(parameter.shape, generator=generator).mul_(std)
            parameter.copy_(place(whole, parameter))
