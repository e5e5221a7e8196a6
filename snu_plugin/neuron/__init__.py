"""What one unit computes, and how units run when wired into a network."""

from snu_plugin.neuron.config import Activation, Inhibition, SNUConfig
from snu_plugin.neuron.euler import Euler, EulerState, euler_step, initial
from snu_plugin.neuron.layer import SNU, SRC, at_most, hold_decay, sSNU
from snu_plugin.neuron.linear import EventLinear, Linear, spike_linear
from snu_plugin.neuron.precision import full, narrow, state_dtype, wide
from snu_plugin.neuron.reference import State, activate, blocked, snu_step
from snu_plugin.neuron.scan import (
    Implementation,
    euler_scan,
    implementations,
    snu_scan,
    src_scan,
)
from snu_plugin.neuron.src import Gate, SRCConfig, SRCState, src_step
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
    "Linear",
    "SNUConfig",
    "SRCConfig",
    "SRCState",
    "State",
    "activate",
    "at_most",
    "blocked",
    "euler_scan",
    "euler_step",
    "full",
    "hold_decay",
    "implementations",
    "initial",
    "narrow",
    "sSNU",
    "snu_scan",
    "snu_step",
    "spike_linear",
    "src_scan",
    "src_step",
    "state_dtype",
    "step",
    "tanh_derivative",
    "wide",
]
