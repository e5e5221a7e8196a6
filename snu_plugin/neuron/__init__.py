"""What one unit computes, and how units run when wired into a network."""

from snu_plugin.neuron.config import Activation, Inhibition, SNUConfig
from snu_plugin.neuron.euler import Euler, EulerState, euler_scan, euler_step, initial
from snu_plugin.neuron.event_linear import EventLinear
from snu_plugin.neuron.layer import SNU, hold_decay, sSNU
from snu_plugin.neuron.precision import carried, full, narrow, wide
from snu_plugin.neuron.reference import State, activate, blocked, snu_step
from snu_plugin.neuron.scan import Implementation, implementations, snu_scan
from snu_plugin.neuron.src import Gate, SRCConfig, SRCState, rest, src_step
from snu_plugin.neuron.src_layer import SRC, at_most, src_scan
from snu_plugin.neuron.surrogate import step, tanh_derivative

__all__ = [
    "SNU",
    "SRC",
    "Activation",
    "Euler",
    "EulerState",
    "EventLinear",
    "Gate",
    "Implementation",
    "Inhibition",
    "SNUConfig",
    "SRCConfig",
    "SRCState",
    "State",
    "activate",
    "at_most",
    "blocked",
    "carried",
    "euler_scan",
    "euler_step",
    "full",
    "hold_decay",
    "implementations",
    "initial",
    "narrow",
    "rest",
    "sSNU",
    "snu_scan",
    "snu_step",
    "src_scan",
    "src_step",
    "step",
    "tanh_derivative",
    "wide",
]
