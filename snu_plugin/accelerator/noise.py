"""Streams of random numbers, one for each effect of each crossbar."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from torch import Generator

EFFECTS = ("programming", "drift", "read", "flicker", "pulse", "probe")
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


def generators(seed: int, node: str) -> dict[str, Generator]:
    """Return the generator of every one of ``EFFECTS`` of a crossbar."""
    return {effect: generator(seed, effect, node) for effect in EFFECTS}


def output_bits(seed: int, node: str) -> Bits:
    """Return the stream of random bits behind the noise on the outputs of one crossbar."""
    return Bits(sequence(seed, "output", node))
