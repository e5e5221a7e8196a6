"""Whether a loss trains potentials that a spike sets back, and not the spikes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.diagnosis.findings import Finding
from snu_plugin.graph.layers import tensors


def trained_potentials(
    model: nn.Module, layers: Collection[str], loss: Callable[[nn.Module], Tensor]
) -> Iterator[Finding]:
    """Yield which layers a loss reaches by their last potentials alone.

    After the last step a potential goes nowhere but into the loss, a spike into the loss and into
    layers behind; so whoever has a gradient there is told apart.

    Args:
        model: A copy; its gradients change.
        layers: Names of modules that fire and are set to a value by their spikes.
        loss: Runs the model and returns what is trained, one number.
    """
    last: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, result: Any) -> None:
            last[name] = list(tensors(result))

        return hook

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(keep(name)) for name in layers]
    with torch.enable_grad():
        total = loss(model)
    for hook in hooks:
        hook.remove()
    for name, (spikes, *states) in last.items():
        if not total.requires_grad or not spikes.requires_grad:
            continue
        parts = [spikes, *(s for s in states if s.requires_grad)]
        found = torch.autograd.grad(total, parts, retain_graph=True, allow_unused=True)
        by_spikes, *by_states = (g is not None and bool(g.any()) for g in found)
        if any(by_states) and not by_spikes:
            yield Finding(
                "membrane loss",
                name,
                "the loss reaches its potentials, which a spike sets back, and not its spikes: "
                "the least loss is where it does not fire",
                "train spikes, such as cross-entropy of their counts, or read a neuron that "
                "subtracts or never resets",
            )
