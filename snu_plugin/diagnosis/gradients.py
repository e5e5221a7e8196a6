"""Whether training reaches every parameter, and by spikes or by potentials alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.diagnosis.findings import Finding
from snu_plugin.graph.layers import tensors

FAR = 1e5
"""A gradient so many times smaller, or larger, than that of the parameters nearest to the outputs
does not train together with it. Ours."""


def gradients(
    model: nn.Module,
    run: Callable[[nn.Module], list[Tensor]],
    trained: Mapping[str, nn.Parameter] | None = None,
    seed: int = 0,
) -> Iterator[Finding]:
    """Yield which parameters no gradient reaches, or none of a useful size.

    What is derived is a sum of all outputs with seeded normal weights, so that nothing cancels.

    Args:
        model: A copy; its gradients change.
        run: Runs the model and returns its outputs.
        trained: Its parameters, as they are to be called; ``None``: as torch calls them.
        seed: Of the weights.
    """
    named = dict(model.named_parameters()) if trained is None else trained
    parameters = {name: p for name, p in named.items() if p.requires_grad}
    if not parameters:
        return
    draw = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        outputs = [y for y in run(model) if y.is_floating_point()]
        total = sum((y * torch.randn(y.shape, generator=draw).to(y)).sum() for y in outputs)
    if not isinstance(total, Tensor) or not total.requires_grad:
        yield Finding(
            "no gradient",
            "outputs",
            "no gradient leaves them",
            "see whether a surrogate is disabled, or .detach(), .data or no_grad stands between",
        )
        return
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    yield from _by_parameter(dict(zip(parameters, found, strict=True)))


def _by_parameter(found: dict[str, Tensor | None]) -> Iterator[Finding]:
    sizes: dict[str, float] = {}
    for name, gradient in found.items():
        if gradient is None or not gradient.any():
            yield Finding(
                "no gradient",
                name,
                "its gradient is zero" if gradient is not None else "no gradient reaches it",
                "see whether the surrogate is zero where membranes lie, or .detach() or no_grad "
                "stands behind it, or it is not used",
            )
        elif not gradient.isfinite().all():
            yield Finding(
                "exploding gradient",
                name,
                "its gradient is not finite",
                "give shorter sequences, smaller recurrent weights or a flatter surrogate",
            )
        else:
            sizes[name] = float(gradient.double().square().mean().sqrt())
    if not sizes:
        return
    last = list(sizes)[-1]
    for name, size in sizes.items():
        if size * FAR < sizes[last]:
            yield Finding(
                "vanishing gradient",
                name,
                f"its gradient is {size / sizes[last]:.1g} of that of {last}",
                "give a flatter surrogate, larger weights behind it, or membranes nearer to their "
                "thresholds",
            )
        elif size > FAR * sizes[last]:
            yield Finding(
                "exploding gradient",
                name,
                f"its gradient is {size / sizes[last]:.1g} times that of {last}",
                "give a flatter surrogate, smaller weights behind it, or clip gradients",
            )


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
