"""The fused scans on processors, compiled by Numba; importing it needs Numba."""

from snu_plugin.neuron.numba_scan.jit import Kernel, compiled
from snu_plugin.neuron.numba_scan.scan import (
    euler_refusal,
    euler_scan,
    missing,
    refusal,
    snu_scan,
)
from snu_plugin.neuron.numba_scan.threads import run, team

__all__ = [
    "Kernel",
    "compiled",
    "euler_refusal",
    "euler_scan",
    "missing",
    "refusal",
    "run",
    "snu_scan",
    "team",
]
