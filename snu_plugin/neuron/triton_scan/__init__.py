"""The fused scans on GPUs, compiled by Triton."""

from snu_plugin.neuron.triton_scan.scan import (
    euler_refusal,
    euler_scan,
    missing,
    refusal,
    snu_scan,
)

__all__ = ["euler_refusal", "euler_scan", "missing", "refusal", "snu_scan"]
