"""The engine on processors, compiled by Numba; importing it needs Numba."""

from snu_plugin.neuron.numba_scan.jit import compiled
from snu_plugin.neuron.numba_scan.scan import ENGINE
from snu_plugin.neuron.numba_scan.threads import team

__all__ = ["ENGINE", "compiled", "team"]
