"""The engine on processors, compiled by Numba; importing it needs Numba."""

from snu_plugin.neuron.numba_scan import simd
from snu_plugin.neuron.numba_scan.jit import compiled, kept_loops, parallel, run, team, threads
from snu_plugin.neuron.numba_scan.scan import ENGINE
from snu_plugin.neuron.numba_scan.simd import Flag, Rows, Vector
from snu_plugin.neuron.numba_scan.spike_kernels import VECTORS, WORD, bits_set, copied, walked

__all__ = [
    "ENGINE",
    "VECTORS",
    "WORD",
    "Flag",
    "Rows",
    "Vector",
    "bits_set",
    "compiled",
    "copied",
    "kept_loops",
    "parallel",
    "run",
    "simd",
    "team",
    "threads",
    "walked",
]
