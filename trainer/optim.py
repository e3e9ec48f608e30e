"""Which optimiser, and what it does with which weights."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from smolplan.spec import OptimSpec
from trainer.model.experts import Experts
from trainer.muon import MOMENTUM, Muon

STEP = "step"
"""Of an optimiser's state of a weight: the one that is no moment."""


def build_optimizer(model: nn.Module, spec: OptimSpec) -> torch.optim.AdamW:
    """One whose state is there from the start, so that a checkpoint has where to load into.

    Norms are not decayed, nor are embeddings without spec.embedding_decay (SmolLM3; OLMo 2, arXiv
    2501.00656, section 3).
    """
    by_muon = spec.optimizer == "muon"
    stacks = {p for m in model.modules() if isinstance(m, Experts) for p in m.parameters()}
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            plain.append(parameter)
        elif "embed_tokens" in name:
            (decayed if spec.embedding_decay else plain).append(parameter)
        elif by_muon and "lm_head" not in name and (parameter.dim() == 2 or parameter in stacks):
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    decays = {"weight_decay": spec.weight_decay}
    muon = {"muon": True, "momentum": spec.muon_momentum, **decays}
    groups: list[dict[str, object]] = [
        {"params": alike, **settings}
        for parameters, settings in (
            (decayed, decays),
            (plain, {"weight_decay": 0.0}),
            (matrices, muon),
        )
        for alike in _by_mesh(parameters)
    ]
    kind = Muon if matrices else torch.optim.AdamW
    optimizer = kind(
        groups, lr=spec.learning_rate, betas=(spec.beta1, spec.beta2), eps=spec.eps, fused=True
    )
    for parameter in matrices:
        optimizer.state[parameter] = _state(parameter, MOMENTUM)
    for parameter in decayed + plain:
        optimizer.state[parameter] = _state(parameter, "exp_avg", "exp_avg_sq")
    return optimizer


def _by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those of one mesh together, as the fused kernel wants them: experts that are spread over
    ranks lie otherwise than the rest."""
    found: dict[DeviceMesh | None, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        found[parameter.device_mesh if isinstance(parameter, DTensor) else None].append(parameter)
    return list(found.values())


def moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What it holds of a weight, by name, in the weight's own shape."""
    return {name: held for name, held in optimizer.state[parameter].items() if name != STEP}


def _state(parameter: nn.Parameter, *names: str) -> dict[str, Tensor]:
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {STEP: step, **{name: torch.zeros_like(parameter) for name in names}}
