"""What linear recurrences share: a state that decays from token to token, computed chunk by chunk
(Yang et al. 2024, arXiv 2312.06635; Dao & Gu 2024, arXiv 2405.21060), and never carried from one
document into the next."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.places import Places

DECAY_RANGE, STEP_RANGE = (1.0, 16.0), (1e-3, 1e-1)
"""Of the first decays, uniformly, and of the first step sizes, by their logarithms: those of
state-spaces/mamba (mamba_ssm/modules/mamba2.py)."""


Rows = Sequence[tuple[int, int]]
"""What stands side by side in one dimension: how many heads or groups of heads, how wide each."""


class Heads:
    """Through which heads' recurrence the tokens go here: through that of all of them."""

    def share(self, count: int) -> int:
        """Of so many heads or groups those that are computed here."""
        return count

    def gather(self, x: Tensor, rows: Rows, places: Places) -> Tensor:
        """(batch, seq, all rows), of the tokens that are computed here → (batch, all tokens, rows
        of the heads that are)."""
        return x

    def scatter(self, x: Tensor, places: Places) -> Tensor:
        """The way back: (batch, all tokens, …), of these heads side by side → (batch, seq, …), of
        all heads."""
        return x

    def own(self, parameter: Tensor, rows: Rows) -> Tensor:
        """(all rows, …) → (rows of the heads that are computed here, …)."""
        return parameter


@dataclass(frozen=True)
class Decays:
    """How much is left of what, in fp32; 0 where a document ended in between. Dimensions: batch,
    heads, chunks, and within a chunk."""

    within: Tensor
    """(…, seq, seq): of the second token's at the first."""
    from_before: Tensor
    """(…, seq): of the state before the chunk, at a token."""
    to_end: Tensor
    """(…, seq): of a token's, at the chunk's end."""

    @property
    def across(self) -> Tensor:
        """(batch, heads, chunks): of the state before the chunk, at its end."""
        return self.from_before[..., -1]


def in_chunks(x: Tensor, size: int) -> Tensor:
    """(batch, seq, …) → (batch, chunks, size, …), zeros behind the end."""
    missing = -x.shape[1] % size
    x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing))
    chunks: Tensor = x.unflatten(1, (-1, size))
    return chunks


def decays(logs: Tensor, places: Places, size: int) -> Decays:
    """logs: (batch, seq, heads), at most 0: by what each token lets the state before it decay."""
    total = in_chunks(logs.float(), size).movedim(-1, 1).cumsum(dim=-1)
    document = places.document
    if document is None:
        document = torch.zeros(places.shape, dtype=torch.long, device=logs.device)
    document = in_chunks(document, size)
    same = (document[..., :, None] == document[..., None, :]).tril()
    # The document of the state before each chunk; before the first there is none.
    before = F.pad(document[:, :-1, -1:], (0, 0, 1, 0), value=-1)
    apart = total[..., :, None] - total[..., None, :]
    return Decays(
        within=apart.masked_fill(~same[:, None], -torch.inf).exp(),
        from_before=total.exp() * (document == before)[:, None],
        to_end=(total[..., -1:] - total).exp() * same[:, None, :, -1],
    )


class CausalConvolution(nn.Module):
    """Of each channel by itself over the last `kernel` tokens of a document."""

    def __init__(self, channels: int, kernel: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def first_value(self, name: str, generator: torch.Generator) -> Tensor | None:
        """As nn.Conv1d's: uniform up to 1/√kernel."""
        if name != "weight":
            return None
        bound = 1 / math.sqrt(self.weight.shape[-1])
        return torch.empty(self.weight.shape).uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor, places: Places, own: Callable[[Tensor], Tensor]) -> Tensor:
        """x: (batch, all tokens, channels), of those channels that `own` takes of a parameter."""
        length, document = x.shape[1], places.document
        of_lag = own(self.weight)[:, 0].flip(-1).unbind(-1)
        out = x * of_lag[0]
        for lag, weight in list(enumerate(of_lag))[1:length]:
            earlier = F.pad(x[:, :-lag], (0, 0, lag, 0))
            if document is not None:
                same = F.pad(document[:, lag:] == document[:, :-lag], (lag, 0))
                earlier = earlier * same[..., None]
            out = out + earlier * weight
        return out if self.bias is None else out + own(self.bias)


def first_decay_or_step(name: str, heads: int, generator: torch.Generator) -> Tensor | None:
    """First values of A_log, the decays' logarithm, and of dt_bias, whose softplus is the step."""
    uniform = torch.rand(heads, generator=generator)
    if name == "A_log":
        low, high = DECAY_RANGE
        return (low + (high - low) * uniform).log()
    if name == "dt_bias":
        low, high = map(math.log, STEP_RANGE)
        return (low + (high - low) * uniform).exp().expm1().log()
    return None
