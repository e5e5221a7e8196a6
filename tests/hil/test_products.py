"""Products as the host does them, on the devices of a chip."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.hil import products
from snu_plugin.neuron import convolution


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("walked", [False, True])
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("axes", [1, 2])
def test_convolutions_whose_padding_is_odd_are_those_of_torch(
    axes: int, kernel: int, walked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def pays(x: Tensor, *_: Any) -> bool:
        calls.append(x.dim())
        return True

    if walked:
        pytest.importorskip("snu_plugin.neuron.numba_scan")
        monkeypatch.setattr(convolution, "_pays", pays)
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(4, 3, *(7, 6)[:axes], generator=draw) < 0.2).float()
    weight = torch.randn(5, 3, *(kernel, kernel)[:axes], generator=draw)
    bias = torch.randn(5, generator=draw)
    geometry = products.convolution(axes, x, weight, 1, "same", 1, 1)
    found = products.multiply(geometry, x, weight, bias)
    expected = (F.conv1d if axes == 1 else F.conv2d)(x, weight, bias, padding="same")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert calls == [4] * walked
