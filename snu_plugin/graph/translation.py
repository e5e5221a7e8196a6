"""What was traced of a model as a NIR graph: each call by its rule, one graph of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import nir
import numpy as np
from torch import nn

from snu_plugin.graph.assembly import Assembly, Bias, taken_out
from snu_plugin.graph.flattening import flatten
from snu_plugin.graph.host_network import HostNetwork
from snu_plugin.graph.rules.integrators import reaching, with_integrators
from snu_plugin.graph.rules.torch_rules import has_rule, nearest, to_node
from snu_plugin.graph.tracing.inherited import check_inherited, check_parametrized
from snu_plugin.graph.tracing.trace import Trace
from snu_plugin.graph.tracing.traced_tensor import Shape, Source
from snu_plugin.graph.tracing.wiring import Call
from snu_plugin.graph.validate import EXTENSIONS


def graph_of(
    found: Trace, dt: float, strict: bool, reasons: dict[str, str] | None
) -> tuple[nir.NIRGraph, dict[str, str], dict[str, str]]:
    """Return the graph of a trace, its node of each call, and why some outputs do not leave."""
    must, more = found.outputs[: found.required], found.outputs[found.required :]
    left_out = dict(found.left_out)
    try:
        return *_graph(found, found.outputs, dt, strict, reasons), left_out
    except (TypeError, ValueError):
        if not more:
            raise
    graph, gives = _graph(found, must, dt, strict, reasons)
    for output in more:
        try:
            graph, gives = _graph(found, [*must, output], dt, strict, reasons)
            must.append(output)
        except (TypeError, ValueError) as error:
            left_out[output.name] = str(error)
    return graph, gives, left_out


def _graph(
    found: Trace, outputs: Sequence[Call], dt: float, strict: bool, reasons: dict[str, str] | None
) -> tuple[nir.NIRGraph, dict[str, str]]:
    wired, outputs = with_integrators(found.calls, outputs)
    calls = reaching(wired, outputs)
    graph = Assembly(found.input_shapes, calls, outputs)
    layers = [call for call in calls if not isinstance(call.module, (nn.ReLU, nn.Flatten))]
    made = {call.name: node_by_rule(call, dt, strict, reasons is not None) for call in layers}
    nodes, biases = {name: node for name, (node, _) in made.items()}, dict[str, Bias]()
    if found.at_first:
        nodes, biases = taken_out(calls, nodes, found.at_first, found.biased)
    for call in calls:
        if call.name not in nodes:
            graph.pass_on(call)
            continue
        graph.add(call, nodes[call.name], biases.get(call.name))
        why = made[call.name][1]
        if reasons is not None and why:
            reasons[graph.gives[Source(call.name)]] = why
    for output in outputs:
        graph.close(output)
    if graph.late:
        graph.feed_back(dt)
    graph.check_spikes()
    graph.prune()
    whole = nir.NIRGraph(graph.nodes, graph.edges, metadata={}, type_check=False)
    whole = flatten(whole) if graph.nested else whole
    times = Counter(id(call.module) for call in calls)
    alone = {call.name for call in calls if times[id(call.module)] == 1} - set(found.begun)
    return whole, {call: node for node, call in graph.modules.items() if call in alone}


def node_by_rule(call: Call, dt: float, strict: bool, approximate: bool) -> tuple[nir.NIRNode, str]:
    """Return a module's node, and why it is not exact; empty if it is."""
    name, why = call.name or "the model", ""
    try:
        try:
            check_parametrized(call.module)
            node = to_node(call.module, shape=call.shape, dt=dt)
            check_inherited(call.module, to_node.registry)
        except (TypeError, ValueError) as error:
            if not approximate or not has_rule(nearest, call.module):
                raise
            node, why = nearest(call.module, shape=call.shape, dt=dt), str(error)
            check_inherited(call.module, nearest.registry)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    parts = node.nodes.values() if isinstance(node, nir.NIRGraph) else (node,)
    if strict and (own := [type(p).__name__ for p in parts if type(p).__name__ in EXTENSIONS]):
        raise ValueError(
            f"{name}: standard NIR cannot say this unit; "
            f"strict=False exports it as an {own[0]} extension node that other readers refuse"
        )
    return node, why


@to_node.register
def host_network_node(module: HostNetwork, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the graph of the network, with its Inputs and Outputs; of each cell what it is now."""
    nodes: dict[str, nir.NIRNode] = {}
    for name, cell in zip(module.names, module.cells, strict=True):
        takes = module.input_shapes[name]
        if name in module.inputs:
            nodes[name] = nir.Input(input_type={"input": np.array(takes, dtype=int)})
        elif name in module.outputs:
            nodes[name] = nir.Output(output_type={"output": np.array(takes, dtype=int)})
        else:
            nodes[name], _ = node_by_rule(Call(name, cell, (), takes, takes, ()), dt, False, False)
    return nir.NIRGraph(nodes, list(module.edges), metadata={}, type_check=False)
