"""Even use of experts, once a step and over all ranks."""

import torch
from torch import Tensor, nn

from smolplan.spec import ModelSpec
from trainer.model.router import Router, routers
from trainer.parallel import World


def share_losses(model: nn.Module, micro_batches: int) -> None:
    """Have the routers' own losses count for as much as the loss of their micro-batch, of so many
    in a step."""
    for router in routers(model):
        router.loss_share = 1 / micro_batches


def balance(model: nn.Module, spec: ModelSpec, world: World) -> float | None:
    """Move the routers' biases towards experts that had fewer tokens than the mean in this step,
    on all ranks together (arXiv 2408.15664, algorithm 1), and count anew. Gives how many times its
    even share of tokens the fullest expert had, as a mean over the layers; None without experts.
    """
    if spec.experts is None:
        return None
    found = _by_layer(model)
    here = {layer: router.chosen_tokens.tolist() for layer, router in found.items()}
    layers = [layer for layer in range(spec.layers) if spec.has_experts(layer)]
    # Of other stages of a pipeline this rank has counted nothing.
    counted = [here.get(layer, [0.0] * spec.experts.routed) for layer in layers]
    # Whole numbers, summed exactly: ranks agree to the last bit, and so does a resumed run.
    summed = torch.tensor(world.sum([n for counts in counted for n in counts]))
    fullest = 0.0
    for layer, counts in zip(layers, summed.view(len(layers), -1), strict=True):
        fullest += (counts.max() / counts.mean()).item() / len(layers)
        if (router := found.get(layer)) is None:
            continue
        if spec.experts.balance == "bias":
            _move(
                router.e_score_correction_bias,
                counts.to(router.chosen_tokens),
                spec.experts.bias_step,
            )
        router.chosen_tokens.zero_()
    return fullest


def _by_layer(model: nn.Module) -> dict[int, Router]:
    """Those that this rank holds, by the layer's number in the whole model."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Router):
            _, _, below = name.partition("layers.")
            found[int(below.partition(".")[0])] = module
    return found


def _move(bias: Tensor, counts: Tensor, step: float) -> None:
    bias += step * (counts.mean() - counts).sign()
