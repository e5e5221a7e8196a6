"""What one unit computes, and how units run when wired into a network."""

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.euler import Euler, EulerState, euler_scan, euler_step
from snu_plugin.neuron.events import EventLinear
from snu_plugin.neuron.layer import SNU, hold_decay, sSNU
from snu_plugin.neuron.reference import State, snu_step
from snu_plugin.neuron.scan import Implementation, implementations, snu_scan
from snu_plugin.neuron.src import SRCConfig, SRCState, src_step
from snu_plugin.neuron.src_layer import SRC, src_scan
from snu_plugin.neuron.surrogate import step, tanh_derivative

__all__ = [
    "SNU",
    "SRC",
    "Euler",
    "EulerState",
    "EventLinear",
    "Implementation",
    "SNUConfig",
    "SRCConfig",
    "SRCState",
    "State",
    "euler_scan",
    "euler_step",
    "hold_decay",
    "implementations",
    "sSNU",
    "snu_scan",
    "snu_step",
    "src_scan",
    "src_step",
    "step",
    "tanh_derivative",
]
