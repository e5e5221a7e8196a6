"""Streams of random numbers, one for each effect of each crossbar."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import periphery

EFFECTS = ("programming", "drift", "read", "pulse", "probe", "wear")
"""Random effects of devices and probes; what takes many numbers has a stream of ``Bits``."""

Bits = np.random.PCG64DXSM
"""Random bits behind the noise on outputs and the slow noise of devices."""
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


def random_bits(seed: int, effect: str, node: str) -> Bits:
    """Return the stream of random bits behind one effect of one crossbar."""
    return Bits(sequence(seed, effect, node))


@cache
def fastest() -> ModuleType:
    """Return the fused edges if Numba is installed, else ``periphery``: the same numbers."""
    try:
        from snu_plugin.accelerator import numba_periphery
    except ImportError:
        return periphery
    return numba_periphery


def normals(bits: Bits, steps: int, count: int, sigma: float = 1.0) -> Tensor:
    """Draw normal numbers ``(steps, count)`` of standard deviation ``sigma``, float32.

    By ``polar``: faster than ``torch.randn``, which costs more than the product it is added to.
    Every step takes its own bits: a sequence drawn at once holds the same numbers as one drawn
    step by step.
    """
    words = -(-count // 4)
    pairs = torch.from_numpy(bits.random_raw(steps * words).view("int32")).view(steps, 2 * words)
    drawn: Tensor = fastest().polar(pairs)[:, :count]
    return drawn if sigma == 1 else drawn * sigma
