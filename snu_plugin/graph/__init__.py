"""What a trained network is: a NIR graph, read, written, checked and run."""

from snu_plugin.graph import rules  # noqa: F401  (torch's layers get their rules)
from snu_plugin.graph.approximate import data, measured, nearest, takes_steps
from snu_plugin.graph.cells import Cells, Signal, built
from snu_plugin.graph.chain import Layer, is_snu, layers
from snu_plugin.graph.checking import Verdict, check
from snu_plugin.graph.discretisation import Discrete, Reading, delay_steps, discretise
from snu_plugin.graph.export import to_nir, to_node
from snu_plugin.graph.feedback import Feedback
from snu_plugin.graph.files import read, write
from snu_plugin.graph.flattening import flatten
from snu_plugin.graph.flow import tensors
from snu_plugin.graph.folding import fold
from snu_plugin.graph.inherited import check_inherited
from snu_plugin.graph.modules import Conv, module
from snu_plugin.graph.reference_network import Network, network
from snu_plugin.graph.report import Report, Run
from snu_plugin.graph.retime import kept, own_step, retimed
from snu_plugin.graph.src_node import SETTINGS, SRC, encode_src, src_config
from snu_plugin.graph.torch_layers import NodeModule, default_tensor, node_of, torch_layer
from snu_plugin.graph.trace import detached
from snu_plugin.graph.verification import received, verify
from snu_plugin.graph.wire import SNU, declared, encode, stamp, time_constant

__all__ = [
    "SETTINGS",
    "SNU",
    "SRC",
    "Cells",
    "Conv",
    "Discrete",
    "Feedback",
    "Layer",
    "Network",
    "NodeModule",
    "Reading",
    "Report",
    "Run",
    "Signal",
    "Verdict",
    "built",
    "check",
    "check_inherited",
    "data",
    "declared",
    "default_tensor",
    "delay_steps",
    "detached",
    "discretise",
    "encode",
    "encode_src",
    "flatten",
    "fold",
    "is_snu",
    "kept",
    "layers",
    "measured",
    "module",
    "nearest",
    "network",
    "node_of",
    "own_step",
    "read",
    "received",
    "retimed",
    "src_config",
    "stamp",
    "takes_steps",
    "tensors",
    "time_constant",
    "to_nir",
    "to_node",
    "torch_layer",
    "verify",
    "write",
]
