"""The Spiking Recurrent Cell among the units that are compared; ``neuron`` says how it runs."""

from snu_plugin.neuron.src import Gate, SRCConfig, SRCState, rest, src_step
from snu_plugin.neuron.src_layer import SRC, src_scan

__all__ = ["SRC", "Gate", "SRCConfig", "SRCState", "rest", "src_scan", "src_step"]
