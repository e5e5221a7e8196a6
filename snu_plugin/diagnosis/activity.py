"""What the neurons of a graph do on inputs, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import networkx as nx
import nir
import torch
from torch import Tensor

from snu_plugin.diagnosis.findings import Finding, Layer
from snu_plugin.graph import DiscreteGraph, Network, summed_input
from snu_plugin.neuron import Euler, euler_scan

SILENT, ALWAYS = 0.02, 0.98
"""A neuron whose outputs never exceed the one, or whose mean exceeds the other, tells nothing: the
first also for neurons with soft outputs. Ours, as all numbers here."""
MOST = 0.9
"""Share of a layer's neurons that must be silent, or always fire, to be told."""
TINY, LARGE = 0.01, 10.0
"""Largest inputs below the one, or above the other, are named as the cause where layers are silent
or always fire: inputs are usually spikes, or lie between -1 and 1."""
KEPT = 0.01
"""A neuron that keeps less of its potential from step to step has no memory."""
LONG = 10
"""A time constant of more than so many sequences never charges a membrane within one."""


@dataclass(frozen=True)
class Activity:
    """One layer of neurons that fire, on inputs ``(T, B, ...)``."""

    name: str
    y: Tensor
    """Outputs, ``(T, B, ...)``."""
    drive: Tensor
    """What its membrane receives, ``(T, B, ...)``."""
    peak: Tensor
    """The largest potential of each neuron if it never reset, of the layer's shape."""
    threshold: Tensor
    """Of the layer's shape."""
    membrane: Euler | None
    """Constants of the membrane; ``None`` for a Threshold that has none."""
    is_set_back: bool
    """Whether a spike sets its potential to a value, whatever it was."""

    @property
    def silent(self) -> Tensor:
        """Which neurons never fire."""
        return self.y.flatten(0, 1).amax(0) <= SILENT

    @property
    def always(self) -> Tensor:
        """Which neurons fire at nearly every step."""
        return self.y.flatten(0, 1).mean(0) >= ALWAYS

    @property
    def layer(self) -> Layer:
        """The same in a few numbers."""
        shares = (float(which.double().mean()) for which in (self.silent, self.always))
        return Layer(self.name, self.threshold.numel(), float(self.y.mean()), *shares)


@torch.no_grad()
def activities(net: Network, x: Tensor | dict[str, Tensor]) -> list[Activity]:
    """Run a graph and return what each layer of neurons with a threshold did, in their order."""
    values, _ = net.run(x)
    return [
        _activity(net.discrete, name, values)
        for name in net.discrete.wiring.names
        if _fires(net.discrete, name)
    ]


@torch.no_grad()
def without_effect(net: Network, seen: list[Activity], x: Tensor) -> Iterator[Finding]:
    """Yield that all layers do on ``x`` what they do on zeros, although some fire."""
    if not x.any() or not any(one.y.any() for one in seen):
        return
    if all(torch.equal(a.y, b.y) for a, b in zip(seen, activities(net, 0 * x), strict=True)):
        yield Finding(
            "inputs without effect",
            "inputs",
            f"every layer does the same without them; they reach {float(x.abs().max()):.2g}",
            "scale them, or the weights of the first layer, up against its biases and thresholds",
        )


def _fires(discrete: DiscreteGraph, name: str) -> bool:
    neuron = discrete.neurons.get(name)
    if neuron is None:
        return isinstance(discrete.nodes[name], nir.Threshold)
    return neuron.threshold is not None


def _activity(discrete: DiscreteGraph, name: str, values: dict[str, Tensor]) -> Activity:
    inside = {one.spike: one.mem for one in discrete.subtracting}
    membrane = discrete.neurons.get(inside.get(name, name))
    drive = summed_input(discrete, inside.get(name, name), values)
    membrane = None if membrane is None else membrane.to(drive)
    if membrane is None or name in inside:
        threshold = torch.tensor(discrete.nodes[name].threshold).to(drive)
    else:
        assert membrane.threshold is not None
        threshold = membrane.threshold
    potential = drive
    if membrane is not None:
        free = replace(membrane, threshold=None, reset=None, level=None, drop=None)
        potential, _ = euler_scan(drive, free)
    peak = potential.flatten(0, 1).amax(0)
    is_set_back = membrane is not None and name not in inside and membrane.drop is None
    threshold = threshold.expand_as(peak)
    return Activity(name, values[name], drive, peak, threshold, membrane, is_set_back)


def wrong(discrete: DiscreteGraph, seen: list[Activity], x: Tensor | None) -> Iterator[Finding]:
    """Yield what is wrong with layers; of those that follow a silent one, nothing.

    Args:
        discrete: The graph.
        seen: What ``activities`` returned.
        x: The inputs, ``None`` where they were drawn: then their scale is not asked for.
    """
    if x is not None and not x.any():
        yield Finding("no input", "inputs", "they are zero at every step", "give other data")
        return
    reaches = nx.DiGraph(list(discrete.edges))
    mute: set[str] = set()
    for one in seen:
        yield from _without_memory(one)
        silent, always = (float(part.double().mean()) for part in (one.silent, one.always))
        if silent == 1:
            if not mute & nx.ancestors(reaches, one.name):
                yield _silent(one, x)
            mute.add(one.name)
        elif silent >= MOST:
            yield Finding(
                "silent neurons",
                one.name,
                f"{silent:.0%} of its {one.silent.numel()} neurons never fire, the nearest of them "
                + _nearest(one, one.silent),
                "give larger weights before it, or a lower threshold",
            )
        elif always >= MOST:
            yield _always(one, x)


def _without_memory(one: Activity) -> Iterator[Finding]:
    if one.membrane is not None and len(one.y) > 1 and bool((one.membrane.decay < KEPT).all()):
        kept = float(one.membrane.decay.max())
        yield Finding(
            "no memory",
            one.name,
            f"its neurons keep {kept:.2g} of their potential from step to step, so that the time "
            "step is as long as their time constant",
            "give a larger decay (beta, tau), or a smaller time step",
        )


def _silent(one: Activity, x: Tensor | None) -> Finding:
    """Say why no neuron of a layer fires."""
    if not one.drive.any():
        return Finding(
            "no input",
            one.name,
            "what it receives is zero at every step",
            "look at the weights before it, which are zero, and at pools or masks",
        )
    if x is not None and float(x.abs().max()) < TINY:
        return Finding(
            "scale of inputs",
            "inputs",
            f"they reach {float(x.abs().max()):.2g} at most, and {one.name} never fires",
            f"scale them to about 1: x / {float(x.abs().max()):.2g}",
        )
    steps = len(one.y)
    if one.membrane is not None:
        longest = _steps_of_memory(one.membrane)
        if longest > LONG * steps:
            return Finding(
                "time step",
                one.name,
                f"its time constant is {longest:.3g} steps and the inputs have {steps}, so that "
                "its membrane never charges",
                "see whether dt and tau are in the same unit, or give longer inputs",
            )
    return Finding(
        "threshold out of reach",
        one.name,
        f"none of its {one.silent.numel()} neurons fires, the nearest of them "
        + _nearest(one, one.silent),
        _remedy(one),
    )


def _steps_of_memory(membrane: Euler) -> float:
    """Return the longest time constant in steps, of those that leak."""
    decays = [d for d in (membrane.decay, membrane.synapse_decay) if d is not None]
    rates = torch.cat([1 - d.double().flatten() for d in decays])
    rates = rates[rates > 0]
    return float(1 / rates.min()) if len(rates) else 0.0


def _nearest(one: Activity, which: Tensor) -> str:
    """Say how near the nearest of some neurons comes to its threshold."""
    place = (one.peak - one.threshold)[which].argmax()
    peak, threshold = float(one.peak[which][place]), float(one.threshold[which][place])
    return f"comes to {peak:.3g} where its threshold is {threshold:.3g}"


def _remedy(one: Activity) -> str:
    place = (one.peak - one.threshold).argmax()
    peak, threshold = float(one.peak.flatten()[place]), float(one.threshold.flatten()[place])
    if peak > 0 and threshold > 0:
        return f"give weights more than {threshold / peak:.2g} times as large, or a lower threshold"
    return "its inputs hold it down: give other weights or biases before it, or a lower threshold"


def _always(one: Activity, x: Tensor | None) -> Finding:
    """Say why nearly all neurons of a layer fire at every step."""
    rest = torch.zeros_like(one.threshold)
    if one.membrane is not None and one.membrane.offset is not None:
        rest = one.membrane.offset / (1 - one.membrane.decay).clamp(min=1e-9)
    if bool((one.threshold < rest)[one.always].all()):
        least = float(one.threshold[one.always].max())
        return Finding(
            "threshold below rest",
            one.name,
            f"its neurons fire without input: their threshold is {least:.3g}, below their rest",
            "give a positive threshold",
        )
    largest = 0.0 if x is None else float(x.abs().max())
    share = f"{float(one.always.double().mean()):.0%} of its neurons fire at every step"
    if largest > LARGE:
        return Finding(
            "scale of inputs",
            "inputs",
            f"they reach {largest:.3g}, and of {one.name} {share}",
            f"scale them to about 1: x / {largest:.3g}",
        )
    gain = 1.0 if one.membrane is None or one.membrane.gain is None else one.membrane.gain
    drive = float((one.drive * gain / one.threshold)[..., one.always].mean())
    return Finding(
        "too much drive",
        one.name,
        f"{share}; they receive {drive:.3g} of their threshold at each",
        "give smaller weights or biases before it, or a higher threshold",
    )
