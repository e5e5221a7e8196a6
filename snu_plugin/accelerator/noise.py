"""Streams of random numbers, one for each effect of each crossbar."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Generator, Tensor

EFFECTS = ("programming", "drift", "read", "pulse", "probe")
"""Random effects of devices and probes; ``output`` has a stream of its own kind."""

Bits = np.random.PCG64DXSM
"""Random bits behind the noise on outputs."""
Streams = Mapping[str, Generator]
"""A generator for every effect."""


def sequence(seed: int, effect: str, node: str) -> np.random.SeedSequence:
    """Return the entropy of one effect of one crossbar: no other draw depends on it."""
    return np.random.SeedSequence([seed, zlib.crc32(effect.encode()), *node.encode()])


def generator(seed: int, effect: str, node: str) -> Generator:
    """Return the generator of one effect of one crossbar."""
    return Generator().manual_seed(int(sequence(seed, effect, node).generate_state(1)[0]))


def output_bits(seed: int, node: str) -> Bits:
    """Return the stream of random bits behind the noise on the outputs of one crossbar."""
    return Bits(sequence(seed, "output", node))


def normals(bits: Bits, steps: int, count: int, sigma: float = 1.0) -> Tensor:
    """Draw normal numbers ``(steps, count)`` of standard deviation ``sigma``, float32.

    Box and Muller 1958 on 32 bits a pair: 20 for the radius, 12 for the angle (and the others once
    more, where they tell nothing), so that magnitudes end at 5.4 σ. Faster than ``torch.randn``,
    which costs more than the product it is added to. Every step takes its own bits: a sequence
    drawn at once holds the same numbers as one drawn step by step.
    """
    words = -(-count // 4)
    pairs = torch.from_numpy(bits.random_raw(steps * words).view(np.int32)).view(steps, 2 * words)
    angle = pairs.float().mul_(2 * math.pi / 2**32)
    radius = pairs.bitwise_and_(0xFFFFF).float().add_(0.5).mul_(2.0**-20).log_()
    radius.mul_(-2 * sigma**2).sqrt_()
    drawn = torch.empty(steps, 4 * words)
    torch.mul(radius, angle.cos(), out=drawn[:, : 2 * words])
    torch.mul(radius, angle.sin_(), out=drawn[:, 2 * words :])
    return drawn[:, :count]
