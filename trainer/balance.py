"""Even use of experts, once a step and over all ranks."""

from torch import Tensor, nn

from trainer.model.router import Router
from trainer.parallel import World


def share_losses(model: nn.Module, micro_batches: int) -> None:
    """Have the routers' own losses count for as much as the loss of their micro-batch, of so many
    in a step."""
    for router in routers(model):
        router.loss_share = 1 / micro_batches


def balance(model: nn.Module, world: World) -> float | None:
    """Move the routers' biases towards experts that had fewer tokens than the mean in this step,
    on all ranks together (arXiv 2408.15664, algorithm 1), and count anew. Gives how many times its
    even share of tokens the fullest expert had, as a mean over the layers; None without experts.
    """
    found = routers(model)
    if not found:
        return None
    # Whole numbers, summed exactly: ranks agree to the last bit, and so does a resumed run.
    summed = iter(world.sum([n for router in found for n in router.chosen_tokens.tolist()]))
    fullest = 0.0
    for router in found:
        counts = router.chosen_tokens
        counts.copy_(counts.new_tensor([next(summed) for _ in counts]))
        if router.spec.balance == "bias":
            _move(router.e_score_correction_bias, counts, router.spec.bias_step)
        fullest += (counts.max() / counts.mean()).item() / len(found)
        counts.zero_()
    return fullest


def _move(bias: Tensor, counts: Tensor, step: float) -> None:
    bias += step * (counts.mean() - counts).sign()


def routers(model: nn.Module) -> list[Router]:
    return [module for module in model.modules() if isinstance(module, Router)]
