"""What an adapter to a simulator is written with; ``adapters/README.md`` has the steps.

Export, from modules of the host to a graph: register a rule with ``to_node`` for each kind of
neuron; ``batch_axes``, ``split_input``, ``start`` and ``nearest`` take further rules where the host
needs them; ``CONTAINERS`` the host's containers. ``export_graph`` then does what ``graph.to_nir``
does, step by step. Import, from a graph to modules: ``discretise`` it, take its nodes in order with
``chain_layers`` and make a module of each. A ``HostNetwork`` runs those of a graph that is no
chain. ``layer_module`` computes any layer, for those that the host has no module for.
"""

from snu_plugin.graph.chain import Layer, chain_layers, fold, is_snu
from snu_plugin.graph.cycles import Feedback
from snu_plugin.graph.discretisation import DiscreteGraph, Reading, discretise
from snu_plugin.graph.export import check_steps, export_graph
from snu_plugin.graph.host_network import (
    HostNetwork,
    NodeModule,
    Takes,
    check_chain,
    default_tensor,
    host_modules,
    layer_module,
    node_of,
    node_to_keep,
    own_step,
    rescale_dt,
    src_arguments,
    torch_layer,
)
from snu_plugin.graph.metadata import declared, declared_approximations, stamp
from snu_plugin.graph.reference_network import Signal, node_module
from snu_plugin.graph.resets import (
    Around,
    fires,
    in_series,
    integrator,
    never,
    silent,
    subtracting,
    subtracting_at_once,
    with_ports,
)
from snu_plugin.graph.rules.torch_rules import (
    CONTAINERS,
    array,
    batch_axes,
    before,
    has_rule,
    nearest,
    split_input,
    start,
    to_node,
    with_parameters,
)
from snu_plugin.graph.snu_nodes import (
    SNU,
    SRC,
    encode_snu,
    encode_src,
    in_full,
    time_constant,
)
from snu_plugin.graph.tracing.calling import carried_on, detached_copy
from snu_plugin.graph.tracing.inherited import check_inherited
from snu_plugin.graph.tracing.traced_tensor import tensors
from snu_plugin.graph.translation import host_network_node

__all__ = [
    "CONTAINERS", "SNU", "SRC", "Around", "DiscreteGraph", "Feedback", "HostNetwork", "Layer",
    "NodeModule", "Reading", "Signal", "Takes", "array", "batch_axes", "before", "carried_on",
    "chain_layers", "check_chain", "check_inherited", "check_steps", "declared",
    "declared_approximations", "default_tensor", "detached_copy", "discretise", "encode_snu",
    "encode_src", "export_graph", "fires", "fold", "has_rule", "host_modules", "host_network_node",
    "in_full", "in_series", "integrator", "is_snu", "layer_module", "nearest", "never",
    "node_module", "node_of", "node_to_keep", "own_step", "rescale_dt", "silent", "split_input",
    "src_arguments", "stamp", "start", "subtracting", "subtracting_at_once", "tensors",
    "time_constant", "to_node", "torch_layer", "with_parameters", "with_ports",
]  # fmt: skip
