"""The fused scans on processors, compiled by Numba; importing it needs Numba."""

from snu_plugin.neuron.numba_scan.jit import compiled, team
from snu_plugin.neuron.numba_scan.scan import (
    euler_refusal,
    euler_scan,
    missing,
    refusal,
    snu_scan,
)

__all__ = [
    "compiled",
    "euler_refusal",
    "euler_scan",
    "missing",
    "refusal",
    "snu_scan",
    "team",
]
