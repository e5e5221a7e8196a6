"""A torch model of any host: its graph, how it is called over time, what its neurons do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import nir
import torch
from torch import Tensor, nn

from snu_plugin import graph, simulators
from snu_plugin.diagnosis.activity import Activity, Looked, activities
from snu_plugin.graph.layers import (
    batch_axes,
    carried_on,
    detached_copy,
    has_rule,
    tensors,
    to_node,
)

SHOWN = 4
"""Steps of the inputs that show how a model is wired."""


def copy_from_reset(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose neurons hold no state."""
    copied = detached_copy(model).eval()
    adapter = adapter_of(model)
    if adapter is not None and hasattr(adapter, "reset"):
        adapter.reset(copied)
    return copied


def adapter_of(model: nn.Module) -> ModuleType | None:
    """Return the adapter of the host whose modules a model has, ``None`` without any."""
    tops = {type(module).__module__.partition(".")[0] for module in model.modules()}
    for name in simulators.adapters():
        if tops & {name, f"snu_{name}"}:
            return simulators.adapter(name)
    return None


def graph_of(model: nn.Module, x: Tensor, stepped: bool) -> tuple[nir.NIRGraph, str]:
    """Return the graph of a model that takes ``x``, or a step of it, and what stands before names.

    See ``graph.to_nir``. Of a model whose output no graph has, such as the largest potential, it is
    what its last neurons give.
    """
    adapter = adapter_of(model)
    to_nir = graph.to_nir if adapter is None else adapter.to_nir
    shown = x[0] if stepped else x[:SHOWN]
    try:
        return to_nir(model, shown, check=False), ""
    except ValueError as whole:
        last = _last_neuron(model, shown, 1 if stepped else len(shown))
        if last is None:
            raise
        try:
            return to_nir(_Fired(model, last, stepped), shown, check=False), "net."
        except (RuntimeError, TypeError, ValueError):
            raise whole from None


class _Fired(nn.Module):
    """A network that gives what its last neurons give, in place of its own outputs."""

    def __init__(self, net: nn.Module, last: str, stepped: bool) -> None:
        super().__init__()
        self.net, self.last, self.stepped = net, last, stepped
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        hook = self.net.get_submodule(self.last).register_forward_hook(
            lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            self.net(x)
        finally:
            hook.remove()
        return found[0] if self.stepped else torch.stack(found)


@torch.no_grad()
def _last_neuron(model: nn.Module, x: Tensor, steps: int) -> str | None:
    """Return which of the modules that are called once a step is called last, if any."""
    copied, called = copy_from_reset(model), list[str]()
    for name, module in copied.named_modules():
        if is_neuron(module):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    copied(x)
    return called[-1] if called and called.count(called[-1]) == steps else None


def is_neuron(module: nn.Module) -> bool:
    """Tell whether a module is a layer of a host or ours that a graph can hold."""
    return has_rule(to_node, module) and not type(module).__module__.startswith("torch.")


@torch.no_grad()
def is_stepped(model: nn.Module, x: Tensor) -> bool:
    """Tell whether a model makes one step a call, ``(B, ...)``, and takes no ``(T, B, ...)``.

    Raises:
        ValueError: If it takes neither.
    """
    copied, calls = copy_from_reset(model), [0]
    over_time = [False]

    def count(module: nn.Module, given: tuple[object, ...], _: object) -> None:
        calls[0] += 1
        # Layers of torch's own take any number of axes before those of a step.
        own = type(module).__module__.startswith("torch.")
        if given and isinstance(given[0], Tensor) and not own:
            over_time[0] |= batch_axes(module, given[0]) == 2

    leaves = [m for m in copied.modules() if has_rule(to_node, m)]
    for module in leaves:
        module.register_forward_hook(count)
    two = x[:2] if len(x) > 1 else x.expand(2, *x.shape[1:])
    try:
        copied(two)
    except (RuntimeError, ValueError, IndexError, TypeError) as whole:
        try:
            copy_from_reset(model)(x[0])
        except (RuntimeError, ValueError, IndexError, TypeError):
            raise ValueError(
                f"the network takes neither x, {tuple(x.shape)}, nor a step of it: "
                f"{' '.join(str(whole).split())}"
            ) from whole
        return True
    return not over_time[0] and calls[0] <= len(leaves)


def outputs(model: nn.Module, x: Tensor, stepped: bool) -> list[Tensor]:
    """Run a model over a sequence; return the first output of each call."""
    found = results(model, x, stepped)
    return [next(tensors(result)) for result in (found if stepped else [found])]


def results(model: nn.Module, x: Tensor, stepped: bool) -> Any:
    """Run a model over a sequence; return what it returns, of one step a call a list of it."""
    if not stepped:
        return model(x)
    states: tuple[object, ...] = ()
    found = []
    for x_t in x:
        found.append(model(x_t, *states))
        states = carried_on(model, found[-1])
    return found


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
    copied = copy_from_reset(model)
    met: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, module in copied.named_modules():
        if is_neuron(module):
            module.register_forward_hook(
                lambda _, given, out, name=name: met.setdefault(name, []).append(
                    (given[0], next(tensors(out)))
                )
            )
    results(copied, x, stepped)
    for name, calls in met.items():
        if len(calls) in (1, len(x)):
            drives, outputs = map(list, zip(*calls, strict=True))
            once = len(calls) == 1 < len(x)
            drive, y = (p[0] if once else torch.stack(p) for p in (drives, outputs))
            yield name, model.get_submodule(name), drive, y


def _alone(name: str, module: nn.Module, drive: Tensor, y: Tensor) -> Activity | None:
    """Return what a layer does that receives ``drive``; ``None`` where NIR cannot say it alone."""
    try:
        over_time = is_stepped(module, drive) is False
        found, _ = graph_of(copy_from_reset(module), drive, not over_time)
        net = graph.network(found, dtype=torch.float32)
        one = next(iter(activities(net, drive)), None)
        if one is None or one.y.shape != y.shape:
            return None
        each = drive.flatten(0, 1)[None]
        forgets = not torch.equal(one.y, y) and torch.equal(net(each)[0].reshape(y.shape), y)
    except (RuntimeError, TypeError, ValueError):
        return None
    return replace(one, name=name, y=y, is_anew=forgets)
