"""Layers of torch's convolutions, cheaper where their inputs are spikes."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.accepted import COUNT, by_known_names
from snu_plugin.neuron.convolution import spike_conv1d, spike_conv2d
from snu_plugin.neuron.fitting import SIZE, check_product, check_tensor

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


@by_known_names
class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, cheaper where its input is spikes.

    Arguments, parameters, ``state_dict``, gradients and the order in memory are those of
    ``nn.Conv2d``. On processors with Numba, inputs of 0 and 1 that are mostly 0 are packed into
    bits, and rows of the weights are added up where a bit is set; so is the gradient of the
    weights. Sums come in another order than those of torch, so results differ by rounding; for a
    shape and a number of threads they are always the same. All else is ``nn.Conv2d``: see
    ``spike_conv2d``. In ``torch.channels_last`` it takes less time, as ``nn.Conv2d`` does.

    The input may be ``torch.bool`` as well.

    Args:
        in_channels: Channels of an image.
        out_channels: Those of the result.
        kernel_size: Rows and columns of the weights, or one number for both, as all pairs.
        stride: From place to place.
        padding: Zeros on either side, or ``"same"`` or ``"valid"``.
        dilation: Distance of the places under the weights.
        groups: Groups of channels that have outputs of their own.
        bias: Whether a bias is added and learnt.
        padding_mode: What stands on either side, as in ``nn.Conv2d``.
        device: Where parameters are made.
        dtype: Their type.
        impl: ``numba``, ``reference`` or ``None``; see ``spike_conv2d``.

    >>> layer = Conv2d(2, 1, 3, padding=1)
    >>> layer(torch.rand(5, 2, 8, 8) < 0.1).shape
    torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        impl: str | None = None,
    ) -> None:
        _check_sizes(in_channels, out_channels, kernel_size=kernel_size, stride=stride)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self.impl = impl

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``(images, channels, rows, columns)``, or of one image."""
        return _of_layer(self, input, 2)


@by_known_names
class Conv1d(nn.Conv1d):
    """``nn.Conv1d``, cheaper where its input is spikes: see ``Conv2d``.

    >>> layer = Conv1d(2, 1, 3, padding=1)
    >>> layer(torch.rand(5, 2, 8) < 0.1).shape
    torch.Size([5, 1, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: str | int | tuple[int] = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        impl: str | None = None,
    ) -> None:
        _check_sizes(in_channels, out_channels, kernel_size=kernel_size, stride=stride)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self.impl = impl

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of ``(images, channels, places)``, or of one image."""
        return _of_layer(self, input, 1)


def _check_sizes(in_channels: object, out_channels: object, **lengths: object) -> None:
    SIZE.check("in_channels", in_channels)
    SIZE.check("out_channels", out_channels)
    for name, value in lengths.items():
        for length in value if isinstance(value, tuple) else (value,):
            COUNT.check(name, length)


def _of_layer(layer: Any, x: Tensor, axes: int) -> Tensor:
    """Return what a layer of torch returns, spikes walked where they are few."""
    check_tensor("x", x)
    if x.dim() not in (axes + 1, axes + 2):
        raise ValueError(
            f"x has shape {tuple(x.shape)}; it must have {axes + 2} axes, channels before the last "
            f"{axes}, or {axes + 1} for one image"
        )
    check_product(x, layer.weight, -1 - axes, layer.groups)
    if x.dtype == torch.bool:
        x = x.to(layer.weight.dtype)
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = (0,) * axes
    elif padding == "valid":
        padding = (0,) * axes
    elif padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, layer.kernel_size, strict=True)]
        if any(n % 2 for n in reach):  # one more on one side
            x = F.pad(x, layer._reversed_padding_repeated_twice)
            padding = (0,) * axes
        else:
            padding = tuple(n // 2 for n in reach)
    alone = x.dim() == axes + 1
    given = x.unsqueeze(0) if alone else x
    convolve: Any = spike_conv1d if axes == 1 else spike_conv2d
    how = layer.weight, layer.bias, stride, padding, dilation, layer.groups
    y: Tensor = convolve(given, *how, impl=layer.impl)
    return y.squeeze(0) if alone else y
