"""What the neurons of a torch model do that NIR as a whole cannot say: each layer for itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin import graph
from snu_plugin.diagnosis import models
from snu_plugin.diagnosis.activity import Activity, Looked, activities
from snu_plugin.graph.layers import tensors


def through_modules(model: nn.Module, stepped: bool, x: Tensor) -> Looked:
    """Look at the neurons of a model by what each receives; which stands before is by their calls.

    Args:
        model: A model of any host; it stays as it is.
        stepped: Whether it makes one step a call.
        x: Inputs that show in which order its neurons are called.
    """

    def at(given: Any) -> list[Activity]:
        return [a for a in (_alone(*one) for one in _met(model, stepped, given)) if a is not None]

    order = [one.name for one in at(x)]
    return Looked(at, lambda name: set(order[: order.index(name)]))


@torch.no_grad()
def _met(
    model: nn.Module, stepped: bool, x: Tensor
) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    """Yield neurons by name in the order of their first calls, what they receive and give."""
    copied = models.copy_from_reset(model)
    met: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, module in copied.named_modules():
        if models.is_neuron(module):
            module.register_forward_hook(
                lambda _, given, out, name=name: met.setdefault(name, []).append(
                    (given[0], next(tensors(out)))
                )
            )
    models.results(copied, x, stepped)
    for name, calls in met.items():
        if len(calls) in (1, len(x)):
            drives, outputs = map(list, zip(*calls, strict=True))
            once = len(calls) == 1 < len(x)
            drive, y = (p[0] if once else torch.stack(p) for p in (drives, outputs))
            yield name, model.get_submodule(name), drive, y


def _alone(name: str, module: nn.Module, drive: Tensor, y: Tensor) -> Activity | None:
    """Return what a layer does that receives ``drive``; ``None`` where NIR cannot say it alone."""
    try:
        over_time = models.is_stepped(module, drive) is False
        found, _ = models.graph_of(models.copy_from_reset(module), drive, not over_time)
        net = graph.network(found, dtype=torch.float32)
        one = next(iter(activities(net, drive)), None)
        if one is None or one.y.shape != y.shape:
            return None
        each = drive.flatten(0, 1)[None]
        forgets = not torch.equal(one.y, y) and torch.equal(net(each)[0].reshape(y.shape), y)
    except (RuntimeError, TypeError, ValueError):
        return None
    return replace(one, name=name, y=y, is_anew=forgets)
