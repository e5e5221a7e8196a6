"""What happens at the edges of a tile, element by element: the specification, in plain torch.

Values are ``(lanes, ...)``: a lane is one step of a sequence.
``numba_periphery`` has the same functions, fused, and gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.accelerator.products import even
from snu_plugin.neuron import unpacked

LEAST = -100
"""Power of two below which numbers are nothing: float32 ends at -126."""


def resolution(bits: int) -> float:
    """Return one step as a share of the full range: ``1 / (2^bits - 2)``, sign included.

    Source: aihwkit 1.2.0, ``IOParameters``.
    """
    return 1.0 / ((1 << bits) - 2)


def last_code(bits: int) -> int:
    """Return the largest code of a converter, ``2^(bits - 1) - 1``; the smallest is its negative.

    >>> last_code(8)
    127
    """
    return (1 << (bits - 1)) - 1


class InputKind(NamedTuple):
    """What drives the rows, by lane."""

    spikes: Tensor
    """Whether all inputs are 0 or 1, which a row driver passes without a converter; bool."""
    driven: Tensor
    """Rows driven by another value than 0, by vector ``(lanes, ...)``, int64."""


def classify(x: Tensor, first: int = 0, end: int | None = None) -> InputKind:
    """Return what kind of inputs the vectors ``(lanes, ..., in)`` are, from one row to another.

    >>> classify(torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.5], [1.0, 2.0]]]))
    InputKind(spikes=tensor([ True, False]), driven=tensor([[1, 0],
            [1, 2]]))
    """
    x = x[..., first:end]
    driven = x != 0
    return InputKind((x == driven).flatten(1).all(1), driven.sum(-1))


class Converted(NamedTuple):
    """What the input converter made of inputs."""

    values: Tensor
    """What drives the rows."""
    clipped: int
    """Inputs beyond the range."""
    driven: Tensor
    """Rows driven by another value than 0, by vector, int64."""


def dac(x: Tensor, spikes: Tensor, bits: int, bound: float) -> Converted:
    """Pass inputs through the input converter, lanes of spikes as they are.

    Args:
        x: Inputs ``(lanes, ..., in)``, float32.
        spikes: Which lanes pass, bool.
        bits: Bits of the converter, with sign.
        bound: End of its range, in the units of ``x``.

    >>> values, clipped, driven = dac(torch.tensor([[0.3, -4.0]]), torch.tensor([False]), 2, 1.0)
    >>> values, clipped, driven
    (tensor([[ 0., -1.]]), 1, tensor([1]))
    """
    step = 2 * bound * resolution(bits)
    codes = (x / step).round_()
    passed = spikes.view(-1, *[1] * (x.dim() - 1))
    clipped = _clip(codes.masked_fill_(passed, 0), bits)
    values = torch.where(passed, x, codes.mul_(step))
    return Converted(values, clipped, (values != 0).sum(-1))


class Driven(NamedTuple):
    """What drives a row of tiles, and what was counted of it."""

    values: Tensor | None
    """What the input converter gives, ``(lanes, ..., in)``, ``even``; ``None`` where it did not
    work: without bits, or where all inputs are 0 or 1."""
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


def drive(x: Tensor, first: int, end: int, bits: int | None, bound: float) -> Driven:
    """Say what inputs ``(lanes, n, in)`` drive from one row to another, and convert it.

    ``(lanes, n, groups, in)`` where groups have inputs of their own; ``bits`` and ``bound`` are
    those of ``dac``.

    >>> drive(torch.tensor([[[0.0, 1.0]]]), 0, 2, 8, 1.0)[1:]
    (tensor([True]), False, tensor([[1]]), 0, 0, 1, [1])
    """
    (spikes, driven), values, clipped = classify(x, first, end), None, 0
    graded = not bool(spikes.all())
    worked = int(driven[~spikes].count_nonzero()) if graded else 0
    if graded and bits is not None:
        values, clipped, driven = dac(even(x[..., first:end]), spikes, bits, bound)
    rows, busy = tally(driven, 1 if x.dim() == 3 else x.shape[2])
    return Driven(values, spikes, graded, driven, worked, clipped, rows, busy)


def adc(
    y: Tensor,
    noise: Tensor | None,
    variance: Tensor | None,
    sigma: float,
    bits: int | None,
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
        bits: Bits of the converter, with sign; ``None`` converts nothing.
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
    if bits is None:
        return 0
    return _clip(y.round_(), bits)


def show(
    g: Tensor,
    sigma: Tensor,
    frozen: Tensor | None,
    open_: Tensor | float,
    shares: tuple[float, ...],
    full_us: float,
    difference: Tensor,
    variance: Tensor,
) -> bool:
    """Put what weights show, ``Σ share max(0, g + sigma frozen)``, into ``difference``.

    And the variance that is new at every product, ``Σ open (share sigma / full_us)²``, into
    ``variance``.

    Args:
        g: Conductances ``(devices of a weight, out, in)``, µS, float32, contiguous.
        sigma: Standard deviation of a reading, µS.
        frozen: What stays of its noise, over that deviation; ``None``: nothing.
        open_: Share of the variance that is new at every product.
        shares: What each device counts.
        full_us: Unit of the variance.
        difference: ``(out, in)``, contiguous, written.
        variance: Likewise.

    Returns:
        Whether any variance is not 0.

    >>> difference, variance = torch.empty(2, 1, 1)
    >>> g, sigma, frozen = torch.tensor([[[[4.0]], [[1.0]]], [[[1.0]], [[2.0]]], [[[1.0]], [[-3]]]])
    >>> show(g, sigma, frozen, 0.5, (1.0, -1.0), 2.0, difference, variance)
    True
    >>> difference, variance
    (tensor([[5.]]), tensor([[0.6250]]))
    """
    difference.zero_()
    variance.zero_()
    for device, share in enumerate(shares):
        own = g[device] if frozen is None else (sigma[device] * frozen[device] + g[device])
        difference += share * (own if frozen is None else own.clamp_min(0))
        fresh = sigma[device] * sigma[device]
        if isinstance(open_, Tensor):
            variance += fresh * (share / full_us) ** 2 * open_[device]
        else:
            variance += fresh * (open_ * (share / full_us) ** 2)
    return bool(variance.any())


def show_by_law(
    g_us: Tensor,
    nu: Tensor,
    q: Tensor,
    length: float,
    spread: float,
    frozen: Tensor | None,
    open_: Tensor | float,
    shares: tuple[float, ...],
    full_us: float,
    difference: Tensor,
    variance: Tensor,
) -> bool:
    """Do what ``show`` does to devices that show ``g exp(-nu length)``, deviating by ``spread q``.

    Args:
        g_us: Conductances as written, float64, contiguous, and so ``nu`` and ``q``, float32.
        nu: Exponents.
        q: Relative noise.
        length: How far they have drifted.
        spread: Of the noise.
        frozen: As of ``show``, and so the others.
        open_: There.
        shares: There.
        full_us: There.
        difference: There.
        variance: There.

    Returns:
        As ``show``.
    """
    x = nu * length
    g = g_us.float() * (torch.from_numpy(decayed(x.numpy())) if x.is_cpu else (-x).exp_())
    return show(g, g.abs() * q * spread, frozen, open_, shares, full_us, difference, variance)


def decayed(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``exp(-x)`` within 1e-7 of it for ``x`` from -87 on, by sums and products alone.

    ``2^-n exp(r)``, ``n`` the whole number next to ``x / ln 2``: what every machine rounds alike.

    >>> decayed(np.float32([0.0, 0.5, 1.0])).round(5)
    array([1.     , 0.60653, 0.36788], dtype=float32)
    """
    x = np.minimum(x, END)
    n = np.rint(x * DECADE[0])
    r = (n * DECADE[1] - x) + n * DECADE[2]
    e = np.full_like(x, SERIES[0])
    for coefficient in SERIES[1:]:
        e = e * r + coefficient
    found: NDArray[np.float32] = np.ldexp(e, -n.astype(np.int32))
    return found


DECADE = tuple(np.float32(c) for c in (1 / math.log(2), 0.693359375, math.log(2) - 0.693359375))
"""``1 / ln 2``, and ``ln 2`` in two parts, of which the first has few bits."""
END = np.float32(87)
"""Beyond it nothing is left but the smallest numbers of float32."""
SERIES = tuple(np.float32(1 / math.factorial(k)) for k in range(7, -1, -1))
"""Of the exponential, highest power first."""


class Drop(NamedTuple):
    """What of a matrix ``(out, in)`` IR drop depends on."""

    load: float
    """``n R g_max``: the share of the voltage that a cell's current takes, for a weight of 1."""
    far: Tensor
    """``1 - (1 - j/n)²`` of each row, ``(in,)``, float32."""


def wires(rows: int, unit: float, wire_ohm: float, g_max_us: float) -> Drop:
    """Return the drop along so many rows, of weights in units of ``unit`` times ``g_max_us``.

    Row ``j = 0`` lies at the converter and drops nothing; row ``n - 1`` lies at the far end. The
    ratio ``G_w = 1 / (R g_max)`` of wire to device conductance is that of the device in use.
    """
    near = 1 - torch.arange(rows, dtype=torch.float32) / rows
    return Drop(rows * wire_ohm * g_max_us * 1e-6 * unit, 1 - near**2)


def lay(weight: Tensor, first: int, end: int, drop: Drop | None, variance: Tensor | None) -> Tensor:
    """Return what the inputs of some rows meet, each row in one piece and ``summable``.

    Args:
        weight: ``(out, in)``, float32, contiguous.
        first: The first of the rows.
        end: The one behind the last.
        drop: Of these rows; ``None``: there is none.
        variance: Of the shape of ``weight``; ``None``: there is none.

    Returns:
        ``(end - first, kinds out)``: the weights ``w``; with a drop ``load |w|`` and ``far w``; the
        variance.
    """
    own = weight[:, first:end].t()
    kinds = (
        [own]
        if drop is None
        else [own, own.abs() * drop.load, own * drop.far.to(own.device)[:, None]]
    )
    kinds += [] if variance is None else [variance[:, first:end].t()]
    return summable(torch.cat(kinds, 1))


def summable(columns: Tensor) -> Tensor:
    """Round a matrix ``(in, out)`` so that sums of any numbers of a column are exact in float32.

    To multiples of ``2^-24`` of the power of two above the largest such sum: no coarser than what
    float32 leaves of it. Then the sums of spikes are the same in any order, and so whatever adds
    them up.

    >>> (summable(torch.tensor([[0.5], [2.0**-23], [2.0**-26]])) * 2**23).long().flatten()
    tensor([4194304,       1,       0])
    """
    wide = columns.double()
    most = (wide.abs().sum(0) + wide.sum(0).abs()) / 2
    most *= 1 + len(columns) * 2.0**-23  # that of the rounded ones
    exponent = torch.frexp(most).exponent.clamp_min(LEAST) - 24
    unit = torch.ldexp(torch.ones_like(most), exponent).float()
    return (columns / unit).round_().mul_(unit)


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


def finish(
    sums: Sequence[Tensor],
    drops: bool,
    open_: bool,
    noise: Tensor | None,
    number: int,
    sigma: float,
    bits: int | None,
    driven: Tensor | None,
    factor: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    out: Tensor,
) -> int:
    """Do what ``ir_drop``, ``adc`` and ``accumulate`` do to sums, one after the other.

    Args:
        sums: In steps, those that IR drop needs if it ``drops``, and the variance if that is
            ``open_``: each of these kinds ``(lanes, n, out)``, or all side by side in one tensor
            ``(lanes, n, kinds out)``. Changed.
        drops: Whether there is IR drop.
        open_: Whether there is a variance.
        noise: Normal numbers ``(lanes, rows of tiles n out)``; ``None`` adds nothing.
        number: Which of the rows of tiles they are; the first one begins ``out``.
        sigma: As of ``adc``.
        bits: As of ``adc``.
        driven: As of ``adc``.
        factor: By which converted sums of each vector are multiplied, of as many dimensions as
            ``out``; ``None`` is 1.
        scale: As of ``accumulate``.
        bias: As of ``accumulate``.
        out: ``(lanes, n, out)``, contiguous, changed in place.

    Returns:
        How many sums were beyond the range.
    """
    kinds = list(sums)
    if len(kinds) == 1:
        kinds = [kind.contiguous() for kind in kinds[0].chunk(1 + 2 * drops + open_, -1)]
    y = kinds[0]
    if drops:
        ir_drop(y, kinds[1], kinds[2])
    if noise is not None:
        size = y[0].numel()
        noise = noise[:, number * size : (number + 1) * size]
    clipped = adc(y, noise, kinds[-1] if open_ else None, sigma, bits, driven)
    if factor is not None:
        y *= factor
    accumulate(out, y, scale, bias, more=number > 0)
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


def walk(
    words: Tensor,
    tiles: Sequence[Tile],
    drops: bool,
    open_: bool,
    noise: Tensor | None,
    sigma: float,
    bits: int | None,
    skip_idle: bool,
    bias: Tensor | None,
    out: Tensor,
) -> list[Walked]:
    """Send spikes through all rows of tiles: multiply, then ``finish``.

    Args:
        words: Where inputs are 1, of all rows of tiles, as ``spike_bits`` gives them.
        tiles: One after the other.
        drops: As of ``finish``, and so the others.
        open_: There.
        noise: There.
        sigma: There.
        bits: There.
        skip_idle: Whether sums of vectors that drive no row are 0.
        bias: Added last.
        out: There.
    """
    inputs, found = unpacked(words, 64 * len(words)).view(*out.shape[:2], -1), []
    for number, (first, end, laid, scale) in enumerate(tiles):
        x = inputs[..., first:end]
        driven, sums = x.sum(-1), torch.matmul(x.float(), laid)
        used, last = driven if skip_idle else None, bias if number == len(tiles) - 1 else None
        given = number, sigma, bits, used, None, scale, last, out
        clipped = finish([sums], drops, open_, noise, *given)
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


def _clip(codes: Tensor, bits: int) -> int:
    """Clip rounded values to the last codes, in place; returns how many were."""
    last = last_code(bits)
    low, high = codes.aminmax() if codes.numel() else (0, 0)
    if low >= -last and high <= last:
        return 0
    over = int((codes.abs() > last).sum())
    codes.clamp_(-last, last)
    return over
