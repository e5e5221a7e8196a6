"""The time step of a network's modules, and a node moved to another."""

from __future__ import annotations

import copy

import nir
import numpy as np
from torch import nn

from snu_plugin.neuron import Euler

USUAL = 2.0**-10
"""Seconds per step where nothing says another; a power of two keeps decays exact."""


def own_step(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> float:
    """Return the ``dt`` that modules of some ``kinds`` in a network have; ``USUAL`` if none has.

    Raises:
        ValueError: If they have several.
    """
    steps = (getattr(m, "dt", None) for m in net.modules() if isinstance(m, kinds))
    found = sorted({float(dt) for dt in steps if dt is not None})
    if len(found) > 1:
        raise ValueError(
            f"the network's neurons have the time steps {', '.join(map(str, found))}; a NIR graph "
            "has one: give dt, a step of each then leaves as a step of that"
        )
    return found[0] if found else USUAL


def retimed(node: nir.NIRNode, old: float | None, new: float) -> nir.NIRNode:
    """Return a copy of a node that does in a step of ``new`` seconds what it did in ``old``.

    What an Euler step sees is ``dt/tau``, and ``r dt`` of IF and I.
    """
    node = copy.deepcopy(node)
    if old is None or old == new:
        return node
    for field in ("tau", "tau_mem", "tau_syn", "delay"):
        if hasattr(node, field):
            setattr(node, field, getattr(node, field) * (new / old))
    if isinstance(node, (nir.I, nir.IF)):
        node.r = node.r * (old / new)
    return node


def kept(node: nir.NIRNode, neuron: Euler | None, dt: float | None) -> nir.NIRNode:
    """Return a copy of a node for a module to keep; I and IF in the reading ``v += dt r x``."""
    node = copy.deepcopy(node)
    if isinstance(node, (nir.I, nir.IF)) and neuron is not None and dt is not None:
        gain = np.ones(node.r.shape) if neuron.gain is None else neuron.gain.numpy()
        node.r = gain / dt
    return node
