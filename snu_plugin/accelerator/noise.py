"""Streams of random numbers, one for each effect of each crossbar."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from snu_plugin.accelerator import normal_numbers

EFFECTS = ("programming", "drift", "read", "pulse", "probe", "wear")
"""Random effects of devices and probes; what takes many numbers has a stream of ``Bits``."""

Bits = np.random.PCG64DXSM
"""Random bits behind the noise on outputs and the slow noise of devices."""
MANY = 8 * normal_numbers.LANES
"""Random words from which on ``normal_numbers.words`` gives them: to begin costs as many bits as a
quarter of these."""
Streams = Mapping[str, Generator]
"""A generator for every effect. They draw on the processor, whatever a chip computes on, so that a
seed gives the same devices everywhere."""
Fast = Bits | Generator
"""What takes many numbers: ``Bits`` on the processor, elsewhere a generator of the device."""


def sequence(seed: int, effect: str, node: str) -> np.random.SeedSequence:
    """Return the entropy of one effect of one crossbar: no other draw depends on it."""
    return np.random.SeedSequence([seed, zlib.crc32(effect.encode()), *node.encode()])


def generator(seed: int, effect: str, node: str) -> Generator:
    """Return the generator of one effect of one crossbar."""
    return Generator().manual_seed(int(sequence(seed, effect, node).generate_state(1)[0]))


def generators(seed: int, node: str) -> dict[str, Generator]:
    """Return the generator of every one of ``EFFECTS`` of a crossbar."""
    return {effect: generator(seed, effect, node) for effect in EFFECTS}


def normal_like(like: Tensor, bits: Fast) -> Tensor:
    """Draw a standard normal number for each value of ``like``, float32, and put it beside it.

    Float32 is enough for noise, and twice as fast as float64.
    """
    return normals(bits, 1, like.numel()).view(like.shape).to(like.device)


def uniform_like(like: Tensor, generator: Generator) -> Tensor:
    """Draw a number in [0, 1) for each value of ``like``, float64, and put it beside it."""
    return torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def fast_stream(seed: int, effect: str, node: str, device: torch.device) -> Fast:
    """Return the stream of an effect that takes many numbers, on the device that uses them."""
    if device.type == "cpu":
        return random_bits(seed, effect, node)
    return device_generator(device, int(sequence(seed, effect, node).generate_state(1)[0]))


def device_generator(device: torch.device, seed: int) -> Generator:
    """Return a generator that draws on a device."""
    return Generator(device).manual_seed(seed)


def moved_stream(stream: Fast, device: torch.device) -> Fast:
    """Return a stream for another device, seeded by the next number of this one, which stays."""
    if isinstance(stream, Generator):
        copy = Generator(stream.device)
        copy.set_state(stream.get_state())
        seed = int(torch.randint(2**62, (1,), generator=copy, device=copy.device))
    else:
        bits = Bits(0)
        bits.state = stream.state
        seed = int(bits.random_raw(1)[0] >> 2)
    return Bits(seed) if device.type == "cpu" else device_generator(device, seed)


def random_bits(seed: int, effect: str, node: str) -> Bits:
    """Return the stream of random bits behind one effect of one crossbar."""
    return Bits(sequence(seed, effect, node))


@cache
def fused() -> ModuleType:
    """Return what draws on the processor: compiled, if Numba is installed.

    Else ``normal_numbers``: the same numbers.
    """
    try:
        from snu_plugin.accelerator import numba_normal_numbers
    except ImportError:
        return normal_numbers
    return numba_normal_numbers


def normals(bits: Fast, steps: int, count: int) -> Tensor:
    """Draw standard normal numbers ``(steps, count)``, float32.

    By ``polar``: faster than ``torch.randn``, which costs more than the product it is added to.
    Every step takes its own bits: a sequence drawn at once holds the same numbers as one drawn
    step by step. A generator of a device draws by its own method, with the same distribution.
    """
    if isinstance(bits, Generator):
        return torch.randn(steps, count, generator=bits, device=bits.device, dtype=torch.float32)
    n = 2 * -(-count // 4)
    drawn = torch.empty(steps, 2 * n, dtype=torch.float32)
    fused().polar(_words(bits, steps, n), n >= MANY, drawn.numpy())
    return drawn[:, :count] if count % 4 else drawn


def relax(
    bits: Fast,
    value: Tensor,
    kept: float,
    sigma: Tensor | float,
    total: Tensor,
    end: tuple[Tensor | float, Tensor | float, Tensor | float] | None = None,
) -> None:
    """Let values ``v`` relax, in place, and add what a look shows of them, ``m``, to ``total``.

    Args:
        bits: What is drawn from.
        value: Of any shape, float32, contiguous.
        kept: ``m = kept v + sigma n`` with fresh normal ``n``, and ``v`` becomes ``m``.
        sigma: Deviation of what is new, of its shape or a number.
        total: Of its shape, changed in place.
        end: Of a look that lasts, over which ``m`` is the mean, ``(kept, sigma, slope)``: ``v``
            becomes ``kept v + sigma n + slope m``, ``n`` another one.
    """
    if isinstance(bits, np.random.BitGenerator) and not any(
        isinstance(one, Tensor) for one in (sigma, *(end or ()))
    ):
        n, lasts = 2 * -(-value.numel() // 4), end is not None
        of_end = tuple(np.float32(number) for number in end or (0.0, 0.0, 0.0))
        values, sums = (one.view(-1).numpy() for one in (value, total))
        words = _words(bits, 1 + lasts, n)
        of_shown = np.float32(kept), np.float32(sigma)
        fused().relax(values, of_shown, of_end, lasts, words, n, n >= MANY, sums)
        return
    fresh = normal_like(value, bits).mul_(sigma)
    if end is None:
        total += value.mul_(kept).add_(fresh)
    else:
        shown = fresh.add_(value * kept)
        value.copy_((normal_like(value, bits) * end[1] + value * end[0]) + shown * end[2])
        total += shown


def _words(bits: Bits, steps: int, n: int) -> NDArray[np.int32]:
    """Return ``n`` random words a step, ``(steps, n)``; where they are ``MANY``, seeds of them.

    These are new for each step: of ``normal_numbers.words``.
    """
    drawn = n if n < MANY else 4 * normal_numbers.LANES
    return bits.random_raw(steps * drawn // 2).view(np.int32).reshape(steps, drawn)
