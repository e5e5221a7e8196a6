"""NIR graphs as snnTorch networks, and the same graphs run by these and by snnTorch's importer."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import nir
import numpy as np
import snntorch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.accepted import with_known_names
from snu_plugin.graph import read
from snu_plugin.graph.layers import (
    CONTAINERS,
    SRC,
    DiscreteGraph,
    Feedback,
    HostNetwork,
    Layer,
    NodeModule,
    Reading,
    Signal,
    Takes,
    array,
    chain_layers,
    check_chain,
    default_tensor,
    discretise,
    fold,
    host_modules,
    host_network_node,
    is_snu,
    layer_module,
    node_of,
    node_to_keep,
    to_node,
    torch_layer,
)
from snu_plugin.neuron import Euler
from snu_plugin.schedule import WiringState
from snu_plugin.simulators import as_tensors, only_input, run_steps
from snu_snntorch.neurons import RSNU, SNU, RsSNU, sSNU
from snu_snntorch.src import src_neuron
from snu_snntorch.unit import Stateful, spike

Array = NDArray[Any]


@with_known_names
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
    neuron whose spikes subtract its threshold becomes snnTorch's ``Leaky``, with a current before
    it its ``Synaptic``, as does a CubaLIF with gains of 1; what no layer of snnTorch computes to
    the last bit (leak and reset potentials, LI, other CubaLIF, Threshold, Delay ...) a ``Node``,
    and a graph that is no chain one ``GraphNetwork`` of the same layers.

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
        chain = chain_layers(discrete, as_one=True)
    except ValueError:
        return nn.Sequential(GraphNetwork(host_modules(discrete, _module), discrete))
    chain = _with_currents(_folded(chain))
    modules = [_module(layer, discrete) for layer in chain]
    net = Imported(OrderedDict(zip(_names(chain), modules, strict=True)))
    if modules:
        net.takes = Takes(modules[0], discrete.shapes[discrete.inputs[0]])
    return net


class Imported(nn.Sequential):
    """The layers of a graph, which say in words what they take."""

    takes: Takes | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Advance one step, ``(B, ...)`` in and out."""
        check_chain(self, self.takes, input)
        output: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return output


CONTAINERS.add(Imported)


def _names(chain: list[Layer]) -> list[str]:
    """Return names that ``nn.Sequential`` takes, unlike each other."""
    names: list[str] = []
    empty = nn.Sequential()
    for layer in chain:
        base = re.sub(r"\.(lif|mem|potential)$", "", layer.name).replace(".", "_") or "layer"
        name, count = base, 0
        while name in names or hasattr(empty, name):
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names


def _module(layer: Layer, discrete: DiscreteGraph) -> nn.Module:
    """Return the module for one layer: torch's or snnTorch's own where one computes the same."""
    neuron = layer.neuron
    if neuron is not None and is_snu(neuron):
        config = neuron.config
        constants = neuron.decay, neuron.threshold, config.soft, layer.recurrent
        return snu_neuron(*constants, g=config.g, slope=config.slope)
    if neuron is not None and layer.recurrent is None and _is_synaptic(neuron):
        decays = default_tensor(neuron.synapse_decay), default_tensor(neuron.decay)
        settings = {"reset_mechanism": "zero", "reset_delay": False, "init_hidden": True}
        synaptic: nn.Module = snntorch.Synaptic(
            *decays, default_tensor(neuron.threshold), spike_grad=spike, **settings
        )
        return synaptic
    if isinstance(layer.node, nir.NIRGraph) and neuron is not None and layer.recurrent is None:
        own = _subtracting(neuron)
        if own is not None:
            return own
    if isinstance(layer.node, SRC):
        return src_neuron(layer.node)
    if isinstance(layer.node, nir.Scale):
        return Scale(default_tensor(layer.node.scale))
    native = torch_layer(layer.node)
    if native is not None:
        return native
    run = layer_module(layer, discrete)
    recurrent = None if layer.recurrent is None else default_tensor(layer.recurrent)
    return Node(node_to_keep(layer.node, neuron, discrete.dt), discrete.dt, run, recurrent)


def _folded(chain: Sequence[Layer]) -> list[Layer]:
    """Return a chain in which every neuron is an SNU that can be one without a rounding.

    An input gain moves into the weights before it if it is a power of two (see ``graph.fold``),
    and else becomes a Scale of its own: scaled weights are rounded, and with weights on a grid
    that decides whether a state on its threshold fires. A ``Node`` computes what is left.
    """
    out: list[Layer] = []
    for layer in chain:
        gain = None if layer.neuron is None else layer.neuron.gain
        if gain is None or layer.neuron is None or not is_snu(replace(layer.neuron, gain=None)):
            out.append(layer)
        elif (gain.frexp().mantissa.abs() == 0.5).all():
            before = [n for n in out[-1:] if n.neuron is None]
            out = [*out[: len(out) - len(before)], *fold([*before, layer])]
        elif layer.recurrent is None:
            neuron = replace(layer.neuron, gain=None)
            scale = Layer(f"{layer.name}.gain", nir.Scale(scale=gain.numpy()), None, None)
            out += [scale, layer._replace(neuron=neuron)]
        else:
            out.append(layer)
    return out


def _with_currents(chain: Sequence[Layer]) -> list[Layer]:
    """Return a chain in which a current and the membrane that it alone feeds are one ``Synaptic``.

    That is an LI before a neuron whose spikes subtract; a CubaLIF is one layer already.
    """
    out: list[Layer] = []
    for layer in chain:
        before = out[-1] if out else None
        if before is not None and before.neuron is not None and layer.neuron is not None:
            terms = ("gain", "offset", "threshold", "drop", "synapse_decay")
            plain = all(getattr(before.neuron, term) is None for term in terms)
            both = replace(layer.neuron, synapse_decay=before.neuron.decay)
            alone = layer.recurrent is None and before.recurrent is None
            if plain and alone and _subtracting(both) is not None:
                out[-1] = layer._replace(neuron=both)
                continue
        out.append(layer)
    return out


def _subtracting(neuron: Euler) -> nn.Module | None:
    """Return snnTorch's neuron for one whose spikes subtract its threshold; ``None`` without one.

    With a current before its membrane that is ``Synaptic``, else ``Leaky``.
    """
    plain = all(getattr(neuron, term) is None for term in ("gain", "offset", "start"))
    if not plain or neuron.drop is None or neuron.level is None:
        return None
    if not torch.equal(neuron.drop, neuron.level):
        return None
    decays = [d for d in (neuron.synapse_decay, neuron.decay) if d is not None]
    kind: Any = snntorch.Leaky if len(decays) == 1 else snntorch.Synaptic
    made: nn.Module = kind(
        *map(default_tensor, decays),
        threshold=default_tensor(neuron.level),
        spike_grad=spike,
        reset_mechanism="subtract",
        init_hidden=True,
    )
    return made


def _is_synaptic(neuron: Euler) -> bool:
    """Tell whether a neuron is what ``Synaptic`` computes with a reset to zero at once."""
    absent = ("gain", "offset", "reset", "start", "synapse_gain")
    plain = all(getattr(neuron, term) is None for term in absent)
    fires = neuron.threshold is not None and bool((neuron.threshold >= 0).all())
    return plain and fires and neuron.synapse_decay is not None


def snu_neuron(
    decay: object, threshold: object, soft: bool, recurrent: Array | None = None, **settings: Any
) -> nn.Module:
    """Return the neuron with these constants and, given weights, with a loop to itself."""
    settings |= {
        "beta": default_tensor(decay),
        "threshold": default_tensor(threshold),
        "init_hidden": True,
    }
    if recurrent is None:
        return (sSNU if soft else SNU)(**settings)
    neuron = (RsSNU if soft else RSNU)(linear_features=len(recurrent), **settings)
    with torch.no_grad():
        neuron.recurrent.weight.copy_(default_tensor(recurrent))
    return neuron


class Scale(nn.Module):
    """Inputs multiplied element by element, as NIR's node of that name does."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)

    def forward(self, input_: Tensor) -> Tensor:
        """Return ``scale * input_``; ``input_`` is ``(B, ...)``."""
        return self.scale * input_


class Node(NodeModule, Stateful):
    """One step of a NIR node, ``(B, *shape)`` in and out; ``reset_mem()`` begins a new sequence.

    Arguments as for ``snu_plugin.graph.NodeModule``. Its state is no ``mem``: what snnTorch puts
    there only says that a new sequence begins.
    """

    def _init_mem(self) -> None:
        super()._init_mem()
        self.reset_mem()

    def reset_mem(self) -> None:
        """Forget the state; the next call is a first step."""
        self.state: Any = None
        self.spk: Tensor | None = None
        self._store(self.mem)

    def forward(self, input_: Tensor) -> Tensor:
        if self._mem_was_replaced():
            self.reset_mem()
        self.spk, self.state = self.advance(input_, self.spk, self.state)
        return self.spk


class GraphNetwork(HostNetwork, Stateful):
    """One step of a NIR graph that is no chain, a layer for each node.

    ``x`` and ``y`` are ``(B, *shape)``, or dicts of these by node name for a graph with several
    Inputs or Outputs. ``reset_mem()`` begins a new sequence, for the graph and for its layers.
    """

    def __init__(self, cells: Mapping[str, nn.Module], discrete: DiscreteGraph) -> None:
        super().__init__(cells, discrete)
        self.reset_mem()

    def reset_mem(self) -> None:
        """Forget the states; the next call is a first step."""
        self.state: WiringState | None = None
        self._store(self.mem)
        for cell in self.cells:
            zero = getattr(cell, "reset_mem", None)
            if callable(zero):
                zero()

    def forward(self, input_: Signal) -> Signal:
        if self._mem_was_replaced():
            self.reset_mem()
        cells = zip(self.names, self.cells, strict=True)
        nodes = {name: partial(_step, cell) for name, cell in cells}
        y, self.state = self.advance(nodes, input_, self.state)
        return y


def _step(cell: nn.Module, x: Tensor, state: None) -> tuple[Tensor, None]:
    """Call a layer that keeps its own state as the schedule calls its nodes."""
    return cell(x[0])[None], None


def simulate(g: nir.NIRGraph, x: Array | Mapping[str, Array], dt: float | None = None) -> Array:
    """Run a graph through ``from_nir`` on ``x``, ``(T, B, ...)`` float32; outputs likewise.

    Of several Inputs ``x`` is a dict by their names.
    """
    net = from_nir(g, dt)
    return run_steps(lambda x_t, _: (net(x_t), None), as_tensors(x, torch.float32))


def simulate_stock(
    g: nir.NIRGraph, x: Array | Mapping[str, Array], dt: float | None = None
) -> Array:
    """Run a graph through snnTorch's own importer on ``x``, ``(T, B, ...)`` float32.

    The importer gets a copy, exactly as the graph is: it takes no ``dt`` (it knows 1e-4 alone), and
    what it cannot do it may refuse, or get wrong without a word.
    """
    from snntorch.import_nir import import_from_nir

    alone = only_input(x, "snnTorch's own importer")
    with contextlib.redirect_stdout(io.StringIO()):
        net = import_from_nir(copy.deepcopy(g))
        return run_steps(net, torch.tensor(alone, dtype=torch.float32))


@to_node.register
def _(module: Scale, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    return nir.Scale(np.array(np.broadcast_to(array(module.scale), shape)))


to_node.register(GraphNetwork, host_network_node)
to_node.register(Node, node_of)
