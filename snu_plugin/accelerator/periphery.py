"""What happens at the edges of a tile, element by element: the specification, in plain torch.

Values are ``(lanes, ...)``: a lane is one step of a sequence. ``numba_periphery`` has the functions
of ``__all__``, fused, and gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snu_plugin.accelerator.geometry import even
from snu_plugin.accelerator.matrix import lay, show
from snu_plugin.neuron import unpacked

__all__ = [
    "accumulate",
    "adc",
    "dac",
    "drive",
    "finish",
    "ir_drop",
    "lay",
    "show",
    "walk",
]


def resolution(bits: int) -> float:
    """Return one step as a share of the full range: ``1 / (2^bits - 2)``, sign included.

    Source: aihwkit 1.2.0, ``IOParameters``.
    """
    return 1.0 / ((1 << bits) - 2)


class Converter(NamedTuple):
    """A converter: its codes go from ``-last`` to ``last``, a ``step`` apart.

    >>> Converter.of(8, 127.0)
    Converter(step=1.0, last=127)
    """

    step: float
    last: int

    @classmethod
    def of(cls, bits: int, bound: float) -> Converter:
        """Return that of so many bits, sign included, whose range ends at ``bound``."""
        return cls(2 * bound * resolution(bits), (1 << (bits - 1)) - 1)


class Converted(NamedTuple):
    """What the input converter made of inputs."""

    values: Tensor
    """What drives the rows."""
    clipped: int
    """Inputs beyond the range."""
    driven: Tensor
    """Rows driven by another value than 0, by vector, int64."""


def dac(x: Tensor, spikes: Tensor, converter: Converter) -> Converted:
    """Pass inputs through the input converter, lanes of spikes as they are.

    Args:
        x: Inputs ``(lanes, ..., in)``, float32.
        spikes: Which lanes pass, bool.
        converter: In the units of ``x``.

    >>> two_bits = Converter.of(2, 1.0)
    >>> tuple(dac(torch.tensor([[0.3, -4.0]]), torch.tensor([False]), two_bits))
    (tensor([[ 0., -1.]]), 1, tensor([1]))
    """
    codes = (x / converter.step).round_()
    passed = spikes.view(-1, *[1] * (x.dim() - 1))
    clipped = _clip(codes.masked_fill_(passed, 0), converter.last)
    values = torch.where(passed, x, codes.mul_(converter.step))
    return Converted(values, clipped, (values != 0).sum(-1))


class Driven(NamedTuple):
    """What drives a row of tiles, and what was counted of it."""

    values: Tensor | None
    """What the input converter gives, ``(lanes, ..., in)``, ``even``; ``None`` where it did not
    work: where there is none, or all inputs are 0 or 1."""
    spikes: Tensor
    """Which lanes hold 0 and 1 alone, bool."""
    graded: bool
    """Whether there are others."""
    driven: Tensor
    """Rows driven by another value than 0, by vector, int64."""
    worked: int
    """Vectors besides spikes that are not all 0: they meet the input converter."""
    clipped: int
    """Inputs beyond its range."""
    rows: int
    """Rows driven, all vectors together."""
    busy: list[int]
    """Vectors that drive any, by group."""


def tally(driven: Tensor, groups: int) -> tuple[int, list[int]]:
    """Return how many rows vectors drive in all, and how many of them drive any, by group.

    >>> tally(torch.tensor([[2, 0], [1, 0]]), 2)
    (3, [2, 0])
    """
    return int(driven.sum()), driven.reshape(-1, groups).count_nonzero(0).tolist()


def drive(x: Tensor, first: int, end: int, converter: Converter | None) -> Driven:
    """Say what inputs ``(lanes, n, in)`` drive from one row to another, and convert it.

    ``(lanes, n, groups, in)`` where groups have inputs of their own.

    >>> drive(torch.tensor([[[0.0, 1.0]]]), 0, 2, None)[1:]
    (tensor([True]), False, tensor([[1]]), 0, 0, 1, [1])
    """
    groups, x = 1 if x.dim() == 3 else x.shape[2], x[..., first:end]
    on, values, clipped = x != 0, None, 0
    spikes, driven = (x == on).flatten(1).all(1), on.sum(-1)
    graded = not bool(spikes.all())
    worked = int(driven[~spikes].count_nonzero()) if graded else 0
    if graded and converter is not None:
        values, clipped, driven = dac(even(x), spikes, converter)
    rows, busy = tally(driven, groups)
    return Driven(values, spikes, graded, driven, worked, clipped, rows, busy)


def adc(
    y: Tensor,
    noise: Tensor | None,
    variance: Tensor | None,
    sigma: float,
    last: int | None,
    driven: Tensor | None = None,
) -> int:
    """Add noise to the sums of columns and convert them, in place.

    ``y += sqrt(variance + sigma²) noise``, then half to even and clipped to the last codes. Of a
    vector that drives no row every sum is 0.

    Args:
        y: Sums in steps of the converter ``(lanes, ...)``, float32, contiguous.
        noise: As many normal numbers ``(lanes, ...)``; ``None`` adds nothing.
        variance: Of the noise of each sum, squared steps; ``None`` is 0.
        sigma: Standard deviation of the noise that all sums have, steps.
        last: Largest code of the converter; ``None`` converts nothing.
        driven: Rows that each vector drives, ``(lanes, vectors)``, of as many sums each; ``None``:
            all are converted.

    Returns:
        How many sums were beyond the range.

    >>> y = torch.tensor([[0.5, 1.5, -9.0]])
    >>> adc(y, None, None, 0.0, 3), y
    (1, tensor([[ 0.,  2., -3.]]))
    """
    if noise is not None:
        level = sigma if variance is None else _root(variance + _squared(sigma))
        y += noise.reshape(y.shape) * level
    if driven is not None:
        idle = driven.reshape(len(y), -1) == 0
        y.view(*idle.shape, -1).masked_fill_(idle[..., None], 0)
    return 0 if last is None else _clip(y.round_(), last)


def ir_drop(y: Tensor, load: Tensor, far: Tensor) -> None:
    """Take from the sums ``y`` what IR drop costs them, in place.

    ``a (a (0.05 a - 0.2) + 0.5) far``, ``a`` the load summed over the driven rows: aihwkit 1.2.0.
    """
    y -= (load * (load * (0.05 * load - 0.2) + 0.5)).mul_(far)


def accumulate(out: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, *, more: bool) -> None:
    """Scale converted sums and put them into ``out``, in place: ``out = [out +] y scale [+ bias]``.

    Args:
        out: Digital outputs ``(lanes, n, out)``, contiguous.
        y: Sums of one row of tiles, of the same shape.
        scale: What a step stands for, ``(out,)``.
        bias: Added last, ``(out,)``.
        more: Whether ``out`` holds the sums of other rows of tiles already.
    """
    scaled = y * scale
    if more:
        out += scaled
    else:
        out.copy_(scaled)
    if bias is not None:
        out += bias


class Ending(NamedTuple):
    """What the sums of some steps pass through, alike for all rows of tiles, and where they end."""

    drops: bool
    """Whether there is IR drop."""
    open: bool
    """Whether there is a variance."""
    noise: Tensor | None
    """Normal numbers ``(lanes, rows of tiles n out)``; ``None`` adds nothing."""
    sigma: float
    """As of ``adc``."""
    last: int | None
    """As of ``adc``."""
    rows: int
    """How many rows of tiles there are; the first one begins the outputs."""
    bias: Tensor | None
    """Added with the last one, ``(out,)``."""
    out: Tensor
    """Digital outputs ``(lanes, n, out)``, contiguous."""


def finish(
    sums: Sequence[Tensor],
    number: int,
    scale: Tensor,
    driven: Tensor | None,
    factor: Tensor | None,
    to: Ending,
) -> int:
    """Do what ``ir_drop``, ``adc`` and ``accumulate`` do to sums, one after the other.

    Args:
        sums: In steps, those that IR drop needs, if there is any, and the variance: each of these
            kinds ``(lanes, n, out)``, or all side by side in one tensor ``(lanes, n, kinds out)``.
            Changed.
        number: Which of the rows of tiles they are of.
        scale: As of ``accumulate``.
        driven: As of ``adc``.
        factor: By which converted sums of each vector are multiplied, of as many dimensions as
            the outputs; ``None`` is 1.
        to: What they pass through.

    Returns:
        How many sums were beyond the range.
    """
    kinds = list(sums)
    if len(kinds) == 1:
        kinds = [kind.contiguous() for kind in kinds[0].chunk(1 + 2 * to.drops + to.open, -1)]
    y, noise = kinds[0], to.noise
    if to.drops:
        ir_drop(y, kinds[1], kinds[2])
    if noise is not None:
        size = y[0].numel()
        noise = noise[:, number * size : (number + 1) * size]
    clipped = adc(y, noise, kinds[-1] if to.open else None, to.sigma, to.last, driven)
    if factor is not None:
        y *= factor
    accumulate(to.out, y, scale, to.bias if number == to.rows - 1 else None, more=number > 0)
    return clipped


class Tile(NamedTuple):
    """A row of tiles that spikes are sent through."""

    first: int
    """The first of the rows."""
    end: int
    """The one behind the last."""
    laid: Tensor
    """What they meet, of ``lay``."""
    scale: Tensor
    """What a step stands for, ``(out,)``."""


class Walked(NamedTuple):
    """What spikes did to a row of tiles."""

    rows: int
    """How many rows all vectors drove."""
    busy: int
    """How many vectors drove any."""
    clipped: int
    """How many sums were beyond the range."""


def walk(words: Tensor, tiles: Sequence[Tile], skip_idle: bool, to: Ending) -> list[Walked]:
    """Send spikes through all rows of tiles: multiply, then ``finish``.

    Args:
        words: Where inputs are 1, of all rows of tiles, as ``spike_bits`` gives them.
        tiles: One after the other.
        skip_idle: Whether sums of vectors that drive no row are 0.
        to: What the sums pass through.
    """
    inputs, found = unpacked(words, 64 * len(words)).view(*to.out.shape[:2], -1), []
    for number, (first, end, laid, scale) in enumerate(tiles):
        x = inputs[..., first:end]
        driven, sums = x.sum(-1), torch.matmul(x.float(), laid)
        clipped = finish([sums], number, scale, driven if skip_idle else None, None, to)
        found.append(Walked(int(driven.sum()), int(driven.count_nonzero()), clipped))
    return found


def _squared(sigma: float) -> float:
    """Return ``sigma²`` as float32 arithmetic gives it."""
    single = torch.tensor(sigma, dtype=torch.float32)
    return float(single * single)


def _root(x: Tensor) -> Tensor:
    """Return the square root; on processors rounded correctly, as torch's is not."""
    if not x.is_cpu:
        return x.sqrt()
    return torch.from_numpy(np.sqrt(x.numpy()))


def _clip(codes: Tensor, last: int) -> int:
    """Clip rounded values to the last codes, in place; returns how many were."""
    low, high = codes.aminmax() if codes.numel() else (0, 0)
    if low >= -last and high <= last:
        return 0
    over = int((codes.abs() > last).sum())
    codes.clamp_(-last, last)
    return over
