"""What runs scans and products in compiled loops: one object for Numba, one for Triton."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.euler import Euler, EulerState
from snu_plugin.neuron.lif import LIFParts
from snu_plugin.neuron.reference import State
from snu_plugin.neuron.src import SRCConfig, SRCState

Pair = tuple[int, int]
"""Of rows, then of columns."""


class Patches(NamedTuple):
    """The inputs under the weights at each place of a convolution's result, in two axes.

    >>> Patches.of((1, 3, 8, 8), (4, 3, 3, 3), stride=(2, 2), padding=(1, 1)).places
    (4, 4)
    """

    images: int
    channels: int
    size: Pair
    """Of an image."""
    kernel: Pair
    stride: Pair
    padding: Pair
    """Zeros above and below, left and right of an image."""
    dilation: Pair
    places: Pair
    """Of the result."""
    groups: int

    @staticmethod
    def of(
        x: Sequence[int], weight: Sequence[int], stride: Pair = (1, 1), padding: Pair = (0, 0),
        dilation: Pair = (1, 1), groups: int = 1,
    ) -> Patches:  # fmt: skip
        """Return those of ``x``, shaped ``(images, channels, rows, columns)``.

        ``weight`` is shaped ``(outputs, channels // groups, rows, columns)``, all else is as in
        ``torch.nn.functional.conv2d``.
        """
        size, kernel = (x[2], x[3]), (weight[2], weight[3])
        rows, columns = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
        )
        return Patches(x[0], x[1], size, kernel, stride, padding, dilation, (rows, columns), groups)

    @property
    def how(self) -> tuple[Pair, Pair, Pair, int]:
        """Stride, padding, dilation and groups, as ``torch.nn.functional.conv2d`` takes them."""
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def inputs(self) -> int:
        """How many inputs a patch has in one group."""
        return math.prod(self.kernel) * self.channels // self.groups

    @property
    def rows(self) -> int:
        """How many places there are in all images."""
        return self.images * math.prod(self.places)


class SNUScan(Protocol):
    """A scan called as ``reference.snu_scan`` is."""

    def __call__(
        self,
        x: Tensor,
        config: SNUConfig,
        *,
        decay: Tensor | None = None,
        threshold: Tensor | None = None,
        recurrent: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]: ...


@dataclass(frozen=True, kw_only=True)
class SpikeProduct:
    """Products with a matrix X that is mostly 0, ``(rows, columns)``, given as bits.

    Words of 64 bits are ``(ceil(columns / 64), rows)``, int64: word ``j`` of a row says which of
    its columns from ``64 j`` on are not 0, the lowest bit first. They are 1 unless X is given, too.
    """

    most: Callable[[int, int], float]
    """Returns up to which share of ones its products, of so many inputs and outputs, cost less than
    dense ones on this machine."""
    pack: Callable[[Tensor, float, bool], Tensor | None]
    """Returns the bits of X; ``None`` if more than that share is not 0, or if only ones are asked
    for and it has other numbers."""
    product: Callable[[Tensor, Tensor, Tensor | None, Tensor | None, int], Tensor | None]
    """``X @ weight.T + bias``, given bits and X or ``None``; ``None`` if a weight is not finite.
    Unless the last argument is 0 so many rows are turned over: ``(rows / n, outputs, n)``."""
    weight_grad: Callable[[Tensor, Tensor, int, Tensor | None, bool], Tensor | None]
    """``g.T @ X``, given bits, how many columns X has, and X or ``None``; ``None`` if a gradient is
    not finite. If the last argument is true, which it is without X alone, a column of ones stands
    behind those of X."""
    pack_images: Callable[[Tensor, float], Tensor | None]
    """Returns the bits of images ``(images, channels, rows, columns)`` as those of their rows,
    ``(images * rows, columns * channels)``; ``None`` as ``pack`` does."""
    unfold: Callable[[Tensor, Patches, int], Tensor]
    """Returns the bits of a group's patches, ``(places, inputs)``, given those of images; inputs of
    a patch are in the order of rows, columns and channels."""


def unpacked(words: Tensor, columns: int) -> Tensor:
    """Return the bits of ``SpikeProduct`` as a matrix of 0 and 1, ``(rows, columns)``.

    >>> unpacked(torch.tensor([[5, 2]]), 3)
    tensor([[1, 0, 1],
            [0, 1, 0]])
    """
    bits = words.t().unsqueeze(-1) >> torch.arange(64) & 1
    return bits.flatten(1)[:, :columns]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Says what it cannot run, ``""`` where there is no reason, and runs the rest.

    One of your own is a value that ``impl=`` takes (docs/howto/own_engine.md). Its scans are
    given one step at least.
    """

    name: str
    missing: Callable[[], str]
    """Why this machine cannot run it."""
    refusal: Callable[[Tensor, SNUConfig, Tensor | None, Sequence[Tensor | None]], str]
    """Why it cannot run ``x`` with a config, recurrent weights and all other tensors of a call."""
    snu: SNUScan
    euler: Callable[[Tensor, Euler, EulerState | None], tuple[Tensor, EulerState]] | None = None
    """``euler_scan``, where constants broadcast to a step and the reset is not trained; ``None``:
    it has none."""
    src: Callable[[Tensor, SRCConfig, Tensor, SRCState], tuple[Tensor, SRCState]] | None = None
    """``src_scan`` with bias and state, in eager torch alone; ``None``: it has none."""
    lif: Callable[..., LIFParts] | None = None
    """``lif_scan``, its arguments by position, in eager torch alone; ``None``: it has none."""
    lif_pooled: Callable[..., LIFParts | None] | None = None
    """``lif`` of images channels last, of which only pools are wanted: called with ``x``, neuron,
    potentials, currents, and rows and columns of a window; ``None``: it has none, or not this."""
    max_pool2d: Callable[[Tensor, int, int], Tensor] | None = None
    """``max_pool2d`` with rows and columns of a window, likewise."""
    snu_pooled: Callable[..., tuple[Tensor, State]] | None = None
    """``snu`` of images channels last, of which only pools are wanted, in eager torch alone. Called
    with ``x``, config, rows and columns of a window, decay, threshold and state by position;
    ``None``: it has none."""
    pooled_refusal: Callable[[SNUConfig, tuple[int, int]], str] = lambda config, size: ""
    """Why ``snu_pooled`` cannot run units with a config and windows of a size."""
    snu_linear: Callable[..., tuple[Tensor, State]] | None = None
    """``snu`` of hard units, each by itself, with a surrogate of one's own, whose outputs are
    multiplied, in eager torch alone. Called with ``x``, config, decay, threshold, state, weight,
    bias and a function from rows of outputs to their bits, or ``None``; ``None``: it has none."""
    spikes: SpikeProduct | None = None
    """Products with spikes, in eager torch alone; ``None``: it has none."""
