"""The choice of a token's experts, and what keeps it even."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smolplan.spec.model_parts import ExpertsSpec


class Router(nn.Module):
    """Scores each expert for each token in fp32, and chooses the best.

    Even use comes of one of two things. A loss for each sequence (DeepSeek-V3, arXiv 2412.19437,
    equations 17 to 20): α·Σ f·P, where f is an expert's share of the sequence's choices over its
    even share and P its mean score; its mean over the batch is the same on any layout, as a sum
    over micro-batches is not. Or a bias that is added to the scores for the choice alone (arXiv
    2408.15664): trainer/balance.py moves it once a step, by the choices of the whole batch.
    """

    def __init__(self, spec: ExpertsSpec, hidden: int) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.empty(spec.routed, hidden))
        if spec.router_bias:
            self.bias = nn.Parameter(torch.empty(spec.routed))
        if spec.corrects_choice:
            # Named as in transformers' classes. Not a weight: no gradient moves it.
            self.register_buffer("e_score_correction_bias", torch.zeros(spec.routed))
        self.register_buffer("chosen_tokens", torch.zeros(spec.routed), persistent=False)
        self.e_score_correction_bias: Tensor
        self.chosen_tokens: Tensor
        """How many tokens of this rank went to each expert since it was last set to zero."""
        self.loss_share = 1.0
        """What a micro-batch's mean counts for in the step's loss."""
        # Both are others where ranks share out the layers or the sequences.
        self.linear: Callable[[Tensor, Tensor, Tensor | None], Tensor] = F.linear
        self.over_sequence: Callable[[Tensor], Tensor] = lambda mean: mean
        """From means over the tokens that are here, (batch, experts), those over all."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (batch, seq, hidden) → weights and numbers of each token's experts, both (batch, seq,
        per_token)."""
        bias = self.bias.float() if self.spec.router_bias else None
        logits = self.linear(x.float(), self.weight.float(), bias)
        scores = logits.sigmoid() if self.spec.scores == "sigmoid" else logits.softmax(dim=-1)
        chosen = self._choose(scores.detach())
        weights = scores.gather(-1, chosen)
        if self.spec.normalise:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        picks = torch.zeros_like(scores).scatter_(-1, chosen, 1.0)
        loss = self._loss(scores, picks) if self.spec.balance == "auxiliary_loss" else None
        weights = _Routed.apply(self.spec.scale * weights, loss, picks.sum(dim=(0, 1)), self)
        return weights, chosen

    def _choose(self, scores: Tensor) -> Tensor:
        """Numbers of each token's experts, (batch, seq, per_token)."""
        spec = self.spec
        if spec.corrects_choice:
            scores = scores + self.e_score_correction_bias
        if spec.groups > 1:
            # A group is as good as its two best experts (DeepSeek-V3, section 2.1.2).
            grouped = scores.unflatten(-1, (spec.groups, -1))
            of_group = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(dim=-1)
            left_out = torch.ones_like(of_group, dtype=torch.bool)
            left_out.scatter_(-1, of_group.topk(spec.chosen_groups, dim=-1).indices, False)
            scores = grouped.masked_fill(left_out[..., None], -torch.inf).flatten(-2)
        return scores.topk(spec.per_token, dim=-1).indices

    def _loss(self, scores: Tensor, picks: Tensor) -> Tensor:
        """scores and picks (0 or 1): (batch, seq, experts)."""
        spec = self.spec
        share = scores / scores.sum(dim=-1, keepdim=True)
        used = self.over_sequence(picks.mean(dim=1)) * spec.routed / spec.per_token
        balance = (used * self.over_sequence(share.mean(dim=1))).sum(dim=-1).mean()
        return spec.auxiliary_loss * balance


def routers(model: nn.Module) -> list[Router]:
    return [module for module in model.modules() if isinstance(module, Router)]


class _Routed(torch.autograd.Function):
    """The weights as they are. In the backward pass, which a micro-batch has once, whatever is
    computed again, and an evaluation never, the router's loss gets its gradient and its tokens
    are counted: so neither has to be handed on to where the loss is."""

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, loss: Tensor | None, counts: Tensor, router: Router
    ) -> Tensor:
        ctx.has_loss, ctx.counts, ctx.router = loss is not None, counts, router
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (of_weights,) = gradients
        ctx.router.chosen_tokens += ctx.counts
        of_loss = of_weights.new_full((), ctx.router.loss_share) if ctx.has_loss else None
        return of_weights, of_loss, None, None
