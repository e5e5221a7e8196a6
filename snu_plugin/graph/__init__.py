"""What a trained network is: a NIR graph, read, written, checked and run."""

from snu_plugin.graph import rules  # noqa: F401  (torch's layers get their rules)
from snu_plugin.graph.chain import Layer, layers
from snu_plugin.graph.check import Verdict, check
from snu_plugin.graph.discretise import Discrete, discretise
from snu_plugin.graph.export import to_nir, to_node
from snu_plugin.graph.files import read, write
from snu_plugin.graph.flatten import flatten
from snu_plugin.graph.fold import fold
from snu_plugin.graph.network import Network, network
from snu_plugin.graph.src_node import SRC
from snu_plugin.graph.verdicts import Report
from snu_plugin.graph.verify import verify
from snu_plugin.graph.wire import SNU, declared, encode, stamp

__all__ = [
    "SNU",
    "SRC",
    "Discrete",
    "Layer",
    "Network",
    "Report",
    "Verdict",
    "check",
    "declared",
    "discretise",
    "encode",
    "flatten",
    "fold",
    "layers",
    "network",
    "read",
    "stamp",
    "to_nir",
    "to_node",
    "verify",
    "write",
]
