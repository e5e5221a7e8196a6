"""The engine on GPUs, compiled by Triton."""

from snu_plugin.neuron.triton_scan.scan import ENGINE

__all__ = ["ENGINE"]
