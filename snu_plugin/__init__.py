"""Spiking Neural Units for snnTorch and Norse, through NIR, on phase-change memory."""

from snu_plugin.acceleration import accelerate
from snu_plugin.neuron import (
    SNU,
    Linear,
    SNUConfig,
    State,
    implementations,
    snu_scan,
    snu_step,
    sSNU,
)

__version__ = "0.1.0"

__all__ = [
    "SNU",
    "Linear",
    "SNUConfig",
    "State",
    "accelerate",
    "implementations",
    "sSNU",
    "snu_scan",
    "snu_step",
]
