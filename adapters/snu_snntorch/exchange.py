"""snnTorch networks to NIR graphs, and NIR graphs to snnTorch networks."""

from __future__ import annotations

import contextlib
import copy
import io
import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import nir
import numpy as np
import snntorch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.graph import read
from snu_plugin.graph.layers import (
    Feedback,
    Layer,
    Reading,
    array,
    batch_axes,
    chain_layers,
    checked_sequence,
    detached_copy,
    discretise,
    encode_snu,
    export_graph,
    host_modules,
    own_step,
    record_difference,
    runs_single_steps,
    tensors,
    to_node,
)
from snu_plugin.schedule import aligned
from snu_snntorch import host  # noqa: F401  (its rules for snnTorch's own neurons)
from snu_snntorch.importing import folded, module_of
from snu_snntorch.neurons import RecurrentUnit, StepUnit
from snu_snntorch.nodes import Node, Wired
from snu_snntorch.sequence import SequenceUnit
from snu_snntorch.unit import Unit

Array = NDArray[Any]


def reset(net: nn.Module) -> None:
    """Zero the states of every snnTorch neuron in ``net``, nested ones too, and of no other.

    Calls ``reset_mem()`` on each module of ``net`` that has it: on snnTorch's own neurons too.
    """
    for module in net.modules():
        zero = getattr(module, "reset_mem", None)
        if callable(zero):
            zero()


def to_nir(
    net: nn.Module,
    sample: Tensor | None = None,
    *,
    dt: float | None = None,
    strict: bool = False,
    approximate: bool = False,
) -> nir.NIRGraph:
    """Return the NIR graph of an snnTorch network; see ``snu_plugin.graph.to_nir``.

    SNU with ``g="identity"`` leaves as ``nir.LIF``, exactly; sSNU and other ``g`` as the SNU
    extension node, which other readers refuse, or not at all with ``strict=True``. Of snnTorch's
    own neurons ``Leaky``, ``RLeaky`` and ``Synaptic`` leave where NIR says exactly what they do:
    ``reset_mechanism="zero"``, for the latter two with ``reset_delay=False``.

    Args:
        net: A network of torch layers and neurons: a container, or a module with its own loop
            over time.
        sample: What ``net`` takes, ``(B, ...)`` or ``(T, B, ...)``; ``None`` where it begins with
            ``nn.Linear``.
        dt: Time step in seconds that the graph declares; a power of two keeps decays exact.
            ``None`` takes that of what ``from_nir`` made for one, else 2⁻¹⁰.
        strict: Refuse what only the extension node can say.
        approximate: Let neurons of snnTorch's own that NIR cannot say, for their reset or its
            order, leave as the nearest node; ``sample`` must then be data, ``(T, B, ...)``. Which
            they are, why, and the share of outputs that differ is declared in the graph; see
            ``snu_plugin.graph.check``.

    Raises:
        TypeError: If a module has no rule.
        ValueError: If NIR cannot say a module, or what lies between two of them.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net is {type(net).__name__}; it must be a torch module")
    seconds = own_step(net, (Node, Wired)) if dt is None else dt
    if not approximate:
        return export_graph(net, sample, dt=seconds, strict=strict)
    x, reasons = checked_sequence(sample), dict[str, str]()
    steps = runs_single_steps(net, x, (snntorch.SpikingNeuron,))
    step = x[0] if steps else x
    graph = export_graph(net, step, dt=seconds, strict=strict, reasons=reasons)
    model = detached_copy(net).eval()
    reset(model)
    with torch.no_grad():
        y = torch.stack([_first(model(x_t)) for x_t in x]) if steps else _first(model(x))
    return record_difference(graph, reasons, x, y)


def _first(result: Any) -> Tensor:
    """Return what a network gives out first: the spikes, of spikes and states."""
    return next(tensors(result))


def from_nir(
    graph_or_path: nir.NIRGraph | str | os.PathLike[str],
    dt: float | None = None,
    *,
    reading: Reading | None = None,
    feedback: Feedback | None = None,
) -> nn.Sequential:
    """Return a snnTorch network that computes what the strict reference computes.

    One call is one time step, ``(B, ...)`` in and out; neurons keep their states
    (``init_hidden=True``), so ``snu_snntorch.reset(net)`` comes before each sequence. In a chain of
    layers neurons become ``SNU``, ``sSNU`` or, with a loop to themselves, ``RSNU`` and ``RsSNU``;
    an input gain becomes a ``Scale``, or moves into the weights where that rounds nothing. A
    CubaLIF with gains of 1 becomes snnTorch's ``Synaptic``; what no layer of snnTorch computes to
    the last bit (leak and reset potentials, LI, other CubaLIF, Threshold, Delay ...) a ``Node``,
    and a graph that is no chain one ``Wired`` of the same layers.

    Args:
        graph_or_path: A graph, which stays as it is, or a NIR file.
        dt: Time step in the unit of the graph's time constants; ``None`` takes what it declares.
        reading: How I and IF read ``r``; see ``snu_plugin.graph.discretise``.
        feedback: What a path that feeds back delivers at the first step; see there.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a graph without one meaning; names the node and the field.
    """
    graph = graph_or_path if isinstance(graph_or_path, nir.NIRGraph) else read(graph_or_path)
    discrete = discretise(graph, dt, reading=reading, feedback=feedback)
    try:
        chain = chain_layers(discrete)
    except ValueError:
        return nn.Sequential(Wired(host_modules(discrete, module_of), discrete))
    chain = folded(chain)
    modules = (module_of(layer, discrete) for layer in chain)
    return nn.Sequential(OrderedDict(zip(_names(chain), modules, strict=True)))


def simulate(g: nir.NIRGraph, x: Array, dt: float | None = None) -> Array:
    """Run a graph through ``from_nir`` on ``x``, ``(T, B, ...)`` float32; outputs likewise."""
    net = from_nir(g, dt)
    reset(net)
    with torch.no_grad():
        outputs = [net(x_t) for x_t in _steps(x)]
    return _stacked(outputs)


def simulate_stock(g: nir.NIRGraph, x: Array, dt: float | None = None) -> Array:
    """Run a graph through snnTorch's own importer on ``x``, ``(T, B, ...)`` float32.

    The importer gets a copy, exactly as the graph is: it takes no ``dt`` (it knows 1e-4 alone), and
    what it cannot do it may refuse, or get wrong without a word.
    """
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        net = import_from_nir(copy.deepcopy(g))
        state: Any = None
        outputs = []
        for x_t in _steps(x):
            y, state = net(x_t, state)
            outputs.append(y)
    return _stacked(outputs)


def _steps(x: Array) -> Iterator[Tensor]:
    return map(aligned, torch.from_numpy(np.array(x, dtype=np.float32)))


def _stacked(outputs: list[Tensor]) -> Array:
    if not outputs:
        raise ValueError("x holds no time step; it must be (T, B, ...) with T of at least 1")
    stacked: Array = torch.stack(outputs).numpy()
    return stacked


def _names(chain: list[Layer]) -> list[str]:
    """Return names that ``nn.Sequential`` takes, unlike each other."""
    names: list[str] = []
    empty = nn.Sequential()
    for layer in chain:
        base = layer.name.removesuffix(".lif").replace(".", "_") or "layer"
        name, count = base, 0
        while name in names or hasattr(empty, name):
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names


@to_node.register(StepUnit)
@to_node.register(RecurrentUnit)
@to_node.register(SequenceUnit)
def _unit(module: Unit, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    if module.inhibition:
        raise ValueError("inhibition is True; NIR cannot say that one unit silences the others")
    if module.state_quant:
        raise ValueError("state_quant is set; NIR cannot say a quantised state")
    factor = array(module.graded_spikes_factor)
    if np.any(factor != 1):
        raise ValueError(
            f"graded_spikes_factor is {factor.tolist()}; NIR's spikes are 1: "
            "move the factor into the weights that follow"
        )
    decay, threshold = (
        np.broadcast_to(array(value), shape) for value in (module.decay, module.threshold)
    )
    recurrent = _feedback(module, shape) if isinstance(module, RecurrentUnit) else None
    return encode_snu(module.settings, decay, threshold, dt=dt, recurrent=recurrent)


def _feedback(module: RecurrentUnit, shape: tuple[int, ...]) -> Array:
    if len(shape) != 1:
        raise ValueError(f"a recurrent layer of shape {shape} has no matrix that NIR could say")
    if module.all_to_all:
        weights = module.recurrent
        if not isinstance(weights, nn.Linear) or weights.bias is not None:
            raise ValueError(
                f"its recurrence is {weights}; only nn.Linear without bias can be exported"
            )
        return array(weights.weight)
    return np.diag(np.broadcast_to(array(module.V), shape))


@batch_axes.register(SequenceUnit)
def _(module: SequenceUnit, x: Tensor) -> int | None:
    return 2
