"""Streams of random numbers, one for each effect of each crossbar."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from snu_plugin.accelerator.periphery import fastest

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


class Several(NamedTuple):
    """The streams of several chips, drawn from side by side; each gives what it would alone."""

    bits: tuple[Bits | Several, ...]

    def random_raw(self, size: int) -> NDArray[np.uint64]:
        """Return ``size`` words, equally many from each stream, one stream after the other."""
        each = size // len(self.bits)
        return np.concatenate([bits.random_raw(each) for bits in self.bits])


def normals(bits: Bits | Several, steps: int, count: int, sigma: float = 1.0) -> Tensor:
    """Draw normal numbers ``(steps, count)`` of standard deviation ``sigma``, float32.

    By ``polar``: faster than ``torch.randn``, which costs more than the product it is added to.
    Every step takes its own bits: a sequence drawn at once holds the same numbers as one drawn
    step by step. Of ``Several`` streams each fills as many of the ``steps``, which are then lanes.
    """
    words = -(-count // 4)
    pairs = torch.from_numpy(bits.random_raw(steps * words).view(np.int32)).view(steps, 2 * words)
    drawn: Tensor = fastest().polar(pairs)[:, :count]
    return drawn if sigma == 1 else drawn * sigma
