"""The engine on processors, compiled by Numba; importing it needs Numba."""

from snu_plugin.neuron.numba_scan.jit import compiled, kept_loops, team
from snu_plugin.neuron.numba_scan.scan import ENGINE

__all__ = ["ENGINE", "compiled", "kept_loops", "team"]
