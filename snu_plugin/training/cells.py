"""The Spiking Recurrent Cell among the units that are compared; ``neuron`` says how it runs."""

from snu_plugin.neuron import SRC, Gate, SRCConfig, SRCState, src_scan, src_step

__all__ = ["SRC", "Gate", "SRCConfig", "SRCState", "src_scan", "src_step"]
