"""What one unit computes, and how units run when wired into a network."""

from snu_plugin.neuron.cells import src_scan
from snu_plugin.neuron.config import Activation, Inhibition, SNUConfig
from snu_plugin.neuron.convolution import spike_conv1d, spike_conv2d, walked_conv1d, walked_conv2d
from snu_plugin.neuron.convolution_layers import Conv1d, Conv2d
from snu_plugin.neuron.engine import Engine, unpacked
from snu_plugin.neuron.euler import Euler, EulerState, euler_step, initial
from snu_plugin.neuron.fitting import SIZE, check_like, check_product, check_step, check_tensor
from snu_plugin.neuron.layer import SNU, SRC, at_most, held_parameters, hold_decay, sSNU
from snu_plugin.neuron.leaky import lif_refusal, lif_scan
from snu_plugin.neuron.lif import LIF, LIFParts, Recurrence
from snu_plugin.neuron.linear import EventLinear, Linear, spike_bits, spike_linear
from snu_plugin.neuron.memory import laid_channels_last, order_of, paged
from snu_plugin.neuron.observer import Observer, observed
from snu_plugin.neuron.pool import max_pool2d, snu_pooled
from snu_plugin.neuron.precision import full, narrow, state_dtype, wide
from snu_plugin.neuron.reference import State, activate, fire, remaining, snu_states, snu_step
from snu_plugin.neuron.scan import (
    Implementation,
    euler_scan,
    implementations,
    no_engine,
    snu_scan,
)
from snu_plugin.neuron.src import Gate, SRCConfig, SRCState, src_step
from snu_plugin.neuron.surrogate import step, tanh_derivative

__all__ = [
    "LIF", "SIZE", "SNU", "SRC", "Activation", "Conv1d", "Conv2d", "Engine", "Euler", "EulerState",
    "EventLinear", "Gate", "Implementation", "Inhibition", "LIFParts", "Linear", "Observer",
    "Recurrence", "SNUConfig", "SRCConfig", "SRCState", "State", "activate", "at_most",
    "check_like", "check_product", "check_step", "check_tensor", "euler_scan", "euler_step", "fire",
    "full", "held_parameters", "hold_decay", "implementations", "initial", "laid_channels_last",
    "lif_refusal", "lif_scan", "max_pool2d", "narrow", "no_engine", "observed", "order_of", "paged",
    "remaining", "sSNU", "snu_pooled", "snu_scan", "snu_states", "snu_step", "spike_bits",
    "spike_conv1d", "spike_conv2d", "spike_linear", "src_scan", "src_step", "state_dtype", "step",
    "tanh_derivative", "unpacked", "walked_conv1d", "walked_conv2d", "wide",
]  # fmt: skip
