"""What a training step holds beside inputs, outputs, their gradients and weights."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from snu_plugin import SNUConfig, snu_scan
from snu_plugin.neuron import src_scan

STEPS, BATCH, FEATURES = 5000, 16, 256
TENSOR = 4 * STEPS * BATCH * FEATURES

INHIBITED = SNUConfig(lateral_inhibition="sample")
DECAY = torch.full((FEATURES,), 0.9)


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def peak(scan: Callable[[Tensor], Tensor]) -> float:
    """Return what a step holds at its peak, in tensors ``(T, B, N)``, beside what it must."""
    torch.manual_seed(0)
    x = torch.rand(STEPS, BATCH, FEATURES, requires_grad=True)
    gy = torch.rand(STEPS, BATCH, FEATURES)
    torch.autograd.grad(scan(x), x, gy)  # compiled and loaded by now
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _memory("VmRSS")
    y = scan(x)
    (gx,) = torch.autograd.grad(y, x, gy)
    assert gx.shape == y.shape  # both are held at the peak
    return (_memory("VmHWM") - before) / TENSOR - 2


SCANS = {
    "a spiking layer": lambda x: snu_scan(x, decay=DECAY)[0],
    "a soft layer": lambda x: snu_scan(x, SNUConfig(soft=True), decay=DECAY)[0],
    "units that inhibit each other": lambda x: snu_scan(x, INHIBITED, decay=DECAY)[0],
    "a layer of Spiking Recurrent Cells": lambda x: src_scan(x)[0],
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
@pytest.mark.parametrize("unit", SCANS)
def test_a_long_sequence_is_trained_within_a_tenth_of_a_tensor_of_memory(unit: str) -> None:
    assert peak(SCANS[unit]) <= 0.1
