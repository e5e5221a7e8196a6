"""What a trained network is: a NIR graph, read, written, checked and run.

Adapters are written with ``snu_plugin.graph.layers``.
"""

from snu_plugin.graph.checking import Verdict, check
from snu_plugin.graph.cycles import Feedback
from snu_plugin.graph.data import from_data, read_data, to_data
from snu_plugin.graph.discretisation import (
    DiscreteGraph,
    Reading,
    delay_steps,
    discretise,
    discretise_checked,
)
from snu_plugin.graph.export import to_nir
from snu_plugin.graph.files import from_bytes, read, to_bytes, write
from snu_plugin.graph.flattening import CheckedGraph, checked_graph, flatten
from snu_plugin.graph.metadata import declared, stamp
from snu_plugin.graph.potentials import membranes
from snu_plugin.graph.reference_network import (
    Conv,
    Network,
    network,
    node_module,
    summed_input,
)
from snu_plugin.graph.report import Comparison, Report, Run
from snu_plugin.graph.rules.torch_rules import to_node
from snu_plugin.graph.snu_nodes import SNU, SRC, encode_snu, encode_src
from snu_plugin.graph.verification import drawn_inputs, verify

__all__ = [
    "SNU", "SRC", "CheckedGraph", "Comparison", "Conv", "DiscreteGraph", "Feedback", "Network",
    "Reading", "Report", "Run", "Verdict", "check", "checked_graph", "declared", "delay_steps",
    "discretise", "discretise_checked", "drawn_inputs", "encode_snu", "encode_src", "flatten",
    "from_bytes", "from_data", "membranes", "network", "node_module", "read", "read_data", "stamp",
    "summed_input", "to_bytes", "to_data", "to_nir", "to_node", "verify", "write",
]  # fmt: skip
